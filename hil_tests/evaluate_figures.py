"""Figures of an evaluated day: voltages, exported power, duration curves, and who got what on the feeder's plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from dcu.grid.picture import Plan, feeder_plan
from hil_tests.evaluate import EN_50160_PCT, Customer, Evaluation
from hil_tests.report import BLUE, GREEN, GREY, GRID, INK, PAPER, PURPLE, RED, YELLOW

COLOURS: Final = {"static": BLUE, "headroom": GREEN, "contracts": YELLOW, "optimum": PURPLE}
NAMES: Final = {
    "static": "static limits",
    "headroom": "Headroom",
    "contracts": "optimum within contracts",
    "optimum": "free optimum",
}
LINES: Final = {"static": "-", "headroom": "-", "contracts": "--", "optimum": "--"}
SHARES: Final = LinearSegmentedColormap.from_list("shares", [RED, YELLOW, GREEN])
CURTAILED_WH: Final = 50.0
"""Less is not told on the map."""
MARKERS: Final = {"L1": "o", "L2": "s", "L3": "^"}


def figures(found: Evaluation) -> dict[str, tuple[Figure, str]]:
    """Every figure by name, each with what it shows in words (the alternative text)."""
    drawn: dict[str, Callable[[Evaluation], tuple[Figure, str]]] = {
        "power": _power,
        "voltages": _voltages,
        "duration": _duration,
        "map": _map,
    }
    with mpl.rc_context({"font.size": 11, "axes.titlesize": 12, "axes.titlecolor": INK}):
        return {name: draw(found) for name, draw in drawn.items()}


def write_figures(directory: Path, drawn: dict[str, tuple[Figure, str]]) -> None:
    """Each as PNG."""
    for name, (figure, _) in drawn.items():
        figure.savefig(directory / f"{name}.png", facecolor=PAPER, dpi=130, metadata={"Software": None})


def _figure(height: float, title: str, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(10, height), facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for one in axes:
        one.set_facecolor(PAPER)
        one.grid(color=GRID, linewidth=0.6)
        one.tick_params(colors=INK, labelcolor=INK)
        for spine in one.spines.values():
            spine.set_color(GRID)
    figure.suptitle(title, color=INK, x=0.01, ha="left", fontsize=13)
    return figure, axes


def _legend(axes: Axes, **more: Any) -> None:
    axes.legend(frameon=False, labelcolor=INK, fontsize=10, **more)


def _clock(axes: Axes, minute: np.ndarray[Any, Any]) -> None:
    """The time of day along the bottom, at whole or round steps."""
    first, last = int(minute[0]), int(minute[-1]) + 1
    step = next(s for s in (5, 10, 30, 60, 120, 240) if (last - first) / s <= 10)
    ticks = list(range(-(-first // step) * step, last + 1, step))
    axes.set_xticks(ticks, [f"{t // 60:02d}:{t % 60:02d}" for t in ticks])
    axes.set_xlim(first, last)
    axes.set_xlabel("time of day (solar)", color=INK)


def _held(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A value for each minute, and the last one again for its end."""
    return np.append(values, values[-1])


def _possible_w(found: Evaluation) -> np.ndarray[Any, Any]:
    own = np.maximum(0.0, found.day.own_w())
    return np.asarray(np.maximum(0.0, found.day.pv_w - own).sum(axis=1))


