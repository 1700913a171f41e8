"""Past decisions again: every recorded window answered from what its record keeps, and compared to the byte."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dcu.hosting.decide import Question, Rule

DECISIONS: Final = {"grant": "grant", "renewal": "renew", "denial": "deny", "lowered": "lower", "revoke": "lower"}
"""Kind of a decision's entry, and the act of its window."""


@dataclass(slots=True)
class Replay:
    """How many entries, windows and decisions of windows were looked at; where something differs, in words.

    Attributes:
        alone: decisions that no window made (refused at the door, waited too long, revoked for what lasted).
        unknown: windows and decisions whose inputs somebody had deleted, or that rest on lessons that are deleted.
    """

    entries: int = 0
    windows: int = 0
    decisions: int = 0
    alone: int = 0
    unknown: int = 0
    differences: list[str] = field(default_factory=list)


def replay(rule: Rule, entries: Iterable[Mapping[str, Any]]) -> Replay:
    """Answer every window of a ledger again.

    Args:
        rule: made from the same model and settings; a fresh one will do, answers do not depend on its memory.
        entries: of the ledger, in order.
    """
    found = Replay()
    verdicts: dict[tuple[int, int], dict[str, Mapping[str, Any]]] = {}
    closed: tuple[int, int] | None = None
    taught = True
    for entry in entries:
        kind = str(entry["kind"])
        found.entries += 1
        whole = not entry.get("forgotten")
        if kind == "start":
            taught = True  # what a start learns from, it learns from what was there then
            if (entry["rule"], entry["facts"]) != (rule.name, rule.facts()):
                found.differences.append(f"start of epoch {entry['epoch']}: another rule or other settings")
        elif kind == "view" and whole:
            rule.recall(entry["view"])
        elif kind == "view":
            taught = taught and not rule.learns
        elif kind == "window":
            verdicts, closed = {}, None
            if whole and taught:
                found.windows += 1
                verdicts = _window(rule, entry, found)
            else:
                found.unknown += 1
                closed = (entry["epoch"], entry["window"])
        elif kind in DECISIONS and entry.get("window") is None:
            found.alone += 1
        elif kind in DECISIONS:
            window = (entry["epoch"], entry["window"])
            if not whole or window == closed:
                found.unknown += 1
            else:
                found.decisions += 1
                _decision(entry, verdicts.get(window, {}), found)
    return found


def _window(rule: Rule, entry: Mapping[str, Any], found: Replay) -> dict[tuple[int, int], dict[str, Mapping[str, Any]]]:
    """Answer a window again; its verdicts by meter."""
    answer = rule.answer(rule.recall(entry["view"]), Question.from_entry(entry["question"])).as_entry()
    if answer != entry["answer"]:
        found.differences.append(f"window {entry['epoch']}/{entry['window']}: {_first(entry['answer'], answer)}")
    return {(entry["epoch"], entry["window"]): {v["meter"]: v for v in answer["verdicts"]}}


def _decision(entry: Mapping[str, Any], verdicts: Mapping[str, Mapping[str, Any]], found: Replay) -> None:
    """Compare a decision with what its window says."""
    kind = str(entry["kind"])
    verdict = verdicts.get(entry["meter"])
    if verdict is None or verdict["act"] != DECISIONS[kind]:
        found.differences.append(f"decision {entry['epoch']}.{entry['seq']}: its window says {verdict}")
    elif kind in {"grant", "renewal"} and verdict["limit_w"] != entry["limit_w"]:
        found.differences.append(f"decision {entry['epoch']}.{entry['seq']}: limit {verdict['limit_w']} W")


def _first(recorded: Mapping[str, Any], again: Mapping[str, Any]) -> str:
    pairs = zip(recorded["verdicts"], again["verdicts"], strict=False)
    for a, b in pairs:
        if a != b:
            return f"recorded {a}, answered {b}"
    return f"recorded {len(recorded['verdicts'])} verdicts, answered {len(again['verdicts'])}"
