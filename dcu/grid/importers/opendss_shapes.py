"""OpenDSS load shapes: what a customer draws over time, looked up as the engine does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """Multipliers over time; `hours` is the interval, or the times where they are uneven [h]."""

    hours: float | NDArray[np.float64]
    p: NDArray[np.float64]
    q: NDArray[np.float64] | None
    actual: bool

    @property
    def step_h(self) -> float:
        return self.hours if isinstance(self.hours, float) else float(np.diff(self.hours).min(initial=1.0))

    @property
    def end_h(self) -> float:
        return self.hours * len(self.p) if isinstance(self.hours, float) else float(self.hours[-1])

    def at(self, values: NDArray[np.float64], hours: NDArray[np.float64]) -> NDArray[np.float64]:
        """As the engine looks it up: the nearest point of an even shape, repeated; the line through an uneven one."""
        if not isinstance(self.hours, float):
            return np.interp(hours, self.hours, values)
        return values[(np.rint(hours / self.hours).astype(np.int64) - 1) % len(values)]


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """What one customer draws in all phases [W, var], and the shape that it follows; `factor` is the global one."""

    p_w: float
    q_var: float
    factor: float
    sign: float
    shape: Shape | None

    def over(self, hours: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Power at each of the hours [W, var]."""
        shape, one = self.shape, np.ones_like(hours)
        if shape is None:
            return self.factor * self.p_w * one, self.factor * self.q_var * one
        p = shape.at(shape.p, hours)
        q = p if shape.q is None else shape.at(shape.q, hours)
        if not shape.actual:
            return self.factor * self.p_w * p, self.factor * self.q_var * q
        if shape.q is None:
            q = p * (self.q_var / self.p_w if self.p_w else 0.0)
        return 1e3 * self.sign * p, 1e3 * self.sign * q
