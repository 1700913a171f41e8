"""How fast a street of the wire runs: virtual seconds in a second of one core, and whether a change has changed it.

`python -m benchmarks.plc_speed [--seeds K ...] [--minutes M] [--against DIR]` runs `headroom-testbed plc` for each seed
in a process of its own. With `--against` it runs the same from another checkout in turn, says how much cheaper a frame
has become, and whether both found the same to the last frame; a difference is named and fails. Only processor time
counts, so that other work on the machine matters little, and what matters hits both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parents[1]
OF_THE_MACHINE: Final = {"cpu_s", "times_real_time"}
"""What two runs of one street may differ in."""


def environment(tree: Path) -> dict[str, str]:
    """In which the sources of a checkout are imported; refused where an installed checkout comes before any path."""
    path = os.pathsep.join([str(tree), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, "-c", "import prime_plc; print(prime_plc.__file__)"]
    found = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(found).is_relative_to(tree):
        raise SystemExit(f"{tree}: {found} is imported instead; run this without an editable install of that")
    return env


def run(tree: Path, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What the street of a seed finds with the sources of a checkout."""
    street = ["--nodes", options.nodes, "--levels", options.levels, "--minutes", options.minutes, "--seed", seed]
    street += ["--burst-loss", options.burst_loss, "--fail-switches", options.fail_switches]
    command = [sys.executable, "-m", "hil_tests.cli", "plc", "--json", *map(str, street)]
    done = subprocess.run(command, cwd=tree, env=environment(tree), capture_output=True, check=False)
    if not done.stdout:
        raise SystemExit(f"{tree}: {done.stderr.decode().strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def frame_ms(found: dict[str, Any]) -> float:
    """Milliseconds of processor time for one frame."""
    return float(1000 * found["cpu_s"] / found["line"]["frames"])


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what two runs have found differently."""
    both = (one.keys() | other.keys()) - OF_THE_MACHINE
    return sorted(key for key in both if json.dumps(one.get(key)) != json.dumps(other.get(key)))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--burst-loss", type=float, default=0.0)
    parser.add_argument("--fail-switches", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--against", type=Path, help="another checkout, run in turn with this one")
    options = parser.parse_args()
    speeds, gains, changed = [], [], False
    for seed in options.seeds:
        old = None if options.against is None else run(options.against.resolve(), options, seed)
        new = run(HERE, options, seed)
        speeds.append(new["times_real_time"])
        line = f"seed {seed}: {speeds[-1]:.1f} times real time, {frame_ms(new):.3f} ms a frame"
        if old is not None:
            gains.append(frame_ms(old) / frame_ms(new))
            unlike = differences(old, new)
            changed |= bool(unlike)
            line += f"; against {old['times_real_time']:.1f} and {frame_ms(old):.3f}: {gains[-1]:.2f} times cheaper, "
            line += f"not the same: {', '.join(unlike)}" if unlike else "the same to the last frame"
        print(line, flush=True)
    print(f"median {statistics.median(speeds):.1f} times real time", end="")
    print(f", {statistics.median(gains):.2f} times cheaper" if gains else "")
    return int(changed)


if __name__ == "__main__":
    raise SystemExit(main())
