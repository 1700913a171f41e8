"""COSEM form of every message: the only file that knows their bytes.

What a meter says travels as a *DataNotification* push, what a DCU says as a *SET* on a manufacturer object of the
meter, and whatever else a DLMS client wants it may *GET*. The APDUs are the library's (`dlms_cosem`); the layouts are
ours.

Manufacturer objects (value group C = 128 is in the manufacturer range of the Blue Book's OBIS table):

==================  ==================  =========  =================================================
OBIS                object              service    structure of the value
==================  ==================  =========  =================================================
0-0:128.0.0.255     report              push       see ``_report_fields``
0-0:128.1.0.255     request             push       request id, nonce, epoch, limit, minimum limit
0-0:128.2.0.255     release             push       request id, epoch, applied decision
0-0:128.3.0.255     export grant        SET, GET   epoch, seq, request id, nonce, limit, lease
0-0:128.4.0.255     denial              SET        epoch, seq, request id, reason, binding meter, value
0-0:128.5.0.255     revoke              SET        epoch, seq, reason, binding meter, value, limit that is left
0-0:128.6.0.255     nominal limit       SET, GET   epoch, seq, limit
0-0:128.7.0.255     acknowledgement     SET        epoch, report number, count (unconfirmed service)
0-0:128.8.0.255     session             push, SET  challenge, echo, known (unconfirmed service)
==================  ==================  =========  =================================================

All are class 1 (Data), attribute 2. Scaling: voltage 0.1 V, current 1 mA, power 0.1 W and 0.1 var, frequency 0.01 Hz,
limits 0.1 W, durations 10 ms, energy 1 Wh, binding values 0.01; *null-data* stands for "unknown". A number travels in
the smallest type that holds it, which saves a fifth of a report's airtime. A value that does not fit at all is an error
of the sender (ValueError).

What secures them is no message of a limit and stands in `shared.cosem_security`: the session's introduction
(0-0:128.8.0.255), the transport of keys, and the clock. On the wire all of it travels inside `shared.protection`'s
envelopes; these are the bytes within.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from dlms_cosem import cosem, dlms_data, enumerations
from dlms_cosem.protocol.xdlms.data_notification import DataNotification, LongInvokeIdAndPriority
from dlms_cosem.protocol.xdlms.get import GetRequestNormal
from dlms_cosem.protocol.xdlms.invoke_id_and_priority import InvokeIdAndPriority
from dlms_cosem.protocol.xdlms.set import SetRequestNormal, SetResponseNormal

from shared.axdr import (
    CosemValue,
    enum,
    expect_length,
    i32,
    null,
    obis_bytes,
    obis_text,
    parse,
    parse_structure,
    scaled,
    to_obis,
    u16,
    u32,
    u64,
    unscaled,
)
from shared.cosem_security import (
    OBIS_CLOCK,
    OBIS_SESSION,
    ActionAnswered,
    ClockWritten,
    Introduced,
    KeysSent,
    decode_action,
    decode_action_answer,
    decode_clock,
    decode_introduction,
    encode_introduction,
)
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
    PerPhase,
    Reading,
    Reason,
    RelayState,
    Release,
    Report,
    Request,
    Revoke,
    Upward,
)

CLIENT_SAP: Final = 1
"""Link SAP of the DCU's management client."""

SERVER_SAP: Final = 1
"""Link SAP of the meter's management logical device."""

APDU_BYTES_MAX: Final = 1021
"""Longest APDU that fits one 4-32 LPDU."""

AccessResult = enumerations.DataAccessResult
OBIS_REPORT: Final = "0-0:128.0.0.255"
OBIS_REQUEST: Final = "0-0:128.1.0.255"
OBIS_RELEASE: Final = "0-0:128.2.0.255"
OBIS_GRANT: Final = "0-0:128.3.0.255"
OBIS_DENIAL: Final = "0-0:128.4.0.255"
OBIS_REVOKE: Final = "0-0:128.5.0.255"
OBIS_NOMINAL_LIMIT: Final = "0-0:128.6.0.255"
OBIS_ACKNOWLEDGEMENT: Final = "0-0:128.7.0.255"

