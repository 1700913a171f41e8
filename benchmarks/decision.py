"""How long a decision takes: one window of a street whose customers all hold grants and one of whom asks for more.

`python -m benchmarks.decision [--windows N] [--out DIR]` prints the table and writes `decision.json`. A window is
everything between the reports and the verdicts: estimate, allocation over all customers, exact confirmation. Wall-clock
time, and beside it the processor's, which a busy machine disturbs less. Garbage is collected between the windows, as
the daemon does; `--collector python` leaves it to the interpreter.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.feeders import tree_feeder
from dcu.garbage import Tidy
from dcu.grid.compiler import compile_network
from dcu.grid.feeder import solve
from dcu.grid.injections import Injections
from dcu.grid.port_model import PortModel
from dcu.hosting.allocate import Policy
from dcu.hosting.decide import Question, Standing, Wish
from dcu.hosting.measurements import SUBSTATION, MeasurementSet, Point, Quality
from dcu.hosting.predicted import Predicted
from dcu.hosting.window import GridSettings
from dcu.meters import MeterEntry
from shared.ids import BusId, Eui48, MeterId, Phase

Case = tuple[str, int, str, float]
CASES: Final[tuple[Case, ...]] = (
    ("100 customers, 3 phases, nothing left", 100, "three", 1.0),
    ("100 customers, 3 phases, room for a third", 100, "three", 0.15),
    ("1,000 customers, 1 phase", 1000, "each", 1.0),
)
"""What it is called, how many, where, and how much longer the cables are. In the first the nominal limits alone, each
used on its worst phase, are too much already: everybody keeps a watt."""
NOMINAL_W: Final = 20_000.0
"""Of all customers together."""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--collector", choices=("daemon", "python"), default="daemon")
    options = parser.parse_args()
    tidy = Tidy() if options.collector == "daemon" else None
    rows = [measure(case, policy, options.windows, tidy) for case in CASES for policy in Policy]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "decision.json").write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        wall, cpu = (f"p50 {row[f'p50{by}_ms']:7.2f} ms   p99 {row[f'p99{by}_ms']:7.2f} ms" for by in ("", "_cpu"))
        print(f"{row['case']:41} {row['policy']:13} {wall}   processor {cpu}")


def measure(case: Case, policy: Policy, windows: int, tidy: Tidy | None = None) -> dict[str, Any]:
    """Percentiles over windows with fresh draws, wishes and asker each."""
    name, customers, kind, stretch = case
    model = compile_network(tree_feeder(customers, kind, stretch=stretch))
    phases = len(model.ports) // customers
    entries = tuple(_entry(model, k, phases) for k in range(customers))
    settings = GridSettings(policy=policy, nominal_voltage_v=float(model.u_nominal_v[0]), band_pct=6.0)
    rule = Predicted(model, entries, settings)
    random = np.random.default_rng(5)
    taken: list[tuple[float, float]] = []
    count = windows if customers < 500 else max(10, windows // 8)
    for k in range(count + 3):
        measured = _measured(model, entries, phases, random)
        nominal_w = NOMINAL_W / customers
        granted = nominal_w * random.uniform(1.2, 2.0, customers)
        wanted = granted + random.uniform(0, 400_000 / customers, customers)
        asker = int(random.integers(customers))
        wishes = tuple(
            Wish(e.id, Standing.ASKS, nominal_w, float(wanted[j]), 0.0)
            if j == asker
            else Wish(e.id, Standing.DUE, nominal_w, float(wanted[j]), 0.0, float(granted[j]))
            for j, e in enumerate(entries)
        )
        reserved = {e.id: float(granted[j]) for j, e in enumerate(entries) if j != asker}
        question = Question(wishes, reserved, 10_000)
        if tidy is not None:
            tidy()
        began = time.perf_counter(), time.process_time()
        answer = rule.answer(rule.view(measured, 15.0 * k), question)
        spent = time.perf_counter() - began[0], time.process_time() - began[1]
        assert len(answer.verdicts) == customers, "everybody was answered"
        if k >= 3:  # the first windows fill caches
            taken.append(spent)
    found: dict[str, Any] = {"case": name, "policy": policy.value, "windows": count}
    for share in (50, 99):
        wall_s, cpu_s = np.percentile(taken, share, axis=0)
        found |= {f"p{share}_ms": float(1e3 * wall_s), f"p{share}_cpu_ms": float(1e3 * cpu_s)}
    return found


def _entry(model: PortModel, k: int, phases: int) -> MeterEntry:
    labels = model.port_labels[k * phases : (k + 1) * phases]
    bus = BusId(model.port_buses[k * phases])
    return MeterEntry(MeterId(f"c{k}"), Eui48(k.to_bytes(6, "big")), bus, tuple(Phase[x] for x in labels), 0.0, 1e6)


def _measured(
    model: PortModel, entries: tuple[MeterEntry, ...], phases: int, random: np.random.Generator
) -> MeasurementSet:
    n = len(model.ports)
    p = random.uniform(-100, 300, n) * min(1.0, 300 / n)
    u = np.abs(solve(model, Injections.of(p), engine="port")["port_u_v"][0])
    points = [Point(SUBSTATION, Quality.GOOD, (float(u.max()),), 0.0, 0.0, (0.0,), (0.0,))]
    for k, entry in enumerate(entries):
        at = slice(k * phases, (k + 1) * phases)
        powers = tuple(map(float, p[at]))
        points.append(Point(entry.id, Quality.GOOD, tuple(map(float, u[at])), 0.0, 0.0, powers, (0.0,) * phases))
    return MeasurementSet(tuple(points))


if __name__ == "__main__":
    main()
