"""The probabilistic study's folder: results as JSON and tables, limits for the DCU, and the report."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np

from dcu.planning import check_table
from dcu.planning.capacity import Capacity, Criterion, Level, Risk, Violation, interval, risk
from dcu.planning.evaluate import I_BINS, U_BINS, VUF_BINS
from dcu.planning.figures import all_figures
from dcu.planning.run import Findings, Read
from dcu.planning.study import report
from dcu.planning.study.outcome import Outcome, file_sha256, relative, versions

RISKS: Final = (0.001, 0.01, 0.02, 0.05)
"""Accepted probabilities of overvoltage that capacities are told for beside the steps."""


def write(read: Read, found: Findings, folder: Path) -> Outcome:
    """Everything a finished study leaves."""
    out = Outcome(folder)
    rows = check_table.check(read, found) if read.study.check_table else []
    relations = check_table.orderings(found) if read.study.check_table else []
    out.result(result(read, found, rows, relations))
    _tables(out, read, found)
    if found.nominal is not None:
        out.text("nominal_limits.toml", nominal_limits(read, found))
    out.study(study_again(read, folder))
    out.report(html(read, found, rows, relations))
    return out


def study_again(read: Read, folder: Path) -> dict[str, Any]:
    """The study as it was run: files found from the new folder, with their hashes and the versions."""
    content = read.study.model_dump(mode="python", exclude={"provenance"})
    names = {n: relative(read.folder / n, folder) for n in (read.study.network.file, *read.study.meter_data.files)}
    content["network"]["file"] = names[read.study.network.file]
    content["meter_data"]["files"] = [names[n] for n in read.study.meter_data.files]
    if read.study.meter_data.mapping:
        content["meter_data"]["mapping"] = relative(read.folder / read.study.meter_data.mapping, folder)
    files = [{"file": relative(p, folder), "sha256": file_sha256(p)} for p in read.files]
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
            "notes": list(read.notes),
        },
        "scenarios": [_scenario(read, found, name) for name in found.logs],
        "deterministic": {
            s: {case: [_capacity(c) for c in cs] for case, cs in cases.items()}
            for s, cases in found.deterministic.items()
        },
        "self_sufficiency": _self_sufficiency(read, found),
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
        "check_table": check_table.as_dicts(rows),
        "relations": [{"relation": text, "holds": ok} for text, ok in relations],
    }  # fmt: skip


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _scenario(read: Read, found: Findings, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "units": [u.name for u in next(p for p in read.world.inputs.plans if p.name == name).units],
        "capacities": [_capacity(c) for c in found.capacities[name]],
        "risk": [_fields(r) for r in _risks(read, found, name)],
        "levels": [_level(level, read, name) for level in found.logs[name]],
    }


def _risks(read: Read, found: Findings, name: str) -> list[Risk]:
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
            low, high = interval(int(counts[k]), t.states)
            found.append((criterion, places[k], float(counts[k] / t.states), low, high, float(extremes[k])))
    return found


def _self_sufficiency(read: Read, found: Findings) -> list[dict[str, Any]]:
    """Equation 6: PV energy grows with the installed power, compared with the year's load."""
    known = read.inputs.profiles
    rows = []
    for name, cs in found.capacities.items():
        existing = read.world.cases[name].existing_w
        for c in cs:
            if c.last_feasible_w is not None and existing > 0:
                share = c.last_feasible_w / existing * float(known.pv_energy_wh.sum() / known.energy_wh.sum())
                rows.append({"scenario": name, "group": c.group, "share": share})
    return rows


