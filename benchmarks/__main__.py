"""`make bench`: measures what the house promises and writes one JSON file.

Figures of a shared machine are noisy: speeds are medians over several runs of one call, latencies medians over fifty
grants.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from hil_tests.cli import play_virtually
from hil_tests.measure import kill_sweep, measure_latency
from hil_tests.scenario import load_scenario
from prime_plc.crc import crc32, usi_crc16
from prime_plc.pdu import decode_pdu
from prime_plc.tests.captured_frames import CAPTURED, SNA
from shared import cosem
from shared.ids import Epoch, Nonce, RequestId
from shared.messages import DecisionId, Grant
from shared.protection import PairKeys, parse, protect, reveal

RUNS: Final = 9
KILLS: Final = 200
FIELD: Final = {"report_interval_s": 15.0, "lease_s": 60.0, "renew_interval_s": 15.0}
"""What a site in the field uses; the plays report every two seconds and hold leases of twenty."""


def street_speed() -> dict[str, Any]:
    """Scenario I in one process and virtual time: virtual seconds for each real one, the street's start included."""
    scenario = load_scenario("granted")
    with tempfile.TemporaryDirectory() as name:
        play_virtually(scenario, Path(name) / "warm", 1)
        speeds = [play_virtually(scenario, Path(name) / str(run), 1).speed or 0.0 for run in range(RUNS)]
        long = scenario.model_copy(update={"duration_s": 600.0})
        steady = [play_virtually(long, Path(name) / f"long{run}", 1).speed or 0.0 for run in range(3)]
        field = long.model_copy(update={"site": scenario.site.model_copy(update=FIELD)})
        sparse = [play_virtually(field, Path(name) / f"field{run}", 1).speed or 0.0 for run in range(3)]
    return {
        "field_settings_times_real_time_median": round(statistics.median(sparse)),
        "scenario_1_times_real_time_median": round(statistics.median(speeds)),
        "scenario_1_times_real_time_best": round(max(speeds)),
        "ten_minutes_times_real_time_median": round(statistics.median(steady)),
    }


def codecs() -> dict[str, Any]:
    """Microseconds for the codecs on the hot path."""
    beacon, request = (bytes.fromhex(CAPTURED[name]) for name in ("beacon 19", "REG_REQ"))
    grant = Grant(DecisionId(Epoch(1), 2), RequestId(3), Nonce(4), 2400.0, 60.0)
    apdu = cosem.encode_down(grant, 1)
    keys, title = PairKeys(bytes(16), bytes(range(16))), b"HDCbench"
    sealed = protect(apdu, keys, title, 1)
    return {
        "decode_beacon_us": _us(lambda: decode_pdu(beacon, None)),
        "decode_generic_us": _us(lambda: decode_pdu(request, SNA)),
        "crc32_64_bytes_us": _us(lambda: crc32(bytes(64))),
        "usi_crc16_64_bytes_us": _us(lambda: usi_crc16(bytes(64))),
        "encode_grant_us": _us(lambda: cosem.encode_down(grant, 1)),
        "decode_grant_us": _us(lambda: cosem.decode_apdu.__wrapped__(apdu)),
        "protect_grant_us": _us(lambda: protect(apdu, keys, title, 1)),
        "open_grant_us": _us(lambda: reveal(parse(sealed), keys, title)),
    }


def _us(work: Callable[[], object], count: int = 2000) -> float:
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(count):
            work()
        best = min(best, (time.perf_counter() - started) / count)
    return round(1e6 * best, 2)


def main() -> None:
    """Measure everything and write the file."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--wall", action="store_true", help="also in wall-clock time with real processes (15 minutes)")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "machine": {"python": platform.python_version(), "processor": platform.machine()},
        "street": street_speed(),
        "codecs": codecs(),
        "latency_virtual": measure_latency(50, seed=1, virtual=True),
        "kills_virtual": kill_sweep(KILLS, seed=2, jobs=1, virtual=True),
    }
    if options.wall:
        result["latency_wall"] = measure_latency(50, seed=1, virtual=False)
        result["kills_wall"] = kill_sweep(50, seed=1, jobs=4, virtual=False)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
