"""The wire at street scale: cold start, an hour of reports, bursts, and switches that fail, on the default street.

`python -m benchmarks.plc_street [--nodes N] [--levels L] [--seeds K] [--failures F] [--out DIR]` prints a line for each
case and writes `plc_street.json`. All times but the speed are virtual, so the machine does not matter for them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from hil_tests.plc_command import broken, words
from hil_tests.plc_street import STREET, PlcStreetSettings, run_street, with_burst_loss

BURST_LOSS = 0.3
BURST_S = 0.3


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=1, help="streets with default noise (default 1)")
    parser.add_argument("--failures", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args()
    plain = PlcStreetSettings(nodes=options.nodes, levels=options.levels)
    cases = [
        (f"default noise, seed {seed}", replace(plain, seed=seed), options.minutes, 0)
        for seed in range(1, options.seeds + 1)
    ]
    noisy = replace(plain, line=with_burst_loss(STREET, BURST_LOSS, BURST_S))
    cases.append((f"receivers deaf {100 * BURST_LOSS:.0f} % of the time, in bursts", noisy, options.minutes, 0))
    cases.append((f"{options.failures} switches fail", plain, 0.0, options.failures))
    rows: list[dict[str, Any]] = []
    for name, settings, minutes, failures in cases:
        found = run_street(settings, minutes, failures)
        faults = broken(found, bursts="bursts" in name)
        rows.append({"case": name, "short_of": faults} | found.as_json())
        print(f"{name}\n{words(found)}\n{'; '.join(faults) or 'as promised'}\n", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "plc_street.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
