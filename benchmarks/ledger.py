"""What the ledger costs: durable appends, a proof among ten million entries, verifying a million, recovery.

`python -m benchmarks.ledger [--entries N] [--big N] [--out DIR] [--where DIR]` prints the figures and writes
`ledger.json`. Appends are timed by the wall clock on the disk of ``--where``, because waiting for the disk is what they
do; everything else by the process's own time. ``--crashes N`` also opens N images of a ledger whose power was cut.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from dcu.ledger.audit import check
from dcu.ledger.growth import Growth
from dcu.ledger.layout import current
from dcu.ledger.merkle import HASH_BYTES, inclusion_proof, leaf_hash, verify_inclusion
from dcu.ledger.store import Ledger, verify
from dcu.ledger.tests.crash_disk import Medium, RecordingFiles, lay
from dcu.ledger.tests.test_store import Unsynced
from dcu.ledger.tiles import WIDTH, TileStore, tile_path

START: Final = {
    "kind": "start",
    "epoch": 1,
    "seq": 0,
    "rule": "predicted/6",
    "facts": {},
    "nominal_limit_w": {f"meter-{n}": 5000.0 for n in range(100)},
}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000, help="entries that are verified")
    parser.add_argument("--big", type=int, default=10_000_000, help="entries among which one is proved")
    parser.add_argument("--crashes", type=int, default=0, help="images of power cuts to open")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--where", type=Path, help="directory on the disk to measure")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.where) as name:
        figures |= appends(Path(name))
        figures |= verifying(Path(name) / "many", options.entries)
        figures |= proofs(Path(name) / "big", options.big)
    with tempfile.TemporaryDirectory(dir=options.where) as name:
        figures |= crashes(Path(name), options.crashes)
    figures["rss_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "ledger.json").write_text(json.dumps(figures, indent=1) + "\n")
    for key, value in figures.items():
        print(f"{key:40} {value}")


def decision(number: int) -> dict[str, Any]:
    """A grant as the engine records it; one customer's values are sealed."""
    return {
        "kind": "grant",
        "epoch": 1,
        "seq": number,
        "window": number,
        "meter": f"meter-{number % 100}",
        "request": {"id": number, "nonce": f"{number:016x}", "limit_w": 9000.0, "minimum_limit_w": 500.0},
        "limit_w": 8123.5,
        "lease_s": 60.0,
        "reason": "GRANTED",
        "kept_by": {"reason": "OVERVOLTAGE", "binding": f"meter-{(number + 7) % 100}", "value": 252.25},
        "utc_s": 1790000000.125,
    }


def window(number: int) -> dict[str, Any]:
    """A window over a hundred customers, with what all of them measured."""
    names = [f"meter-{n}" for n in range(100)]
    points = [{"name": n, "quality": "good", "u_v": [241.5], "p_w": [-777.25], "q_var": [12.5]} for n in names]
    wishes = [{"meter": n, "standing": "due", "wanted_w": 9000.0, "granted_w": 8000.5} for n in names[:20]]
    verdicts = [{"meter": n, "act": "renew", "limit_w": 8123.5, "why": None} for n in names[:20]]
    answer = {"verdicts": verdicts, "fairness": 0.98}
    question = {"wishes": wishes, "reserved_w": dict.fromkeys(names[:20], 8000.5), "places": 180}
    seen = {"view": {"points": points}, "question": question, "answer": answer}
    return {"kind": "window", "epoch": 1, "seq": None, "window": number, **seen}


def appends(directory: Path) -> dict[str, Any]:
    """Durable appends a second, each commit with a signed head, bundles and published heads included; medians."""
    figures: dict[str, Any] = {"fsync_ms_median": round(1e3 * statistics.median(fsyncs(directory)), 3)}
    for name, batch, count, made in (
        ("appends_s_one_by_one", 1, 2000, decision),
        ("appends_s_batches_of_16", 16, 8000, decision),
        ("appends_s_batches_of_64", 64, 16000, decision),
        ("windows_of_100_s_one_by_one", 1, 200, window),
    ):
        speeds = []
        for run in range(3):
            ledger = Ledger(directory / f"{name}{run}", "bench")
            ledger.append(START)
            began = time.perf_counter()
            for at in range(0, count, batch):
                ledger.append_all([made(at + n) for n in range(batch)])
            ledger.publish()
            speeds.append(count / (time.perf_counter() - began))
            ledger.close()
        figures[name] = round(statistics.median(speeds))
    return figures


