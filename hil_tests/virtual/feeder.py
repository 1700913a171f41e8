"""The feeder of the testbed: a source of settable voltage and an inverter for each customer.

As on the published bench, voltages are imposed (two controllable sources), not computed: a customer's export does not
lift its voltage here. What the meters do is real, though: the export current follows the relay through a first-order
ramp, between the nominal and the raised set-point, and never above what the plant has available.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

RAMP_TAU_S: Final = 0.5
"""[s] Time constant of the inverter's current control (ours; the publication gives none)."""


class Trace:
    """A quantity over scenario time, linear between its points and constant outside them."""

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        assert points, "a trace has at least one point"
        self._times = [time for time, _ in points]
        self._values = [value for _, value in points]
        assert self._times == sorted(self._times), points

    def at(self, time_s: float) -> float:
        """Value at a time [s]."""
        after = bisect.bisect_right(self._times, time_s)
        if after == 0:
            return self._values[0]
        if after == len(self._times):
            return self._values[-1]
        t0, t1 = self._times[after - 1], self._times[after]
        v0, v1 = self._values[after - 1], self._values[after]
        return v0 + (v1 - v0) * (time_s - t0) / (t1 - t0)


@dataclass(frozen=True, slots=True)
class Plant:
    """A customer's inverter: two set-points and what the sun gives.

    Attributes:
        nominal_a: export current with the relay de-energised [A].
        raised_a: export current with the relay energised [A].
        available_a: what the plant could export [A] over scenario time.
    """

    nominal_a: float
    raised_a: float
    available_a: Trace


class Customer:
    """One customer: imposed voltage, inverter behind the relay, energy counted."""

    def __init__(self, name: str, voltage: Trace, plant: Plant) -> None:
        self.name = name
        self.voltage = voltage
        self.plant = plant
        self.raised = False
        self.export_energy_ws = 0.0
        self._current_a = min(plant.nominal_a, plant.available_a.at(0.0))
        self._at_s = 0.0

    def set_raised(self, raised: bool, now: float) -> None:
        """The relay has moved (true: energised)."""
        self.advance(now)
        self.raised = raised

    def advance(self, now: float) -> None:
        """Let the inverter ramp, and the meter count, up to a time [s]."""
        duration = now - self._at_s
        if duration <= 0:
            return
        set_point = self.plant.raised_a if self.raised else self.plant.nominal_a
        target = min(set_point, self.plant.available_a.at(now))
        decay = math.exp(-duration / RAMP_TAU_S)
        mean = target + (self._current_a - target) * (1 - decay) * RAMP_TAU_S / duration
        self.export_energy_ws += mean * self.voltage.at(now) * duration
        self._current_a = target + (self._current_a - target) * decay
        self._at_s = now

    def export_a(self, now: float) -> float:
        """Export current [A], a magnitude."""
        self.advance(now)
        return self._current_a

    def u_v(self, now: float) -> float:
        """Voltage at the connection point [V]."""
        return self.voltage.at(now)


@dataclass(frozen=True, slots=True)
class Feeder:
    """The street's customers and the busbar they hang on."""

    busbar: Trace
    customers: tuple[Customer, ...]

    def customer(self, name: str) -> Customer:
        """The customer of that name."""
        return next(customer for customer in self.customers if customer.name == name)

    def total_export_a(self, now: float) -> float:
        """Current through the transformer towards the grid [A]."""
        return sum(customer.export_a(now) for customer in self.customers)
