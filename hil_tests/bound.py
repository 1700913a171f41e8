"""How much better than a given state any feasible state can be: an upper bound that holds for the exact power flow.

Nomenclature: ports k, plants m, active rows r (limits that bind). `s` complex power exported at a port, `u` its
voltage, index 0 the given state, `delta = u / u0 - 1 = alpha + j beta`, `d` the change of a plant's generation.
Injected currents are `conj(s / u)` and everything between the ports is linear, so that *exactly*

    u - u0 = M(S),    conj(S) = conj(s) / (1 + conj(delta)) - conj(s0) (1 - conj(delta))                       (1)

M being the derivatives by active and reactive power at the given state. At the port of a plant (unity power factor, `e`
exported) with N = |1 + delta|^2:

    R = Re S = e (1 + alpha) / N - e0 (1 - alpha),    Im conj(S) = beta (e / N - e0)
    d = R (1 + alpha) - e0 alpha^2 + (R + e0 (1 - alpha)) beta^2 / (1 + alpha)                                 (2)

At other ports, and for reactive power, S is of second order; its size is bounded port by port ("noise"). A limit
`|y_r| <= Y_r` on a voltage or a current gives, since `|y| >= Re(conj(n) y)` for any direction n,

    G_r R + noise_r + sigma_r = Y_r - |y_r0|,    sigma_r >= 0                                                  (3)

With prices `lambda >= 0` (any; the duals of the linear programme are the good ones) and `r_m = 1 - lambda G_m`,

    sum d = slack - lambda sigma + sum r_m R_m + sum (d_m - R_m) + noise                                       (4)

The largest value of the right side is the bound. A state that is better than the given one has a positive left side:
the prices it pays, `lambda sigma` and `|r_m|` times the way of each plant from its best end, cannot exceed the bound
in all. That confines every linear function of R, by (3) with a multiplier that removes the plants between their ends;
so it confines alpha, beta and R, and these confine (4). Rounds of it converge, as all that was ever relaxed are
products of two of those ranges. The first ranges hold over the whole box, by continuity: where the bound of the
voltages' change maps below itself, the solution cannot leave it on the way from the given state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]
Complexes = NDArray[np.complex128]

SETTLING: Final = 40
"""Rounds in which the first bound of the voltages settles."""
GROWTH: Final = 1.02
NARROWING_MAX: Final = 120
PROGRESS: Final = 0.99
"""Rounds go on while the bound shrinks by more."""
BETWEEN_W: Final = 1.0
"""A plant this far from both its ends is between them."""


@dataclass(frozen=True, slots=True, eq=False)
class Vertex:
    """A solved state at the end of a linear programme, everything by *exported* power: derivatives of the voltages
    `du` (n, 2n) and of the active rows `rows` (r, 2n); prices and room of these rows; exported power `s_va` (n); the
    port of each plant (m), each of its own; how far each plant may go down and up (m) [W]; lowest and highest voltages
    (n)."""

    u_v: Complexes
    du: Complexes
    rows: Reals
    price: Reals
    room: Reals
    s_va: Complexes
    port: NDArray[np.int64]
    down_w: Reals
    up_w: Reals
    u_low_v: Reals
    u_high_v: Reals


def gap_bound(vertex: Vertex) -> float:
    """No feasible state has more than this [W] above the given one; infinite if it cannot be said."""
    ranges = _Ranges(vertex)
    if not ranges.settle():
        return np.inf
    best = ranges.total()
    for _ in range(NARROWING_MAX):
        ranges.narrow(best)
        total = ranges.total()
        if total >= PROGRESS * best:
            return max(0.0, min(best, total))
        best = total
    return max(0.0, best)


class _Ranges:
    """Ranges of d and R (m), alpha and beta (n)."""

    def __init__(self, vertex: Vertex) -> None:
        self._x = vertex
        n = self._n = len(vertex.u_v)
        size = np.abs(vertex.u_v)
        along = np.conj(vertex.u_v)[:, None] * vertex.du / (size**2)[:, None]
        slopes = np.concatenate([along.real, along.imag])
        """Of alpha and beta, by exported p and q (2n, 2n)."""
        self._all = slopes
        self._own = slopes[:, vertex.port]
        rows = vertex.rows[:, vertex.port]
        self._reduced = 1 - vertex.price @ rows
        between = (vertex.down_w > BETWEEN_W) & (vertex.up_w > BETWEEN_W)
        targets = np.concatenate([self._own, np.eye(len(vertex.port))])
        self._multiplier = targets[:, between] @ np.linalg.pinv(rows[:, between], rcond=1e-9)
        self._left = targets - self._multiplier @ rows
        heard = np.concatenate([slopes, np.zeros((len(vertex.port), 2 * n))])
        self._heard = np.abs(heard - self._multiplier @ vertex.rows)
        self._heard_in_all = np.abs(vertex.price @ vertex.rows)
        """How much of the noise reaches each target, and (4); what rows have in common cancels first."""
        self._floor, self._ceiling = vertex.u_low_v / size, vertex.u_high_v / size - 1
        self._e0 = vertex.s_va.real[vertex.port]
        self._low, self._high = -vertex.down_w, vertex.up_w.copy()
        """Of d."""
        self._r_low, self._r_high = np.full(len(self._e0), -np.inf), np.full(len(self._e0), np.inf)
        self._a_low, self._a_high, self._beta = np.zeros(n), np.zeros(n), np.zeros(n)

    # ---- the whole box -----------------------------------------------------------------------------------------------

    def settle(self) -> bool:
        """A bound of the voltages that holds all over the box, or False."""
        for _ in range(SETTLING):
            self._a_low, self._a_high, self._beta = self._spans()
            if not (self._size() < 0.3).all():
                return False
        self._a_low, self._a_high, self._beta = GROWTH * self._a_low, GROWTH * self._a_high, GROWTH * self._beta
        low, high, beta = self._spans()
        if not ((low >= self._a_low).all() and (high <= self._a_high).all() and (beta <= self._beta).all()):
            return False
        self._r_low, self._r_high = self._powers()
        return True

    def _spans(self) -> tuple[Reals, Reals, Reals]:
        """Ranges of alpha and beta that follow from those of d and from themselves."""
        n = self._n
        r_low, r_high = self._powers()
        noise = np.abs(self._all) @ self._noise()
        up, down = np.maximum(self._own, 0), np.minimum(self._own, 0)
        high = up @ r_high + down @ r_low + noise
        low = up @ r_low + down @ r_high - noise
        return low[:n], high[:n], np.maximum(np.abs(high[n:]), np.abs(low[n:]))

    # ---- parts -------------------------------------------------------------------------------------------------------

    def _size(self) -> Reals:
        """Largest |delta| (n)."""
        return np.asarray(np.hypot(np.maximum(np.abs(self._a_low), np.abs(self._a_high)), self._beta))

    def _noise(self) -> Reals:
        """Size of S beside R at each port, real and imaginary (2n)."""
        x, size, port = self._x, self._size(), self._x.port
        bend = size**2 / (1 - size)
        real = np.abs(x.s_va) * bend
        imaginary = real.copy()
        real[port] = np.abs(x.s_va.imag[port]) * bend[port]
        lean, fat = (1 + self._a_low[port]) ** 2, (1 + self._a_high[port]) ** 2 + self._beta[port] ** 2
        ends = [e / part - self._e0 for e in (self._e0 + self._low, self._e0 + self._high) for part in (lean, fat)]
        imaginary[port] = self._beta[port] * np.abs(np.stack(ends)).max(axis=0) + real[port]
        return np.concatenate([real, imaginary])

    def _alphas(self, stationary: Reals) -> tuple[Reals, ...]:
        """Where an expression of alpha at the plants can be extreme: both ends, and its stationary point."""
        low, high = self._a_low[self._x.port], self._a_high[self._x.port]
        return low, high, np.clip(np.nan_to_num(stationary), low, high)

    def _bent(self) -> Reals:
        """Largest beta^2 / (1 + alpha)^2 at the plants."""
        return np.asarray((self._beta[self._x.port] / (1 + self._a_low[self._x.port])) ** 2)

    def _powers(self) -> tuple[Reals, Reals]:
        """Range of R from that of d, by (2)."""
        e0, values = self._e0, []
        for d in (self._low, self._high):
            with np.errstate(all="ignore"):
                stationary = np.sqrt((e0 + d) / e0) - 1
            for a in self._alphas(stationary):
                flat = (e0 + d) / (1 + a)
                values += [flat - e0 * (1 - a), flat * (1 - self._bent()) - e0 * (1 - a)]
        found = np.stack(values)
        return found.min(axis=0), found.max(axis=0)

    def _changes(self) -> tuple[Reals, Reals, Reals]:
        """Range of d from that of R, by (2), and the largest d - R."""
        e0, values, bends = self._e0, [], []
        for r in (self._r_low, self._r_high):
            with np.errstate(all="ignore"):
                stationary = r / (2 * e0)
            for a in self._alphas(stationary):
                bend = r * a - e0 * a**2
                tilt = (r + e0 * (1 - a)) * (1 + a) * self._bent()
                values += [r + bend, r + bend + tilt]
                bends += [bend, bend + tilt]
        found = np.stack(values)
        return found.min(axis=0), found.max(axis=0), np.stack(bends).max(axis=0)

    # ---- the bound ---------------------------------------------------------------------------------------------------

    def total(self) -> float:
        """The largest right side of (4) [W]."""
        x = self._x
        tops = np.maximum(self._reduced * self._r_high, self._reduced * self._r_low)
        noise = self._heard_in_all @ self._noise()
        return float(x.price @ x.room + noise + tops.sum() + self._changes()[2].sum())

    def narrow(self, total: float) -> None:
        """Ranges of states better than the given one, `total` being what they can pay in prices."""
        n = self._n
        best_up = self._reduced >= 0
        end = np.where(best_up, self._r_high, self._r_low)
        away = np.where(best_up, -1.0, 1.0)
        price = np.concatenate([self._x.price, np.abs(self._reduced)])
        cap = np.concatenate([total / self._x.price, self._r_high - self._r_low])
        middle = self._multiplier @ self._x.room + self._left @ end
        spread = self._heard @ self._noise()
        moves = np.concatenate([-self._multiplier, self._left * away], axis=1)
        high = middle + spread + _support(moves, price, cap, total)
        low = middle - spread - _support(-moves, price, cap, total)
        self._a_high = np.minimum(np.minimum(self._a_high, high[:n]), self._ceiling)
        floor = np.sqrt(np.maximum(0.0, self._floor**2 - self._beta**2)) - 1
        self._a_low = np.minimum(np.maximum(np.maximum(self._a_low, low[:n]), floor), self._a_high)
        self._beta = np.minimum(self._beta, np.maximum(np.abs(high[n : 2 * n]), np.abs(low[n : 2 * n])))
        self._r_high = np.minimum(self._r_high, high[2 * n :])
        self._r_low = np.minimum(np.maximum(self._r_low, low[2 * n :]), self._r_high)
        d_low, d_high, _ = self._changes()
        self._low, self._high = np.maximum(self._low, d_low), np.minimum(self._high, d_high)
        self._low = np.minimum(self._low, self._high)
        r_low, r_high = self._powers()
        self._r_low, self._r_high = np.maximum(self._r_low, r_low), np.minimum(self._r_high, r_high)
        self._r_low = np.minimum(self._r_low, self._r_high)


def _support(gain: Reals, price: Reals, cap: Reals, total: float) -> Reals:
    """Upper bound of `max gain x` (t) over `0 <= x <= cap`, `price x <= total`: the dual, least over the ratios."""
    gain = np.maximum(gain, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        theta = np.where(gain > 0, gain / price, 0.0)
    theta = np.where(np.isfinite(theta), theta, 0.0)
    over = np.maximum(gain[:, None, :] - theta[:, :, None] * price, 0.0)
    value = theta * total + over @ cap
    return np.asarray(value.min(axis=1))
