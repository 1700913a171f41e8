"""Figures of the probabilistic study."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dcu.grid.picture import feeder_plan
from dcu.planning.capacity import Criterion, Level, interval_at
from dcu.planning.evaluate import I_BINS, Observer
from dcu.planning.reading import Read
from dcu.planning.run import PLACE_DAYS, Findings
from dcu.planning.study.report import COLOURS, FAINT, INK, WARN, canvas

HEAT: Final = LinearSegmentedColormap.from_list("heat", ["#e8eef3", "#7fb2d6", "#f0c04a", "#d55e00", "#8b1a1a"])
ROOM: Final = LinearSegmentedColormap.from_list("room", ["#d55e00", "#f0c04a", "#9fd3b6", "#00734d"])
PHASE_COLOURS: Final = {"L1": COLOURS[1], "L2": COLOURS[0], "L3": COLOURS[2]}
PUBLISHED: Final = {"A": 154.63, "B": 144.63, "C": 178.63, "D": 65.63, "E": 94.63, "F": 202.63, "G": 154.63}


def capacities(read: Read, found: Findings) -> tuple[Figure, str]:
    """Capacity of each scenario by criterion, with the deterministic cases."""
    names = list(found.capacities)
    figure = canvas(9.2, 0.52 * len(names) + 1.3)
    axes: Axes = figure.subplots()
    marks = {
        "voltage": (COLOURS[0], "o", "voltage"),
        "current": (COLOURS[1], "D", "voltage and current"),
        "unbalance": (COLOURS[2], "s", "unbalance alone"),
    }
    shifts = {"voltage": 0.0, "current": -0.16, "unbalance": 0.16}
    for row, name in enumerate(names):
        y = len(names) - 1 - row
        for c in found.capacities[name]:
            if c.last_feasible_w is None:
                continue
            colour, marker, _ = marks[c.group]
            x = c.last_feasible_w / 1000
            axes.plot([0, x], [y + shifts[c.group]] * 2, color=colour, linewidth=1.2, alpha=0.45)
            open_end = c.first_infeasible is None
            axes.plot(
                x,
                y + shifts[c.group],
                marker,
                color=colour,
                markersize=6.5,
                markerfacecolor="white" if open_end else colour,
            )
        for k, (_, cases) in enumerate(found.deterministic.get(name, {}).items()):
            w = next(c for c in cases if c.group == "voltage").last_feasible_w
            if w is not None:
                axes.plot(w / 1000, y - 0.34, "|", color=INK, markersize=7 + 2 * k, markeredgewidth=1.4)
        if read.study.check_table and name in PUBLISHED:
            axes.plot(
                PUBLISHED[name], y, "o", markersize=12, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.0
            )
    axes.set_yticks(range(len(names)), names[::-1])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(0, None)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("existing and new PV on the feeder [kVA]")
    legend = [Line2D([], [], color=c, marker=m, linestyle="", label=t) for c, m, t in marks.values()]
    legend.append(
        Line2D(
            [], [], color=INK, marker="|", linestyle="", markeredgewidth=1.4, label="deterministic I, II, III (voltage)"
        )
    )
    if read.study.check_table:
        legend.append(
            Line2D(
                [],
                [],
                color=INK,
                marker="o",
                linestyle="",
                markerfacecolor="none",
                markersize=10,
                label="published (voltage)",
            )
        )
    figure.legend(handles=legend, loc="outside lower center", ncols=3)
    return figure, (
        "Hosting capacity (last feasible step) of every scenario. Hollow marks: not reached before the "
        "study's last step. Of the deterministic marks the shortest is case I, the longest III."
    )


def curves(read: Read, found: Findings) -> tuple[Figure, str]:
    """Probability of overvoltage over PV, with its band; and the largest current."""
    figure = canvas(9.2, 3.7)
    left, right = figure.subplots(1, 2)
    rated = bool(next(iter(read.world.observers.values())).wires)
    styles = ["-", "--", "-.", ":"]
    for k, (name, log) in enumerate(found.logs.items()):
        if len({id(level.tally) for level in log}) < 2:
            continue
        x = [(level.added_w + read.world.cases[name].existing_w) / 1000 for level in log]
        counts = [int(level.tally.over.max()) for level in log]
        states = [level.tally.states for level in log]
        p = np.array(counts) / np.array(states) * 100
        worst = [(level.tally, int(np.argmax(level.tally.over))) for level in log]
        bands = np.array([interval_at(t, Criterion.OVERVOLTAGE, k) for t, k in worst]) * 100
        colour = COLOURS[k % len(COLOURS)]
        left.plot(
            x,
            p,
            styles[k // len(COLOURS) % 4],
            color=colour,
            linewidth=1.5,
            label=name,
            marker="." if len(x) < 25 else "",
        )
        left.annotate(
            name.replace(" re-balanced", "*"),
            (x[-1], p[-1]),
            xytext=(2, 3),
            textcoords="offset points",
            fontsize=8,
            color=colour,
            fontweight="bold",
        )
        left.fill_between(x, bands[:, 0], bands[:, 1], color=colour, alpha=0.18, linewidth=0)
        right.plot(
            x,
            [100 * level.tally.loading_max.max(initial=0.0) for level in log],
            color=colour,
            linewidth=1.5,
            label=name,
        )
    allowed = 100 - read.study.limits.percentile
    left.axhline(allowed, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    left.text(left.get_xlim()[0], allowed, f" EN 50160: {allowed:g} %", va="bottom", fontsize=8.5)
    left.set_title("overvoltage at the worst place [% of states]")
    right.axhline(100, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    right.set_title("largest current of any segment [% of rating]")
    if not rated:
        right.clear()
        right.set_axis_off()
        right.text(0.5, 0.5, "no branch of this feeder has a rating", ha="center", va="center", color="#5b6875")
    for axes in (left, right) if rated else (left,):
        axes.set_xlabel("existing and new PV [kVA]")
        axes.set_ylim(0, None)
    (right if rated else left).legend(fontsize=8.5, ncols=2)
    return (
        figure,
        "Where a line crosses the limit is the capacity of its scenario; bands are 95 % intervals; * is re-balanced.",
    )


def maps(read: Read, found: Findings) -> tuple[Figure, str]:
    """The feeder of every scenario at its first infeasible step: overvoltage at buses, loading of segments."""
    names = list(found.logs)
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = canvas(9.4, 1.55 * rows + 0.9)
    grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    allowed = 100 - read.study.limits.percentile
    colour, width = Normalize(0, 2 * max(allowed, 0.5)), Normalize(0, 150)
    for axes, name in zip(grid, names, strict=False):
        level = next((x for x in found.logs[name] if x.violates("voltage")), found.logs[name][-1])
        _map(axes, read, read.world.observers[name], level, colour, width)
        units = next(p for p in read.world.inputs.plans if p.name == name).units
        _ring(axes, read, {u.bus for u in units})
        axes.set_title(f"{name}: {(level.added_w + read.world.cases[name].existing_w) / 1000:.0f} kVA")
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    figure.colorbar(
        ScalarMappable(colour, HEAT),
        ax=list(grid),
        location="bottom",
        shrink=0.35,
        aspect=30,
        label="overvoltage at the bus's worst phase [% of states]",
        extend="max",
    )
    return figure, (
        "Where it binds: each scenario at its first infeasible step by voltage. Buses are coloured by "
        "overvoltage, those with a "
        "ring get new PV; segments are as wide as their largest current, dark where it is above the rating."
    )


def _map(axes: Axes, read: Read, observer: Observer, level: Level, colour: Normalize, width: Normalize) -> None:
    plan = feeder_plan(read.inputs.network)
    loading: dict[str, float] = {}
    for (branch, _), most in zip(observer.wires, level.tally.loading_max, strict=True):
        loading[branch] = max(loading.get(branch, 0.0), 100 * float(most))
    ends = {frozenset((b.from_end.bus, b.to_end.bus)): loading.get(b.id, 0.0) for b in read.inputs.network.branches}
    for a, b, _ in plan.edges:
        share = ends.get(frozenset((a, b)), 0.0)
        (xa, ya), (xb, yb) = plan.places[a], plan.places[b]
        tone = "#3a4652" if share > 100 else "#9aa7b3"
        axes.plot(
            [xa, xb],
            [-ya, -yb],
            color=tone,
            linewidth=0.8 + 3.2 * float(np.clip(width(share), 0, 1)),
            solid_capstyle="round",
            zorder=1,
        )
    worst: dict[str, float] = {}
    for (bus, _), count in zip(observer.points, level.tally.over, strict=True):
        worst[bus] = max(worst.get(bus, 0.0), 100 * float(count) / level.tally.states)
    xy = np.array([plan.places[b] for b in worst])
    axes.scatter(
        xy[:, 0],
        -xy[:, 1],
        c=[HEAT(colour(v)) for v in worst.values()],
        s=34,
        edgecolors="#3a4652",
        linewidths=0.6,
        zorder=3,
    )
    root = plan.places[plan.root]
    axes.plot(root[0], -root[1], "s", color=INK, markersize=6, zorder=3)
    _bare(axes, is_map=plan.is_map)


def _ring(axes: Axes, read: Read, buses: set[str]) -> None:
    plan = feeder_plan(read.inputs.network)
    xy = np.array([plan.places[b] for b in sorted(buses)])
    axes.scatter(xy[:, 0], -xy[:, 1], s=88, facecolors="none", edgecolors="#3a4652", linewidths=0.9, zorder=2)


def _bare(axes: Axes, *, is_map: bool) -> None:
    axes.set_axis_off()
    axes.margins(0.07)
    if is_map:
        (x_low, x_high), (y_low, y_high) = axes.get_xlim(), axes.get_ylim()
        least = SLIMMEST * max(x_high - x_low, y_high - y_low) / 2  # a street in one line has no height to draw in
        middle_x, middle_y = (x_low + x_high) / 2, (y_low + y_high) / 2
        axes.set_xlim(min(x_low, middle_x - least), max(x_high, middle_x + least))
        axes.set_ylim(min(y_low, middle_y - least), max(y_high, middle_y + least))
        axes.set_aspect("equal", adjustable="box")


SLIMMEST: Final = 0.35
"""A map's shorter side, of its longer one."""
LABELLED_MAX: Final = 40
"""With more buses numbers would run into each other: colour alone tells then, and the phase is the marker's edge."""


