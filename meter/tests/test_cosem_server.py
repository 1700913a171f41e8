"""What a DLMS client reads: the standard objects, scaled and with units, and never a made-up zero."""

from __future__ import annotations

import random

import pytest

from meter.core import HouseholdAsked as Asked
from meter.core import LinkChanged, MessageArrived, MeterCore, MeterSettings, ReadingTaken, RelayObserved
from meter.cosem_server import (
    CLASS_DATA,
    CLASS_DISCONNECT,
    CLASS_LIMITER,
    CLASS_REGISTER,
    OBIS_DEVICE_NAME,
    OBIS_DISCONNECT,
    OBIS_LIMITER,
    REGISTERS,
    UNIT,
    CosemServer,
)
from shared.cosem import (
    OBIS_GRANT,
    OBIS_NOMINAL_LIMIT,
    AccessResult,
    ReadAnswer,
    ReadRequest,
    decode_apdu,
    encode_read_request,
)
from shared.cosem_security import CLASS_CLOCK, OBIS_CLOCK
from shared.em330 import Invalid, InvalidKind
from shared.ids import Epoch, MeterId, Phase
from shared.messages import DecisionId, Grant, NominalLimit, Reading, RelayState, Request

READING = Reading(
    (240.1, 239.0, None), (-5.123, 1.5, None), (-1230.4, 300.0, None), (10.5, -20.0, None), 49.98, 1234, 5678
)
UTC_S = 1_790_000_000.25  # 2026-09-21 14:13:20.25 UTC, a Monday


def server(reading: Reading | Invalid = READING) -> tuple[CosemServer, MeterCore]:
    core = MeterCore(MeterSettings(MeterId("m"), (Phase.L1, Phase.L2), 1200.0, 2400.0, 253.0, 15.0), random.Random(1))
    core.handle(ReadingTaken(reading, 0.0), 0.0)
    return CosemServer(core, "HDR024844520101", lambda: UTC_S), core


def read(of: CosemServer, class_id: int, obis: str, attribute: int = 2, now: float = 0.0) -> object:
    """The value a client gets over the wire, or the result code."""
    request = decode_apdu(encode_read_request(class_id, obis, attribute, 5))
    assert isinstance(request, ReadRequest)
    answer = decode_apdu(of.answer(request, now))
    assert isinstance(answer, ReadAnswer)
    assert answer.invoke_id == 5
    return answer.value if answer.result == 0 else AccessResult(answer.result)


def grant(core: MeterCore) -> None:
    core.handle(LinkChanged(up=True), 0.0)
    core.handle(MessageArrived(NominalLimit(DecisionId(Epoch(2), 0), 1200.0)), 0.0)
    outputs = core.handle(Asked(2400.0, 2400.0), 0.0)
    (request,) = [output.message for output in outputs if isinstance(getattr(output, "message", None), Request)]  # type: ignore[union-attr]
    assert isinstance(request, Request)
    core.handle(MessageArrived(Grant(DecisionId(Epoch(2), 7), request.request_id, request.nonce, 2400.0, 60.0)), 0.0)


@pytest.mark.parametrize(
    ("obis", "value", "scaler", "unit"),
    [
        ("1-0:32.7.0.255", 2401, -1, "V"),
        ("1-0:52.7.0.255", 2390, -1, "V"),
        ("1-0:31.7.0.255", -5123, -3, "A"),
        ("1-0:36.7.0.255", -12304, -1, "W"),
        ("1-0:56.7.0.255", 3000, -1, "W"),
        ("1-0:23.7.0.255", 105, -1, "var"),
        ("1-0:24.7.0.255", 0, -1, "var"),
        ("1-0:44.7.0.255", 200, -1, "var"),
        ("1-0:16.7.0.255", -9304, -1, "W"),
        ("1-0:1.7.0.255", 0, -1, "W"),
        ("1-0:2.7.0.255", 9304, -1, "W"),
        ("1-0:3.7.0.255", 0, -1, "var"),
        ("1-0:4.7.0.255", 95, -1, "var"),
        ("1-0:14.7.0.255", 4998, -2, "Hz"),
        ("1-0:1.8.0.255", 1234, 0, "Wh"),
        ("1-0:2.8.0.255", 5678, 0, "Wh"),
    ],
)
def test_a_register_has_value_scaler_and_unit(obis: str, value: int, scaler: int, unit: str) -> None:
    """The measured quantity is value times ten to the scaler in the unit; the logical name is attribute 1."""
    tested, _ = server()
    assert read(tested, CLASS_REGISTER, obis) == value
    assert read(tested, CLASS_REGISTER, obis, 3) == [scaler, UNIT[unit]]
    assert read(tested, CLASS_REGISTER, obis, 1) == bytes(
        int(part) for part in obis.replace("-", ".").replace(":", ".").split(".")
    )


def test_an_unknown_value_is_a_failure_and_never_zero() -> None:
    """Without a reading every register fails for now, its unit does not; a phase that is not connected fails too."""
    tested, _ = server(Invalid(InvalidKind.SILENT, "no answer"))
    for obis in REGISTERS:
        assert read(tested, CLASS_REGISTER, obis) is AccessResult.TEMPORARY_FAILURE
        assert isinstance(read(tested, CLASS_REGISTER, obis, 3), list)
    tested, _ = server()
    assert read(tested, CLASS_REGISTER, "1-0:72.7.0.255") is AccessResult.TEMPORARY_FAILURE


