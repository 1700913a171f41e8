"""What a person looks at: the signals as a file, the events as lines, and the oscilloscope-like figure."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hil_tests.observation import Observation, WireFrame
from hil_tests.scenario import CLIENTS, Scenario
from hil_tests.verdict import Latency, Verdict
from shared.messages import Denial, Grant, Release, Request, Revoke

INK: Final = "#d7dde4"
PAPER: Final = "#10151b"
GRID: Final = "#2b3540"
BLUE: Final = "#4aa3ff"
PURPLE: Final = "#c084fc"
RED: Final = "#ff5f56"
YELLOW: Final = "#ffd60a"
GREEN: Final = "#34d399"
GREY: Final = "#8a97a5"

WORD_SHARE: Final = 0.26
"""Of the figure's time that the words of a mark cover."""


def write_signals(path: Path, scenario: Scenario, seen: Observation) -> None:
    """``signals.csv``: one row per sample."""
    request, decision = _steps(scenario, seen)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["t_s", "busbar_v", "client1_v", "client2_v", "client1_export_a", "client2_export_a", "request", "decision"]
        )
        for sample in seen.samples:
            volts = [f"{value:.2f}" for value in (sample.busbar_v, *sample.u_v)]
            amperes = [f"{value:.3f}" for value in sample.export_a]
            signals = [_level(request, sample.t_s), _level(decision, sample.t_s)]
            rows.writerow([f"{sample.t_s:.2f}", *volts, *amperes, *signals])


def write_events(path: Path, seen: Observation) -> None:
    """``events.jsonl``: frames, relay moves and notes in order of time, one JSON object a line."""
    lines: list[tuple[float, dict[str, Any]]] = []
    lines += [(note.t_s, {"event": "bench", "what": note.what, "detail": note.detail}) for note in seen.notes]
    lines += [
        (move.t_s, {"event": "relay", "client": move.client, "state": "raised" if move.raised else "nominal"})
        for move in seen.relay_moves
    ]
    lines += [(frame.start_s, _frame_event(frame)) for frame in seen.frames if frame.kind != "beacon"]
    with path.open("w", encoding="utf-8") as file:
        for t_s, fields in sorted(lines, key=lambda line: line[0]):
            file.write(json.dumps({"t_s": round(t_s, 4), **fields}) + "\n")


def _frame_event(frame: WireFrame) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "event": "frame",
        "from": frame.sender,
        "client": frame.client,
        "kind": frame.kind,
        "airtime_s": round(frame.airtime_s, 6),
    }
    if frame.message is not None:
        fields["message"] = json.loads(json.dumps(dataclasses.asdict(frame.message), default=str))
    return fields


Steps = list[tuple[float, int]]
"""A two-level signal as (time, new level)."""


def _steps(scenario: Scenario, seen: Observation) -> tuple[Steps, Steps]:
    """The request signal (asked and still wished) and the decision signal (granted and live) of client 1, from
    outside."""
    client = CLIENTS[0]
    request: Steps = [(0.0, 0)]
    decision: Steps = [(0.0, 0)]
    request += [(action.at_s, 1) for action in scenario.action if action.do == "ask" and action.client == client]
    for frame in seen.frames:
        if frame.client != client:
            continue
        if isinstance(frame.message, Denial | Revoke | Release):
            request.append((frame.end_s, 0))
            decision.append((frame.end_s, 0))
        elif isinstance(frame.message, Grant):
            decision.append((frame.end_s, 1))
    decision += [(move.t_s, 0) for move in seen.relay_moves if move.client == client and not move.raised]
    end_s = scenario.duration_s  # what the end of the street itself moves is no part of the play
    return sorted(s for s in request if s[0] <= end_s), sorted(s for s in decision if s[0] <= end_s)


def _level(steps: Steps, t_s: float) -> int:
    return [level for at_s, level in steps if at_s <= t_s][-1]


def draw(scenario: Scenario, seen: Observation, verdicts: list[Verdict], delay: Latency | None) -> Figure:
    """The four-trace figure: voltages blue and purple, export current red, request yellow, decision green."""
    with mpl.rc_context({"font.size": 10, "svg.hashsalt": scenario.name, "axes.titlesize": 10}):
        figure = Figure(figsize=(11, 7.2), facecolor=PAPER, layout="constrained")
        FigureCanvasAgg(figure)
        volts, amperes, signals = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2.2, 1.5])
        for axes in (volts, amperes, signals):
            _style(axes)
        _draw_voltages(volts, scenario, seen)
        _draw_current(amperes, scenario, seen)
        _draw_signals(signals, scenario, seen)
        _annotate((volts, amperes, signals), scenario, seen)
        signals.set_xlim(0.0, scenario.duration_s)
        signals.set_xlabel("time [s]", color=INK)
        passed = all(verdict.passed for verdict in verdicts)
        words = f"Scenario {scenario.numeral}, {scenario.title}"
        if delay is not None:
            words += (
                f"   |   request to relay {1000 * delay.request_to_relay_s:.0f} ms,"
                f" airtime of its {delay.frames} frames {1000 * delay.airtime_s:.0f} ms"
            )
        figure.suptitle(words, color=INK, x=0.01, ha="left", fontsize=11.5)
        figure.text(
            0.995,
            0.985,
            "PASS" if passed else "FAIL",
            color=GREEN if passed else RED,
            ha="right",
            va="top",
            weight="bold",
        )
    return figure


def _style(axes: Axes) -> None:
    axes.set_facecolor(PAPER)
    axes.grid(color=GRID, linewidth=0.6)
    axes.tick_params(colors=INK, labelcolor=INK)
    for spine in axes.spines.values():
        spine.set_color(GRID)


