"""`headroom-testbed evaluate`: its options, its files, its words."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Final

from shared.cli import EXIT_FAILED, EXIT_OK
from shared.errors import ConfigError, Fault

EXAMPLE: Final = """examples:
  headroom-testbed evaluate --feeder eulv --day clear --pv-share 0.5
  headroom-testbed evaluate --feeder feeder.json --day sun.csv --policy proportional --errors class1 --json
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's options."""
    parser = commands.add_parser(
        "evaluate",
        help="a day on a feeder: static limits, Headroom, and the optimum with perfect foresight",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--feeder", required=True, help="a network file (headroom-grid import makes one), or eulv")
    parser.add_argument(
        "--day", default="clear", help="clear, broken, overcast, or a CSV file minute,pv_share (default clear)"
    )
    parser.add_argument(
        "--pv-share", type=float, default=0.5, help="share of customers with a plant of 3 to 10 kW (default 0.5)"
    )
    parser.add_argument("--policy", default="equal", help="how capacity is shared (default equal)")
    parser.add_argument(
        "--rule", default="predicted", help="predicted by the model, learned from meters, or mixed (default predicted)"
    )
    parser.add_argument(
        "--learn-days", type=int, default=14, help="days at nominal limits a learning rule has seen (default 14)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of plants, clouds, meters and line (default 1)")
    parser.add_argument("--from", dest="first", default="06:00", help="first minute (default 06:00)")
    parser.add_argument("--to", dest="last", default="20:00", help="the end (default 20:00)")
    parser.add_argument("--errors", default="exact", help="exact or class1: of meters and model (default exact)")
    parser.add_argument("--band-pct", type=float, default=8.0, help="band around the nominal voltage (default 8)")
    parser.add_argument(
        "--no-load-pu",
        default="1.05",
        help="highest voltage without load, as a share of nominal, that the source is set to; file: leave it (1.05)",
    )
    parser.add_argument(
        "--nominal-w",
        type=float,
        help="nominal export limit [W] (default: the largest that every minute bears)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/evaluate"), help="directory for result, report, figures, ledger"
    )
    parser.add_argument("--json", action="store_true", help="print result.json")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Evaluate, write, print."""
    from hil_tests.evaluate import Evaluation, Question, evaluate, write_minutes  # noqa: PLC0415  # SciPy, only here
    from hil_tests.evaluate_figures import figures, write_figures  # noqa: PLC0415
    from hil_tests.evaluate_report import html  # noqa: PLC0415

    _check_policy(options.policy)
    if options.seed < 0:
        raise ConfigError("evaluate", [Fault("--seed", f"{options.seed}", "0 or more")])
    out: Path = options.out
    if out.exists() and not out.is_dir():
        raise ConfigError("--out", [Fault("directory", str(out), "a directory, or nothing yet")])
    question = Question(
        feeder=options.feeder,
        day=options.day,
        pv_share=options.pv_share,
        policy=options.policy,
        seed=options.seed,
        hours=(_minute("--from", options.first), _minute("--to", options.last)),
        errors=options.errors,
        band_pct=options.band_pct,
        no_load_pu=None if options.no_load_pu == "file" else _number("--no-load-pu", options.no_load_pu),
        nominal_w=options.nominal_w,
        rule=options.rule,
        learn_days=options.learn_days,
    )
    found: Evaluation = evaluate(question, lambda words: print(f"{words} ...", file=sys.stderr), out)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found.as_json(), indent=1, allow_nan=False) + "\n"
    (out / "result.json").write_text(text, encoding="utf-8")
    write_minutes(out / "minutes.csv", found)
    drawn = figures(found)
    write_figures(out, drawn)
    (out / "report.html").write_text(html(found, drawn), encoding="utf-8")
    print(text if options.json else _words(found, out), end="")
    return EXIT_OK if found.reproduced is not None and not found.reproduced.differing else EXIT_FAILED


def _check_policy(policy: str) -> None:
    from dcu.hosting.allocate import Policy  # noqa: PLC0415

    if policy not in tuple(Policy):
        raise ConfigError("evaluate", [Fault("--policy", policy, ", ".join(Policy))])


def _minute(option: str, text: str) -> int:
    found = re.fullmatch(r"(\d\d?):([0-5]\d)", text)
    if found is None or int(found[1]) * 60 + int(found[2]) > 1440:
        raise ConfigError("evaluate", [Fault(option, text[:40], "a time of day such as 06:00, 24:00 at most")])
    return int(found[1]) * 60 + int(found[2])


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError("evaluate", [Fault(option, text[:40], "a number, or file")]) from None


def _words(found: object, out: Path) -> str:
    from hil_tests.evaluate import Evaluation  # noqa: PLC0415
    from hil_tests.evaluate_report import proven  # noqa: PLC0415

    assert isinstance(found, Evaluation)
    lines = [f"{len(found.day.plants)} plants, nominal limit {found.nominal_w:g} W"]
    for name, score in found.scores.items():
        lines.append(
            f"{name:9} {score.exported_wh / 1e3:8.1f} kWh, {100 * score.of_exportable:5.1f} % of the possible; "
            f"outside the band {score.outside_1min} min (10-minute means {score.outside_10min}), "
            f"by grants {score.by_grants_1min}; highest {score.u_max_v:.2f} V; fairness {score.fairness:.3f}"
        )
    counts, line = found.street.counts, found.street.line
    decisions = ", ".join(f"{counts.get(kind, 0)} {kind}s" for kind in ("grant", "denial", "revoke"))
    lines.append(
        f"Headroom: {100 * found.captured:.1f} % of the optimum within contracts, "
        f"{100 * found.captured_of_increase:.1f} % of its increase over static limits; {decisions}; "
        f"{line.messages} messages, {100 * line.airtime_s / found.street.seconds:.0f} % air time"
    )
    assert found.reproduced is not None, "the command keeps the ledger"
    lines.append(f"decided again from {out}/ledger ({found.reproduced.size}): {found.reproduced}")
    lines += [f"  {difference}" for difference in found.reproduced.differences]
    for what, optimum in (("within contracts", found.contracts), ("free", found.optimum)):
        lines.append(f"optimum, {what}: proven gap to the best possible {proven(optimum)}")
    lines.append(f"report and figures: {out}/report.html")
    return "\n".join(lines) + "\n"
