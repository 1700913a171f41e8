"""A decision window: what is asked, and what comes of it. The words that engine, rules, ledger and replay share.

A rule takes a *view* of the measurements (everything it will use of them, as JSON types, so that the ledger can keep
it) and answers questions about it. Answering is a pure function: the same view and question give the same verdicts on
another day, to the byte; on another machine but for a last digit (`replay`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

from dcu.hosting.measurements import SUBSTATION, MeasurementSet, Point, Quality
from shared.ids import MeterId
from shared.messages import Reason

STEP_W: Final = 0.1
"""What the power line resolves; limits are rounded down to it."""
LEAST_W: Final = 1.0
"""An increase of less is none."""


@dataclass(frozen=True, slots=True)
class Band:
    """Voltages allowed for decisions [V]."""

    low_v: float
    high_v: float

    @classmethod
    def around(cls, nominal_v: float, pct: float) -> Band:
        """Nominal plus and minus a percentage."""
        return cls(nominal_v * (1 - pct / 100), nominal_v * (1 + pct / 100))


@dataclass(frozen=True, slots=True)
class Binding:
    """What decided: the reason, the point or place, and the value that bound it ([V] of a voltage); of a measured point
    also which of its connected phases, counted from 0."""

    reason: Reason
    point: MeterId
    value: float | None = None
    phase: int | None = None

    def as_entry(self) -> dict[str, Any]:
        """For the ledger."""
        return {"reason": self.reason.name, "binding": self.point, "value": self.value}


class Standing(StrEnum):
    """What a wish waits for: an answer, a renewal, nothing; or nothing, though it could be raised at once."""

    ASKS = "asks"
    DUE = "due"
    HOLDS = "holds"
    MAY_RISE = "may rise"


@dataclass(frozen=True, slots=True)
class Wish:
    """One customer's part in a window: a question, a grant that is due for renewal, or one that just lasts.

    Attributes:
        nominal_w: limit without a grant.
        wanted_w, minimum_w: what was asked for, and the least of use.
        granted_w: limit of its live grant, None without one.
        objection: why it may have nothing at all, whatever the grid bears.
        used_w: what it is measured to export (below 0: to draw), if read after its limit was last raised.
    """

    meter: MeterId
    standing: Standing
    nominal_w: float
    wanted_w: float
    minimum_w: float
    granted_w: float | None = None
    objection: Reason | None = None
    used_w: float | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """All wishes in order of arrival; what each meter may export at most [W] by all its reservations; how many grants
    more may be given at all; what those are measured to export [W] who do not keep to that; how many grants may be
    raised before they are due (None: all that may); who holds a grant whose newest decision should long have been
    acknowledged; and whose grants were revoked so lately that the acknowledgement may be on its way."""

    wishes: tuple[Wish, ...]
    reserved_w: Mapping[MeterId, float]
    places: int
    beyond_w: Mapping[MeterId, float] = field(default_factory=dict)
    raises: int | None = None
    unheard: frozenset[MeterId] = frozenset()
    leaving: frozenset[MeterId] = frozenset()

    def as_entry(self) -> dict[str, Any]:
        """For the ledger."""
        wishes = [
            {
                "meter": w.meter,
                "standing": w.standing.value,
                "nominal_w": w.nominal_w,
                "wanted_w": w.wanted_w,
                "minimum_w": w.minimum_w,
                "granted_w": w.granted_w,
                "objection": None if w.objection is None else w.objection.name,
                "used_w": w.used_w,
            }
            for w in self.wishes
        ]
        reserved = {str(meter): limit_w for meter, limit_w in sorted(self.reserved_w.items())}
        beyond = {str(meter): export_w for meter, export_w in sorted(self.beyond_w.items())}
        return {
            "wishes": wishes,
            "reserved_w": reserved,
            "places": self.places,
            "beyond_w": beyond,
            "raises": self.raises,
            "unheard": sorted(str(meter) for meter in self.unheard),
            "leaving": sorted(str(meter) for meter in self.leaving),
        }

    @staticmethod
    def from_entry(entry: Mapping[str, Any]) -> Question:
        """The question that an entry keeps."""
        wishes = tuple(
            Wish(
                MeterId(w["meter"]),
                Standing(w["standing"]),
                float(w["nominal_w"]),
                float(w["wanted_w"]),
                float(w["minimum_w"]),
                _real(w["granted_w"]),
                None if w["objection"] is None else Reason[w["objection"]],
                _real(w["used_w"]),
            )
            for w in entry["wishes"]
        )
        reserved = {MeterId(meter): float(limit_w) for meter, limit_w in entry["reserved_w"].items()}
        beyond = {MeterId(meter): float(export_w) for meter, export_w in entry.get("beyond_w", {}).items()}
        unheard, leaving = (frozenset(map(MeterId, entry.get(key, ()))) for key in ("unheard", "leaving"))
        return Question(wishes, reserved, entry["places"], beyond, entry.get("raises"), unheard, leaving)


def _real(value: float | None) -> float | None:
    """A number as it was: the ledger's JSON writes 2400.0 as 2400."""
    return None if value is None else float(value)


class Act(StrEnum):
    """What is done about a wish."""

    GRANT = "grant"
    DENY = "deny"
    WAIT = "wait"
    RENEW = "renew"
    WITHHOLD = "withhold"
    LOWER = "lower"