def planner_map(read: Read, found: Findings) -> tuple[Figure, str]:
    """What one new unit alone may be rated at every bus, on its best phase."""
    crowded = len({p.bus for p in found.places}) > LABELLED_MAX
    figure = canvas(9.4, 4.4 if crowded else 3.0)
    pair = figure.subplots(1, 2)
    plan = feeder_plan(read.inputs.network)
    sides = [("by voltage", "voltage_w")]
    if next(iter(read.world.observers.values())).wires:
        sides.append(("by voltage and current", "current_w"))
    else:
        pair[1].set_axis_off()
    scale = Normalize(0, max(p.voltage_w for p in found.places) / 1000 or 1.0)
    for axes, (title, key) in zip(pair, sides, strict=False):
        best: dict[str, tuple[float, str]] = {}
        for place in found.places:
            value = getattr(place, key) / 1000
            if place.bus not in best or value > best[place.bus][0]:
                best[place.bus] = (value, place.phase)
        for a, b, _ in plan.edges:
            (xa, ya), (xb, yb) = plan.places[a], plan.places[b]
            axes.plot([xa, xb], [-ya, -yb], color="#9aa7b3", linewidth=1.4, zorder=1)
        xy = np.array([plan.places[b] for b in best])
        edges = [PHASE_COLOURS[phase] if crowded else "#3a4652" for _, phase in best.values()]
        fill = [ROOM(scale(v)) for v, _ in best.values()]
        wide, line = (46, 1.3) if crowded else (210, 0.6)
        axes.scatter(xy[:, 0], -xy[:, 1], c=fill, s=wide, edgecolors=edges, linewidths=line, zorder=2)
        if not crowded:
            _label_places(axes, {b: (*plan.places[b], *best[b]) for b in best}, scale)
        root = plan.places[plan.root]
        axes.plot(root[0], -root[1], "s", color=INK, markersize=7, zorder=3)
        axes.set_title(title)
        _bare(axes, is_map=plan.is_map)
    if crowded:
        figure.colorbar(
            ScalarMappable(scale, ROOM), ax=list(pair), location="bottom", shrink=0.35, label="rating [kVA]"
        )
    told = "the colour of its edge (L1 orange, L2 blue, L3 green)" if crowded else "the one named below it"
    return figure, (
        "Planner's map: the rating [kVA] that one new single-phase unit alone may have at each bus today, on the phase "
        f"to connect it to, {told}. Numbers stop at 100 kVA and are from {PLACE_DAYS} simulated days."
    )


