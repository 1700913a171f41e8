"""What a probabilistic study leaves for machines: `result.json`, `study.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from dcu.planning import check_table
from dcu.planning.capacity import Capacity, Criterion, Level, Risk, Violation, interval_at, risk
from dcu.planning.reading import Read
from dcu.planning.run import Findings
from dcu.planning.study.outcome import file_sha256, relative, versions

RISKS: Final = (0.001, 0.01, 0.02, 0.05)
"""Accepted probabilities of overvoltage that capacities are told for beside the steps."""


def study_again(read: Read, folder: Path) -> dict[str, Any]:
    """The study as it was run: files found from the new folder, with their hashes and the versions."""
    content = read.study.model_dump(mode="python", exclude={"provenance"})
    names = {name: relative(path, folder) for name, path in read.files.items()}
    content["network"]["file"] = names[read.study.network.file]
    content["meter_data"]["files"] = [names[n] for n in read.study.meter_data.files]
    if read.study.meter_data.mapping:
        content["meter_data"]["mapping"] = names[read.study.meter_data.mapping]
    if read.study.reference.files:
        content["reference"]["files"] = [names[n] for n in read.study.reference.files]
    files = [{"file": relative(p, folder), "sha256": file_sha256(p)} for p in read.files.values()]
    return content | {"provenance": {"inputs": files, "versions": versions()}}


def result(
    read: Read, found: Findings, rows: list[check_table.Row], relations: list[tuple[str, bool]]
) -> dict[str, Any]:
    """`result.json`."""
    return {
        "study": read.study.study.model_dump(),
        "network": read.inputs.network.name,
        "meter_data": {
            "customers": len(read.inputs.profiles.customers),
            "days": read.inputs.past.days,
            "interval_s": read.inputs.past.interval_s,
            "load_wh_per_year": float(read.inputs.profiles.energy_wh.sum()),
            "pv_wh_per_year": float(read.inputs.profiles.pv_energy_wh.sum()),
            "reference": _reference(read),
            "existing": [
                {"customer": e.customer, "rated_w": e.rated_w, "generation": str(e.generation)}
                for e in read.inputs.existing
            ],
            "notes": list(read.notes),
        },
        "scenarios": [_scenario(read, found, name) for name in found.logs],
        "deterministic": {
            s: {case: [_capacity(c) for c in cs] for case, cs in cases.items()}
            for s, cases in found.deterministic.items()
        },
        "self_sufficiency": self_sufficiency(read, found),
        "losses": None if found.losses is None else {
            "hours": found.losses.hours,
            "q95_by_day_wh": float(np.quantile(found.losses.by_day_wh, 0.95)),
            "q95_by_state_wh": float(np.quantile(found.losses.by_state_wh, 0.95)),
            "worst_wh": found.losses.worst_wh,
        },
        "rebalanced": list(found.rebalanced),
        "load_models": [_fields(v) for v in found.load_models],
        "data_length": [{"first_day": f, "days": n} | _fields(v) for f, n, v in found.data_length],
        "headroom": None if found.dynamic is None else _fields(found.dynamic)
        | {"exporters": [_fields(e) for e in found.dynamic.exporters]},
        "rare": None if found.rare is None else _fields(found.rare),
        "untold": list(found.untold),
        "check_table": check_table.as_dicts(rows),
        "relations": [{"relation": text, "holds": ok} for text, ok in relations],
    }  # fmt: skip


def _reference(read: Read) -> dict[str, Any]:
    r = read.inputs.reference
    units = list(r.units.pv_customers)
    about = {"customer": r.customer, "rated_w": r.rated_w, "elsewhere": r.elsewhere, "units": units}
    return about | {"days": r.units.days, "yield_wh_per_w": r.yield_wh()}


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _scenario(read: Read, found: Findings, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "units": [u.name for u in next(p for p in read.world.inputs.plans if p.name == name).units],
        "capacities": [_capacity(c) for c in found.capacities[name]],
        "risk": [_fields(r) for r in risks(read, found, name)],
        "levels": [_level(level, read, name) for level in found.logs[name]],
    }


def risks(read: Read, found: Findings, name: str) -> list[Risk]:
    """Capacity of a scenario for each of `RISKS`."""
    return [risk(found.logs[name], read.world.cases[name].existing_w, p) for p in RISKS]


def _capacity(c: Capacity) -> dict[str, Any]:
    return _fields(c) | {"violations": [_violation(v) for v in c.violations[:10]]}


def _violation(v: Violation) -> dict[str, Any]:
    return _fields(v) | {"criterion": str(v.criterion)}


def _level(level: Level, read: Read, name: str) -> dict[str, Any]:
    t = level.tally
    binding = bindings(level, read, name)
    return {
        "level": level.number,
        "unit_w": level.level_w,
        "total_w": level.added_w + read.world.cases[name].existing_w,
        "states": t.states,
        "unsolved": t.unsolved,
        "worst": {
            str(c): {"place": place, "probability": p, "low": low, "high": high, "extreme": x}
            for c, place, p, low, high, x in binding
        },
    }  # fmt: skip


def bindings(level: Level, read: Read, name: str) -> list[tuple[Criterion, str, float, float, float, float]]:
    """Of each criterion the place where it is exceeded most: place, probability with its interval, extreme."""
    observer, t = read.world.observers[name], level.tally
    points = [".".join(p) for p in observer.points]
    wires = [" ".join(w) for w in observer.wires]
    found = []
    for criterion, places, counts, extremes, sign in (
        (Criterion.OVERVOLTAGE, points, t.over, t.u_max_pu, 1),
        (Criterion.UNDERVOLTAGE, points, t.under, t.u_min_pu, -1),
        (Criterion.UNBALANCE, list(observer.buses), t.unbalanced, t.vuf_max, 1),
        (Criterion.CURRENT, wires, t.overloaded, t.loading_max, 1),
    ):
        if len(places):
            k = max(range(len(places)), key=lambda j, c=counts, e=extremes, s=sign: (c[j], s * e[j]))  # type: ignore[misc]
            low, high = interval_at(t, criterion, k)
            found.append((criterion, places[k], float(counts[k] / t.states), low, high, float(extremes[k])))
    return found


def self_sufficiency(read: Read, found: Findings) -> list[dict[str, Any]]:
    """Equation 6: PV energy grows with the installed power, compared with the year's load; nothing where a unit's
    generation is unknown, because the load is then, too."""
    known, existing = read.inputs.profiles, read.inputs.existing
    if not all(e.known for e in existing):
        return []
    rated_w = sum(e.rated_w for e in existing)
    load_wh = float(known.energy_wh.sum())
    yield_wh = float(known.pv_energy_wh.sum()) / rated_w if existing else read.inputs.reference.yield_wh()
    rows = []
    for name, cs in found.capacities.items():
        for c in cs:
            if c.last_feasible_w is not None:
                share = c.last_feasible_w * yield_wh / load_wh
                rows.append({"scenario": name, "group": c.group, "share": share})
    return rows
