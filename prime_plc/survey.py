"""The tree of a subnetwork for people: nodes and switches, quality, modulation and loss of each link, airtime.

Made from what a base says of itself (`Stack.summary`). A base measures its own children only; of links farther down it
knows that they exist and how many keep-alives came back. Whoever has the other nodes' own numbers too (a bench) puts
them in with `Survey.with_links`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from shared.errors import DecodeError

SID_BASE: Final = 0
HOPS_MAX: Final = 64
NUMBER_END: Final = 2**40
"""Above every count and time [s] that a node can have."""

SNR_DB_MAX: Final = 1000.0
LINK_FRAMES_MIN: Final = 5
"""A loss of fewer frames says nothing."""

USUAL_LINKS_MIN: Final = 8
"""Of fewer losses none is usual."""


@dataclass(frozen=True, slots=True)
class LinkSeen:
    """The hop between a node and the one above, as one of its ends has it.

    Attributes:
        snr_db: signal of the other end's frames [dB].
        scheme: modulation of data sent there.
        heard: frames of the other end that came in.
        delivered, lost: packets to the other end that it was heard passing on or acknowledging, and that it was not and
            that were sent again; only those whose fate can be seen are counted, each of a frame by itself.
    """

    snr_db: float
    scheme: str
    heard: int
    delivered: int
    lost: int

    @property
    def loss(self) -> float | None:
        """Share of packets to the other end that were lost; None if they were too few to say."""
        sent = self.delivered + self.lost
        return self.lost / sent if sent >= LINK_FRAMES_MIN else None


@dataclass(frozen=True, slots=True)
class Surveyed:
    """One node.

    Attributes:
        hops: to the base.
        lsid: its number as a switch, None for a terminal.
        connected: whether its 4-32 connection is open.
        alive_asked, alive_answered: keep-alives over all hops, there and back.
        link: None where nobody has measured it.
        up: the same hop as the node itself has it, if it is known.
        trips_s: round trips of pings over all hops [s]; None for one without an answer.
    """

    eui48: str
    sid: int
    lnid: int
    hops: int
    lsid: int | None
    connected: bool
    alive_asked: int
    alive_answered: int
    link: LinkSeen | None = None
    up: LinkSeen | None = None
    trips_s: tuple[float | None, ...] = ()

    @property
    def alive_loss(self) -> float | None:
        """Share of keep-alives without an answer; the newest may still be on its way."""
        asked = self.alive_asked - 1
        return max(0.0, 1 - self.alive_answered / asked) if asked >= LINK_FRAMES_MIN else None


@dataclass(frozen=True, slots=True)
class Survey:
    """A subnetwork.

    Attributes:
        airtime: share of the time on air, by what was sent or heard at the base, since its modem is ready.
        running_s: that time [s].
    """

    sna: str
    state: str
    nodes: tuple[Surveyed, ...]
    airtime: dict[str, float]
    running_s: float

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Survey:
        """From a base's summary.

        Raises:
            DecodeError: it is none (an older daemon's, or something else).
        """
        try:
            nodes = tuple(_surveyed(eui48, node) for eui48, node in summary["nodes"].items())
            running_s = _seconds(summary["running_s"])
            seconds = {f"sent {kind}": _seconds(s) for kind, s in summary["sent_s"].items()}
            seconds |= {f"heard {kind}": _seconds(s) for kind, s in summary["heard_s"].items()}
            airtime = {kind: round(s / running_s, 5) if running_s >= 1e-3 else 0.0 for kind, s in seconds.items()}
            return cls(_text(summary["sna"]), _text(summary["state"]), nodes, airtime, running_s)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise DecodeError(f"survey: seen no {error}, expected the summary of a base node") from error

    def with_links(self, links: Mapping[str, LinkSeen], ups: Mapping[str, LinkSeen]) -> Survey:
        """The same with what others know, by EUI-48."""
        nodes = (replace(node, link=links.get(node.eui48, node.link), up=ups.get(node.eui48)) for node in self.nodes)
        return replace(self, nodes=tuple(nodes))

    def with_trips(self, trips_s: Mapping[str, Sequence[float | None]]) -> Survey:
        """The same with what pings took, by EUI-48."""
        nodes = (replace(node, trips_s=tuple(trips_s.get(node.eui48, ()))) for node in self.nodes)
        return replace(self, nodes=tuple(nodes))

    @property
    def levels(self) -> int:
        """Hops to the farthest node."""
        return max((node.hops for node in self.nodes), default=0)

    @property
    def switches(self) -> int:
        """Nodes that are switches."""
        return sum(node.lsid is not None for node in self.nodes)

    @property
    def usual_loss(self) -> float | None:
        """Median of what the links lose, both ways; None if too few are known to call anything usual."""
        ends = [end for node in self.nodes for end in (node.link, node.up) if end is not None]
        losses = [end.loss for end in ends if end.loss is not None]
        return statistics.median(losses) if len(losses) >= USUAL_LINKS_MIN else None

    def children(self, sid: int) -> list[Surveyed]:
        """Nodes registered through a switch, those with many below last, so that the tree stays narrow at the top."""
        return sorted(
            (node for node in self.nodes if node.sid == sid), key=lambda node: (node.lsid is not None, node.eui48)
        )

    def walk(self) -> Iterator[tuple[int, Surveyed]]:
        """Every node under the one above, with its depth; who hangs on no known switch comes last, as at depth 1."""
        seen: set[str] = set()
        stack = [(1, node) for node in reversed(self.children(SID_BASE))]
        while stack:
            depth, node = stack.pop()
            if node.eui48 in seen:
                continue
            seen.add(node.eui48)
            yield depth, node
            if node.lsid is not None and depth < HOPS_MAX:
                stack += [(depth + 1, below) for below in reversed(self.children(node.lsid))]
        yield from ((1, node) for node in self.nodes if node.eui48 not in seen)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        nodes = [asdict(node) | {"alive_loss": node.alive_loss} for _, node in self.walk()]
        for told, (_, node) in zip(nodes, self.walk(), strict=True):
            for name, link in (("link", node.link), ("up", node.up)):
                if link is not None:
                    told[name]["loss"] = link.loss
        return asdict(self) | {"nodes": nodes, "levels": self.levels, "switches": self.switches}

    def loss_words(self) -> str:
        """What a link loses here, in one line; empty if that is not known."""
        usual = self.usual_loss
        return f"a usual link loses {100 * usual:.1f} % of its packets" if usual else ""

    def headline(self) -> str:
        """The subnetwork in one line."""
        if not self.nodes:
            return f"subnetwork {self.sna}: {self.state}, no nodes"
        return (
            f"subnetwork {self.sna}: {len(self.nodes)} nodes, {self.switches} of them switches, {self.levels} levels;"
            f" {sum(node.connected for node in self.nodes)} connected"
        )

    def airtime_words(self) -> str:
        """The line's use in one line."""
        if not self.running_s:
            return "air time at the base not measured yet"
        parts = ", ".join(f"{kind} {100 * share:.1f}" for kind, share in self.airtime.items())
        together = 100 * sum(self.airtime.values())
        return f"air time at the base in % of {self.running_s:.0f} s: {parts}; together {together:.1f}"

    def table(self) -> str:
        """The tree as indented text."""
        lines = [self.headline(), self.airtime_words()]
        lines += [self.loss_words()] if self.usual_loss else []
        for depth, node in self.walk():
            name = "  " * depth + node.eui48 + ("" if node.lsid is None else f" switch {node.lsid}")
            lines.append(f"{name:<44} {words(node)}")
        return "\n".join(printable(line) for line in lines)


def printable(text: str) -> str:
    """Text without what a terminal or XML would not show as it is; a status file's names are not ours."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def words(node: Surveyed) -> str:
    """A node's link in a few words."""
    link = node.link
    parts = ["signal not measured here"] if link is None else [f"{link.snr_db:.0f} dB", f"down {link.scheme}"]
    if link is not None and link.loss is not None:
        parts.append(f"lost {100 * link.loss:.1f} %")
    if node.up is not None:
        parts.append(f"up {node.up.scheme}")
    if node.up is not None and node.up.loss is not None:
        parts.append(f"lost {100 * node.up.loss:.1f} %")
    if node.alive_loss is not None:
        parts.append(f"keep-alive {node.alive_answered} of {node.alive_asked}")
    if node.trips_s:
        parts.append(trip_words(node.trips_s))
    if not node.connected:
        parts.append("not connected")
    return ", ".join(parts)


def trip_words(trips_s: Sequence[float | None]) -> str:
    """Round trips of some pings in a few words."""
    came = sorted(trip_s for trip_s in trips_s if trip_s is not None)
    if not came:
        return f"ping: none of {len(trips_s)} answered"
    middle = 1000 * statistics.median(came)
    return f"ping {middle:.0f} ms ({1000 * came[0]:.0f} to {1000 * came[-1]:.0f}), {len(came)} of {len(trips_s)}"


def _surveyed(eui48: str, node: Mapping[str, Any]) -> Surveyed:
    link = node["link"]
    return Surveyed(
        eui48=_text(eui48),
        sid=_number(node["sid"]),
        lnid=_number(node["lnid"]),
        hops=_number(node["hops"]),
        lsid=None if node["lsid"] is None else _number(node["lsid"]),
        connected=bool(node["open"]),
        alive_asked=_number(node["alive_asked"]),
        alive_answered=_number(node["alive_answered"]),
        link=None if link is None else link_seen(link),
    )


def link_seen(link: Mapping[str, Any]) -> LinkSeen:
    """From `Links.summary`."""
    numbers = (_number(link[key]) for key in ("heard", "delivered", "lost"))
    snr_db = float(link["snr_db"])
    if not abs(snr_db) <= SNR_DB_MAX:
        raise ValueError(f"number in {snr_db}")
    return LinkSeen(snr_db, _text(link["scheme"]), *numbers)


def _number(value: Any) -> int:
    number = int(value)
    if not 0 <= number < NUMBER_END:
        raise ValueError(f"count in {str(value)[:20]}")
    return number


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not 0 <= seconds < NUMBER_END:
        raise ValueError(f"time in {seconds}")
    return seconds


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text in a {type(value).__name__}")
    return value