def _tables(out: Outcome, read: Read, found: Findings) -> None:
    points: dict[str, list[Any]] = {
        k: []
        for k in ("scenario", "level", "unit_w", "bus", "phase", "states", "over", "under", "u_max_pu", "u_min_pu")
    }
    wires: dict[str, list[Any]] = {
        k: [] for k in ("scenario", "level", "unit_w", "branch", "phase", "states", "over", "loading_max")
    }
    buses: dict[str, list[Any]] = {k: [] for k in ("scenario", "level", "unit_w", "bus", "states", "over", "vuf_max")}
    for name, log in found.logs.items():
        o = read.world.observers[name]
        for level in log:
            t, head = level.tally, (name, level.number, level.level_w)
            _rows(
                points,
                [
                    (*head, b, p, t.states, *v)
                    for (b, p), *v in zip(
                        o.points,
                        t.over.tolist(),
                        t.under.tolist(),
                        t.u_max_pu.tolist(),
                        t.u_min_pu.tolist(),
                        strict=True,
                    )
                ],
            )
            _rows(
                wires,
                [
                    (*head, b, p, t.states, *v)
                    for (b, p), *v in zip(o.wires, t.overloaded.tolist(), t.loading_max.tolist(), strict=True)
                ],
            )
            _rows(
                buses,
                [
                    (*head, b, t.states, *v)
                    for b, *v in zip(o.buses, t.unbalanced.tolist(), t.vuf_max.tolist(), strict=True)
                ],
            )
    out.table("voltages", points)
    out.table("currents", wires)
    out.table("unbalance", buses)
    out.table("distributions", _distributions(read, found))
    if found.places:
        out.table("places", {k: [getattr(p, k) for p in found.places] for k in found.places[0].__dataclass_fields__})
    if found.dynamic is not None:
        out.table(
            "exporters",
            {
                k: [getattr(e, k) for e in found.dynamic.exporters]
                for k in found.dynamic.exporters[0].__dataclass_fields__
            },
        )
    if found.losses is not None:
        out.table(
            "losses", {"by_day_wh": found.losses.by_day_wh.tolist(), "by_state_wh": found.losses.by_state_wh.tolist()}
        )


def _distributions(read: Read, found: Findings) -> dict[str, list[Any]]:
    """Histograms of each scenario at its last feasible step by voltage: voltage [pu], loading, unbalance; no
    empty bins. `place` is a bus or branch."""
    rows: dict[str, list[Any]] = {k: [] for k in ("scenario", "quantity", "place", "phase", "from", "to", "states")}
    for name, t in found.details.items():
        o = read.world.observers[name]
        for quantity, places, counts, bins in (
            ("u_pu", o.points, t.u_histogram, U_BINS),
            ("loading", o.wires, t.loading_histogram, I_BINS),
            ("vuf", tuple((b, "") for b in o.buses), t.vuf_histogram, VUF_BINS),
        ):
            low, width = bins[0], (bins[1] - bins[0]) / bins[2]
            _rows(
                rows,
                [
                    (name, quantity, *places[k], low + width * j, low + width * (j + 1), int(counts[k, j]))
                    for k, j in np.argwhere(counts).tolist()
                ],
            )
    return rows


def _rows(columns: dict[str, list[Any]], rows: list[tuple[Any, ...]]) -> None:
    for row in rows:
        for key, value in zip(columns, row, strict=True):
            columns[key].append(value)


def nominal_limits(read: Read, found: Findings) -> str:
    """The study's nominal export limits as the `[[meters]]` of a DCU's configuration; addresses and keys are the
    site's."""
    assert found.nominal is not None
    name = read.study.extras.headroom
    assert name is not None
    plan = next(p for p in read.inputs.plans if p.name == name)
    level_w = found.nominal.level_w
    rated: dict[str, float] = {}
    for unit, w in zip(plan.units, read.world.cases[name].rated_w(level_w), strict=True):
        rated[unit.bus] = rated.get(unit.bus, 0.0) + float(w)
    own = {e.customer: e.rated_w for e in read.inputs.existing}
    served: set[str] = set()
    lines = [
        f"# Nominal export limits of {read.study.study.name!r}, scenario {name} at {level_w:g} W a unit:",
        "# the largest common limit that violates nothing in any drawn state. Headroom grants what lies between it and",
        "# contract_limit_w.",
        "# Add eui48 of each meter, and put the tables into the DCU's configuration.",
    ]
    for point in read.inputs.network.connection_points:
        contract = own.get(point.id, 0.0) + (rated.get(point.bus, 0.0) if point.bus not in served else 0.0)
        served.add(point.bus)
        phases = ", ".join(f'"{c.pos}"' for c in point.connections)
        lines += [
            "",
            "[[meters]]",
            f'id = "{point.meter or point.id}"',
            f'bus = "{point.bus}"',
            f"phases = [{phases}]",
            f"nominal_limit_w = {float(np.floor(min(found.nominal.static_limit_w, contract)))!r}",
            f"contract_limit_w = {float(contract)!r}",
        ]
    return "\n".join(lines) + "\n"


