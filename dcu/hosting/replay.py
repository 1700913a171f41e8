"""Past decisions again: every recorded window answered from what its record keeps, and compared to the byte.

And every view again: the measurement sets that a rule with a memory has seen since its start are looked at anew, one
after the other, and the view that follows must be the one a window was answered from.

Answers are rounded (0.1 W, 0.1 mV), but the arithmetic below is the processor's and its linear algebra's, which may add
in another order elsewhere. What differs by no more than such a last digit is counted as `near`, not as a difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dcu.hosting.decide import STEP_W, Question, Rule, View
from dcu.hosting.readings import SetReader
from shared.errors import DecodeError

DECISIONS: Final = {"grant": "grant", "renewal": "renew", "denial": "deny", "lowered": "lower", "revoke": "lower"}
"""Kind of a decision's entry, and the act of its window."""
NEAR_W: Final = 1.5 * STEP_W
"""Limits that differ by one step are near."""
NEAR: Final = 2.5e-4
"""The same for other numbers: two steps of a voltage's 0.1 mV; no share, fairness or draw is rounded more coarsely."""


@dataclass(slots=True)
class Replay:
    """How many entries, windows and decisions of windows were looked at; where something differs, in words.

    Attributes:
        views: of windows and lessons that were made again from the readings.
        near: views, answers and decisions that came out the same but for a last digit.
        alone: decisions that no window made (refused at the door, waited too long, revoked for what lasted).
        unknown: windows and decisions whose inputs somebody had deleted, or that rest on lessons that are deleted.
        unseen: views that rest on readings that are deleted or were never recorded.
    """

    entries: int = 0
    windows: int = 0
    decisions: int = 0
    views: int = 0
    near: int = 0
    alone: int = 0
    unknown: int = 0
    unseen: int = 0
    differences: list[str] = field(default_factory=list)


def replay(rule: Rule, entries: Iterable[Mapping[str, Any]]) -> Replay:
    """Make every view of a ledger again, and answer every window again.

    Args:
        rule: made from the same model and settings; a fresh one.
        entries: of the ledger, in order.
    """
    again = _Again(rule)
    for entry in entries:
        again.take(entry)
    return again.found


