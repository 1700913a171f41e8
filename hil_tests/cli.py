"""`headroom-testbed`: run scenarios on a bench, watch one live, measure."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from hil_tests import evaluate_command, plc_command
from hil_tests.observation import Observation
from hil_tests.page import PageProcess
from hil_tests.player import Ear, Street, StreetError, play
from hil_tests.scenario import Known, Scenario, load_scenario
from hil_tests.verdict import Latency, Verdict, judge, latency
from hil_tests.virtual.loop import run_virtual
from shared.cli import EXIT_FAILED, EXIT_OK, run_cli
from shared.errors import ConfigError, Fault

EXAMPLE: Final = """examples:
  headroom-testbed run --scenario all --out out/testbed
  headroom-testbed run --scenario revoked --virtual --out out/testbed
  headroom-testbed watch --scenario revoked
  headroom-testbed watch --web --feeder eulv
  headroom-testbed latency --grants 50
  headroom-testbed kill-sweep --kills 50
  headroom-testbed safety --feeder feeder.json --states 10000 --errors class1
  headroom-testbed evaluate --feeder eulv --day clear --pv-share 0.5
  headroom-testbed plc --nodes 100 --levels 4 --minutes 60
"""
RSS_KIB_MAX: Final = {"meter": 60 * 1024, "dcu": 100 * 1024}
"""[KiB] What a daemon may occupy at its start."""


@dataclasses.dataclass(frozen=True, slots=True)
class Played:
    """One scenario that was played."""

    scenario: Scenario
    seen: Observation
    verdicts: tuple[Verdict, ...]
    delay: Latency | None
    speed: float | None

    @property
    def passed(self) -> bool:
        """Whether everything expected was observed."""
        return all(verdict.passed for verdict in self.verdicts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the console script; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    return run_cli(lambda: int(options.command(options)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headroom-testbed",
        description="Run scenarios of the dynamic-hosting-capacity testbed on the virtual street.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    names = ", ".join(known.value for known in Known)
    run = commands.add_parser(
        "run", help="play scenarios and judge them", epilog=EXAMPLE, formatter_class=parser.formatter_class
    )
    run.add_argument(
        "--scenario", action="append", help=f"all, one of {names}, or a TOML file; may be repeated (default all)"
    )
    run.add_argument(
        "--out", type=Path, default=Path("out/testbed"), help="directory for signals, events, ledgers, figures"
    )
    run.add_argument(
        "--virtual", action="store_true", help="one process and virtual time instead of real daemons in wall-clock time"
    )
    run.add_argument(
        "--mqtt", action="store_true", help="with a utility and its broker in this process; writes utility.jsonl"
    )
    run.add_argument("--seed", type=int, default=1, help="seed of the virtual line and devices (default 1)")
    run.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    run.add_argument(
        "--no-page", action="store_true", help="do not start the operator's page beside one of the streets"
    )
    run.set_defaults(command=_run)
    watch = commands.add_parser("watch", help="see the street live in the terminal")
    watch.add_argument("--scenario", default="revoked", help=f"one of {names}, or a TOML file (default revoked)")
    watch.add_argument("--seed", type=int, default=1)
    watch.add_argument("--web", action="store_true", help="also serve the operator's page, and print its address")
    watch.add_argument("--feeder", help="with --web: eulv or a network file; a street of all its customers instead")
    watch.add_argument("--day", default="broken", help="of that street: clear, broken, overcast, or a CSV file")
    watch.add_argument("--speed", type=float, default=1.0, help="seconds of that street in a second (default 1)")
    watch.add_argument("--minutes", type=_positive, default=480, help="of that street, from 11:00 on (default 480)")
    watch.add_argument("--port", type=int, default=0, help="of that street's page (default: a free one)")
    watch.set_defaults(command=_watch)
    delay = commands.add_parser("latency", help="request-to-relay latency beside the airtime of its frames")
    delay.add_argument("--grants", type=_positive, default=50, help="how many grants (default 50)")
    delay.add_argument("--virtual", action="store_true", help="virtual time instead of real daemons")
    delay.add_argument("--seed", type=int, default=1)
    delay.add_argument("--json", action="store_true")
    delay.set_defaults(command=_latency)
    kills = commands.add_parser("kill-sweep", help="SIGKILL meter or DCU at random moments of scenarios I and III")
    kills.add_argument("--kills", type=_positive, default=50, help="how many random moments (default 50)")
    kills.add_argument("--virtual", action="store_true", help="virtual time instead of real processes")
    kills.add_argument("--jobs", type=_positive, default=4, help="streets at a time (default 4)")
    kills.add_argument("--seed", type=int, default=1)
    kills.add_argument("--json", action="store_true")
    kills.set_defaults(command=_kill_sweep)
    fall = commands.add_parser("dead-man", help="how long a relay stays raised when its meter or its dead man fails")
    fall.add_argument("--runs", type=_positive, default=10, help="how many of each kind (default 10)")
    fall.add_argument("--seed", type=int, default=1)
    fall.add_argument("--json", action="store_true")
    fall.set_defaults(command=_dead_man)
    safety = commands.add_parser("safety", help="random states: are grants safe, and do they use what is there?")
    safety.add_argument("--feeder", required=True, help="eulv, or a network file (headroom-grid import makes one)")
    safety.add_argument("--states", type=_positive, default=1000, help="how many random states (default 1000)")
    safety.add_argument("--seed", type=int, default=1)
    safety.add_argument("--errors", choices=("exact", "class1"), default="exact", help="of meters and model")
    safety.add_argument("--jobs", type=_positive, default=1, help="processes (default 1)")
    safety.add_argument(
        "--sequence-share",
        type=_share,
        default=0.02,
        help="share of states that are minutes of a street (default 0.02)",
    )
    safety.add_argument("--json", action="store_true")
    safety.set_defaults(command=_safety)
    evaluate_command.add_parser(commands)
    plc_command.add_parser(commands)
    return parser


def _dead_man(options: argparse.Namespace) -> int:
    from hil_tests.dead_man import measure  # noqa: PLC0415 starts processes, only here

    result = measure(options.runs, options.seed)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        for kind, row in result["kinds"].items():
            print(f"{kind:28} {row['runs']} runs, median {row['median_s']:.2f} s, largest {row['max_s']:.2f} s")
        print(
            f"memory by share: meter {result['meter_pss_kib']} KiB, dead man {result['dead_man_pss_kib']} KiB (bench)"
        )
    return EXIT_OK if result["within"] else EXIT_FAILED


def _safety(options: argparse.Namespace) -> int:
    from hil_tests.day import open_feeder  # noqa: PLC0415 SciPy, only here
    from hil_tests.safety import CLASS_1, EXACT, evaluate_safety  # noqa: PLC0415

    errors = {"exact": EXACT, "class1": CLASS_1}[options.errors]
    network = open_feeder(options.feeder)
    found = evaluate_safety(
        network, options.states, options.seed, errors, jobs=options.jobs, sequence_share=options.sequence_share
    )
    if options.json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        print(
            f"{found.states} states, {found.wishes} claims, limited by the grid in {found.limited_states}: "
            f"{found.unsafe} unsafe; {100 * found.granted_fraction:.2f} % of the feasible increase granted "
            f"({100 * found.granted_of_together:.2f} % of what could be if all used theirs); "
            f"{found.sequences} of the states minutes of a street, {found.sequence_windows} windows; "
            f"linear bound holds in {100 * found.bound_coverage:.2f} %"
        )
    return EXIT_OK if not found.unsafe else EXIT_FAILED


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"seen {text}, expected 0 to 1")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"seen {text}, expected a number above 0")
    return number


def play_all(
    scenarios: Sequence[Scenario], build: Callable[[Scenario, Ear, Path], Street], out: Path, jobs: int
) -> list[Played]:
    """Play scenarios in wall-clock time, ``jobs`` at a time, each on a street of its own."""

    async def one(scenario: Scenario, gate: asyncio.Semaphore) -> Played:
        async with gate:
            ear = Ear(asyncio.get_running_loop())
            seen = await play(scenario, build(scenario, ear, out / scenario.name), ear)
            return _judged(scenario, seen, None)

    async def everything() -> list[Played]:
        gate = asyncio.Semaphore(jobs)
        return list(await asyncio.gather(*(one(scenario, gate) for scenario in scenarios)))

    return asyncio.run(everything())


def _judged(scenario: Scenario, seen: Observation, speed: float | None) -> Played:
    return Played(scenario, seen, tuple(judge(scenario, seen)), latency(scenario, seen), speed)


def play_virtually(scenario: Scenario, directory: Path, seed: int) -> Played:
    """Play one scenario in one process and virtual time."""
    from hil_tests.jump import JumpStreet, stopwatch  # noqa: PLC0415  # builds both daemons; not needed for --help

    elapsed = stopwatch()

    async def world() -> tuple[Observation, float]:
        loop = asyncio.get_running_loop()
        ear = Ear(loop)
        return await play(scenario, JumpStreet(scenario, ear, directory, seed), ear), loop.time()

    seen, virtual_s = run_virtual(world)
    return _judged(scenario, seen, virtual_s / elapsed())


def _scenarios(names: Sequence[str]) -> list[Scenario]:
    wanted = [known.value for known in Known] if "all" in names else list(names)
    scenarios = [load_scenario(name) for name in wanted]
    doubled = {scenario.name for scenario in scenarios if sum(other.name == scenario.name for other in scenarios) > 1}
    if doubled:
        raise ConfigError("--scenario", [Fault("name", ", ".join(sorted(doubled)), "each scenario once")])
    return scenarios


def _run(options: argparse.Namespace) -> int:
    scenarios = _scenarios(options.scenario or ["all"])
    out: Path = options.out
    if out.exists() and not out.is_dir():
        raise ConfigError("--out", [Fault("directory", str(out), "a directory, or nothing yet")])
    if options.virtual and options.mqtt:
        raise ConfigError("--mqtt", [Fault("--virtual", "both", "a broker in wall-clock time")])
    if options.virtual:
        played = [play_virtually(scenario, _fresh(out / scenario.name), options.seed) for scenario in scenarios]
    else:
        from hil_tests.wall import WallStreet  # noqa: PLC0415  # servers and pseudo-terminals; not needed for --help

        revoked = [scenario for scenario in scenarios if scenario.name == Known.REVOKED.value]
        shown = None if options.no_page else (revoked or scenarios)[0]
        played = play_all(
            scenarios,
            lambda scenario, ear, directory: WallStreet(
                scenario,
                ear,
                _fresh(directory),
                options.seed,
                utility=_utility() if options.mqtt else None,
                on_page=_tell_page if scenario is shown else None,
            ),
            out,
            jobs=len(Known),
        )
    _write(out, played)
    if options.json:
        print(json.dumps([_as_json(item) for item in played], indent=1))
    else:
        _print(Console(), played, out)
    return EXIT_OK if all(item.passed and not _too_large(item.seen) for item in played) else EXIT_FAILED


def _utility() -> Any:
    from hil_tests.utility_bench import Commander  # noqa: PLC0415  # a broker; only where it is asked for
    from hil_tests.wall_utility import WallUtility  # noqa: PLC0415
    from hil_tests.world import DCU  # noqa: PLC0415

    return WallUtility(Commander(DCU))


def _tell_page(page: PageProcess) -> None:
    """Standard output is for results."""
    print(f"the operator's page, while this runs: {page.link}", file=sys.stderr, flush=True)


def _fresh(directory: Path) -> Path:
    """An empty directory for one scenario; only what an earlier run wrote there is removed."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("signals.csv", "events.jsonl", "utility.jsonl", "scope.svg", "scope.png"):
        (directory / name).unlink(missing_ok=True)
    _remove(directory / "state")
    return directory


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            _remove(inner)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _write(out: Path, played: Sequence[Played]) -> None:
    from hil_tests import report  # noqa: PLC0415  # matplotlib takes a second to import

    for item in played:
        directory = out / item.scenario.name
        report.write_signals(directory / "signals.csv", item.scenario, item.seen)
        report.write_events(directory / "events.jsonl", item.seen)
        report.write_figures(directory, report.draw(item.scenario, item.seen, list(item.verdicts), item.delay))
    (out / "result.json").write_text(json.dumps([_as_json(item) for item in played], indent=1) + "\n", encoding="utf-8")


