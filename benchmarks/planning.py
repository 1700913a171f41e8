"""How fast the probabilistic study is: scenarios A to G of the stand-in feeder, all steps, 100,000 states each.

`python -m benchmarks.planning [--days N] [--workers N] [--out DIR]` prints what it took and writes `planning.json`.
A state that two levels or scenarios share is counted for each of them and solved once; both rates are told. Time
outside the power flow is everything but the sweep and the linear map from port currents to voltages and branch
currents: drawing, counting, messages between processes, growth. Reading and starting are told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

from dcu.planning import flobecq_like_folder
from dcu.planning.capacity import Rule, Steps
from dcu.planning.draws import Sampling, draw, stream
from dcu.planning.probabilistic import Effort, Run, grow_scenario
from dcu.planning.reading import read_study
from dcu.planning.settings import load_study
from dcu.planning.study.workers import Progress, Task, Workers, drive
from dcu.planning.world import World, build


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=1042, help="simulated days a level, 96 states each")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args()
    row = measure(options.days, options.workers)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "planning.json").write_text(json.dumps(row, indent=1) + "\n")
    for key, value in row.items():
        print(f"{key:34} {value:,.3f}" if isinstance(value, float) else f"{key:34} {value:,}")


def _spent_s() -> float:
    """Processor time of this process and of its ended children [s]."""
    return sum(
        u.ru_utime + u.ru_stime
        for u in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def measure(days: int, workers: int) -> dict[str, Any]:
    """One run of all scenarios."""
    folder = flobecq_like_folder()
    study = load_study(folder / "study.toml")
    began = time.perf_counter()
    read = read_study(study.model_copy(update={"extras": study.extras.model_copy(update={"rebalance": None})}), folder)
    reading_s = time.perf_counter() - began
    before = _spent_s()
    pool = Workers(workers, build, read.inputs)
    starts = _on_each(pool, workers, "start")
    effort = Effort()
    run = Run(read.world, days, False, None, Progress(silent=True), effort)
    steps = Steps(study.growth.step_w, study.growth.levels_max, ("voltage",))
    rules = {s.name: Rule(study.percentile(s), study.limits.current_quantile) for s in study.scenarios}
    began = time.perf_counter()
    logs = drive(pool, {p.name: grow_scenario(run, p, rules[p.name], steps) for p in read.inputs.plans})
    wall_s = time.perf_counter() - began
    ends = _on_each(pool, workers, "end")
    own = _spent_s() - before
    pool.close()
    in_workers = sum(ends.values()) - sum(starts.values())
    cpu_s = in_workers + own
    levels = sum(len(log) for log in logs.values())
    states = sum(level.tally.states for log in logs.values() for level in log)
    began = time.process_time()
    for block in range(10):
        draw(read.inputs.profiles, Sampling(), stream(1, "rate", block))
    draw_us = (time.process_time() - began) / (10 * 9600) * 1e6
    return {
        "levels": levels,
        "states_judged": states,
        "states_solved": effort.solved,
        "wall_s": wall_s,
        "processor_s": cpu_s,
        "judged_per_s_wall": states / wall_s,
        "solved_per_processor_s": effort.solved / cpu_s,
        "power_flow_s": effort.flow_s,
        "counting_s": effort.other_s,
        "share_outside_power_flow": 1 - effort.flow_s / cpu_s,
        "draw_us_a_state": draw_us,
        "reading_s": reading_s,
        "workers": workers,
    }


def _on_each(pool: Workers, workers: int, name: str) -> dict[int, float]:
    """Processor time of every worker so far, by its process."""
    found: dict[int, float] = {}
    for attempt in range(200):
        found |= dict(drive(pool, {"x": _asked(name, attempt, workers)})["x"])
        if len(found) >= workers:
            break
    return found


def _asked(name: str, attempt: int, workers: int) -> Any:
    return (yield [Task((name, attempt, k), _who, ()) for k in range(4 * workers)])


def _who(_: World) -> tuple[int, float]:
    time.sleep(0.01)  # leaves the queue to the others
    return os.getpid(), time.process_time()


if __name__ == "__main__":
    main()
