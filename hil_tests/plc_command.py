"""`headroom-testbed plc`: its options, its file, its words."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field, field_validator

from prime_plc.tree_picture import picture
from shared.cli import EXIT_FAILED, EXIT_OK
from shared.config import Section, load_config
from shared.errors import ConfigError, Fault

if TYPE_CHECKING:
    from hil_tests.plc_street import PlcResult, PlcStreetSettings
    from hil_tests.virtual.topology import Topology

EXAMPLE: Final = """examples:
  headroom-testbed plc --nodes 100 --levels 4 --minutes 60
  headroom-testbed plc --nodes 100 --levels 4 --minutes 60 --burst-loss 0.3 --json
  headroom-testbed plc --nodes 100 --levels 4 --minutes 0 --fail-switches 100
  headroom-testbed plc --nodes 100 --minutes 10 --svg tree.svg
  headroom-testbed plc --feeder feeder.json --line street.toml
"""

NODES_MAX: Final = 200
START_S_MAX: Final = 600.0
DELIVERED_MIN: Final = 0.999
DELIVERED_MIN_IN_BURSTS: Final = 0.99
"""What a street of a hundred nodes must reach: all registered in ten minutes, reports delivered."""

_WORDS: Final = {"burst_reach"}


class LineFile(Section):
    """A street's physics: tables ``[line]`` and ``[path]`` with keys of `LineSettings` and `PathSettings`."""

    line: dict[str, float | str] = Field(default_factory=dict)
    path: dict[str, float] = Field(default_factory=dict)

    @field_validator("line")
    @classmethod
    def _known_line(cls, value: dict[str, float | str]) -> dict[str, float | str]:
        from hil_tests.virtual.bursts import Reach  # noqa: PLC0415  # NumPy, only here
        from hil_tests.virtual.line import LineSettings  # noqa: PLC0415

        _known({field.name for field in fields(LineSettings)}, value)
        for key, one in value.items():
            if isinstance(one, str) != (key in _WORDS):
                raise ValueError(f"a {'word' if key in _WORDS else 'number'} for {key}")
        reach = value.get("burst_reach")
        if reach is not None and reach not in {one.value for one in Reach}:
            raise ValueError(f"burst_reach one of {', '.join(one.value for one in Reach)}")
        return value

    @field_validator("path")
    @classmethod
    def _known_path(cls, value: dict[str, float]) -> dict[str, float]:
        from hil_tests.virtual.topology import PathSettings  # noqa: PLC0415  # NumPy, only here

        _known({field.name for field in fields(PathSettings)}, value)
        return value