@dataclass(slots=True)
class _Again:
    """One replay on its way."""

    rule: Rule
    found: Replay = field(default_factory=Replay)
    verdicts: dict[tuple[int, int], dict[str, Mapping[str, Any]]] = field(default_factory=dict)
    closed: tuple[int, int] | None = None
    """A window that cannot be answered again."""
    taught: bool = True
    """Whether the rule knows all that was taught."""
    reader: SetReader | None = None
    """None while sets are missing."""
    view: View | None = None
    """What the newest set looks like."""

    def take(self, entry: Mapping[str, Any]) -> None:
        kind = str(entry["kind"])
        self.found.entries += 1
        whole = not entry.get("forgotten")
        if kind == "start":
            self._start(entry)
        elif kind in {"readings", "view", "window"}:
            self._look(entry, whole=whole)
        if kind == "view" and whole:
            self.rule.recall(entry["view"])
        elif kind == "view":
            self.taught = self.taught and not self.rule.learns
        elif kind == "window":
            self._window(entry, whole=whole)
        elif kind == "command":
            self._ordered(entry["order"])
        elif kind in DECISIONS and entry.get("window") is None:
            self.found.alone += 1
        elif kind in DECISIONS:
            self._decision(entry, whole=whole)

    def _start(self, entry: Mapping[str, Any]) -> None:
        self.taught = True  # what a start learns from, it learns from what was there then
        self.rule.begin()
        self.reader, self.view = SetReader(), None
        if (entry["rule"], entry["facts"]) != (self.rule.name, self.rule.facts()):
            self._differs(f"start of epoch {entry['epoch']}: another rule or other settings")

    def _ordered(self, order: Mapping[str, Any]) -> None:
        """What the utility has ordered holds from there on, over starts too; decisions with another model than ours
        cannot be made again."""
        match order:
            case {"kind": "set_policy", "policy": str(policy)}:
                self.rule.adjust(policy=policy)
            case {"kind": "set_band", "band_pct": int() | float() as band_pct}:
                self.rule.adjust(band_pct=float(band_pct))
            case {"kind": "load_model"}:
                self.taught, self.reader, self.view = False, None, None

    def _look(self, entry: Mapping[str, Any], *, whole: bool) -> None:
        """See the sets of an entry, and compare what they look like with the view that it keeps."""
        if not self.rule.remembers:
            return
        if not whole or not self.taught or "readings" not in entry:
            self.reader = self.view = None  # until the next start
        elif self.reader is not None:
            try:
                for measurements, now in self.reader.sets(entry["readings"]):
                    self.view = self.rule.look(measurements, now)
            except DecodeError as error:
                self._differs(f"{entry['kind']} of epoch {entry['epoch']}: {error}")
                self.reader = self.view = None
        if entry["kind"] == "readings":
            return
        if self.view is None:
            self.found.unseen += 1
            return
        self.found.views += 1
        if not self._same(entry["view"], seen := self.view.as_entry()):
            where = f"{entry['kind']} {entry['epoch']}/{entry.get('window')}"
            self._differs(f"{where}: its readings look otherwise, {_where(entry['view'], seen)}")

    def _window(self, entry: Mapping[str, Any], *, whole: bool) -> None:
        """Answer a window again; keep its verdicts by meter."""
        self.verdicts, self.closed = {}, None
        window = (entry["epoch"], entry["window"])
        if not whole or not self.taught:
            self.found.unknown += 1
            self.closed = window
            return
        self.found.windows += 1
        answer = self.rule.answer(self.rule.recall(entry["view"]), Question.from_entry(entry["question"])).as_entry()
        if not self._same(entry["answer"], answer):
            self._differs(f"window {window[0]}/{window[1]}: {_where(entry['answer'], answer)}")
        self.verdicts = {window: {v["meter"]: v for v in answer["verdicts"]}}

    def _decision(self, entry: Mapping[str, Any], *, whole: bool) -> None:
        """Compare a decision with what its window says."""
        window = (entry["epoch"], entry["window"])
        if not whole or window == self.closed:
            self.found.unknown += 1
            return
        self.found.decisions += 1
        kind, which = str(entry["kind"]), f"decision {entry['epoch']}.{entry['seq']}"
        verdict = self.verdicts.get(window, {}).get(entry["meter"])
        if verdict is None or verdict["act"] != DECISIONS[kind]:
            self._differs(f"{which}: its window says {verdict}")
        elif kind in {"grant", "renewal"} and not self._same(entry["limit_w"], verdict["limit_w"], "limit_w"):
            self._differs(f"{which}: limit {verdict['limit_w']} W")

    def _same(self, recorded: Any, again: Any, name: str = "") -> bool:
        """Whether something came out as recorded, or near it."""
        if recorded == again:
            return True
        if not _near(recorded, again, name):
            return False
        self.found.near += 1
        return True

    def _differs(self, how: str) -> None:
        self.found.differences.append(how)


def _near(recorded: Any, again: Any, name: str) -> bool:
    """The same words and shape, numbers but for a last digit; ``name`` is the member they stand in."""
    if isinstance(recorded, dict) and isinstance(again, dict):
        return recorded.keys() == again.keys() and all(_near(recorded[key], again[key], key) for key in recorded)
    if isinstance(recorded, list) and isinstance(again, list):
        return len(recorded) == len(again) and all(_near(a, b, name) for a, b in zip(recorded, again, strict=True))
    numbers = isinstance(recorded, int | float) and isinstance(again, int | float)
    if numbers and not isinstance(recorded, bool):
        return bool(abs(recorded - again) <= (NEAR_W if name == "limit_w" else NEAR))
    return bool(recorded == again)


def _where(recorded: Any, again: Any, path: str = "") -> str:
    """The first place at which two values differ."""
    if isinstance(recorded, dict) and isinstance(again, dict) and recorded.keys() == again.keys():
        key = next(key for key in recorded if recorded[key] != again[key])
        return _where(recorded[key], again[key], f"{path}.{key}" if path else str(key))
    if isinstance(recorded, list) and isinstance(again, list) and len(recorded) == len(again):
        at = next(k for k, (a, b) in enumerate(zip(recorded, again, strict=True)) if a != b)
        return _where(recorded[at], again[at], f"{path}[{at}]")
    return f"{path or 'it'}: recorded {str(recorded)[:120]}, now {str(again)[:120]}"