def test_the_limiter_shows_the_grant_as_its_emergency_profile() -> None:
    """Class 71: monitored export power, nominal as normal threshold, the live limit as active and emergency one."""
    tested, core = server()
    assert read(tested, CLASS_LIMITER, OBIS_LIMITER, 2) == [3, bytes((1, 0, 2, 7, 0, 255)), 2]
    assert [read(tested, CLASS_LIMITER, OBIS_LIMITER, number) for number in (3, 4, 10)] == [12000, 12000, False]
    assert read(tested, CLASS_LIMITER, OBIS_LIMITER, 8) == [0, b"\xff" * 12, 0]
    grant(core)
    assert [read(tested, CLASS_LIMITER, OBIS_LIMITER, number) for number in (3, 4, 5, 10)] == [
        24000,
        12000,
        24000,
        True,
    ]
    profile = read(tested, CLASS_LIMITER, OBIS_LIMITER, 8, now=20.0)
    assert isinstance(profile, list)
    assert (profile[0], profile[2]) == (1, 40)
    assert [read(tested, CLASS_LIMITER, OBIS_LIMITER, number) for number in (6, 7, 9)] == [0, 0, [1]]
    assert isinstance(read(tested, CLASS_LIMITER, OBIS_LIMITER, 11), list)


def test_disconnect_control_is_what_the_contact_says() -> None:
    """Unknown until the read-back has spoken; connected means raised."""
    tested, core = server()
    assert read(tested, CLASS_DISCONNECT, OBIS_DISCONNECT) is AccessResult.TEMPORARY_FAILURE
    for state, raised in ((RelayState.NOMINAL, False), (RelayState.RAISED, True)):
        core.handle(RelayObserved(state), 0.0)
        assert read(tested, CLASS_DISCONNECT, OBIS_DISCONNECT) is raised
        assert read(tested, CLASS_DISCONNECT, OBIS_DISCONNECT, 3) == int(raised)
    assert read(tested, CLASS_DISCONNECT, OBIS_DISCONNECT, 4) == 0


def test_the_clock_is_utc_and_does_not_vouch_for_itself() -> None:
    """Date-time in twelve octets, deviation 0, status not specified."""
    tested, _ = server()
    time = bytes((0x07, 0xEA, 9, 21, 1, 14, 13, 20, 25, 0, 0, 0xFF))
    assert read(tested, CLASS_CLOCK, OBIS_CLOCK) == time
    assert read(tested, CLASS_CLOCK, OBIS_CLOCK, 3) == 0
    rest = [read(tested, CLASS_CLOCK, OBIS_CLOCK, number) for number in range(4, 10)]
    assert rest == [0xFF, b"\xff" * 12, b"\xff" * 12, 0, False, 0]
    assert read(tested, CLASS_CLOCK, OBIS_CLOCK, 10) is AccessResult.READ_WRITE_DENIED


def test_the_device_name_begins_with_its_manufacturer() -> None:
    """At most sixteen octets."""
    tested, _ = server()
    assert read(tested, CLASS_DATA, OBIS_DEVICE_NAME) == b"HDR024844520101"


def test_the_manufacturer_objects_are_readable() -> None:
    """The export grant is null without one; the nominal limit is always there."""
    tested, core = server()
    assert read(tested, CLASS_DATA, OBIS_GRANT) is None
    assert read(tested, CLASS_DATA, OBIS_NOMINAL_LIMIT) == [0, 0, 12000]
    grant(core)
    assert read(tested, CLASS_DATA, OBIS_GRANT, now=20.0) == [2, 7, core.dialogue.request_id, None, 24000, 4000]


@pytest.mark.parametrize(
    ("class_id", "obis", "attribute", "result"),
    [
        (CLASS_REGISTER, "1-0:99.7.0.255", 2, AccessResult.OBJECT_UNDEFINED),
        (CLASS_DATA, "0-0:128.9.0.255", 2, AccessResult.OBJECT_UNDEFINED),
        (CLASS_DATA, "1-0:32.7.0.255", 2, AccessResult.OBJECT_CLASS_INCONSISTENT),
        (CLASS_REGISTER, OBIS_LIMITER, 2, AccessResult.OBJECT_CLASS_INCONSISTENT),
        (CLASS_REGISTER, "1-0:32.7.0.255", 4, AccessResult.READ_WRITE_DENIED),
        (CLASS_LIMITER, OBIS_LIMITER, 12, AccessResult.READ_WRITE_DENIED),
        (CLASS_CLOCK, OBIS_CLOCK, 0, AccessResult.READ_WRITE_DENIED),
    ],
)
def test_what_is_not_there_is_refused_by_name(class_id: int, obis: str, attribute: int, result: AccessResult) -> None:
    """No object, another class, no such attribute: three different answers."""
    tested, _ = server()
    assert read(tested, class_id, obis, attribute) is result