def _known(keys: set[str], table: dict[str, Any]) -> None:
    if wrong := sorted(set(table) - keys):
        raise ValueError(f"keys among {', '.join(sorted(keys))} (seen {wrong[0]})")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's options."""
    parser = commands.add_parser(
        "plc",
        help="the wire alone at street scale: cold start, reports, failing switches",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", type=int, default=100, help=f"meters, 1 to {NODES_MAX} (default 100)")
    parser.add_argument("--levels", type=int, default=4, help="hops to the farthest tenth of them (default 4)")
    parser.add_argument("--seed", type=int, default=1, help="of street, line and stacks (default 1)")
    parser.add_argument("--minutes", type=float, default=60.0, help="of reports; 0 for none (default 60)")
    parser.add_argument("--report-s", type=float, default=60.0, help="from each meter every so many seconds (60)")
    parser.add_argument("--report-bytes", type=int, default=113, help="of one report (113, the product's own)")
    parser.add_argument("--answer-bytes", type=int, default=0, help="the DCU answers each with so many (0: does not)")
    parser.add_argument("--burst-loss", type=float, default=0.0, help="share of the time each receiver is deaf")
    parser.add_argument("--burst-s", type=float, default=0.3, help="mean length of such a deafness [s] (0.3)")
    parser.add_argument("--fail-switches", type=int, default=0, help="how many switches lose power, one by one")
    parser.add_argument("--line", type=Path, help="a TOML file with [line] and [path] for other physics")
    parser.add_argument("--feeder", type=Path, help="a network file: its lines and customers instead of a made-up one")
    parser.add_argument("--survey", action="store_true", help="also print the tree and its links (before failures)")
    parser.add_argument("--ping", type=int, default=0, help="then ask each meter so many times for its round trip (0)")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw that tree there")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Run, print; fails when a promise of the street is not kept."""
    from hil_tests.plc_street import run_street  # noqa: PLC0415  # stacks, NumPy

    _check(options)
    settings = _settings(options)
    found = run_street(settings, options.minutes, options.fail_switches, _topology(options, settings), options.ping)
    if options.svg is not None:
        options.svg.write_text(picture(found.survey), encoding="utf-8")
    print(json.dumps(found.as_json(), indent=1) if options.json else words(found))
    if options.survey and not options.json:
        print(found.survey.table())
    if found.pings and not options.json:
        print(_pings(found.pings))
    return EXIT_FAILED if broken(found, bursts=bool(options.burst_loss)) else EXIT_OK


def _pings(pings: dict[int, list[float | None]]) -> str:
    """A line for each meter."""
    lines = []
    for number, trips in pings.items():
        good = sorted(trip for trip in trips if trip is not None)
        spread = f"{good[0]:g} / {median(good):g} / {good[-1]:g} s" if good else "-"
        lines.append(f"meter {number}: {len(good)} of {len(trips)} came back; least / median / longest {spread}")
    return "\n".join(lines)


def _check(options: argparse.Namespace) -> None:
    limits = {
        "--nodes": (options.nodes, 1, NODES_MAX),
        "--levels": (options.levels, 1, 20),
        "--seed": (options.seed, 0, 2**31),
        "--minutes": (options.minutes, 0, 7 * 24 * 60),
        "--report-s": (options.report_s, 1, 86_400),
        "--report-bytes": (options.report_bytes, 6, 1000),
        "--answer-bytes": (options.answer_bytes, 0, 1000),
        "--burst-loss": (options.burst_loss, 0, 0.9),
        "--burst-s": (options.burst_s, 0.01, 60),
        "--ping": (options.ping, 0, 1000),
        "--fail-switches": (options.fail_switches, 0, 10_000),
    }
    faults = [
        Fault(name, f"{value:g}", f"{low:g} to {high:g}")
        for name, (value, low, high) in limits.items()
        if not low <= value <= high
    ]
    if faults:
        raise ConfigError("plc", faults)


def _settings(options: argparse.Namespace) -> PlcStreetSettings:
    from hil_tests.plc_street import STREET, PlcStreetSettings, with_burst_loss  # noqa: PLC0415  # stacks, NumPy
    from hil_tests.virtual.bursts import Reach  # noqa: PLC0415
    from hil_tests.virtual.topology import PathSettings  # noqa: PLC0415

    file = LineFile() if options.line is None else load_config(options.line, LineFile)
    table: dict[str, Any] = dict(file.line)
    if "burst_reach" in table:
        table["burst_reach"] = Reach(table["burst_reach"])
    line = replace(STREET, **table)
    if options.burst_loss:
        line = with_burst_loss(line, options.burst_loss, options.burst_s)
    return PlcStreetSettings(
        nodes=options.nodes,
        levels=options.levels,
        seed=options.seed,
        report_interval_s=options.report_s,
        report_bytes=options.report_bytes,
        answer_bytes=options.answer_bytes,
        line=line,
        path=replace(PathSettings(), **file.path),
    )


def _topology(options: argparse.Namespace, settings: PlcStreetSettings) -> Topology | None:
    if options.feeder is None:
        return None
    from dcu.grid.network_file import load_network  # noqa: PLC0415  # SciPy, only here
    from hil_tests.virtual.topology import plan_of, topology_of  # noqa: PLC0415

    plan = plan_of(load_network(options.feeder))
    if len(plan.places) - 1 > NODES_MAX:
        raise ConfigError("--feeder", [Fault("connection points", f"{len(plan.places) - 1}", f"at most {NODES_MAX}")])
    return topology_of(plan, settings.path, settings.seed)


def broken(found: PlcResult, *, bursts: bool) -> list[str]:
    """Promises that were not kept; bursts allow fewer deliveries, and a start of any length."""
    faults = []
    if found.started.all_s is None:
        faults.append(f"never registered: {len(found.started.missing)} meters")
    elif not bursts and found.started.all_s > START_S_MAX:
        faults.append(f"all registered after {found.started.all_s:g} s, expected {START_S_MAX:g} s at most")
    least = DELIVERED_MIN_IN_BURSTS if bursts else DELIVERED_MIN
    if found.reported is not None and found.reported.delivered_fraction < least:
        faults.append(f"delivered {found.reported.delivered_fraction:.5f} of the reports, expected {least:g}")
    if found.failed is not None and found.failed.lost:
        faults.append(f"never back after a failure: {len(found.failed.lost)}")
    return faults


def words(found: PlcResult) -> str:
    """A run in a few lines."""
    started, reported, failed = found.started, found.reported, found.failed
    depth = ", ".join(f"{count} at {hop}" for hop, count in found.levels.items())
    plan = ", ".join(f"{count} at {hop}" for hop, count in found.plan_levels.items())
    lines = [
        f"street: hops on paper {plan}; as registered {depth}",
        f"cold start: all connected after {started.all_s} s, half of them after {started.median_s} s"
        if started.all_s is not None
        else f"cold start: never connected: meters {started.missing}",
    ]
    if reported is not None:
        lines.append(
            f"reports: {reported.delivered} of {reported.due} delivered ({100 * reported.delivered_fraction:.3f} %), "
            f"{reported.offered_again} offered again, {reported.twice} came twice; delay median "
            f"{reported.delay_s_median:g} s, p99 {reported.delay_s_p99:g} s, longest {reported.delay_s_max:g} s; "
            f"{reported.links_lost} connections lost {reported.reasons or ''}"
        )
    if failed is not None:
        times = sorted(failed.recovery_s) or [0.0]
        lines.append(
            f"failures: {failed.failures} switches with {failed.orphans} nodes below them; {len(failed.lost)} lost; "
            f"everybody reports again after {median(times):g} s (median), {times[-1]:g} s (longest)"
        )
    if found.airtime:
        airtime = ", ".join(f"{kind} {100 * share:.1f}" for kind, share in sorted(found.airtime.items(), key=_share))
        lines.append(f"airtime of all senders in %: {airtime}; together {100 * sum(found.airtime.values()):.0f}")
    lines += [
        f"airtime that the reports need at least, if nobody collided or waited: {100 * found.least_airtime:.1f} %",
        f"line: {found.line}",
        f"{found.speed:.0f} times real time on one core; trace {found.trace}",
    ]
    return "\n".join(lines)


def _share(item: tuple[str, float]) -> float:
    return -item[1]
