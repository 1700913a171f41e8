"""What the EM330s of a street show: the truth times a gain of their class, in steps of their last digits."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil_tests.safety import Errors
from hil_tests.street_flow import StreetFlow
from shared.ids import Phase
from shared.messages import PerPhase, Reading

Reals = NDArray[np.float64]

FREQUENCY_HZ: Final = 50.0


class Instruments:
    """One meter at each customer and the balancing meter at the busbar.

    Energy registers follow whenever the state of the feeder changes, at least once a minute.
    """

    def __init__(self, flow: StreetFlow, errors: Errors, seed: int) -> None:
        random = np.random.default_rng([seed, 4])
        n = len(flow.u_v)
        self._flow = flow
        self._gain_u = 1 + random.uniform(-errors.voltage, errors.voltage, n)
        self._gain_p = 1 + random.uniform(-errors.power, errors.power, n)
        busbar = random.uniform(-1, 1, 2) * (errors.voltage, errors.power)
        self._busbar_u, self._busbar_p = (float(gain) for gain in 1 + busbar)
        self._imported, self._exported = np.zeros(n), np.zeros(n)
        self._since_s = 0.0
        self._p = np.zeros(n)
        self._shown: list[list[float]] = []
        self._kept: list[Reading | None] = [None] * len(flow.customers)
        self._kept_busbar: Reading | None = None

    def renew(self, now: float) -> None:
        """The state has changed."""
        passed_h = (now - self._since_s) / 3600
        self._imported += np.maximum(self._p, 0) * passed_h
        self._exported += np.maximum(-self._p, 0) * passed_h
        self._since_s = now
        flow = self._flow
        u, self._p, q = flow.u_v * self._gain_u, flow.p_w * self._gain_p, flow.q_var * self._gain_p
        amps = np.copysign(np.hypot(self._p, q) / u, self._p)
        self._shown = [u.round(1).tolist(), amps.round(3).tolist(), self._p.round(1).tolist(), q.round(1).tolist()]
        self._kept = [None] * len(self._kept)
        self._kept_busbar = None

    def read(self, who: int) -> Reading:
        """What a customer's meter shows now."""
        kept = self._kept[who]
        if kept is None:
            ports, phases = self._flow.ports[who], self._flow.phases[who]
            u, i, p, q = ([column[port] for port in ports] for column in self._shown)
            kept = self._kept[who] = Reading(
                _phased(phases, u),
                _phased(phases, i),
                _phased(phases, p),
                _phased(phases, q),
                FREQUENCY_HZ,
                int(sum(self._imported[port] for port in ports)),
                int(sum(self._exported[port] for port in ports)),
            )
        return kept

    def busbar(self) -> Reading:
        """What the balancing meter shows now."""
        if self._kept_busbar is None:
            seen = self._flow.busbar()
            phases = tuple(seen)
            u = [round(volts * self._busbar_u, 1) for volts, _ in seen.values()]
            s = [power * self._busbar_p for _, power in seen.values()]
            amps = [round(float(np.copysign(abs(x) / v, x.real)), 3) for x, v in zip(s, u, strict=True)]
            self._kept_busbar = Reading(
                _phased(phases, u),
                _phased(phases, amps),
                _phased(phases, [round(x.real, 1) for x in s]),
                _phased(phases, [round(x.imag, 1) for x in s]),
                FREQUENCY_HZ,
                0,
                0,
            )
        return self._kept_busbar


def _phased(phases: tuple[Phase, ...], values: list[float]) -> PerPhase:
    row: list[float | None] = [None, None, None]
    for phase, value in zip(phases, values, strict=True):
        row[phase] = value
    return row[0], row[1], row[2]