def html(read: Read, found: Findings, rows: list[check_table.Row], relations: list[tuple[str, bool]]) -> str:
    """The report."""
    with report.drawing(read.study.study.name):
        drawn = {name: report.picture(figure, caption) for name, figure, caption in all_figures(read, found)}
    s = read.study
    parts = [
        report.cards(_cards(read, found)),
        _capacity_table(read, found),
        drawn["capacities"],
        drawn["curves"],
        drawn["maps"],
    ]
    parts += [_risk_table(read, found), _binding(read, found), drawn.get("segments", "")]
    if rows:
        parts += _check(rows, relations)
    if found.places:
        parts += [report.heading("Where the next unit fits"), drawn["planner_map"], _rebalanced(read, found)]
    if found.losses is not None:
        parts += [report.heading("Losses"), drawn["losses"]]
    if found.load_models:
        parts += [_load_models(read, found)]
    if found.data_length:
        parts += [report.heading("How much meter data is enough"), drawn["data_length"]]
    if found.rare is not None:
        parts += [_rare(read, found)]
    if found.dynamic is not None:
        parts += [report.heading("What Headroom adds", _headroom_text(found)), drawn["headroom"]]
    parts += [_about(read)]
    lead = (
        f"{read.inputs.network.name}: {len(read.inputs.profiles.customers)} customers, "
        f"{read.inputs.past.days} days of meter data, {s.sampling.days * read.inputs.past.slots:,} states a level"
    )
    return report.page(s.study.name, lead, parts)


def _cards(read: Read, found: Findings) -> list[tuple[str, str]]:
    first = next(iter(found.capacities))
    cs = {c.group: c for c in found.capacities[first]}
    items = [
        (f"{(cs[g].last_feasible_w or 0) / 1000:.0f} kVA", f"scenario {first}, {text}")
        for g, text in (("voltage", "by voltage"), ("current", "by voltage and current"))
    ]
    if found.rebalanced:
        name = f"{read.study.extras.rebalance} re-balanced"
        w = next(c for c in found.capacities[name] if c.group == "voltage").last_feasible_w or 0
        items.append((f"{w / 1000:.0f} kVA", "same places, better phases"))
    if found.dynamic is not None:
        e = found.dynamic.exporters
        whole = sum(x.free_export_w for x in e) or 1.0
        lost = [sum(x.free_export_w * getattr(x, k) for x in e) / whole for k in ("static_energy", "headroom_energy")]
        items.append(
            (
                f"{lost[0]:.0%} → {lost[1]:.0%}",
                f"export lost at {found.dynamic.level_w / 1000:g} kVA a unit: static limit, Headroom",
            )
        )
    return items


def _capacity_table(read: Read, found: Findings) -> str:
    lines = []
    for name, cs in found.capacities.items():
        by = {c.group: c for c in cs}
        lines.append(
            (
                name,
                *(x for g in ("voltage", "current") for x in (_levels(by[g], read), _what_binds(by[g]))),
                _levels(by["unbalance"], read),
            )
        )
    header = (
        "scenario",
        "by voltage [kVA]",
        "what binds (95 % interval)",
        "by voltage and current [kVA]",
        "what binds",
        "by unbalance alone [kVA]",
    )
    note = (
        "Each cell: last feasible total, with a unit's rating in brackets, and first infeasible total. "
        "Publications differ in which of the two they "
        "call hosting capacity."
    )
    return report.heading("Hosting capacity", note) + report.table(header, lines)


