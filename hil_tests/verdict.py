"""What must hold of an observation: the scenario's own expectations, and what holds on every street.

A verdict is a value: what was expected, what was observed, and whether they agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from hil_tests.observation import Observation, WireFrame
from hil_tests.scenario import CLIENTS, Ask, Expectation, Scenario
from shared.messages import Denial, Grant, Reason, Request, Revoke

EXPORT_TOLERANCE_A: Final = 0.1
"""[A] One per cent of the larger set-point: what counts as having arrived there."""

ACTUATION_S: Final = 1.0
"""[s] Allowed between the end of a lease and the relay's contact (invariant I1)."""

RAMP_DOWN_S: Final = 2.5
"""[s] Five time constants of the inverter after the contact has fallen."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One comparison of expected with observed."""

    expected: str
    observed: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Latency:
    """From the household's question to the relay's contact, and the airtime of what had to cross the line for it.

    Attributes:
        request_to_relay_s: [s].
        airtime_s: sum over the frames exchanged with this meter for this request: request, its acknowledgement, grant
        [s]. frames: how many frames.
    """

    request_to_relay_s: float
    airtime_s: float
    frames: int


def judge(scenario: Scenario, seen: Observation) -> list[Verdict]:
    """Every expectation of the scenario, then what holds always."""
    verdicts = [_CHECKS[item.what](item, scenario, seen) for item in scenario.expect]
    verdicts.append(_never_above_lease(scenario, seen))
    verdicts.append(_recorded_once(seen))
    return verdicts


def latency(scenario: Scenario, seen: Observation) -> Latency | None:
    """Of the first request that was granted; None if none was."""
    for action in scenario.action:
        if isinstance(action, Ask) and (found := latency_of(seen, action.client, action.at_s)) is not None:
            return found
    return None


def latency_of(seen: Observation, client: str, asked_s: float) -> Latency | None:
    """Of the request asked at a moment: the next closing of this client's relay, and the frames in between."""
    closed = [move.t_s for move in seen.relay_moves if move.client == client and move.raised and move.t_s >= asked_s]
    if not closed:
        return None
    frames = list(_exchange(seen, client, asked_s, closed[0]))
    return Latency(closed[0] - asked_s, sum(frame.airtime_s for frame in frames), len(frames))


def _exchange(seen: Observation, client: str, start_s: float, end_s: float) -> Iterator[WireFrame]:
    """Frames of one request: from the request's first frame to the grant's last, reports of the same meter left out."""
    answered = False
    begun = False
    for frame in seen.frames:
        if frame.client != client or frame.start_s < start_s or frame.end_s > end_s or answered:
            continue
        begun = begun or isinstance(frame.message, Request)
        if begun and (frame.kind == "acknowledgement" or isinstance(frame.message, Request | Grant)):
            answered = isinstance(frame.message, Grant)
            yield frame


# ---- a scenario's own expectations -----------------------------------------------------------------------------------


def _window(item: Expectation) -> str:
    return (
        f"between {item.after_s:g} and {item.before_s:g} s" if item.before_s < 86_400 else f"after {item.after_s:g} s"
    )


def _messages(seen: Observation, item: Expectation, kind: type[Grant | Denial | Revoke]) -> list[WireFrame]:
    return [
        frame
        for frame in seen.frames
        if frame.client == item.client and isinstance(frame.message, kind) and frame.end_s >= item.after_s
    ]


def _granted(item: Expectation, _scenario: Scenario, seen: Observation) -> Verdict:
    closings = [m.t_s for m in seen.relay_moves if m.client == item.client and m.raised and m.t_s >= item.after_s]
    observed = f"relay raised at {closings[0]:.2f} s" if closings else "never"
    return Verdict(f"{item.client} granted {_window(item)}", observed, bool(closings) and closings[0] <= item.before_s)


def _denied(item: Expectation, _scenario: Scenario, seen: Observation) -> Verdict:
    return _reasoned(item, seen, Denial, "denied")


def _revoked(item: Expectation, _scenario: Scenario, seen: Observation) -> Verdict:
    return _reasoned(item, seen, Revoke, "revoked")


def _reasoned(item: Expectation, seen: Observation, kind: type[Denial | Revoke], word: str) -> Verdict:
    expected = f"{item.client} {word} {_window(item)}: {item.reason} at {item.binding}"
    frames = _messages(seen, item, kind)
    if not frames:
        return Verdict(expected, "never", False)
    message = frames[0].message
    assert isinstance(message, Denial | Revoke)
    at_s = frames[0].end_s
    value = "" if message.value is None else f" ({message.value:g} V)"
    observed = f"{word} at {at_s:.2f} s: {message.reason.name} at {message.binding}{value}"
    agrees = message.reason is Reason[item.reason] and message.binding == item.binding
    return Verdict(expected, observed, agrees and at_s <= item.before_s)


def _export(item: Expectation, _scenario: Scenario, seen: Observation) -> Verdict:
    sample = min(seen.samples, key=lambda sample: abs(sample.t_s - item.at_s))
    current_a = sample.export_a[CLIENTS.index(item.client)]
    return Verdict(
        f"{item.client} exports {item.current_a:g} A at {item.at_s:g} s",
        f"{current_a:.2f} A",
        abs(current_a - item.current_a) <= EXPORT_TOLERANCE_A,
    )