CLASS_DATA: Final = 1
VALUE_ATTRIBUTE: Final = 2


@dataclass(frozen=True, slots=True)
class Pushed:
    """A meter's DataNotification."""

    message: Upward


@dataclass(frozen=True, slots=True)
class Written:
    """A DCU's SET on one of the manufacturer objects."""

    message: Downward
    invoke_id: int
    confirmed: bool


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A GET of one attribute."""

    class_id: int
    obis: str
    attribute: int
    invoke_id: int


@dataclass(frozen=True, slots=True)
class WriteAnswer:
    """The answer to a confirmed SET; ``result`` 0 is success."""

    invoke_id: int
    result: int


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """The answer to a GET: a value in Python's types, or ``value`` None with ``result`` not 0."""

    invoke_id: int
    result: int
    value: object


Apdu = Pushed | Written | ReadRequest | WriteAnswer | ReadAnswer | Introduced | KeysSent | ActionAnswered | ClockWritten


# ---- APDUs -----------------------------------------------------------------------------------------------------------


def encode_up(message: Upward, invoke_id: int) -> bytes:
    """The push APDU of a meter's message; ``invoke_id`` counts modulo 2**24."""
    obis, fields = _encode_upward(message)
    body = dlms_data.DataStructure([dlms_data.OctetStringData(obis_bytes(obis)), *fields]).to_bytes()
    return DataNotification(LongInvokeIdAndPriority(invoke_id & 0xFFFFFF), None, body).to_bytes()


def encode_down(message: Downward, invoke_id: int) -> bytes:
    """The SET APDU of a DCU's message; ``invoke_id`` counts modulo 16."""
    obis, fields = _encode_downward(message)
    return _set_apdu(obis, fields, invoke_id, confirmed=not isinstance(message, Acknowledgement))


def _set_apdu(obis: str, fields: list[CosemValue], invoke_id: int, *, confirmed: bool) -> bytes:
    data: bytes = SetRequestNormal(
        cosem_attribute=cosem.CosemAttribute(enumerations.CosemInterface.DATA, to_obis(obis), VALUE_ATTRIBUTE),
        data=dlms_data.DataStructure(fields).to_bytes(),
        invoke_id_and_priority=InvokeIdAndPriority(invoke_id & 0xF, confirmed=confirmed),
    ).to_bytes()
    return data


def encode_write_answer(invoke_id: int, result: enumerations.DataAccessResult) -> bytes:
    """The answer to a confirmed SET."""
    return SetResponseNormal(result, InvokeIdAndPriority(invoke_id & 0xF)).to_bytes()


def encode_read_request(class_id: int, obis: str, attribute: int, invoke_id: int) -> bytes:
    """A GET of one attribute.

    Raises:
        DecodeError: the class or the OBIS code does not exist.
    """
    try:
        descriptor = cosem.CosemAttribute(enumerations.CosemInterface(class_id), to_obis(obis), attribute)
    except ValueError as error:
        raise DecodeError(f"COSEM attribute: seen class {class_id} {obis!r}, expected a known class") from error
    return _apdu_bytes(GetRequestNormal(descriptor, InvokeIdAndPriority(invoke_id & 0xF)))


def encode_read_answer(invoke_id: int, value: CosemValue | enumerations.DataAccessResult) -> bytes:
    """The answer to a GET: a value, or why there is none.

    Written out here because the library's own encoder of this APDU fails (it appends bytes as an integer).
    """
    header = bytes((0xC4, 0x01)) + InvokeIdAndPriority(invoke_id & 0xF).to_bytes()
    if isinstance(value, enumerations.DataAccessResult):
        return header + bytes((1, value))
    data: bytes = value.to_bytes()
    return header + b"\x00" + data