def _risk_table(read: Read, found: Findings) -> str:
    text = (
        "Between the steps: the total PV at which overvoltage at the worst place reaches an accepted "
        "probability, and the totals at which the ends of its 95 % interval do."
    )
    lines = [(name, *(_risk(r) for r in _risks(read, found, name))) for name in found.logs]
    header = ("scenario", *(f"{p:.1%} of the states [kVA]" for p in RISKS))
    return report.heading("Capacity as a curve of the accepted risk", text) + report.table(header, lines)


def _risk(r: Risk) -> str:
    if r.total_w is None:
        return "not reached"
    ends = ["–" if w is None else f"{w / 1000:.1f}" for w in (r.low_w, r.high_w)]
    return f"{r.total_w / 1000:.1f} ({ends[0]} … {ends[1]})"


def _levels(c: Capacity, read: Read) -> str:
    if c.last_feasible is None or c.last_feasible_w is None:
        return "none: today's feeder violates"
    unit = c.last_feasible * read.study.growth.step_w / 1000
    then = "not reached" if c.first_infeasible_w is None else f"{c.first_infeasible_w / 1000:.2f}"
    return f"{c.last_feasible_w / 1000:.2f} ({unit:g}); {then}"


def _what_binds(c: Capacity) -> str:
    if not c.violations:
        return ""
    v = c.violations[0]
    if v.criterion is Criterion.CURRENT or any(x.criterion is Criterion.CURRENT for x in c.violations):
        top = max((x for x in c.violations if x.criterion is Criterion.CURRENT), key=lambda x: x.extreme)
        return f"{top.place}, {top.extreme:.0%} of rating"
    return f"{v.place} {v.criterion}, {v.probability:.2%} ({v.low:.2%} – {v.high:.2%})"


def _binding(read: Read, found: Findings) -> str:
    parts = [
        report.heading(
            "What binds at each step",
            "Of each criterion the place where it is exceeded most, with the probability and the extreme value.",
        )
    ]
    for name, log in found.logs.items():
        lines = []
        for level in log:
            cells: list[Any] = [
                f"{level.level_w / 1000:g}",
                f"{(level.added_w + read.world.cases[name].existing_w) / 1000:.2f}",
            ]
            for criterion, place, p, _, _, x in bindings(level, read, name):
                shown = f"{x:.3f} pu" if criterion in (Criterion.OVERVOLTAGE, Criterion.UNDERVOLTAGE) else f"{x:.1%}"
                cells.append(f"{place}: {p:.2%}, {shown}")
            lines.append(cells)
        watched = [str(criterion) for criterion, *_ in bindings(log[0], read, name)]
        header = ("a unit [kVA]", "total [kVA]", *watched)
        parts.append(report.folded(f"Scenario {name}", report.table(header, lines)))
    return "".join(parts)


def _check(rows: list[check_table.Row], relations: list[tuple[str, bool]]) -> list[str]:
    lines = [(r.id, r.what, r.published, r.expected, r.obtained, "yes" if r.within else "no", r.why) for r in rows]
    header = ("", "check", "published", "expected here", "obtained", "within", "why they differ")
    kept = sum(r.within for r in rows)
    text = (
        f"{kept} of {len(rows)} rows are within their tolerance. The data are a stand-in made to show the "
        f"published behaviour; 'expected' is "
        "what an independent prototype obtained on the same data. The tolerance is about the stand-in, not "
        "about the paper."
    )
    held = sum(ok for _, ok in relations)
    return [
        report.heading("Published and obtained", text),
        report.table(header, lines, verdict=5),
        report.folded(
            f"Relations that must hold: {held} of {len(relations)} do",
            report.table(("relation", "holds"), [(t, "yes" if ok else "no") for t, ok in relations], verdict=1),
        ),
    ]


