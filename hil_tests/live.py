"""`headroom-testbed watch`: the street live in the terminal while a scenario plays."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from hil_tests.observation import Observation, WireFrame
from hil_tests.page import PageProcess
from hil_tests.player import Ear, play
from hil_tests.scenario import CLIENTS, Scenario
from hil_tests.verdict import judge
from shared.messages import Acknowledgement, Denial, Grant, NominalLimit, Release, Report, Request, Revoke

REFRESH_HZ: Final = 5.0
HISTORY: Final = 20
"""Columns of the little traces."""

HISTORY_STEP: Final = 15
"""Samples from one column to the next (1.5 s)."""

MESSAGES: Final = 8
BARS: Final = "▁▂▃▄▅▆▇█"


def watch(
    scenario: Scenario, directory: Path, seed: int, console: Console | None = None, *, page: bool = False
) -> None:
    """Play a scenario on the street in wall-clock time and show it as it happens; ``page``: in a browser as well."""
    from hil_tests.wall import WallStreet  # noqa: PLC0415  # servers and pseudo-terminals

    async def show(live: Live) -> Observation:
        ear = Ear(asyncio.get_running_loop())

        def refresh(seen: Observation) -> None:
            live.update(screen(scenario, seen))

        def tell(shown: PageProcess) -> None:
            live.console.print(f"page: {shown.link} (logs in once; later {shown.address} with the token {shown.token})")

        street = WallStreet(scenario, ear, directory, seed, on_page=tell if page else None)
        return await play(scenario, street, ear, refresh)

    waiting = Text("starting line, meters and DCU ...", style="dim")
    with Live(waiting, console=console, refresh_per_second=REFRESH_HZ) as live:
        seen = asyncio.run(show(live))
        live.update(Group(screen(scenario, seen), _verdicts(scenario, seen)))


def screen(scenario: Scenario, seen: Observation) -> RenderableType:
    """The whole view: customers, what they said, and where the scenario stands."""
    now = seen.samples[-1].t_s if seen.samples else 0.0
    title = f"{scenario.numeral}  {scenario.title}   {now:5.1f} / {scenario.duration_s:g} s"
    return Group(
        Panel(_customers(scenario, seen), title=title, title_align="left"),
        Panel(_conversation(seen), title="on the line", title_align="left"),
    )


def _customers(scenario: Scenario, seen: Observation) -> Table:
    table = Table(box=None)
    for heading in ("", "voltage", "", "export", "", "limit", "why"):
        table.add_column(heading, justify="right" if heading in {"voltage", "export"} else "left", no_wrap=True)
    if not seen.samples:
        return table
    newest = seen.samples[-1]
    site = scenario.site
    low, high = (site.nominal_voltage_v * (1 + sign * site.band_pct / 100) for sign in (-1, 1))
    history = seen.samples[::-HISTORY_STEP][:HISTORY][::-1]
    for index, client in enumerate(CLIENTS):
        u_v = newest.u_v[index]
        limit_w, why = _limit(scenario, seen, client)
        table.add_row(
            client,
            Text(f"{u_v:.1f} V", style="green" if low <= u_v <= high else "bold red"),
            Text(_bars([s.u_v[index] for s in history], 222.0, 264.0), style="blue" if index == 0 else "magenta"),
            f"{newest.export_a[index]:.2f} A",
            Text(_bars([s.export_a[index] for s in history], 0.0, scenario.plant.raised_a * 1.1), style="red"),
            f"{limit_w:g} W",
            why,
        )
    table.add_row("substation", f"{newest.busbar_v:.1f} V", f"band {low:g} to {high:g} V", "", "", "", "")
    return table


def _bars(values: list[float], low: float, high: float) -> str:
    scale = (len(BARS) - 1) / (high - low)
    return "".join(BARS[max(0, min(len(BARS) - 1, round((value - low) * scale)))] for value in values)


def _limit(scenario: Scenario, seen: Observation, client: str) -> tuple[float, str]:
    """The limit the meter last reported, and why, in words."""
    for frame in reversed(seen.frames):
        if frame.client == client and isinstance(frame.message, Report):
            left = f", {frame.message.lease_left_s:.0f} s of lease left" if frame.message.lease_left_s else ""
            return frame.message.limit_w, frame.message.source.name.lower().replace("_", " ") + left
    return scenario.site.nominal_limit_w, "no report yet"


def _conversation(seen: Observation) -> Table:
    table = Table(expand=True, box=None, show_header=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    spoken = [frame for frame in seen.frames if _words(frame) is not None][-MESSAGES:]
    for frame in spoken:
        text, style = _words(frame) or ("", "")
        way = f"{frame.client} → dcu" if frame.sender != "dcu" else f"dcu → {frame.client}"
        table.add_row(f"{frame.start_s:6.2f} s", way, Text(text, style=style), f"{1000 * frame.airtime_s:.0f} ms")
    for _ in range(MESSAGES - len(spoken)):
        table.add_row("", "", "", "")
    return table


def _words(frame: WireFrame) -> tuple[str, str] | None:
    match frame.message:
        case Report():
            return f"report {frame.message.seq}, limit {frame.message.limit_w:g} W", "dim"
        case Request():
            return f"REQUEST {frame.message.limit_w:g} W", "yellow"
        case Release():
            return "RELEASE", "yellow"
        case Grant():
            return f"GRANT {frame.message.limit_w:g} W for {frame.message.lease_s:g} s", "green"
        case Denial():
            return f"DENY {frame.message.reason.name} at {frame.message.binding}", "red"
        case Revoke():
            return f"REVOKE {frame.message.reason.name} at {frame.message.binding}", "red"
        case NominalLimit():
            return f"nominal limit {frame.message.limit_w:g} W, epoch {frame.message.decision.epoch}", "cyan"
        case Acknowledgement():
            return f"{frame.message.count} reports up to {frame.message.seq} are safe", "dim"
        case _:
            return None


def _verdicts(scenario: Scenario, seen: Observation) -> Table:
    table = Table(box=None, show_header=False)
    for verdict in judge(scenario, seen):
        mark = Text("pass", style="green") if verdict.passed else Text("FAIL", style="bold red")
        table.add_row(mark, verdict.expected, verdict.observed)
    return table