@lru_cache(maxsize=256)
def decode_apdu(data: bytes) -> Apdu:
    """What these bytes say; the newest answers are remembered, for repetitions and for bystanders.

    Raises:
        DecodeError: they are no APDU of ours; nothing else is ever raised.
    """
    if not data or len(data) > APDU_BYTES_MAX:
        raise DecodeError(f"APDU: seen {len(data)} bytes, expected 1 to {APDU_BYTES_MAX}")
    decoder = _DECODERS.get(data[0])
    if decoder is None:
        raise DecodeError(
            f"APDU: seen tag {data[0]:#04x}, expected one of {', '.join(f'{tag:#04x}' for tag in _DECODERS)}"
        )
    try:
        return decoder(data)
    except (ValueError, KeyError, IndexError, TypeError, AssertionError, NotImplementedError, OverflowError) as error:
        raise DecodeError(f"APDU with tag {data[0]:#04x}: {error}") from error


def _apdu_bytes(apdu: Any) -> bytes:
    data: bytes = apdu.to_bytes()
    return data


def _decode_push(data: bytes) -> Pushed | Introduced:
    notification = DataNotification.from_bytes(data)
    name, *fields = parse_structure(notification.body)
    if not isinstance(name, bytes | bytearray) or len(name) != 6:
        raise DecodeError(f"push: seen {name!r} as first element, expected a logical name of six bytes")
    obis = obis_text(bytes(name))
    if obis == OBIS_SESSION:
        return _canonical(decode_introduction(fields), data)
    message = _decode_upward(obis, fields)
    if encode_up(message, notification.long_invoke_id_and_priority.long_invoke_id) != data:
        raise DecodeError("push: seen another encoding of the same values, expected ours")
    return Pushed(message)


def _canonical(introduced: Introduced, data: bytes) -> Introduced:
    if encode_introduction(introduced.hello, down=data[0] == 0xC1) != data:
        raise DecodeError("introduction: seen another encoding of the same values, expected ours")
    return introduced


def _decode_set(data: bytes) -> Written | Introduced | ClockWritten:
    request = SetRequestNormal.from_bytes(data)
    invoke = request.invoke_id_and_priority
    attribute = request.cosem_attribute
    if attribute.instance.to_string() == OBIS_CLOCK:
        return decode_clock(request)
    if (int(attribute.interface), attribute.attribute) != (CLASS_DATA, VALUE_ATTRIBUTE):
        raise DecodeError(
            f"SET: seen class {int(attribute.interface)} attribute {attribute.attribute}, expected 1 and 2"
        )
    obis, values = attribute.instance.to_string(), parse_structure(request.data)
    if obis == OBIS_SESSION:
        return _canonical(decode_introduction(values), data)
    message = _decode_downward(obis, values)
    obis, fields = _encode_downward(message)
    confirmed = not isinstance(message, Acknowledgement)
    # Of an older DCU's revoke the last field is missing; it is compared as far as it goes.
    if _set_apdu(obis, fields[: len(values)], invoke.invoke_id, confirmed=confirmed) != data:
        raise DecodeError("SET: seen another encoding of the same values, expected ours")
    return Written(message, invoke.invoke_id, invoke.confirmed)


def _decode_set_answer(data: bytes) -> WriteAnswer:
    expect_length(data, 4, "SET answer")
    answer = SetResponseNormal.from_bytes(data)
    return WriteAnswer(answer.invoke_id_and_priority.invoke_id, int(answer.result))


def _decode_get(data: bytes) -> ReadRequest:
    expect_length(data, 13, "GET without selective access")
    request = GetRequestNormal.from_bytes(data)
    attribute = request.cosem_attribute
    return ReadRequest(
        int(attribute.interface),
        attribute.instance.to_string(),
        attribute.attribute,
        request.invoke_id_and_priority.invoke_id,
    )