def _rebalanced(read: Read, found: Findings) -> str:
    if not found.rebalanced:
        return ""
    name = read.study.extras.rebalance
    before = {u.bus: "".join(u.phases) for u in next(p for p in read.inputs.plans if p.name == name).units}
    moved = [
        f"{u.split('.')[0]} from {before[u.split('.')[0]]} to {u.split('.')[1]}"
        for u in found.rebalanced
        if before[u.split(".")[0]] != u.split(".")[1]
    ]
    was, now = (
        (next(c for c in found.capacities[n] if c.group == "voltage").last_feasible_w or 0) / 1000
        for n in (name or "", f"{name} re-balanced")
    )
    text = (
        f"Scenario {name} with its units on better phases hosts {now:.2f} instead of {was:.2f} kVA by "
        f"voltage. Moved: {', '.join(moved) or 'none'}."
    )
    return f"<p>{escape(text)}</p>"


def _load_models(read: Read, found: Findings) -> str:
    name = read.study.extras.load_models
    text = (
        "Real loads are not independent between quarter-hours and customers. The same scenario with whole "
        "recorded days instead of "
        "independent quarter-hours; the last column is the probability at one level for all."
    )
    lines = [
        (v.name, f"{v.voltage_w / 1000:g}", f"{v.current_w / 1000:g}", f"{v.overvoltage:.2%}")
        for v in found.load_models
    ]
    header = (
        "loads and PV",
        "by voltage [kVA a unit]",
        "by voltage and current [kVA a unit]",
        "overvoltage at the same level",
    )
    return report.heading(f"Does independence matter? (scenario {name})", text) + report.table(header, lines)


def _rare(read: Read, found: Findings) -> str:
    r, asked = found.rare, read.study.extras.rare
    assert r is not None
    assert asked is not None
    ratio = r.brute_states / (r.states + r.learning_states)
    text = (
        f"Scenario {asked.scenario} at {asked.level * read.study.growth.step_w / 1000:g} kVA a unit: "
        f"overvoltage at {r.place} with probability "
        f"{r.probability:.3g} ± {r.error:.1g} (standard error) from {r.states + r.learning_states:,} states "
        f"drawn where it happens. Plain sampling would "
        f"need {_about_so_many(r.brute_states)} states for the same error, {_about_so_many(ratio)} times as many."
    )
    return report.heading("Rare events", text)


def _about_so_many(count: float) -> str:
    """Two digits, as people read them."""
    return f"{float(f'{count:.2g}'):,.0f}"


def _headroom_text(found: Findings) -> str:
    d = found.dynamic
    assert d is not None
    return (
        f"Without any limit {d.free_violation:.1%} of the states with sun would violate a voltage or a current "
        f"limit; with grants "
        f"{d.headroom_violation:.1%} do. Grants raise everybody equally until something binds; who reaches what "
        f"binds stays there, the "
        "others go on rising. Delays and margins of the real system are not in this figure."
    )


def _about(read: Read) -> str:
    notes = read.notes or ("none",)
    inputs = [(p.name, file_sha256(p)) for p in read.files]
    made = [(k, v) for k, v in versions().items()]
    method = (
        "Klonari, Toubeau, Lobry, Vallée: Photovoltaic Integration in Smart City Power Distribution, "
        "SMARTGREENS 2016. States without PV "
        "are the same at every level and are solved once; all levels and scenarios are judged on the same drawn states."
    )
    return (
        report.heading("About this study", method)
        + report.table(("file", "sha256"), inputs)
        + report.table(("made with", "version"), [*made, ("seed", read.study.seed)])
        + "<p>Notes on the data: " + "; ".join(escape(n) for n in notes) + "</p>"
    )  # fmt: skip