class Verdict(NamedTuple):
    """One wish's answer; `binding` is what kept it from more, or from anything."""

    meter: MeterId
    act: Act
    limit_w: float
    binding: Binding | None = None

    def as_entry(self) -> dict[str, Any]:
        """For the ledger."""
        why = None if self.binding is None else self.binding.as_entry()
        return {"meter": self.meter, "act": self.act.value, "limit_w": self.limit_w, "why": why}


@dataclass(frozen=True, slots=True)
class Answer:
    """Verdicts in the order in which they take effect, and how fair the sharing behind them is (Jain)."""

    verdicts: tuple[Verdict, ...]
    fairness: float | None = None

    def as_entry(self) -> dict[str, Any]:
        """For the ledger."""
        return {"verdicts": [v.as_entry() for v in self.verdicts], "fairness": self.fairness}


class View(Protocol):
    """What a rule makes of the measurements."""

    @property
    def outside(self) -> tuple[Binding, ...]:
        """What is known to be outside the band now: point by point in order, of each every phase that is, too high
        before too low."""

    def as_entry(self) -> dict[str, Any]:
        """Everything the answer depends on, for the ledger."""


class Rule(Protocol):
    """How a site decides."""

    @property
    def name(self) -> str:
        """Name and version, for the ledger."""

    @property
    def foresees(self) -> bool:
        """Whether it can tell from a view that live grants have become too much, before anything is outside."""

    @property
    def learns(self) -> bool:
        """Whether its answers depend on the views it had before, so that all of them must be recorded."""

    @property
    def remembers(self) -> bool:
        """Whether a view depends on the measurement sets before it, so that all of them must be recorded."""

    def facts(self) -> dict[str, Any]:
        """What the rule rests on besides views and questions (model hash, policy, settings), for the ledger."""

    def view(self, measurements: MeasurementSet, now: float) -> View:
        """Take in a measurement set at ``now`` [s]; may remember."""

    def look(self, measurements: MeasurementSet, now: float) -> View:
        """The same without what it would teach: an entry may teach that again."""

    def begin(self) -> None:
        """Forget the measurement sets, as a start does; not what was learnt."""

    def recall(self, entry: Mapping[str, Any]) -> View:
        """The view that an entry keeps."""

    def answer(self, view: View, question: Question) -> Answer:
        """Decide; remembers nothing."""

    def adjust(self, *, policy: str | None = None, band_pct: float | None = None) -> None:
        """Share by another policy, or keep to another band [% of nominal], from now on; its facts change with it. What
        it does not know (a policy where nothing is shared) is left alone."""

    def blames(self, view: View, binding: Binding, meter: MeterId) -> bool:
        """Whether the export of a meter pushes a point that is outside the band further out."""


_GOOD: Final = Quality.GOOD
_UNKNOWN: Final = {
    Quality.MISSING: Reason.READING_MISSING,
    Quality.STALE: Reason.READING_STALE,
    Quality.INVALID: Reason.READING_INVALID,
}


def outside(points: tuple[Point, ...], band: Band) -> tuple[Binding, ...]:
    """What is known to be outside the band: point by point in order, of each every phase that is, too high before too
    low, so that a phase that sags hides none that is lifted."""
    found: list[Binding] = []
    low_v, high_v = band.low_v, band.high_v
    for point in points:
        if point.quality is not _GOOD:
            continue
        for value in point.u_v:
            if value is None or not low_v <= value <= high_v:
                found += _outside(point, band)
                break
    return tuple(found)


def unknown(points: tuple[Point, ...]) -> tuple[Binding, ...]:
    """Points nobody knows, in order."""
    return tuple(
        Binding(Reason.SUBSTATION_UNKNOWN if point.name == SUBSTATION else _UNKNOWN[point.quality], point.name)
        for point in points
        if point.quality is not _GOOD
    )


def _outside(point: Point, band: Band) -> list[Binding]:
    """Written so that a value that compares with nothing (NaN) is outside."""
    above: list[Binding] = []
    below: list[Binding] = []
    for phase, value in enumerate(point.u_v):
        if value is None or not value >= band.low_v:
            below.append(Binding(Reason.UNDERVOLTAGE, point.name, value, phase))
        elif not value <= band.high_v:
            above.append(Binding(Reason.OVERVOLTAGE, point.name, value, phase))
    return above + below


_ASKS, _GRANT, _RENEW = Standing.ASKS, Act.GRANT, Act.RENEW


@dataclass(slots=True)
class Verdicts:
    """Collects verdicts; hands out the places that are left."""

    places: int
    found: list[Verdict] = field(default_factory=list)

    def add(self, wish: Wish, act: Act, limit_w: float | None = None, binding: Binding | None = None) -> None:
        """One more."""
        self.found.append(Verdict(wish.meter, act, wish.nominal_w if limit_w is None else limit_w, binding))

    def refuse(self, wish: Wish, binding: Binding) -> None:
        """No to a question, no renewal to a grant; one that only lasts is left to its lease."""
        if wish.standing is Standing.ASKS or wish.standing is Standing.DUE:
            self.add(wish, Act.DENY if wish.standing is Standing.ASKS else Act.WITHHOLD, None, binding)

    def accept(self, wish: Wish, limit_w: float, binding: Binding | None = None) -> bool:
        """Grant or renew, if there is a place."""
        if self.places <= 0:
            self.refuse(wish, Binding(Reason.TOO_MANY_GRANTS, wish.meter))
            return False
        self.places -= 1
        act = _GRANT if wish.standing is _ASKS else _RENEW
        self.found.append(Verdict(wish.meter, act, limit_w, binding))
        return True