def fsyncs(directory: Path) -> list[float]:
    """What the disk takes for four hundred bytes [s]."""
    import os  # noqa: PLC0415

    taken = []
    with (directory / "fsync").open("wb", buffering=0) as file:
        for _ in range(500):
            file.write(bytes(400))
            began = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    return taken


def verifying(directory: Path, count: int) -> dict[str, Any]:
    """Process time to verify a log, and to open it."""
    ledger = Ledger(directory, "bench", Unsynced())
    ledger.append(START)
    spent = cpu(lambda: [ledger.append_all([decision(at + n) for n in range(500)]) for at in range(0, count, 500)])
    ledger.close()
    found = check(current(directory))
    assert (found.faults, found.size) == ([], count + 1)
    figures: dict[str, Any] = {
        "entries_verified": found.size,
        "verify_cpu_s": round(cpu(lambda: check_good(directory)), 2),
    }
    figures["build_cpu_s"] = round(spent, 1)
    opened: list[Ledger] = []
    figures["open_cpu_ms"] = round(1e3 * cpu(lambda: opened.append(Ledger(directory, "bench", Unsynced()))), 1)
    opened[0].close()
    return figures


def check_good(directory: Path) -> None:
    """Verify once more."""
    assert not check(current(directory)).faults


def proofs(directory: Path, count: int) -> dict[str, Any]:
    """Process time of a proof from cold tiles, and of checking it; over positions drawn at random."""
    growth = Growth()
    for position in range(count):
        for level, number, content in growth.push(leaf_hash(position.to_bytes(8, "big"))):
            _put(directory / tile_path(level, number), content)
    for level, number, content in growth.unfinished():
        _put(directory / tile_path(level, number, len(content) // HASH_BYTES), content)
    root, draw = growth.edge.root(), random.Random(5)
    made, checked = [], []
    for position in [0, count - 1, *(draw.randrange(count) for _ in range(200))]:
        began = time.process_time()
        path = inclusion_proof(position, count, TileStore(directory, count).node)
        found = time.process_time()
        assert verify_inclusion(leaf_hash(position.to_bytes(8, "big")), position, count, path, root)
        made.append(found - began)
        checked.append(time.process_time() - found)
    return {
        "proof_among": count,
        "proof_cpu_ms_median": round(1e3 * statistics.median(made), 3),
        "proof_cpu_ms_max": round(1e3 * max(made), 3),
        "proof_check_cpu_ms_median": round(1e3 * statistics.median(checked), 4),
    }


def crashes(directory: Path, count: int) -> dict[str, Any]:
    """Open images of power cuts at random operations of a life across a bundle; nothing acknowledged may be missing."""
    if not count:
        return {}
    base, life, image = directory / "base", directory / "life", directory / "image"
    entries = [{"epoch": 1, "seq": n} for n in range(270)]
    ledger = Ledger(base, "dcu", Unsynced())
    ledger.append_all(entries[:250])
    ledger.close()
    files = RecordingFiles(acknowledged=250)
    lay({path: path.read_bytes() for path in base.rglob("*") if path.is_file()}, base, life)
    ledger = Ledger(life, "dcu", files)
    for entry in entries[250:]:
        ledger.append(entry)
        files.acknowledged = ledger.position
    ledger.close()
    draw, lost = random.Random(9), 0
    for _ in range(count):
        cut = draw.randrange(len(files.steps))
        medium = Medium.holding(base, draw)
        medium.names = {life / path.relative_to(base): node for path, node in medium.names.items()}
        medium.durable = dict(medium.names)
        for step in files.steps[:cut]:
            medium.play(step)
        lay(medium.left(), life, image)
        Ledger(image, "dcu", Unsynced()).close()
        found = verify(image)
        good = (
            not found.faults and found.entries == entries[: found.size] and found.size >= files.steps[cut].acknowledged
        )
        lost += not good
        for path in sorted(image.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    return {"crash_images": count, "crash_images_with_losses": lost}


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def cpu(work: Callable[[], object]) -> float:
    """Process time of a piece of work [s]."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    assert WIDTH == 256, "the figures are for full tiles"
    main()