def _as_json(item: Played) -> dict[str, Any]:
    return {
        "scenario": item.scenario.name,
        "passed": item.passed,
        "verdicts": [dataclasses.asdict(verdict) for verdict in item.verdicts],
        "latency": None if item.delay is None else dataclasses.asdict(item.delay),
        "rss_kib": item.seen.rss_kib,
        "times_real_time": item.speed,
    }


def _too_large(seen: Observation) -> list[str]:
    return [name for name, size in seen.rss_kib.items() if size > RSS_KIB_MAX["dcu" if name == "dcu" else "meter"]]


def _print(console: Console, played: Sequence[Played], out: Path) -> None:
    table = Table(title="Scenarios", title_justify="left", show_lines=False)
    for heading in ("", "scenario", "expected", "observed"):
        table.add_column(heading, overflow="fold")
    table.add_column("", justify="right")
    for item in played:
        for number, verdict in enumerate(item.verdicts):
            first = (item.scenario.numeral, item.scenario.name) if number == 0 else ("", "")
            mark = "[green]pass[/]" if verdict.passed else "[bold red]FAIL[/]"
            table.add_row(*first, verdict.expected, verdict.observed, mark)
        table.add_section()
    console.print(table)
    console.print(_numbers(played))
    console.print(f"figures, signals, events and ledgers: {out}/<scenario>/")


