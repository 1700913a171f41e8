"""The COSEM form of every message: round trips, refusals, and bytes that must stay as they are."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from dlms_cosem import dlms_data
from hypothesis import given
from hypothesis import strategies as st

from shared import cosem
from shared.errors import DecodeError
from shared.ids import Epoch, MeterId, Nonce, RequestId
from shared.messages import (
    Acknowledgement,
    Alarm,
    DecisionId,
    Denial,
    Downward,
    Grant,
    LimitSource,
    NominalLimit,
    Reading,
    Reason,
    RelayState,
    Release,
    Report,
    Request,
    Revoke,
    Upward,
)

u32 = st.integers(0, 0xFFFFFFFF)
nonces = st.integers(0, 2**64 - 1).map(Nonce)
epochs = u32.map(Epoch)
decisions = st.builds(DecisionId, epochs, u32)
watts = st.integers(0, 10**8).map(lambda raw: raw / 10)
seconds = st.integers(0, 10**6).map(lambda raw: raw / 100)
names = st.none() | st.text("abcdefghijklmnopqrstuvwxyz-0123456789", min_size=1, max_size=20).map(MeterId)
reasons = st.integers(0, 255).map(Reason)
values = st.none() | st.integers(-(10**6), 10**6).map(lambda raw: raw / 100)


def per_phase(low: int, high: int, scale: int) -> st.SearchStrategy[tuple[float | None, ...]]:
    one = st.none() | st.integers(low, high).map(lambda raw: raw / scale)
    return st.tuples(one, one, one)


readings = st.builds(
    Reading,
    u_v=per_phase(0, 0xFFFF, 10),
    i_a=per_phase(-(10**7), 10**7, 1000),
    p_w=per_phase(-(10**8), 10**8, 10),
    q_var=per_phase(-(10**8), 10**8, 10),
    frequency_hz=st.none() | st.integers(0, 0xFFFF).map(lambda raw: raw / 100),
    import_energy_wh=st.integers(0, 2**64 - 1),
    export_energy_wh=st.integers(0, 2**64 - 1),
)
upward: st.SearchStrategy[Upward] = st.one_of(
    st.builds(
        Report,
        boot_id=u32,
        seq=u32,
        nonce=st.none() | nonces,
        epoch=epochs,
        reading=st.none() | readings,
        reading_age_s=seconds,
        limit_w=watts,
        source=st.integers(0, 255).map(LimitSource),
        relay=st.integers(0, 255).map(RelayState),
        lease_left_s=seconds,
        applied=st.none() | decisions,
        alarms=st.integers(0, 0xFFFF).map(Alarm),
    ),
    st.builds(Request, u32.map(RequestId), nonces, epochs, watts, watts),
    st.builds(Release, u32.map(RequestId), epochs, st.none() | decisions),
)
downward: st.SearchStrategy[Downward] = st.one_of(
    st.builds(Grant, decisions, u32.map(RequestId), nonces, watts, seconds),
    st.builds(Denial, decisions, u32.map(RequestId), reasons, names, values),
    st.builds(Revoke, decisions, reasons, names, values, watts),
    st.builds(NominalLimit, decisions, watts),
    st.builds(Acknowledgement, epochs, u32, st.integers(0, 0xFFFF)),
)


@given(upward, u32)
def test_what_a_meter_says_survives_the_wire(message: Upward, invoke_id: int) -> None:
    """Every upward message decodes to itself, at the ends of every range too."""
    assert cosem.decode_apdu(cosem.encode_up(message, invoke_id)) == cosem.Pushed(message)


@given(downward, st.integers(0, 255))
def test_what_a_dcu_says_survives_the_wire(message: Downward, invoke_id: int) -> None:
    """Every downward message decodes to itself; only the acknowledgement asks for no answer."""
    confirmed = not isinstance(message, Acknowledgement)
    assert cosem.decode_apdu(cosem.encode_down(message, invoke_id)) == cosem.Written(message, invoke_id & 15, confirmed)


@given(st.binary(max_size=80))
def test_garbage_is_refused_and_nothing_else_happens(data: bytes) -> None:
    """Whatever bytes come in, the only error is DecodeError."""
    with contextlib.suppress(DecodeError):
        cosem.decode_apdu(data)


@given(upward | downward, st.data())
def test_a_damaged_apdu_never_raises_anything_else(message: Upward | Downward, data: st.DataObject) -> None:
    """One changed byte or a cut end either decodes to a message again or is a DecodeError."""
    if isinstance(message, Report | Request | Release):
        apdu = bytearray(cosem.encode_up(message, 1))
    else:
        apdu = bytearray(cosem.encode_down(message, 1))
    apdu[data.draw(st.integers(0, len(apdu) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError):
        cosem.decode_apdu(bytes(apdu))
    with pytest.raises(DecodeError):
        cosem.decode_apdu(bytes(apdu[: data.draw(st.integers(0, len(apdu) - 1))]))


def test_an_endless_structure_is_refused_before_it_is_built() -> None:
    """A structure that claims 2**32 elements costs nothing: the length form itself is refused."""
    grant = cosem.encode_down(Acknowledgement(Epoch(1), 2), 0)
    with pytest.raises(DecodeError, match="long form"):
        cosem.decode_apdu(grant[:13] + bytes.fromhex("0284FFFFFFFF"))


def test_a_grant_keeps_its_published_bytes() -> None:
    """A SET-request-normal on 0-0:128.3.0.255 as any DLMS analyser shows it; changing it breaks meters in the field."""
    grant = Grant(DecisionId(Epoch(7), 3), RequestId(9), Nonce(0x0102030405060708), 2400.0, 60.0)
    assert (
        cosem.encode_down(grant, 1).hex()
        == (
            "c101c1"  # SET request, normal, invoke id 1, confirmed, high priority
            "0001000080030 0ff02".replace(" ", "")
            + "00"  # class 1, 0-0:128.3.0.255, attribute 2, no selection
            "0206"  # structure of six
            "1107"
            "1103"
            "1109"  # epoch, seq, request id, each in the smallest type that holds it
            "150102030405060708"
            "125dc0"
            "121770"  # nonce, 24000 x 0.1 W, 6000 x 10 ms
        )
    )


def test_a_read_and_its_answers_survive_the_wire() -> None:
    """GET, its value and its refusal decode to what was asked and answered."""
    assert cosem.decode_apdu(cosem.encode_read_request(71, "0-0:17.0.0.255", 4, 3)) == cosem.ReadRequest(
        71, "0-0:17.0.0.255", 4, 3
    )
    value = dlms_data.DoubleLongUnsignedData(12000)
    assert cosem.decode_apdu(cosem.encode_read_answer(3, value)) == cosem.ReadAnswer(3, 0, 12000)
    refused = cosem.encode_read_answer(3, cosem.AccessResult.OBJECT_UNDEFINED)
    assert cosem.decode_apdu(refused) == cosem.ReadAnswer(3, 4, None)
    written = cosem.encode_write_answer(5, cosem.AccessResult.SUCCESS)
    assert cosem.decode_apdu(written) == cosem.WriteAnswer(5, 0)


def test_a_published_get_request_decodes() -> None:
    """The GET of the captured 4-32 exchange (association object, attribute 2) is understood."""
    assert cosem.decode_apdu(bytes.fromhex("c001c100070000150005ff0200")) == cosem.ReadRequest(
        7, "0-0:21.0.5.255", 2, 1
    )


def test_what_cannot_be_said_is_the_senders_error() -> None:
    """NaN, infinities and numbers that do not fit never become bytes."""
    for limit_w in (float("nan"), float("inf"), -1.0, 1e9):
        with pytest.raises((ValueError, OverflowError)):
            cosem.encode_down(NominalLimit(DecisionId(Epoch(1), 1), limit_w), 0)


def test_a_code_of_a_newer_version_keeps_its_number_and_the_message_its_meaning() -> None:
    """One byte of a denial and of a report is changed to codes nobody here knows: everything else still arrives, the
    code is called by its number, and is none of those that are known."""
    apdu = cosem.encode_down(Denial(DecisionId(Epoch(7), 3), RequestId(9), Reason.SHARED, MeterId("m1"), 2.5), 1)
    newer = cosem.decode_apdu(apdu.replace(bytes((22, Reason.SHARED)), bytes((22, 200))))
    assert isinstance(newer, cosem.Written)
    assert isinstance(newer.message, Denial)
    assert (newer.message.decision.seq, newer.message.binding, newer.message.value) == (3, "m1", 2.5)
    assert (newer.message.reason.name, int(newer.message.reason)) == ("UNKNOWN_200", 200)
    assert newer.message.reason == Reason(200)
    assert newer.message.reason not in list(Reason)
    with pytest.raises(ValueError, match="256"):
        Reason(256)
    assert Alarm(4096 | 2).names == ["METER_SILENT", "UNKNOWN_4096"]


def test_a_revoke_of_an_older_dcu_takes_back_the_whole() -> None:
    """It has no field for what is left: nothing is left, and the meter must not be deaf to it."""
    whole = Revoke(DecisionId(Epoch(7), 3), Reason.OVERVOLTAGE, MeterId("m1"), 258.0, 1800.0)
    apdu = cosem.encode_down(whole, 1)
    older = apdu[:-3].replace(bytes((2, 6, 17)), bytes((2, 5, 17)), 1)
    assert cosem.decode_apdu(older) == cosem.Written(replace(whole, limit_w=0.0), 1, True)