def _power(found: Evaluation) -> tuple[Figure, str]:
    figure, (axes,) = _figure(4.6, "Exported power of all customers with a plant")
    minute = found.day.minute
    ends = np.append(minute, minute[-1] + 1)
    possible = _possible_w(found) / 1e3
    axes.fill_between(ends, _held(possible), color=GREY, alpha=0.18, linewidth=0, step="post")
    axes.step(ends, _held(possible), where="post", color=GREY, linewidth=1.0, label="possible without a grid")
    for name, exported in found.exported_w.items():
        width = 1.8 if name == "headroom" else 1.2
        axes.step(
            ends,
            _held(exported.sum(axis=1) / 1e3),
            where="post",
            color=COLOURS[name],
            linewidth=width,
            linestyle=LINES[name],
            label=NAMES[name],
        )
    axes.set_ylim(0, 1.28 * possible.max())
    axes.set_ylabel("export [kW]", color=INK)
    _clock(axes, minute)
    _legend(axes, loc="upper left", ncols=2)
    scores = found.scores
    words = ", ".join(f"{NAMES[n]} {_kwh(scores[n].exported_wh)}" for n in scores)
    return figure, f"Exported power over the day: {words} of {_kwh(1e3 * possible.sum() / 60)} possible."


def _kwh(energy_wh: float) -> str:
    """With three digits."""
    return f"{energy_wh / 1e3:.{max(0, 2 - len(str(int(energy_wh / 1e3))) + 1)}f} kWh"


def _voltages(found: Evaluation) -> tuple[Figure, str]:
    figure, (axes,) = _figure(4.6, "Highest and lowest voltage of all customers, 1-minute means")
    minute = found.day.minute
    ends = np.append(minute, minute[-1] + 1)
    for name, u in found.u_v.items():
        width = 1.4 if name == "headroom" else 1.0
        style: dict[str, Any] = {"color": COLOURS[name], "linewidth": width, "linestyle": LINES[name]}
        axes.step(ends, _held(u.max(axis=1)), where="post", label=NAMES[name], **style)
        axes.step(ends, _held(u.min(axis=1)), where="post", alpha=0.45, **style)
    axes.plot([], [], color=GREY, alpha=0.45, label="faint: the lowest")
    high = float(found.limits.u_high_v.max())
    nominal = high / (1 + found.question.band_pct / 100)
    lowest = min(float(u.min()) for u in found.u_v.values())
    top = max(high, *(float(u.max()) for u in found.u_v.values()))
    room = top - lowest
    axes.set_ylim(lowest - 0.06 * room, top + 0.4 * room)
    # Above the curves, where nothing else is drawn; the standard's limit only where it is that near.
    standard = nominal * (1 + EN_50160_PCT / 100)
    lines = [(high, f"band of decisions {high:.1f} V"), (standard, f"EN 50160, ten minutes {standard:.1f} V")]
    for value, text in lines:
        if value <= top + 0.12 * room:
            axes.axhline(value, color=INK, linewidth=0.9, linestyle=":", alpha=0.8)
            axes.annotate(
                text,
                (minute[-1] + 1, max(value, top) if value == high else value),
                xytext=(-4, 4),
                textcoords="offset points",
                ha="right",
                va="bottom",
                color=INK,
                fontsize=9.5,
            )
    axes.set_ylabel("voltage [V]", color=INK)
    _clock(axes, minute)
    _legend(axes, loc="upper left", ncols=3)
    words = ", ".join(f"{NAMES[n]} {s.u_max_v:.1f} V" for n, s in found.scores.items())
    return figure, f"Worst voltages over the day; highest: {words}; band of decisions up to {high:.1f} V."


def _duration(found: Evaluation) -> tuple[Figure, str]:
    figure, (left, right) = _figure(4.4, "Duration curves: how long was more than this?", columns=2)
    minutes = len(found.day.minute)
    unit, per = ("hours", 60) if minutes >= 120 else ("minutes", 1)
    hours = (np.arange(minutes) + 1) / per
    left.plot(hours, np.sort(_possible_w(found))[::-1] / 1e3, color=GREY, linewidth=1.0, label="possible")
    for name in found.scores:
        style: dict[str, Any] = {
            "color": COLOURS[name],
            "linewidth": 1.7,
            "linestyle": LINES[name],
            "label": NAMES[name],
        }
        left.plot(hours, np.sort(found.exported_w[name].sum(axis=1))[::-1] / 1e3, **style)
        right.plot(hours, np.sort(found.u_v[name].max(axis=1))[::-1], **style)
    right.axhline(float(found.limits.u_high_v.max()), color=INK, linewidth=0.9, linestyle=":", alpha=0.8)
    left.set_ylabel("export [kW]", color=INK)
    right.set_ylabel("highest voltage [V]", color=INK)
    left.set_ylim(0, 1.4 * _possible_w(found).max() / 1e3)
    for axes in (left, right):
        axes.set_xlim(0, hours[-1])
        axes.set_xlabel(unit, color=INK)
    _legend(left, loc="upper right")
    return (
        figure,
        "Duration curves of exported power and of the highest voltage, for every way and what is possible.",
    )


