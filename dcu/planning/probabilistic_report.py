"""The probabilistic study's folder: results as JSON and tables, limits for the DCU, and the report."""

from __future__ import annotations

import hashlib
import json
from html import escape
from pathlib import Path
from typing import Any, Final

from dcu.planning import check_table
from dcu.planning.capacity import Capacity, Criterion, Risk
from dcu.planning.dynamic import Dynamic
from dcu.planning.figures import all_figures, capacities
from dcu.planning.nominal import homeless, nominal_limits, nominal_toml
from dcu.planning.reading import Read
from dcu.planning.result import RISKS, bindings, result, risks, self_sufficiency, study_again
from dcu.planning.run import Findings, scenario_of
from dcu.planning.settings import ProbabilisticStudy
from dcu.planning.study import report
from dcu.planning.study.outcome import Outcome, file_sha256, versions
from dcu.planning.tables import write_tables

GALLERY: Final = "capacities.svg"


def write(read: Read, found: Findings, folder: Path) -> Outcome:
    """Everything a finished study leaves."""
    out = Outcome(folder)
    rows = check_table.check(read, found) if read.study.check_table else []
    relations = check_table.orderings(found) if read.study.check_table else []
    out.result(result(read, found, rows, relations))
    write_tables(out, read, found)
    if found.nominal is not None:
        out.text("nominal_limits.toml", nominal_toml(read, found.nominal))
    out.text(GALLERY, gallery(read, found))
    out.study(study_again(read, folder))
    out.report(html(read, found, rows, relations))
    return out


def settings_sha256(study: ProbabilisticStudy) -> str:
    """What a study asks for, wherever its files lie: those are known by their contents."""
    places: dict[str, Any] = {
        "provenance": True,
        "network": True,
        "meter_data": {"files", "mapping"},
        "reference": {"files"},
    }
    return hashlib.sha256(study.model_dump_json(exclude=places).encode()).hexdigest()


def gallery(read: Read, found: Findings) -> str:
    """The capacities as a picture that says what it was made from and what it shows, so that an old one is known."""
    about = {
        "settings": settings_sha256(read.study),
        "inputs": {path.name: file_sha256(path) for path in read.files.values()},
        "last_feasible_w": {name: {c.group: c.last_feasible_w for c in cs} for name, cs in found.capacities.items()},
    }
    with report.drawing(read.study.study.name):
        figure, _ = capacities(read, found)
        return report.svg(figure, json.dumps(about, sort_keys=True))


def html(read: Read, found: Findings, rows: list[check_table.Row], relations: list[tuple[str, bool]]) -> str:
    """The report."""
    with report.drawing(read.study.study.name):
        drawn = {name: report.picture(figure, caption) for name, figure, caption in all_figures(read, found)}
    s = read.study
    parts = [
        report.cards(_cards(read, found)),
        *(report.notes("Before you use these figures", read.notes) if read.notes else ()),
        _capacity_table(read, found),
        drawn["capacities"],
        drawn["curves"],
        drawn["maps"],
        _sufficiency_table(read, found),
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
    if "data_length" in drawn:
        parts += [report.heading("How much meter data is enough"), drawn["data_length"]]
    if found.rare is not None:
        parts += [_rare(read, found)]
    if found.dynamic is not None:
        parts += [report.heading("What Headroom adds", _headroom_text(found)), drawn["headroom"]]
    if found.nominal is not None:
        parts += [_nominal(read, found.nominal)]
    parts += [_about(read, found)]
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
                f"export lost at {found.dynamic.level_w / 1000:g} kVA a unit: static, Headroom",
            )
        )
    return items