def _decode_get_answer(data: bytes) -> ReadAnswer:
    if len(data) < 5 or data[1] != 1 or data[3] > 1:
        raise DecodeError(f"GET answer: seen {data[:4].hex(' ')}, expected a normal answer with data or a result")
    invoke_id = data[2] & 0xF
    if data[3] == 1:
        expect_length(data, 5, "GET answer with a result")
        return ReadAnswer(invoke_id, int(AccessResult(data[4])), None)
    return ReadAnswer(invoke_id, 0, parse(data[4:]))


_DECODERS: Final[dict[int, Callable[[bytes], Apdu]]] = {
    0x0F: _decode_push,
    0xC0: _decode_get,
    0xC1: _decode_set,
    0xC3: decode_action,
    0xC4: _decode_get_answer,
    0xC5: _decode_set_answer,
    0xC7: decode_action_answer,
}


# ---- the messages' fields --------------------------------------------------------------------------------------------


def _encode_upward(message: Upward) -> tuple[str, list[CosemValue]]:
    match message:
        case Report():
            return OBIS_REPORT, _report_fields(message)
        case Request():
            return OBIS_REQUEST, [
                u32(message.request_id),
                u64(message.nonce),
                u32(message.epoch),
                u32(scaled(message.limit_w, 10)),
                u32(scaled(message.minimum_limit_w, 10)),
            ]
        case Release():
            return OBIS_RELEASE, [u32(message.request_id), u32(message.epoch), *_decision_or_null(message.applied)]


def _decode_upward(obis: str, fields: list[Any]) -> Upward:
    if obis == OBIS_REPORT:
        return _decode_report(fields)
    if obis == OBIS_REQUEST:
        request_id, nonce, epoch, limit, minimum = fields
        return Request(RequestId(request_id), Nonce(nonce), Epoch(epoch), limit / 10, minimum / 10)
    if obis == OBIS_RELEASE:
        request_id, epoch, applied_epoch, applied_seq = fields
        return Release(RequestId(request_id), Epoch(epoch), _to_decision(applied_epoch, applied_seq))
    raise DecodeError(f"push: seen object {obis}, expected report, request or release")


def _encode_downward(message: Downward) -> tuple[str, list[CosemValue]]:
    match message:
        case Grant():
            return OBIS_GRANT, [
                *_decision(message.decision),
                u32(message.request_id),
                u64(message.nonce),
                u32(scaled(message.limit_w, 10)),
                u32(scaled(message.lease_s, 100)),
            ]
        case Denial():
            binding = _binding(message.reason, message.binding, message.value)
            return OBIS_DENIAL, [*_decision(message.decision), u32(message.request_id), *binding]
        case Revoke():
            return OBIS_REVOKE, [
                *_decision(message.decision),
                *_binding(message.reason, message.binding, message.value),
                u32(scaled(message.limit_w, 10)),
            ]
        case NominalLimit():
            return OBIS_NOMINAL_LIMIT, [*_decision(message.decision), u32(scaled(message.limit_w, 10))]
        case Acknowledgement():
            return OBIS_ACKNOWLEDGEMENT, [u32(message.epoch), u32(message.seq), u16(message.count)]


def _decode_downward(obis: str, fields: list[Any]) -> Downward:
    if obis == OBIS_ACKNOWLEDGEMENT:
        epoch, seq, count = fields
        return Acknowledgement(Epoch(epoch), seq, count)
    epoch, seq, *rest = fields
    decision = DecisionId(Epoch(epoch), seq)
    if obis == OBIS_GRANT:
        request_id, nonce, limit, lease = rest
        return Grant(decision, RequestId(request_id), Nonce(nonce), limit / 10, lease / 100)
    if obis == OBIS_DENIAL:
        request_id, reason, binding, value = rest
        return Denial(decision, RequestId(request_id), Reason(reason), _to_meter(binding), unscaled(value, 100))
    if obis == OBIS_REVOKE:
        reason, binding, value, limit = rest if len(rest) == 4 else [*rest, 0]  # an older DCU revokes the whole
        return Revoke(decision, Reason(reason), _to_meter(binding), unscaled(value, 100), limit / 10)
    if obis == OBIS_NOMINAL_LIMIT:
        (limit,) = rest
        return NominalLimit(decision, limit / 10)
    raise DecodeError(f"SET: seen object {obis}, expected grant, denial, revoke, nominal limit or acknowledgement")