def _lease_ended(item: Expectation, _scenario: Scenario, seen: Observation) -> Verdict:
    falls = [m.t_s for m in seen.relay_moves if m.client == item.client and not m.raised and m.t_s >= item.after_s]
    source = seen.status.get(item.client, {}).get("source", "unknown")
    observed = f"nominal at {falls[0]:.2f} s, meter says {source}" if falls else f"never, meter says {source}"
    passed = bool(falls) and falls[0] <= item.before_s and source == "LEASE_ENDED"
    return Verdict(f"{item.client} back at nominal by itself {_window(item)}", observed, passed)


def _quarantined(_item: Expectation, _scenario: Scenario, seen: Observation) -> Verdict:
    """After the restart nothing is granted before every meter has adopted the new epoch."""
    epochs = sorted({int(entry["epoch"]) for entry in seen.ledger})
    newest = [entry for entry in seen.ledger if int(entry["epoch"]) == epochs[-1]] if epochs else []
    kinds = [str(entry["kind"]) for entry in newest]
    ended = kinds.index("quarantine ended") if "quarantine ended" in kinds else len(kinds)
    early = kinds[:ended].count("grant") + kinds[:ended].count("renewal")
    observed = f"epochs {epochs}, {early} grants before the quarantine ended"
    return Verdict(
        "quarantine after the restart", observed, len(epochs) > 1 and early == 0 and "grant" in kinds[ended:]
    )


def _nothing_sent(item: Expectation, _scenario: Scenario, seen: Observation) -> Verdict:
    late = [frame for frame in seen.frames if frame.client == item.client and frame.start_s > item.after_s]
    arrived = [frame for frame in late if frame.delivered]
    return Verdict(f"no frame reaches {item.client} after {item.after_s:g} s", f"{len(arrived)} frames", not arrived)


_CHECKS: Final[dict[str, Callable[[Expectation, Scenario, Observation], Verdict]]] = {
    "granted": _granted,
    "denied": _denied,
    "revoked": _revoked,
    "export": _export,
    "lease ended": _lease_ended,
    "quarantined": _quarantined,
    "nothing sent to": _nothing_sent,
}


# ---- what holds on every street --------------------------------------------------------------------------------------


def _never_above_lease(scenario: Scenario, seen: Observation) -> Verdict:
    """No export above nominal beyond the lease.

    The bound is computed from the wire alone: a lease can end no later than ``lease_s`` after the end of the last
    frame in which its nonce went up, however the meter counts.
    """
    worst_s = 0.0
    nominal_a = scenario.plant.nominal_a
    for index, client in enumerate(CLIENTS):
        covered = _covered(seen, client)
        for sample in seen.samples:
            if sample.export_a[index] <= nominal_a + EXPORT_TOLERANCE_A:
                continue
            ends = [end for start, end in covered if start <= sample.t_s]
            worst_s = max(worst_s, sample.t_s - max(ends, default=0.0))
    allowed_s = ACTUATION_S + RAMP_DOWN_S
    return Verdict(
        f"no export above nominal later than {allowed_s:g} s after any lease",
        "none" if worst_s <= 0 else f"{worst_s:.2f} s after",
        worst_s <= allowed_s,
    )


def _covered(seen: Observation, client: str) -> list[tuple[float, float]]:
    """Intervals in which a grant on the wire permits this client more than nominal."""
    drawn: dict[int, float] = {}
    covered: list[tuple[float, float]] = []
    for frame in seen.frames:
        if frame.client != client:
            continue
        nonce = getattr(frame.message, "nonce", None)
        if isinstance(frame.message, Grant):
            if frame.message.nonce in drawn:
                covered.append((frame.start_s, drawn[frame.message.nonce] + frame.message.lease_s))
        elif nonce is not None:
            drawn.setdefault(nonce, frame.end_s)
    return covered


def _recorded_once(seen: Observation) -> Verdict:
    """The ledger verifies, its decisions are numbered without gap, and each decision on the wire stands in it once."""
    faults = list(seen.ledger_faults)
    numbers = [(int(entry["epoch"]), int(entry["seq"])) for entry in seen.ledger if entry.get("seq") is not None]
    faults += [f"decision {epoch}.{seq} twice" for (epoch, seq), count in Counter(numbers).items() if count > 1]
    faults += _gaps(numbers)
    known = set(numbers)
    decided = [
        (int(frame.message.decision.epoch), frame.message.decision.seq)
        for frame in seen.frames
        if isinstance(frame.message, Grant | Denial | Revoke)
    ]
    faults += [f"decision {epoch}.{seq} on the wire, not in the ledger" for epoch, seq in sorted(set(decided) - known)]
    return Verdict(
        "every decision in the ledger, once, and the ledger verifies",
        f"{len(known)} decisions, {'; '.join(faults) or 'verified'}",
        not faults,
    )


def _gaps(numbers: list[tuple[int, int]]) -> list[str]:
    faults = []
    for epoch in sorted({epoch for epoch, _ in numbers}):
        seqs = [seq for other, seq in numbers if other == epoch]
        if seqs != list(range(seqs[0], seqs[0] + len(seqs))):
            faults.append(f"epoch {epoch}: numbers {seqs} have a gap or are out of order")
    return faults


def summary(entry: dict[str, Any]) -> str:
    """One line for a ledger entry."""
    words = [str(entry.get("kind", "?"))]
    words += [
        f"{key}={entry[key]}"
        for key in ("meter", "limit_w", "reason", "binding", "value")
        if entry.get(key) is not None
    ]
    return " ".join(words)