def _draw_voltages(axes: Axes, scenario: Scenario, seen: Observation) -> None:
    times = [sample.t_s for sample in seen.samples]
    axes.plot(times, [sample.busbar_v for sample in seen.samples], color=GREY, linewidth=1.0, label="substation")
    for index, (client, color) in enumerate(zip(CLIENTS, (BLUE, PURPLE), strict=True)):
        axes.plot(times, [sample.u_v[index] for sample in seen.samples], color=color, linewidth=1.8, label=client)
    site = scenario.site
    for sign, side in ((1, "upper"), (-1, "lower")):
        limit_v = site.nominal_voltage_v * (1 + sign * site.band_pct / 100)
        axes.axhline(limit_v, color=INK, linewidth=0.9, linestyle="--", alpha=0.7)
        axes.annotate(
            f"{side} limit {limit_v:g} V",
            (scenario.duration_s, limit_v),
            xytext=(-4, 3 * sign),
            textcoords="offset points",
            ha="right",
            va="bottom" if sign > 0 else "top",
            color=INK,
            fontsize=8.5,
        )
    axes.set_ylim(222, 264)
    axes.set_ylabel("voltage [V]", color=INK)
    axes.legend(loc="upper left", ncols=3, frameon=False, labelcolor=INK, fontsize=9)


def _draw_current(axes: Axes, scenario: Scenario, seen: Observation) -> None:
    times = [sample.t_s for sample in seen.samples]
    axes.plot(
        times, [sample.export_a[0] for sample in seen.samples], color=RED, linewidth=1.8, label="export of client1"
    )
    for value, name in ((scenario.plant.nominal_a, "nominal"), (scenario.plant.raised_a, "requested")):
        axes.axhline(value, color=INK, linewidth=0.8, linestyle=":", alpha=0.6)
        axes.annotate(
            f"{name} {value:g} A",
            (scenario.duration_s, value),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            color=INK,
            fontsize=8.5,
        )
    axes.set_ylim(0, scenario.plant.raised_a * 1.25)
    axes.set_ylabel("current [A]", color=INK)
    axes.legend(loc="upper left", frameon=False, labelcolor=INK, fontsize=9)


def _draw_signals(axes: Axes, scenario: Scenario, seen: Observation) -> None:
    request, decision = _steps(scenario, seen)
    for steps, offset, color in ((request, 1.5, YELLOW), (decision, 0.0, GREEN)):
        times = [at_s for at_s, _ in steps] + [scenario.duration_s]
        levels = [offset + level for _, level in steps] + [offset + steps[-1][1]]
        axes.step(times, levels, where="post", color=color, linewidth=1.8)
        axes.fill_between(times, levels, offset, step="post", color=color, alpha=0.15)
    axes.set_ylim(-0.3, 2.8)
    axes.set_yticks([0.5, 2.0], ["decision", "request"])
    for label, color in zip(axes.get_yticklabels(), (GREEN, YELLOW), strict=True):
        label.set_color(color)
    axes.grid(axis="y", visible=False)


def _annotate(every: tuple[Axes, ...], scenario: Scenario, seen: Observation) -> None:
    """Messages of client 1 as marks across all panels, the first of a kind in a row with its airtime."""
    marks: list[tuple[float, str, str]] = []
    for frame in seen.frames:
        if frame.client == CLIENTS[0] and (text := _mark(frame)) is not None:
            word, color = text
            if not marks or marks[-1][1].split()[0] != word.split()[0]:
                marks.append((frame.start_s, f"{word} ({1000 * frame.airtime_s:.0f} ms)", color))
    marks += [(note.t_s, note.what, GREY) for note in seen.notes if note.what.startswith(("line", "kill", "start"))]
    for at_s, _, color in marks:
        for axes in every:
            axes.axvline(at_s, color=color, linewidth=0.8, linestyle=":", alpha=0.9)
    panel = every[1]
    height = scenario.plant.raised_a * 1.25
    span_s = WORD_SHARE * scenario.duration_s
    taken: list[tuple[float, int]] = []
    for at_s, word, color in sorted(marks):
        left = at_s + span_s > scenario.duration_s  # no room to the right of its mark
        from_s = at_s - span_s if left else at_s
        row = next(r for r in range(12) if all(r != other or abs(from_s - t_s) > span_s for t_s, other in taken))
        taken.append((from_s, row))
        panel.annotate(
            word,
            (at_s, height * (0.36 - 0.1 * row)),
            xytext=(-3 if left else 3, 0),
            textcoords="offset points",
            color=color,
            fontsize=8.5,
            ha="right" if left else "left",
            va="top",
        )


def _mark(frame: WireFrame) -> tuple[str, str] | None:
    match frame.message:
        case Request():
            return f"REQUEST {frame.message.limit_w:g} W", YELLOW
        case Grant():
            return f"GRANT {frame.message.limit_w:g} W for {frame.message.lease_s:g} s", GREEN
        case Denial():
            return f"DENY {frame.message.reason.name} {frame.message.binding}", RED
        case Revoke():
            return f"REVOKE {frame.message.reason.name} {frame.message.binding}", RED
        case Release():
            return "RELEASE", YELLOW
        case _:
            return None


def write_figures(directory: Path, figure: Figure) -> None:
    """The figure as SVG and PNG."""
    figure.savefig(directory / "scope.svg", facecolor=PAPER, metadata={"Date": None})
    figure.savefig(directory / "scope.png", facecolor=PAPER, dpi=130)
