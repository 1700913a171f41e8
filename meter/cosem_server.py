"""The meter as a COSEM server: what any DLMS client can read.

Values are those of the newest valid reading; a value nobody can vouch for is answered "temporary failure", never zero.
Association and access rights come with the protection layer; until then everything listed here is public and read-only.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from dlms_cosem import dlms_data

from meter.core import MeterCore
from shared.cosem import OBIS_GRANT, OBIS_NOMINAL_LIMIT, AccessResult, CosemValue, ReadRequest, encode_read_answer
from shared.ids import Phase
from shared.messages import Reading, RelayState

CLASS_DATA: Final = 1
CLASS_REGISTER: Final = 3
CLASS_CLOCK: Final = 8
CLASS_DISCONNECT: Final = 70
CLASS_LIMITER: Final = 71

UNIT: Final = {"W": 27, "VA": 28, "var": 29, "Wh": 30, "A": 33, "V": 35, "Hz": 44}
"""Codes of the COSEM unit enumeration."""

EXPORT_POWER: Final = "1-0:2.7.0.255"
NOMINAL_THRESHOLD_S: Final = 0

Value = Callable[[Reading], float | None]


def _phase_value(values: Callable[[Reading], tuple[float | None, ...]], phase: Phase) -> Value:
    return lambda reading: values(reading)[phase]


def _total(sign: int) -> Value:
    """Active power drawn (+1) or delivered (-1), summed over the phases, never negative."""

    def total(reading: Reading) -> float | None:
        known = [value for value in reading.p_w if value is not None]
        return max(0.0, sign * sum(known)) if known else None

    return total


def _sum(reading: Reading) -> float | None:
    known = [value for value in reading.p_w if value is not None]
    return sum(known) if known else None


def _registers() -> dict[str, tuple[Value, int, str]]:
    """OBIS code: value, scaler (power of ten), unit."""
    table: dict[str, tuple[Value, int, str]] = {
        "1-0:1.7.0.255": (_total(1), -1, "W"),
        EXPORT_POWER: (_total(-1), -1, "W"),
        "1-0:16.7.0.255": (_sum, -1, "W"),
        "1-0:14.7.0.255": (lambda reading: reading.frequency_hz, -2, "Hz"),
        "1-0:1.8.0.255": (lambda reading: float(reading.import_energy_wh), 0, "Wh"),
        "1-0:2.8.0.255": (lambda reading: float(reading.export_energy_wh), 0, "Wh"),
    }
    for phase in Phase:
        first = 20 * (phase + 1)
        table[f"1-0:{first + 12}.7.0.255"] = (_phase_value(lambda reading: reading.u_v, phase), -1, "V")
        table[f"1-0:{first + 11}.7.0.255"] = (_phase_value(lambda reading: reading.i_a, phase), -3, "A")
        table[f"1-0:{first + 16}.7.0.255"] = (_phase_value(lambda reading: reading.p_w, phase), -1, "W")
        table[f"1-0:{first + 131}.7.0.255"] = (_phase_value(lambda reading: reading.q_var, phase), -1, "var")
    return table


REGISTERS: Final = _registers()
"""Registers by OBIS code. Reactive power per phase (C = 151, 171, 191) is signed and of the manufacturer's range."""