def _numbers(played: Sequence[Played]) -> Table:
    table = Table(title="Latency, memory, speed", title_justify="left")
    table.add_column("scenario")
    for heading in ("request to relay", "airtime of its frames", "frames", "start-up RSS dcu", "meters", "x real time"):
        table.add_column(heading, justify="right")
    for item in played:
        delay = item.delay
        rss = item.seen.rss_kib
        meters = [size for name, size in rss.items() if name != "dcu"]
        table.add_row(
            item.scenario.name,
            "-" if delay is None else f"{1000 * delay.request_to_relay_s:.0f} ms",
            "-" if delay is None else f"{1000 * delay.airtime_s:.0f} ms",
            "-" if delay is None else str(delay.frames),
            f"{rss['dcu'] / 1024:.1f} MiB" if "dcu" in rss else "-",
            ", ".join(f"{size / 1024:.1f}" for size in meters) + " MiB" if meters else "-",
            "1" if item.speed is None else f"{item.speed:.0f}",
        )
    return table


def _watch(options: argparse.Namespace) -> int:
    from hil_tests.live import watch  # noqa: PLC0415  # rich's live view

    if options.feeder is not None:
        return _watch_feeder(options)
    (scenario,) = _scenarios([options.scenario])
    with tempfile.TemporaryDirectory(prefix="headroom-watch-") as directory:
        watch(scenario, Path(directory), options.seed, page=options.web)
    return EXIT_OK


