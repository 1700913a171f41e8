"""What moved in the last minutes: rings of fixed size, kept here so that a page that is opened now shows a past."""

from __future__ import annotations

import math
from array import array
from typing import Any, Final

SAMPLES: Final = 900
"""Of each trace: a quarter of an hour at one a second."""
SAMPLES_IN_ALL_MAX: Final = 2_000_000
"""8 MB; on a large street traces are shorter."""
NOTHING: Final = math.nan


class Trace:
    """Four rings that move together: highest and lowest voltage [V], export and limit [W]."""

    def __init__(self, samples: int) -> None:
        self._rings = tuple(array("f", [NOTHING]) * samples for _ in range(4))
        self._samples, self._at, self._count = samples, 0, 0

    def add(self, *values: float | None) -> None:
        """One more of each; None where unknown."""
        for ring, value in zip(self._rings, values, strict=True):
            ring[self._at] = NOTHING if value is None else value
        self._at = (self._at + 1) % self._samples
        self._count = min(self._count + 1, self._samples)

    def rows(self) -> list[list[float | None]]:
        """Each ring, oldest first, rounded to what can be seen."""
        order = [(self._at - self._count + k) % self._samples for k in range(self._count)]
        found: list[list[float | None]] = []
        for ring, digits in zip(self._rings, (2, 2, 0, 0), strict=True):
            values = (ring[k] for k in order)
            found.append([None if math.isnan(value) else round(value, digits) for value in values])
        return found


class Traces:
    """One trace for each customer, and one for the street (under None)."""

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s
        self.utc_s = 0.0
        self._traces: dict[str | None, Trace] = {}

    def add(self, street: dict[str, Any], utc_s: float) -> None:
        """The street at one look."""
        customers = street["customers"]
        samples = max(60, min(SAMPLES, SAMPLES_IN_ALL_MAX // (4 * (len(customers) + 1))))
        known = {None, *(customer["id"] for customer in customers)}
        self._traces = {name: trace for name, trace in self._traces.items() if name in known}
        self.utc_s = utc_s
        highest: list[float] = []
        for customer in customers:
            good = customer["quality"] == "good" and street["state"] == "live"
            volts = [u for u in customer["u_v"] if u is not None] if good else []
            highest += volts
            export_w = customer["export_w"] if good else None
            limit_w = customer["limit_w"] if street["state"] == "live" else None
            self._of(customer["id"], samples).add(max(volts, default=None), min(volts, default=None), export_w, limit_w)
        alive = street["state"] == "live"
        ends = (max(highest, default=None), min(highest, default=None))
        export_w, increase_w = (street["export_w"], street["increase_w"]) if alive else (None, None)
        self._of(None, samples).add(*ends, export_w, increase_w)

    def _of(self, name: str | None, samples: int) -> Trace:
        if name not in self._traces:
            self._traces[name] = Trace(samples)
        return self._traces[name]

    def of(self, name: str | None) -> dict[str, Any] | None:
        """For the API; None for nobody we know."""
        trace = self._traces.get(name)
        if trace is None:
            return None
        u_v, u_low_v, export_w, limit_w = trace.rows()
        ends = {"u_v": u_v, "u_low_v": u_low_v, "export_w": export_w, "limit_w": limit_w}
        return {"meter": name, "step_s": self.step_s, "utc_s": round(self.utc_s, 3), **ends}
