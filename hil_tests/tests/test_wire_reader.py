"""What a bystander reads from the line."""

from __future__ import annotations

import random

from dcu.keys import new_ring
from hil_tests.scenario import CLIENTS
from hil_tests.wire import WireReader
from hil_tests.world import DCU, EUI48
from prime_plc.pdu import GenericPdu, Packet
from prime_plc.subheader import ArqHeader


def test_every_packet_of_a_frame_is_told() -> None:
    """Two acknowledgements and nonsense between them share a frame."""
    reader = WireReader(
        EUI48[DCU], {EUI48[name]: name for name in CLIENTS}, new_ring(EUI48[DCU], random.Random(1).randbytes)
    )
    good = Packet(False, 2, False, 256, 0, 5, ArqHeader(1, True, 4, (), 1).encode())
    bad = Packet(False, 2, True, 1, 0, 5, b"?")
    told = reader.read(1.0, 0.5, "dcu", GenericPdu(True, 0, (good, bad, good)).encode(EUI48[DCU]), True)
    assert [frame.kind for frame in told] == ["acknowledgement", "unreadable", "acknowledgement"]
    assert {(frame.start_s, frame.end_s) for frame in told} == {(1.0, 1.5)}