def _label_places(axes: Axes, places: dict[str, tuple[float, float, float, str]], scale: Normalize) -> None:
    """Number and phase of each bus: x, y, value, phase."""
    for x, y, value, phase in places.values():
        dark = scale(value) < 0.25 or scale(value) > 0.8
        tone = "white" if dark else INK
        axes.text(x, -y, f"{value:.0f}", ha="center", va="center", fontsize=7.5, zorder=3, color=tone)
        axes.annotate(
            phase,
            (x, -y),
            xytext=(0, -9.5),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=6.5,
            color=PHASE_COLOURS[phase],
            fontweight="bold",
            zorder=4,
        )


def segments(read: Read, found: Findings, name: str) -> tuple[Figure, str]:
    """Distribution of the current of every segment, worst phase, at the scenario's capacity by voltage."""
    tally, observer = found.details[name], read.world.observers[name]
    low, high, bins = I_BINS
    middles = (low + (np.arange(bins) + 0.5) * (high - low) / bins) * 100
    by_branch: dict[str, list[int]] = {}
    for k, (branch, _) in enumerate(observer.wires):
        by_branch.setdefault(branch, []).append(k)
    worst = {b: max(rows, key=lambda k: tally.loading_max[k]) for b, rows in by_branch.items()}
    kept = sorted(worst, key=lambda b: -tally.loading_max[worst[b]])[:24]
    figure = canvas(9.2, 3.4)
    axes: Axes = figure.subplots()
    for x, branch in enumerate(kept):
        k = worst[branch]
        shares = np.cumsum(tally.loading_histogram[k]) / max(tally.loading_histogram[k].sum(), 1)
        q = [float(middles[min(int(np.searchsorted(shares, p)), bins - 1)]) for p in (0.5, 0.95, 0.99)]
        most = 100 * float(tally.loading_max[k])
        axes.plot([x, x], [0, most], color=FAINT, linewidth=2, zorder=1)
        axes.plot([x, x], [0, q[1]], color=COLOURS[0], linewidth=5, alpha=0.75, zorder=2, solid_capstyle="butt")
        axes.plot(x, q[0], "_", color="white", markersize=8, markeredgewidth=2, zorder=3)
        axes.plot(x, q[2], "_", color=COLOURS[0], markersize=8, markeredgewidth=1.5, zorder=3)
        axes.plot(x, most, ".", color=WARN if most > 100 else INK, markersize=8, zorder=3)
    axes.axhline(100, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xticks(range(len(kept)), [f"{b}\n{observer.wires[worst[b]][1]}" for b in kept], fontsize=8)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("current [% of rating]")
    axes.set_ylim(0, None)
    w = next(c for c in found.capacities[name] if c.group == "voltage").last_feasible_w or 0.0
    return figure, (
        f"Currents of the segments in scenario {name} at {w / 1000:.2f} kVA, worst phase: bar to the 95 % "
        f"quantile, white line the "
        "median, short line 99 %, dot the largest of all states."
    )


def losses(found: Findings) -> tuple[Figure, str]:
    """Distribution of a day's losses against the deterministic value."""
    assert found.losses is not None
    figure = canvas(9.2, 3.1)
    axes: Axes = figure.subplots()
    for values, text, colour in (
        (found.losses.by_day_wh, "one PV probability a day", COLOURS[0]),
        (found.losses.by_state_wh, "one PV probability a state", COLOURS[2]),
    ):
        axes.step(
            values / 1000,
            (np.arange(len(values)) + 1) / len(values) * 100,
            where="post",
            color=colour,
            linewidth=1.6,
            label=text,
        )
        q = float(np.quantile(values, 0.95)) / 1000
        axes.plot(q, 95, "o", color=colour)
        axes.annotate(f"{q:.1f}", (q, 95), xytext=(6, -12), textcoords="offset points", fontsize=8.5)
    worst = found.losses.worst_wh / 1000
    axes.axvline(worst, color=WARN, linewidth=1.6)
    axes.text(worst, 50, f"worst state all the time: {worst:.0f} ", ha="right", va="center", fontsize=8.5)
    axes.set_xlabel("losses of a day between the two hours [kWh]")
    axes.set_ylabel("share of days [%]")
    axes.set_xlim(0, None)
    axes.legend(loc="center", bbox_to_anchor=(0.62, 0.2))
    return figure, "Losses of the simulated days, sorted, and what the worst state would lose if it lasted."


def data_length(read: Read, found: Findings) -> tuple[Figure, str]:
    """Capacity over the length of the meter data."""
    figure = canvas(9.2, 3.1)
    axes: Axes = figure.subplots()
    lengths = sorted({count for _, count, _ in found.data_length})
    for x, count in enumerate(lengths):
        own = [(f, v) for f, n, v in found.data_length if n == count]
        for k, (_, v) in enumerate(own):
            shift = (k - (len(own) - 1) / 2) * 0.07
            axes.plot(x + shift, v.voltage_w / 1000, "o", color=COLOURS[0], markersize=5, alpha=0.8)
            axes.plot(x + shift, v.current_w / 1000, "D", color=COLOURS[1], markersize=4, alpha=0.8)
    axes.set_xticks(
        range(len(lengths)), ["all" if n >= 364 else "1 week" if n == 7 else f"{n // 7} weeks" for n in lengths]
    )
    axes.set_ylabel("capacity of a unit [kVA]")
    axes.set_ylim(0, None)
    axes.grid(axis="x", visible=False)
    axes.legend(
        handles=[
            Line2D([], [], color=COLOURS[0], marker="o", linestyle="", label="by voltage"),
            Line2D([], [], color=COLOURS[1], marker="D", linestyle="", label="by voltage and current"),
        ]
    )
    return figure, (
        f"Sensitivity to the length of the meter data (scenario {read.study.extras.data_length}): each mark is "
        f"the capacity that a window "
        f"of that length gives; windows begin at eight instants of the record. {PLACE_DAYS} simulated days each: a "
        "largest current of so few states is smaller than the study's own."
    )


def headroom(found: Findings) -> tuple[Figure, str]:
    """How often each exporter is limited, statically and with grants."""
    assert found.dynamic is not None
    rows = sorted(found.dynamic.exporters, key=lambda e: e.headroom_probability)
    figure = canvas(9.2, 0.24 * len(rows) + 1.2)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, a, b, title in (
        (left, "static_probability", "headroom_probability", "limited [% of the time with sun]"),
        (right, "static_energy", "headroom_energy", "export lost [% of its energy]"),
    ):
        for y, e in enumerate(rows):
            before, after = 100 * getattr(e, a), 100 * getattr(e, b)
            axes.plot([after, before], [y, y], color=FAINT, linewidth=2.5, zorder=1)
            axes.plot(before, y, "o", color=COLOURS[1], markersize=6, zorder=2)
            axes.plot(after, y, "o", color=COLOURS[2], markersize=6, zorder=3)
        axes.set_title(title)
        axes.set_xlim(-1.5, None)
        axes.grid(axis="y", visible=False)
    left.set_yticks(range(len(rows)), [e.place for e in rows])
    figure.legend(
        handles=[
            Line2D([], [], color=COLOURS[1], marker="o", linestyle="", label="static limit"),
            Line2D([], [], color=COLOURS[2], marker="o", linestyle="", label="with Headroom"),
        ],
        loc="outside lower center",
        ncols=2,
    )
    d = found.dynamic
    return figure, (
        f"What Headroom adds at {d.level_w / 1000:g} kVA a unit: every exporter under the largest static limit "
        f"that is safe in all {d.states:,} states with sun ({d.static_limit_w / 1000:.1f} kW) and under grants that "
        "follow voltages and currents."
    )


def all_figures(read: Read, found: Findings) -> Iterator[tuple[str, Figure, str]]:
    """Every figure that the findings allow: name, figure, caption."""
    yield "capacities", *capacities(read, found)
    yield "curves", *curves(read, found)
    yield "maps", *maps(read, found)
    if found.places:
        yield "planner_map", *planner_map(read, found)
    if next(iter(read.world.observers.values())).wires:
        yield "segments", *segments(read, found, next(iter(found.details)))
    if found.losses is not None:
        yield "losses", *losses(found)
    if len({days for _, days, _ in found.data_length}) > 1:
        yield "data_length", *data_length(read, found)
    if found.dynamic is not None:
        yield "headroom", *headroom(found)
