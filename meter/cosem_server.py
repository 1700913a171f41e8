"""The meter as a COSEM server: what any DLMS client can read. Pure but for the clock's label, which it is handed.

Values are those of the newest valid reading; a value nobody can vouch for is answered "temporary failure", never zero.
Everything is read-only by GET. Who may read what, and the objects that speak of associations themselves, stand in
`meter.association`; the DCU, in its own session, may read everything here.

Class and attribute numbers, units and the layout of date-time are those of the COSEM interface classes (Blue Book),
recalled where the library does not carry them, and not checked against the specification.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dlms_cosem import dlms_data

from meter.core import MeterCore
from shared.axdr import Boolean, CosemValue, null, obis_bytes, octets, structure
from shared.cosem import OBIS_GRANT, OBIS_NOMINAL_LIMIT, AccessResult, ReadRequest, encode_read_answer
from shared.cosem_security import CLASS_CLOCK, CLOCK_STATUS_UNKNOWN, OBIS_CLOCK, date_time
from shared.ids import Phase
from shared.messages import PerPhase, Reading, RelayState

CLASS_DATA: Final = 1
CLASS_REGISTER: Final = 3
CLASS_DISCONNECT: Final = 70
CLASS_LIMITER: Final = 71

UNIT: Final = {"W": 27, "var": 29, "Wh": 30, "A": 33, "V": 35, "Hz": 44}
"""Codes of the COSEM unit enumeration."""

OBIS_LIMITER: Final = "0-0:17.0.0.255"
OBIS_DEVICE_NAME: Final = "0-0:42.0.0.255"
OBIS_DISCONNECT: Final = "0-0:96.3.10.255"
OBIS_SCRIPTS: Final = "0-0:10.0.1.255"
OBIS_EXPORT: Final = "1-0:2.7.0.255"

EMERGENCY_PROFILE: Final = 1
"""Number of the one emergency profile there is: the live grant."""

CONTROL_MODE: Final = 0
"""Disconnect control mode "none": the relay follows the limiter; nobody switches it by this object."""

TIME_UNKNOWN: Final = b"\xff" * 12
"""A date-time with every field "not specified"."""

Value = Callable[[Reading], float | None]
Attributes = dict[int, CosemValue | None]
"""Attributes of an object by number; None for a value that is not known now."""


def _of(values: Callable[[Reading], PerPhase], phase: Phase, sign: int = 0) -> Value:
    """One phase's value; with a sign only its magnitude in that direction."""

    def value(reading: Reading) -> float | None:
        measured = values(reading)[phase]
        return measured if measured is None or sign == 0 else max(0.0, sign * measured)

    return value


def _sum(values: Callable[[Reading], PerPhase], sign: int = 0) -> Value:
    """The phases' sum; with a sign only its magnitude in that direction."""

    def value(reading: Reading) -> float | None:
        known = [measured for measured in values(reading) if measured is not None]
        if not known:
            return None
        return max(0.0, sign * sum(known)) if sign else sum(known)

    return value


def _u(reading: Reading) -> PerPhase:
    return reading.u_v


def _i(reading: Reading) -> PerPhase:
    return reading.i_a


def _p(reading: Reading) -> PerPhase:
    return reading.p_w


def _q(reading: Reading) -> PerPhase:
    return reading.q_var


def _registers() -> dict[str, tuple[Value, int, str]]:
    table: dict[str, tuple[Value, int, str]] = {
        "1-0:1.7.0.255": (_sum(_p, 1), -1, "W"),
        OBIS_EXPORT: (_sum(_p, -1), -1, "W"),
        "1-0:3.7.0.255": (_sum(_q, 1), -1, "var"),
        "1-0:4.7.0.255": (_sum(_q, -1), -1, "var"),
        "1-0:16.7.0.255": (_sum(_p), -1, "W"),
        "1-0:14.7.0.255": (lambda reading: reading.frequency_hz, -2, "Hz"),
        "1-0:1.8.0.255": (lambda reading: float(reading.import_energy_wh), 0, "Wh"),
        "1-0:2.8.0.255": (lambda reading: float(reading.export_energy_wh), 0, "Wh"),
    }
    for phase in Phase:
        first = 20 * (phase + 1)
        for group, value, scaler, unit in (
            (3, _of(_q, phase, 1), -1, "var"),
            (4, _of(_q, phase, -1), -1, "var"),
            (11, _of(_i, phase), -3, "A"),
            (12, _of(_u, phase), -1, "V"),
            (16, _of(_p, phase), -1, "W"),
        ):
            table[f"1-0:{first + group}.7.0.255"] = (value, scaler, unit)
    return table


REGISTERS: Final = _registers()
"""Registers (class 3) by OBIS code: value, scaler (power of ten), unit. Value groups C of a phase are those of the sum
plus 20, 40, 60; 16 is active power with its sign (import positive)."""


