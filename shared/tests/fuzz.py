"""Fuzz targets of this room: every decoder that meets bytes of strangers, with a corpus that is kept.

    python -m shared.tests.fuzz [TARGET ...] [--seconds 600 | --rate]

runs atheris (libFuzzer) on each target, starting from ``corpus/<target>``; what it finds new is kept only with
``--keep``. Other rooms have targets of their own (`Fuzzing`). Without atheris the same targets run under hypothesis in
`test_fuzz`. ``--rate`` measures them without instrumentation.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.axdr import parse as parse_axdr
from shared.cosem import decode_apdu
from shared.errors import DecodeError
from shared.protection import PairKeys, is_protected, parse, protect, reveal
from shared.session import BLOCK, End, InvocationCounter, Own, Session

CORPUS: Final = Path(__file__).parent / "corpus"
FOUND: Final = Path("out/fuzz")
"""Where a case that breaks something is left; it belongs into the corpus when it is understood."""

BYTES_MAX: Final = 1100
MEMORY_MIB_MAX: Final = 256
ALLOCATION_BYTES_MAX: Final = 8 << 20
"""What a decoder may take for one case."""

BOUNDED_EVERY: Final = 8
"""So often a row of cases is run with its memory counted, which takes three times as long."""

BOUNDED_ROW: Final = 256
"""Cases in such a row: each start of the counting costs some memory for ever, which ended long runs."""

CASES_PER_S_MIN: Final = 10_000
RATE_ROUNDS: Final = 5
RATE_ROUND_S: Final = 0.3
KEYS: Final = PairKeys(bytes(range(16)), bytes(range(16, 32)))


def fuzz_apdu(data: bytes) -> None:
    """Every APDU decoder: a value, or DecodeError."""
    try:
        decode_apdu.__wrapped__(data)
    except DecodeError:
        return


def fuzz_axdr(data: bytes) -> None:
    """A value as it stands in attributes and pushes."""
    try:
        parse_axdr(data)
    except (DecodeError, IndexError, ValueError):
        return  # its callers turn what the library raises into DecodeError


def fuzz_envelope(data: bytes) -> None:
    """Envelopes; none that we have not sealed opens."""
    try:
        envelope = parse(data)
    except DecodeError:
        return
    assert is_protected(data)
    assert reveal(envelope, KEYS, envelope.title or bytes(8)) is None


def fuzz_protected(data: bytes) -> None:
    """What a session makes of an authentic envelope with any content: never an exception, never a session."""
    draw = random.Random(1)
    session = Session(Own.start(End.DCU, InvocationCounter(1, BLOCK), draw), KEYS, draw, KEYS)
    arrival = session.receive(protect(data or b"\x00", KEYS, b"HDMfuzz!", 7, named=True), 0.0)
    assert arrival.plain is None
    assert not arrival.began


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "apdu": fuzz_apdu,
    "axdr": fuzz_axdr,
    "envelope": fuzz_envelope,
    "protected": fuzz_protected,
}


@dataclass(frozen=True, slots=True)
class Fuzzing:
    """The targets of one room.

    Attributes:
        module: whose command line runs them.
        kept: folder with the corpus of each.
    """

    module: str
    targets: dict[str, Callable[[bytes], None]]
    kept: Path

    def corpus(self, target: str) -> list[bytes]:
        """The kept cases of a target."""
        return [path.read_bytes() for path in sorted((self.kept / target).iterdir())]

    def main(self) -> int:
        """Run targets one after the other; the exit code of the first that finds something."""
        parser = argparse.ArgumentParser(prog=f"python -m {self.module}")
        parser.add_argument("targets", nargs="*", choices=[[], *self.targets], help="all of them without a name")
        parser.add_argument("--seconds", type=int, default=600, help="for each target")
        parser.add_argument("--keep", action="store_true", help="add what is new to the corpus")
        parser.add_argument("--rate", action="store_true", help="only say how many cases each takes in a second")
        parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
        options, passed = parser.parse_known_args()
        if options.inside:
            return _inside(self.targets[options.targets[0]], passed)
        for target in options.targets or self.targets:
            if options.rate:
                rate = self.cases_per_s(target)
                slow = "" if rate >= CASES_PER_S_MIN else f", expected {CASES_PER_S_MIN:,}"
                print(f"{target}: {rate:,.0f} cases/s of one core, no instrumentation{slow}", flush=True)
            elif (code := self._fuzz(target, options.seconds, keep=options.keep)) != 0:
                return code
        return 0

    def _fuzz(self, target: str, seconds: int, *, keep: bool) -> int:
        with tempfile.TemporaryDirectory() as scratch:
            kept = str(self.kept / target)
            where = [kept] if keep else [scratch, kept]
            FOUND.mkdir(parents=True, exist_ok=True)
            limits = [f"-max_total_time={seconds}", f"-max_len={BYTES_MAX}", f"-rss_limit_mb={MEMORY_MIB_MAX}"]
            limits.append(f"-artifact_prefix={FOUND}/{target}-")
            command = [sys.executable, "-m", self.module, target, "--inside", "-timeout=60", *limits, *where]
            return subprocess.run(command, check=False).returncode

    def cases_per_s(self, target: str) -> float:
        """[1/s] Kept cases and damaged ones, half and half, by processor time; the median of some rounds."""
        draw = random.Random(1)
        cases = self.corpus(target)
        cases += [_damaged(draw.choice(cases), draw) for _ in cases * 9] + cases * 8
        rates = []
        for _ in range(RATE_ROUNDS):
            began_s = time.process_time()
            done = 0
            while time.process_time() - began_s < RATE_ROUND_S:
                for case in cases:
                    self.targets[target](case)
                done += len(cases)
            rates.append(done / (time.process_time() - began_s))
        return statistics.median(rates)


def bounded(target: Callable[[bytes], None], data: bytes) -> None:
    """Run one case and see that it takes no more memory than a decoder may."""
    counting = tracemalloc.is_tracing()
    if not counting:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        target(data)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        if not counting:
            tracemalloc.stop()
    assert peak < ALLOCATION_BYTES_MAX, f"{len(data)} bytes took {peak} of memory"


def _damaged(case: bytes, draw: random.Random) -> bytes:
    """With one byte changed."""
    changed = bytearray(case or b"\0")
    changed[draw.randrange(len(changed))] ^= draw.randrange(1, 256)
    return bytes(changed)


def _inside(target: Callable[[bytes], None], arguments: list[str]) -> int:
    try:
        import atheris  # noqa: PLC0415  # only where it is installed
    except ImportError:
        print("error: atheris is not installed; each room's tests/test_fuzz.py runs the same", file=sys.stderr)
        return 2
    atheris.instrument_all()
    count = itertools.count()

    def run(data: bytes) -> None:
        row, place = divmod(next(count), BOUNDED_ROW)
        counted = row % BOUNDED_EVERY == 0
        if not place and counted:
            tracemalloc.start()
        elif not place:
            tracemalloc.stop()
        if counted:
            bounded(target, data)
        else:
            target(data)

    atheris.Setup([sys.argv[0], *arguments], run)
    atheris.Fuzz()
    return 0


FUZZING: Final = Fuzzing("shared.tests.fuzz", TARGETS, CORPUS)

if __name__ == "__main__":
    sys.exit(FUZZING.main())