def _capacity_table(read: Read, found: Findings) -> str:
    lines = []
    for name, cs in found.capacities.items():
        by = {c.group: c for c in cs}
        percentile = read.study.percentile(scenario_of(read.study, name))
        lines.append(
            (
                name,
                *(x for g in ("voltage", "current") for x in (_levels(by[g], read), _what_binds(by[g], percentile))),
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
        "call hosting capacity. Where the interval at the first infeasible step holds the limit, more states "
        "may put the capacity one step higher."
    )
    return report.heading("Hosting capacity", note) + report.table(header, lines)


def _sufficiency_table(read: Read, found: Findings) -> str:
    """Equation 6 for every scenario; nothing where no PV stands yet."""
    shares = {(row["scenario"], row["group"]): row["share"] for row in self_sufficiency(read, found)}
    if not shares:
        return ""
    groups = ("voltage", "current")
    lines = [
        (name, *(f"{shares[name, g]:.0%}" if (name, g) in shares else "none" for g in groups))
        for name in found.capacities
    ]
    text = (
        "Energy of a year that the PV of the last feasible step gives, as a share of the year's load (equation 6: "
        "today's yield, scaled by the installed power). It says nothing about when."
    )
    header = ("scenario", "by voltage", "by voltage and current")
    return report.heading("Self-sufficiency", text) + report.table(header, lines)


def _risk_table(read: Read, found: Findings) -> str:
    text = (
        "Between the steps: the total PV at which overvoltage at the worst place reaches an accepted "
        "probability, and the totals at which the ends of its 95 % interval do."
    )
    lines = [(name, *(_risk(r) for r in risks(read, found, name))) for name in found.logs]
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


def _what_binds(c: Capacity, percentile: float) -> str:
    if not c.violations:
        return ""
    v = c.violations[0]
    if v.criterion is Criterion.CURRENT or any(x.criterion is Criterion.CURRENT for x in c.violations):
        top = max((x for x in c.violations if x.criterion is Criterion.CURRENT), key=lambda x: x.extreme)
        return f"{top.place}, {top.extreme:.0%} of rating"
    allowed = 1 - percentile / 100
    close = ": too close to tell" if v.low <= allowed <= v.high else ""
    return f"{v.place} {v.criterion}, {v.probability:.2%} ({v.low:.2%} – {v.high:.2%}{close})"


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
        "independent quarter-hours; the last column is the probability at one level for all, with its 95 % interval: "
        "where days hang together a simulated day tells less than 96 states, and differences within the intervals "
        "are none."
    )
    lines = [
        (
            v.name,
            f"{v.voltage_w / 1000:g}",
            f"{v.current_w / 1000:g}",
            f"{v.overvoltage:.2%} ({v.low:.2%} – {v.high:.2%})",
        )
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
    where = f"Scenario {asked.scenario} at {asked.level * read.study.growth.step_w / 1000:g} kVA a unit: "
    if not r.probability:
        text = (
            f"{where}no overvoltage in {r.states:,} states drawn where it would happen, the highest voltage being "
            f"{r.u_max_pu:.3f} pu: its probability is below {r.high:.2g} (95 %)."
        )
        return report.heading("Rare events", text)
    ratio = r.brute_states / (r.states + r.learning_states)
    text = (
        f"{where}overvoltage at {r.place} with probability "
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


def _nominal(read: Read, nominal: Dynamic) -> str:
    """What the DCU's configuration gets."""
    limits = nominal_limits(read, nominal)
    rows = [
        (n.meter, n.bus, " ".join(n.phases), f"{n.nominal_limit_w / 1000:.2f}", f"{n.contract_limit_w / 1000:.2f}")
        for n in limits
        if n.contract_limit_w > 0
    ]
    text = (
        f"At {nominal.level_w / 1000:g} kVA a unit: the largest common limit that violates nothing in any of "
        f"{nominal.states:,} drawn states with sun. Headroom grants what lies between it and the contract's limit. "
        "nominal_limits.toml has them as configuration."
    )
    if without := homeless(read):
        text += (
            f" Planned units at {', '.join(without)} are in nobody's contract: no customer there is connected to their "
            "phases."
        )
    header = ("meter", "bus", "phases", "nominal limit [kW]", "contract limit [kW]")
    return report.heading("Nominal export limits", text) + report.folded("Every customer", report.table(header, rows))


def _existing(read: Read) -> str:
    """PV that stands, and where its generation is known from."""
    if not read.inputs.existing:
        return ""
    rows = [
        (e.customer, e.bus, " ".join(e.phases), f"{e.rated_w / 1000:g}", str(e.generation))
        for e in read.inputs.existing
    ]
    return report.table(("existing PV of", "bus", "phases", "rating [kVA]", "generation"), rows)


def _about(read: Read, found: Findings) -> str:
    inputs = [(p.name, file_sha256(p)) for p in read.files.values()]
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
        + _existing(read)
        + "".join(f"<p>Not told: {escape(text)}</p>" for text in found.untold)
    )  # fmt: skip