def _curtailed(customer: Customer) -> str:
    """What the sun would have allowed beyond, where it is worth a word."""
    missing_wh = customer.exportable_wh - customer.headroom_wh
    return f", −{_kwh(missing_wh)}" if missing_wh >= CURTAILED_WH else ""


def _map(found: Evaluation) -> tuple[Figure, str]:
    plan = feeder_plan(found.network)
    rows = len({y for _, y in plan.places.values()})
    height = 7.0 if plan.is_map else min(12.0, max(4.0, 1.6 + 0.13 * rows))
    figure, (axes,) = _figure(height, "Who got what: Headroom's export over the possible, and what was curtailed")
    _draw_plan(axes, plan)
    names = {customer.name: customer for customer in found.customers}
    norm = Normalize(0, 1)
    seen: dict[str, int] = {}
    for point in found.network.connection_points:
        if point.bus not in plan.places:
            continue
        x, y = plan.places[point.bus]
        y += plan.row * seen.get(point.bus, 0)
        seen[point.bus] = seen.get(point.bus, 0) + 1
        customer = names.get(point.id)
        marker = MARKERS.get(point.connections[0].label if customer is None else customer.phase, "D")
        if customer is None:
            axes.plot(x, y, marker, color=PAPER, markeredgecolor=GREY, markersize=5, zorder=3)
            continue
        colour = SHARES(norm(customer.share))
        axes.plot(x, y, marker, color=colour, markeredgecolor=PAPER, markersize=8, zorder=4)
        axes.annotate(
            f"{100 * customer.share:.0f} %{_curtailed(customer)}",
            (x, y),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=8,
            zorder=5,
        )
    axes.margins(0.18, 0.05)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    for phase, marker in MARKERS.items():
        axes.plot([], [], marker, color=GREY, linestyle="none", label=phase)
    axes.plot([], [], "o", color=PAPER, markeredgecolor=GREY, linestyle="none", label="no plant")
    _legend(axes, loc="upper left", ncols=4)
    bar = figure.colorbar(ScalarMappable(norm, SHARES), ax=axes, shrink=0.6, pad=0.01, format="{x:.0%}")
    bar.ax.tick_params(colors=INK, labelcolor=INK)
    bar.outline.set_edgecolor(GRID)
    shares = [customer.share for customer in found.customers]
    words = f"between {100 * min(shares):.0f} % and {100 * max(shares):.0f} %"
    return figure, f"Plan of the feeder; the {len(shares)} customers with a plant exported {words} of what they could."


def _draw_plan(axes: Axes, plan: Plan) -> None:
    for a, b, wires in plan.edges:
        (x0, y0), (x1, y1) = plan.places[a], plan.places[b]
        xs, ys = ([x0, x1], [y0, y1]) if plan.is_map else ([x0, x0, x1], [y0, y1, y1])
        axes.plot(xs, ys, color=GREY, linewidth=0.5 + 0.25 * wires, alpha=0.7, zorder=1, solid_capstyle="round")
    x, y = plan.places[plan.root]
    axes.plot(x, y, "s", color=BLUE, markersize=10, zorder=4)
    axes.annotate("source", (x, y), xytext=(8, 8), textcoords="offset points", color=INK, fontsize=9.5)
