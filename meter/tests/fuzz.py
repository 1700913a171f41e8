"""Fuzz targets of the meter's doors: reading tools, household, and the process that holds the relay.

    python -m meter.tests.fuzz [TARGET ...] [--seconds 600 | --rate]

`shared.tests.fuzz` runs them.
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

import structlog

from meter.association import Association, Clients, Level
from meter.deadman import DeadMan, decode_beat, encode_beat
from meter.home import _parse, _RefusedError, _watts
from meter.tests.far_end import KEYS, counters
from meter.tests.test_cosem_server import server
from shared.session import End, Own
from shared.tests.fuzz import Fuzzing

SAPS: Final = tuple(level.value for level in Level)
PUBLIC_AARQ: Final = bytes.fromhex("601da109060760857405080101be10040e01000000065f1f0400001e1dffff")
"""Nobody in particular asks for an association."""


@cache
def _clients() -> Clients:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    draw = random.Random(1)

    def set_clock(utc_s: float) -> None:
        raise AssertionError(f"nobody here may set the clock to {utc_s}")

    return Clients(server()[0], KEYS.client, Own.start(End.METER, counters(), draw), draw, set_clock)


def fuzz_association(data: bytes) -> None:
    """APDUs of a reading tool; the first byte says who and whether it is associated, pieces are cut at FEh FEh."""
    if not data:
        return
    association = Association(_clients())
    sap = SAPS[data[0] % len(SAPS)]
    if data[0] & 0x80:
        association.handle(SAPS[0], PUBLIC_AARQ, 0.0)
    for piece in data[1:].split(b"\xfe\xfe")[:8]:
        assert isinstance(association.handle(sap, piece, 0.0), bytes)
    assert association.level in {None, Level.PUBLIC}


def fuzz_beat(data: bytes) -> None:
    """Packets to the dead man; one that is no beat lowers, none raises without a rising number."""
    beat = decode_beat(data)
    if beat is not None:
        assert decode_beat(encode_beat(beat)) == beat
    DeadMan().handle(data, 1.0)


def fuzz_wish(data: bytes) -> None:
    """What a household may write."""
    try:
        wish = _parse(data, {"limit_w", "minimum_limit_w"}, "example")
        assert 0.0 <= _watts(wish, "limit_w", None) <= 1e9
    except _RefusedError:
        return


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "association": fuzz_association,
    "beat": fuzz_beat,
    "wish": fuzz_wish,
}
FUZZING: Final = Fuzzing("meter.tests.fuzz", TARGETS, Path(__file__).parent / "corpus")

if __name__ == "__main__":
    sys.exit(FUZZING.main())