def _report_fields(report: Report) -> list[CosemValue]:
    return [
        u32(report.boot_id),
        u32(report.seq),
        null() if report.nonce is None else u64(report.nonce),
        u32(report.epoch),
        u32(scaled(report.reading_age_s, 100)),
        u32(scaled(report.limit_w, 10)),
        enum(report.source),
        enum(report.relay),
        u32(scaled(report.lease_left_s, 100)),
        *_decision_or_null(report.applied),
        u16(report.alarms),
        null() if report.reading is None else dlms_data.DataStructure(_reading_fields(report.reading)),
    ]


def _reading_fields(reading: Reading) -> list[CosemValue]:
    fields: list[CosemValue] = []
    for u, i, p, q in zip(reading.u_v, reading.i_a, reading.p_w, reading.q_var, strict=True):
        fields.append(null() if u is None else u16(scaled(u, 10)))
        fields.extend(
            null() if value is None else i32(scaled(value, scale)) for value, scale in ((i, 1000), (p, 10), (q, 10))
        )
    frequency = reading.frequency_hz
    fields.append(null() if frequency is None else u16(scaled(frequency, 100)))
    fields.append(u64(reading.import_energy_wh))
    fields.append(u64(reading.export_energy_wh))
    return fields


def _decode_report(fields: list[Any]) -> Report:
    boot_id, seq, nonce, epoch, age, limit, source, relay, lease_left, applied_epoch, applied_seq, alarms, body = fields
    return Report(
        boot_id=boot_id,
        seq=seq,
        nonce=None if nonce is None else Nonce(nonce),
        epoch=Epoch(epoch),
        reading=None if body is None else _decode_reading(body),
        reading_age_s=age / 100,
        limit_w=limit / 10,
        source=LimitSource(source),
        relay=RelayState(relay),
        lease_left_s=lease_left / 100,
        applied=_to_decision(applied_epoch, applied_seq),
        alarms=Alarm(alarms),
    )


def _decode_reading(fields: list[Any]) -> Reading:
    if len(fields) != 15:
        raise DecodeError(f"reading: seen {len(fields)} fields, expected 15")
    *phases, frequency, import_wh, export_wh = fields
    return Reading(
        u_v=_per_phase(phases[0::4], 10),
        i_a=_per_phase(phases[1::4], 1000),
        p_w=_per_phase(phases[2::4], 10),
        q_var=_per_phase(phases[3::4], 10),
        frequency_hz=unscaled(frequency, 100),
        import_energy_wh=import_wh,
        export_energy_wh=export_wh,
    )


def _per_phase(raw: list[int | None], scale: int) -> PerPhase:
    l1, l2, l3 = raw
    return unscaled(l1, scale), unscaled(l2, scale), unscaled(l3, scale)


def _decision(decision: DecisionId) -> list[CosemValue]:
    return [u32(decision.epoch), u32(decision.seq)]


def _decision_or_null(decision: DecisionId | None) -> list[CosemValue]:
    return [null(), null()] if decision is None else _decision(decision)


def _to_decision(epoch: int | None, seq: int | None) -> DecisionId | None:
    if epoch is None or seq is None:
        return None
    return DecisionId(Epoch(epoch), seq)


def _binding(reason: Reason, binding: MeterId | None, value: float | None) -> list[CosemValue]:
    return [
        enum(reason),
        null() if binding is None else dlms_data.VisibleStringData(binding),
        null() if value is None else i32(scaled(value, 100)),
    ]


def _to_meter(text: object) -> MeterId | None:
    if not isinstance(text, str | None):
        raise DecodeError(f"meter: seen {text!r}, expected a name or null")
    return None if text is None else MeterId(text)
