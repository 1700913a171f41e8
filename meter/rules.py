"""What a meter notices by itself, and the rules that send it back to nominal without any DCU. Pure.

Alarms about the reading last as long as there is none. The others are latched: nothing is raised again until somebody
has looked and restarted the meter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from shared.em330 import Invalid
from shared.ids import Phase
from shared.messages import Alarm, Reading, RelayState

READING_S_MAX: Final = 3.0
"""[s] Raised without a valid reading for so long: nominal (bad-input rule for Modbus)."""

RELAY_S_MAX: Final = 1.0
"""[s] The read-back has to follow the command within this, and must not differ from it for longer at any time."""

ABOVE_LIMIT_S: Final = 5.0
"""[s] Export above the limit for so long is an alarm (invariant I8)."""

ABOVE_LIMIT_SHARE: Final = 0.05
ABOVE_LIMIT_W: Final = 100.0
"""Share of the limit, or [W], whichever is more, that export may exceed it by."""

FOLLOW_S: Final = 2.0
"""[s] Export is judged by the highest limit of so long: a plant takes its time to follow one that falls, however often
it falls. With a poll (1 s at most) and `ABOVE_LIMIT_S` the alarm comes 8 s after the limit fell, at the latest;
invariant I8 allows ten."""

OVERVOLTAGE_S: Final = 10.0
"""[s] Voltage at the local threshold or above for so long: nominal (invariant I15)."""

READING_ALARMS: Final = (
    Alarm.METER_SILENT | Alarm.METER_FROZEN | Alarm.METER_IMPLAUSIBLE | Alarm.WRONG_DEVICE | Alarm.EXPORT_NOT_MEASURABLE
)
"""Alarms that the next valid reading clears."""

RAISE_ALARMS: Final = READING_ALARMS | Alarm.RELAY_DISAGREES | Alarm.EXPORT_ABOVE_LIMIT | Alarm.STORAGE_FAILED
"""Alarms under which nothing is raised."""


@dataclass(frozen=True, slots=True)
class FallBack:
    """Back to nominal: why, in words, and the alarm that stays if it is one."""

    why: str
    alarm: Alarm = Alarm.NONE


class LocalRules:
    """Reading, relay and alarms of one meter, and since when each of them is wrong."""

    def __init__(self, phases: tuple[Phase, ...], overvoltage_v: float) -> None:
        self._phases = phases
        self._overvoltage_v = overvoltage_v
        self.reading: Reading | None = None
        self.read_s: float | None = None
        self.alarms = Alarm.NONE
        self.relay = RelayState.UNKNOWN
        self.commanded: RelayState | None = None
        self._relay_since: float | None = None
        self._above_since: float | None = None
        self._high_since: float | None = None
        self._limit_w = 0.0
        self._limits_before: list[tuple[float, float]] = []

    def wake_at(self, *, raised: bool) -> float | None:
        """When silence alone breaks a rule [s]."""
        deadlines = []
        if self._relay_since is not None and Alarm.RELAY_DISAGREES not in self.alarms:
            deadlines.append(self._relay_since + RELAY_S_MAX)
        if raised and self.read_s is not None:
            deadlines.append(self.read_s + READING_S_MAX)
        if raised and self._high_since is not None:
            deadlines.append(self._high_since + OVERVOLTAGE_S)
        if self._above_until_s is not None:
            deadlines.append(self._above_until_s)
        return min(deadlines, default=None)

    @property
    def _above_until_s(self) -> float | None:
        """When an export above the limit that goes on is an alarm [s]; one reading by itself, too old by then, is
        none."""
        if self._above_since is None or Alarm.EXPORT_ABOVE_LIMIT in self.alarms:
            return None
        alarm_s = self._above_since + ABOVE_LIMIT_S
        return alarm_s if self._fresh(alarm_s) else None

    def reading_age_s(self, now: float) -> float:
        """Age of the present reading [s], 0 without one."""
        return 0.0 if self.reading is None or self.read_s is None else max(0.0, now - self.read_s)

    # ---- what comes in -----------------------------------------------------------------------------------------------

    def take(self, result: Reading | Invalid, taken_s: float) -> None:
        """A reading that was begun at ``taken_s`` [s], or why there is none.

        Export and voltage are judged on valid readings only. While there is none the third rule works: an increase ends
        after `READING_S_MAX`. A gap therefore does not excuse what was wrong before it.
        """
        if isinstance(result, Invalid) or not self._complete(result):
            self.reading = None
            alarm = result.alarm if isinstance(result, Invalid) else Alarm.METER_IMPLAUSIBLE
            self.alarms = (self.alarms & ~READING_ALARMS) | alarm
            return
        self.reading, self.read_s = result, taken_s
        self.alarms &= ~READING_ALARMS
        self._above_since = _since(self._above_since, taken_s, lasts=self._above(result, taken_s))
        self._high_since = _since(self._high_since, taken_s, lasts=self._voltage_too_high(result))

    def limited(self, limit_w: float, now: float) -> None:
        """The limit [W] from now on, however often it is said."""
        if limit_w == self._limit_w:
            return
        before_w, self._limit_w = self._limit_w, limit_w
        oldest_s = now - FOLLOW_S - READING_S_MAX
        # What was no higher than a later limit is of no use any more: limits that come and go fill no memory.
        higher = [(until_s, w) for until_s, w in self._limits_before if until_s > oldest_s and w > before_w]
        self._limits_before = [*higher, (now, before_w)]
        if self.reading is not None and not self._above(self.reading, now):
            self._above_since = None

    def _above(self, reading: Reading, taken_s: float) -> bool:
        """Whether an export is more than the highest limit of the last `FOLLOW_S` bears."""
        lately_w = [w for until_s, w in self._limits_before if taken_s - until_s < FOLLOW_S]
        limit_w = max([self._limit_w, *lately_w])
        return reading.export_w > limit_w + max(ABOVE_LIMIT_SHARE * limit_w, ABOVE_LIMIT_W)

    def command(self, state: RelayState, now: float) -> None:
        """The relay is told to move; the contact gets its time to follow."""
        self.commanded = state
        self._relay_since = None if self.relay is state else now

    def observe(self, state: RelayState, now: float) -> None:
        """What the auxiliary contact says."""
        self.relay = state
        self._relay_since = _since(self._relay_since, now, lasts=state is not self.commanded)

    # ---- what time demands -------------------------------------------------------------------------------------------

    def judge(self, now: float, *, raised: bool) -> FallBack | None:
        """The rule that is broken now."""
        if _over(self._relay_since, RELAY_S_MAX, now) and Alarm.RELAY_DISAGREES not in self.alarms:
            commanded = "nothing" if self.commanded is None else self.commanded.name
            return FallBack(f"relay commanded {commanded}, read back {self.relay.name}", Alarm.RELAY_DISAGREES)
        if self.reading is not None and self._above_until_s is not None and now >= self._above_until_s:
            why = f"export {self.reading.export_w:g} W, limit {self._limit_w:g} W for {ABOVE_LIMIT_S:g} s"
            return FallBack(why, Alarm.EXPORT_ABOVE_LIMIT)
        if raised and (self.read_s is None or now >= self.read_s + READING_S_MAX):
            return FallBack(f"no valid reading for {READING_S_MAX:g} s")
        if raised and self.overvoltage(now):
            return FallBack(f"voltage at {self._overvoltage_v:g} V or above for {OVERVOLTAGE_S:g} s")
        return None

    def objection(self, now: float) -> str | None:
        """Why nothing may be raised now, or None."""
        blocking = self.alarms & RAISE_ALARMS
        if blocking:
            return ", ".join(name.lower().replace("_", " ") for name in blocking.names)
        if not self._fresh(now):
            return "no valid reading"
        if self.overvoltage(now):
            return "local over-voltage"
        return None

    def overvoltage(self, now: float) -> bool:
        """Whether the voltage has been too high for too long, and no valid reading has said otherwise since."""
        return _over(self._high_since, OVERVOLTAGE_S, now)

    def _fresh(self, now: float) -> bool:
        """Whether the present reading says what is then [s]."""
        return self.reading is not None and self.read_s is not None and now < self.read_s + READING_S_MAX

    def _complete(self, reading: Reading) -> bool:
        """A number for voltage and power of every connected phase; NaN would pass any comparison below."""
        values = [quantity[phase] for quantity in (reading.u_v, reading.p_w) for phase in self._phases]
        everything = [value for value in (*reading.u_v, *reading.p_w) if value is not None]
        return None not in values and all(math.isfinite(value) for value in everything)

    def _voltage_too_high(self, reading: Reading) -> bool:
        values = [reading.u_v[phase] for phase in self._phases]
        return any(value is not None and value >= self._overvoltage_v for value in values)


def _since(since: float | None, now: float, *, lasts: bool) -> float | None:
    if not lasts:
        return None
    return now if since is None else since


def _over(since: float | None, limit_s: float, now: float) -> bool:
    return since is not None and now >= since + limit_s