class CosemServer:
    """Answers GETs from the core's state. Pure but for the labels of the clock, which it is handed."""

    def __init__(self, core: MeterCore, name: str, utc_s: Callable[[], float]) -> None:
        self._core = core
        self._name = name
        self._utc_s = utc_s

    def answer(self, request: ReadRequest, now: float) -> bytes:
        """The answer APDU to a GET."""
        return encode_read_answer(request.invoke_id, self._value(request, now))

    def _value(self, request: ReadRequest, now: float) -> CosemValue | AccessResult:
        attributes = self._object(request.class_id, request.obis, now)
        if attributes is None:
            return AccessResult.OBJECT_UNDEFINED
        if request.attribute == 1:
            return dlms_data.OctetStringData(_logical_name(request.obis))
        value = attributes.get(request.attribute)
        if value is None:
            known = request.attribute in attributes
            return AccessResult.TEMPORARY_FAILURE if known else AccessResult.READ_WRITE_DENIED
        return value

    def _object(self, class_id: int, obis: str, now: float) -> dict[int, CosemValue | None] | None:
        """Attributes of an object, None for a value that is not known now; None if there is no such object."""
        limiter = self._core.limiter
        match class_id, obis:
            case (3, _) if obis in REGISTERS:
                return self._register(obis)
            case (71, "0-0:17.0.0.255"):
                return self._limiter(now)
            case (70, "0-0:96.3.10.255"):
                raised = self._core.relay is RelayState.RAISED
                unknown = self._core.relay is RelayState.UNKNOWN
                output = None if unknown else _Boolean(raised)
                return {2: output, 3: None if unknown else dlms_data.EnumData(int(raised)), 4: dlms_data.EnumData(4)}
            case (8, "0-0:1.0.0.255"):
                return {2: dlms_data.OctetStringData(_cosem_time(self._utc_s())), 3: dlms_data.LongData(0)}
            case (1, "0-0:42.0.0.255"):
                return {2: dlms_data.OctetStringData(self._name.encode())}
            case (1, code) if code == OBIS_GRANT:
                return {2: _tenths(limiter.limit_w if limiter.raised else 0.0)}
            case (1, code) if code == OBIS_NOMINAL_LIMIT:
                return {2: _tenths(limiter.nominal_limit_w)}
        return None

    def _register(self, obis: str) -> dict[int, CosemValue | None]:
        value, scaler, unit = REGISTERS[obis]
        reading = self._core.reading
        measured = None if reading is None else value(reading)
        scaled = None if measured is None else dlms_data.Long64Data(round(measured * 10.0**-scaler))
        scale = dlms_data.DataStructure([dlms_data.IntegerData(scaler), dlms_data.EnumData(UNIT[unit])])
        return {2: scaled, 3: scale}

    def _limiter(self, now: float) -> dict[int, CosemValue | None]:
        """Class 71 on the export power: normal threshold is the nominal limit, the emergency profile the live grant."""
        limiter = self._core.limiter
        monitored = dlms_data.DataStructure(
            [
                dlms_data.UnsignedLongData(CLASS_REGISTER),
                dlms_data.OctetStringData(_logical_name(EXPORT_POWER)),
                dlms_data.IntegerData(2),
            ]
        )
        duration_s = round(limiter.lease_left_s(now))
        profile = dlms_data.DataStructure(
            [
                dlms_data.UnsignedLongData(1),
                dlms_data.OctetStringData(_cosem_time(self._utc_s())),
                dlms_data.DoubleLongUnsignedData(duration_s),
            ]
        )
        return {
            2: monitored,
            3: _tenths(limiter.limit_w),
            4: _tenths(limiter.nominal_limit_w),
            5: _tenths(limiter.limit_w),
            6: dlms_data.DoubleLongUnsignedData(NOMINAL_THRESHOLD_S),
            7: dlms_data.DoubleLongUnsignedData(NOMINAL_THRESHOLD_S),
            8: profile,
            9: dlms_data.DataArray([dlms_data.UnsignedLongData(1)]),
            10: _Boolean(limiter.raised),
        }


class _Boolean(dlms_data.BooleanData):
    """A boolean; the library decodes it and cannot encode it."""

    def value_to_bytes(self) -> bytes:
        return bytes((bool(self.value),))


def _tenths(value_w: float) -> CosemValue:
    return dlms_data.DoubleLongUnsignedData(round(10 * value_w))


def _logical_name(obis: str) -> bytes:
    return bytes(int(part) for part in obis.replace("-", ".").replace(":", ".").split("."))


def _cosem_time(utc_s: float) -> bytes:
    """COSEM date-time in UTC: year, month, day, weekday, time, hundredths, deviation 0, status 0."""
    at = datetime.fromtimestamp(utc_s, UTC)
    date = at.year.to_bytes(2, "big") + bytes((at.month, at.day, at.isoweekday()))
    return date + bytes((at.hour, at.minute, at.second, at.microsecond // 10_000)) + b"\x00\x00\x00"