def _watch_feeder(options: argparse.Namespace) -> int:
    from hil_tests.live_street import LiveSettings, show  # noqa: PLC0415  # SciPy

    if not options.web or not 0.1 <= options.speed <= 100 or not 0 <= options.port <= 65535 or options.minutes > 720:
        seen = f"--web {options.web}, --speed {options.speed:g}, --port {options.port}, --minutes {options.minutes}"
        expected = "--web, a speed of 0.1 to 100, a port up to 65535, 720 minutes at most"
        raise ConfigError("watch", [Fault("--feeder", seen, expected)])
    settings = LiveSettings(
        options.feeder, options.day, seed=options.seed, minutes=options.minutes, speed=options.speed
    )
    with tempfile.TemporaryDirectory(prefix="headroom-watch-") as directory:
        asyncio.run(show(settings, Path(directory), options.port))
    return EXIT_OK


def _latency(options: argparse.Namespace) -> int:
    from hil_tests.measure import measure_latency  # noqa: PLC0415  # builds a street

    result = measure_latency(options.grants, options.seed, virtual=options.virtual)
    print(json.dumps(result) if options.json else "\n".join(f"{key:28} {value}" for key, value in result.items()))
    return EXIT_OK if result["within"] else EXIT_FAILED


def _kill_sweep(options: argparse.Namespace) -> int:
    from hil_tests.measure import kill_sweep  # noqa: PLC0415  # builds streets

    result = kill_sweep(options.kills, options.seed, options.jobs, virtual=options.virtual)
    print(json.dumps(result) if options.json else "\n".join(f"{key:28} {value}" for key, value in result.items()))
    return EXIT_OK if not result["violations"] else EXIT_FAILED


__all__ = ["Played", "StreetError", "main", "play_all", "play_virtually"]

if __name__ == "__main__":
    sys.exit(main())
