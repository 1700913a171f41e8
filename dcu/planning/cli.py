"""`headroom-plan`: probabilistic, deterministic, data."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from shared.cli import EXIT_OK, run_cli
from shared.errors import ConfigError, Fault

EXAMPLE: Final = """examples:
  headroom-plan probabilistic docs/examples/probabilistic.toml -o out/plan/probabilistic
  headroom-plan probabilistic out/plan/probabilistic/study.toml -o out/again --workers 4
  headroom-plan probabilistic docs/examples/dcu_export/study.toml -o out/plan/dcu_export
  headroom-plan deterministic docs/examples/probabilistic.toml
  headroom-plan data meters.parquet more.csv --json

A study that was stopped with Ctrl-C goes on where it was: repeat the same command.
"""
EXIT_INTERRUPTED: Final = 130
WORKERS_MAX: Final = 256


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the console script; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="headroom-plan",
        description="Studies: how much a feeder can host.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    study = commands.add_parser("probabilistic", help="Monte-Carlo PV hosting capacity from meter data")
    study.add_argument("study", type=Path, help="the study's TOML file")
    study.add_argument("-o", "--out", type=Path, required=True, help="folder for results and report")
    study.add_argument("--workers", type=int, help="processes; results do not depend on it (default: all processors)")
    study.add_argument("--json", action="store_true", help="print the capacities as JSON")
    study.set_defaults(command=_probabilistic)
    worst = commands.add_parser("deterministic", help="the same growth judged by one worst state (cases I, II, III)")
    worst.add_argument("study", type=Path)
    worst.add_argument("--json", action="store_true")
    worst.set_defaults(command=_deterministic)
    data = commands.add_parser("data", help="read meter data strictly and say what is in them")
    data.add_argument("files", type=Path, nargs="+", help="Parquet or CSV in the house's layout")
    data.add_argument("--json", action="store_true")
    data.set_defaults(command=_data)
    chosen = parser.parse_args(arguments)
    return run_cli(lambda: int(chosen.command(chosen)))


def _probabilistic(chosen: argparse.Namespace) -> int:
    from dcu.planning.probabilistic_report import write  # noqa: PLC0415 matplotlib and SciPy take a second to import
    from dcu.planning.reading import read_study  # noqa: PLC0415
    from dcu.planning.run import run, workers_by_default  # noqa: PLC0415
    from dcu.planning.settings import load_study  # noqa: PLC0415
    from dcu.planning.study.workers import Progress  # noqa: PLC0415

    workers = workers_by_default() if chosen.workers is None else chosen.workers
    if not 1 <= workers <= WORKERS_MAX:
        raise ConfigError("headroom-plan", [Fault("--workers", f"{workers}", f"1 .. {WORKERS_MAX}")])
    if chosen.out.exists() and not chosen.out.is_dir():
        raise ConfigError("headroom-plan", [Fault("--out", f"a file {str(chosen.out)!r}", "a folder")])
    study = load_study(chosen.study)
    read = read_study(study, chosen.study.parent, time.time())
    for note in read.notes:
        print(f"note: {note}", file=sys.stderr)
    try:
        found = run(read, chosen.out, workers, Progress())
    except KeyboardInterrupt:
        print(f"stopped; repeat the command to go on where it was ({chosen.out}/unfinished)", file=sys.stderr)
        return EXIT_INTERRUPTED
    write(read, found, chosen.out)
    e = found.effort
    print(f"{e.states:,} states judged, {e.solved:,} solved in {e.flow_s + e.other_s:.1f} s", file=sys.stderr)
    if chosen.json:
        print(json.dumps(_summary(found.capacities), indent=1))
        return EXIT_OK
    for name, cs in found.capacities.items():
        shown = ", ".join(f"{c.group} {_kva(c.last_feasible_w)}" for c in cs)
        print(f"{name:<16} {shown}")
    print(f"report: {chosen.out / 'report.html'}")
    return EXIT_OK


def _summary(capacities: dict[str, list[Any]]) -> dict[str, Any]:
    return {
        name: {c.group: {"last_feasible_w": c.last_feasible_w, "first_infeasible_w": c.first_infeasible_w} for c in cs}
        for name, cs in capacities.items()
    }


def _kva(w: float | None) -> str:
    return "none" if w is None else f"{w / 1000:.2f} kVA"


def _deterministic(chosen: argparse.Namespace) -> int:
    from dcu.planning.capacity import Steps  # noqa: PLC0415 as above
    from dcu.planning.deterministic import WorstCase, deterministic  # noqa: PLC0415
    from dcu.planning.reading import read_study  # noqa: PLC0415
    from dcu.planning.settings import load_study  # noqa: PLC0415

    study = load_study(chosen.study)
    read = read_study(study, chosen.study.parent, time.time())
    steps = Steps(study.growth.step_w, study.growth.levels_max, ("voltage", "current"))
    threshold = study.extras.pv_hours_threshold
    found = {
        p.name: {str(case): deterministic(read.world, p.name, case, threshold, steps) for case in WorstCase}
        for p in read.inputs.plans
    }
    if chosen.json:
        print(json.dumps({name: _summary(cases) for name, cases in found.items()}, indent=1))
        return EXIT_OK
    for name, cases in found.items():
        for case, cs in cases.items():
            shown = ", ".join(f"{c.group} {_kva(c.last_feasible_w)}" for c in cs if c.group != "unbalance")
            print(f"{name:<16} {case:<4} {shown}")
    return EXIT_OK


def _data(chosen: argparse.Namespace) -> int:
    import numpy as np  # noqa: PLC0415 as above

    from dcu.planning.meter_data import read_meter_data  # noqa: PLC0415
    from dcu.planning.unmeasured import exporters  # noqa: PLC0415

    table = read_meter_data(chosen.files, time.time())
    feeding = list(exporters(table))
    days = len(table.start_s) * table.interval_s / 86_400
    found = {
        "customers": len(table.customers),
        "interval_s": table.interval_s,
        "days": round(days, 2),
        "with_pv": int(np.isfinite(table.pv_wh).any(axis=1).sum()),
        "exporting_without_pv": feeding,
        "with_voltage": int(np.isfinite(table.u_mean_v).any(axis=1).sum()),
        "import_wh": float(np.nansum(table.import_wh)),
        "export_wh": float(np.nansum(table.export_wh)),
        "notes": list(table.notes),
    }
    if chosen.json:
        print(json.dumps(found, indent=1))
        return EXIT_OK
    print(
        f"{found['customers']} customers, {days:.1f} days of {table.interval_s} s, {found['with_pv']} with "
        f"measured PV, "
        f"{found['with_voltage']} with voltage"
    )
    if feeding:
        print(f"export without measured PV: {', '.join(feeding)}")
    for note in table.notes:
        print(f"note: {note}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
