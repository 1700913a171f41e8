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
    """How many entries, windows and decisions of windows were looked at; decisions that no window made (refused at the
    door, waited too long, revoked for what lasted); where something differs, in words."""

    entries: int = 0
    windows: int = 0
    decisions: int = 0
    alone: int = 0
    differences: list[str] = field(default_factory=list)


def replay(rule: Rule, entries: Iterable[Mapping[str, Any]]) -> Replay:
    """Answer every window of a ledger again.

    Args:
        rule: made from the same model and settings; a fresh one will do, answers do not depend on its memory.
        entries: of the ledger, in order.
    """
    found = Replay()
    verdicts: dict[tuple[int, int], dict[str, Mapping[str, Any]]] = {}
    for entry in entries:
        kind = str(entry["kind"])
        found.entries += 1
        if kind == "start" and (entry["rule"], entry["facts"]) != (rule.name, rule.facts()):
            found.differences.append(f"start of epoch {entry['epoch']}: another rule or other settings")
        elif kind == "view":
            rule.recall(entry["view"])
        elif kind == "window":
            found.windows += 1
            answer = rule.answer(rule.recall(entry["view"]), Question.from_entry(entry["question"])).as_entry()
            if answer != entry["answer"]:
                found.differences.append(
                    f"window {entry['epoch']}/{entry['window']}: {_first(entry['answer'], answer)}"
                )
            verdicts = {(entry["epoch"], entry["window"]): {v["meter"]: v for v in answer["verdicts"]}}
        elif kind in DECISIONS and entry.get("window") is None:
            found.alone += 1
        elif kind in DECISIONS:
            found.decisions += 1
            verdict = verdicts.get((entry["epoch"], entry["window"]), {}).get(entry["meter"])
            if verdict is None or verdict["act"] != DECISIONS[kind]:
                found.differences.append(f"decision {entry['epoch']}.{entry['seq']}: its window says {verdict}")
            elif kind in {"grant", "renewal"} and verdict["limit_w"] != entry["limit_w"]:
                found.differences.append(f"decision {entry['epoch']}.{entry['seq']}: limit {verdict['limit_w']} W")
    return found


def _first(recorded: Mapping[str, Any], again: Mapping[str, Any]) -> str:
    pairs = zip(recorded["verdicts"], again["verdicts"], strict=False)
    for a, b in pairs:
        if a != b:
            return f"recorded {a}, answered {b}"
    return f"recorded {len(recorded['verdicts'])} verdicts, answered {len(again['verdicts'])}"