class CosemServer:
    """Answers GETs from the core's state."""

    def __init__(self, core: MeterCore, name: str, utc_s: Callable[[], float]) -> None:
        """A server.

        Args:
            core: whose state is shown.
            name: logical device name, at most 16 characters, the first three the manufacturer's.
            utc_s: the clock's label [s].
        """
        assert 3 < len(name) <= 16, name
        self._core = core
        self._name = name
        self._utc_s = utc_s
        self._objects: dict[str, tuple[int, Callable[[float], Attributes]]] = {
            OBIS_CLOCK: (CLASS_CLOCK, self._clock),
            OBIS_LIMITER: (CLASS_LIMITER, self._limiter),
            OBIS_DEVICE_NAME: (CLASS_DATA, self._device_name),
            OBIS_DISCONNECT: (CLASS_DISCONNECT, self._disconnect),
            OBIS_GRANT: (CLASS_DATA, self._grant),
            OBIS_NOMINAL_LIMIT: (CLASS_DATA, self._nominal_limit),
        }

    def answer(self, request: ReadRequest, now: float) -> bytes:
        """The answer APDU to a GET."""
        return encode_read_answer(request.invoke_id, self.read(request.class_id, request.obis, request.attribute, now))

    def read(self, class_id: int, obis: str, attribute: int, now: float) -> CosemValue | AccessResult:
        """The value of one attribute, or why there is none."""
        if obis in REGISTERS:
            owner, attributes = CLASS_REGISTER, self._register(obis)
        elif obis in self._objects:
            owner, show = self._objects[obis]
            attributes = show(now)
        else:
            return AccessResult.OBJECT_UNDEFINED
        if class_id != owner:
            return AccessResult.OBJECT_CLASS_INCONSISTENT
        if attribute == 1:
            return octets(obis_bytes(obis))
        if attribute not in attributes:
            return AccessResult.READ_WRITE_DENIED
        value = attributes[attribute]
        return AccessResult.TEMPORARY_FAILURE if value is None else value

    def listed(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Every object's class and attributes by OBIS code."""
        found = dict.fromkeys(REGISTERS, (CLASS_REGISTER, (1, 2, 3)))
        return found | {obis: (owner, (1, *show(0.0))) for obis, (owner, show) in self._objects.items()}

    # ---- the objects -------------------------------------------------------------------------------------------------

    def _register(self, obis: str) -> Attributes:
        value, scaler, unit = REGISTERS[obis]
        reading = self._core.rules.reading
        measured = None if reading is None else value(reading)
        scaled = None if measured is None else dlms_data.Long64Data(round(measured * 10**-scaler))
        return {2: scaled, 3: structure(dlms_data.IntegerData(scaler), dlms_data.EnumData(UNIT[unit]))}

    def _clock(self, _now: float) -> Attributes:
        """Class 8 in UTC, without daylight saving; nobody vouches for it, and its base is not defined."""
        return {
            2: octets(date_time(self._utc_s())),
            3: dlms_data.LongData(0),
            4: dlms_data.UnsignedIntegerData(CLOCK_STATUS_UNKNOWN),
            5: octets(TIME_UNKNOWN),
            6: octets(TIME_UNKNOWN),
            7: dlms_data.IntegerData(0),
            8: Boolean(False),
            9: dlms_data.EnumData(0),
        }

    def _device_name(self, _now: float) -> Attributes:
        return {2: octets(self._name.encode("ascii"))}

    def _disconnect(self, _now: float) -> Attributes:
        """Class 70: output state and control state as the auxiliary contact says, connected meaning raised."""
        relay = self._core.rules.relay
        if relay is RelayState.UNKNOWN:
            return {2: None, 3: None, 4: dlms_data.EnumData(CONTROL_MODE)}
        raised = relay is RelayState.RAISED
        return {2: Boolean(raised), 3: dlms_data.EnumData(int(raised)), 4: dlms_data.EnumData(CONTROL_MODE)}

    def _limiter(self, now: float) -> Attributes:
        """Class 71 on the export power: normal threshold is the nominal limit, the emergency profile the live grant."""
        limiter = self._core.limiter
        monitored = (_u16(CLASS_REGISTER), octets(obis_bytes(OBIS_EXPORT)))
        starts = date_time(self._utc_s()) if limiter.live else TIME_UNKNOWN
        profile = (
            _u16(EMERGENCY_PROFILE if limiter.live else 0),
            octets(starts),
            _u32(round(limiter.lease_left_s(now))),
        )
        in_force_w = self._core.limit(now).limit_w
        action = structure(octets(obis_bytes(OBIS_SCRIPTS)), _u16(0))
        return {
            2: structure(*monitored, dlms_data.IntegerData(2)),
            3: _watts(in_force_w),
            4: _watts(limiter.nominal_limit_w),
            5: _watts(in_force_w),
            6: _u32(0),
            7: _u32(0),
            8: structure(*profile),
            9: dlms_data.DataArray([_u16(EMERGENCY_PROFILE)]),
            10: Boolean(limiter.live),
            11: structure(action, action),
        }

    def _grant(self, now: float) -> Attributes:
        """The export grant as it was written, with the rest of its lease; null-data without one."""
        limiter = self._core.limiter
        decision, request_id = limiter.decision, limiter.request_id
        if decision is None or request_id is None:
            return {2: null()}
        lease = _u32(round(100 * limiter.lease_left_s(now)))
        return {
            2: structure(
                _u32(decision.epoch), _u32(decision.seq), _u32(request_id), null(), _watts(limiter.limit_w), lease
            )
        }

    def _nominal_limit(self, _now: float) -> Attributes:
        limiter = self._core.limiter
        return {2: structure(_u32(limiter.epoch), _u32(0), _watts(limiter.nominal_limit_w))}


def _u16(value: int) -> CosemValue:
    return dlms_data.UnsignedLongData(value)


def _u32(value: int) -> CosemValue:
    return dlms_data.DoubleLongUnsignedData(value)


def _watts(value_w: float) -> CosemValue:
    """Tenths of a watt, as the export register's scaler says."""
    return _u32(round(10 * value_w))
