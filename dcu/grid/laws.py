"""Currents of a prepared batch, and their derivatives, as array operations on any array namespace.

Voltages and currents are pairs of real arrays (n_port, n_state): real and imaginary part. The current injected by a
power `s = p + j q` drawn at voltage `u` is `-conj(s) / conj(u)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcu.grid.injections import Law, Prepared

Array = Any
"""An array of whichever namespace the engine runs on."""


class Currents:
    """The law of a batch for one block of states, on one array namespace.

    `p`, `q`, `k` are (n_element, n_state) in that namespace. `filtered` holds the voltage magnitudes that curves look
    at; the engine moves them a part of the way each step, because a steep curve makes the plain iteration swing.
    """

    def __init__(self, xp: Any, law: Law, p: Array, q: Array, k: Array | None) -> None:
        self._xp, self._law = xp, law
        self._p, self._q, self._k = p, q, k
        self.filtered: Array | None = None
        self.law_ports = law.inverter_ports

    def inject(self, u_re: Array, u_im: Array, i_re: Array, i_im: Array) -> None:
        """Write the injected currents [A] for the port voltages [V]."""
        xp, law = self._xp, self._law
        i_re[...] = 0.0
        i_im[...] = 0.0
        if len(law.draw_ports):
            at = law.draw_ports
            ur, ui = u_re[at], u_im[at]
            m2 = ur * ur + ui * ui
            x = xp.sqrt(m2) / xp.asarray(law.draw_nominal_v)[:, None]
            z, i, c = (xp.asarray(row)[:, None] for row in law.draw_zip)
            factor = ((z * x + i) * x + c) / m2
            _add(at, -self._p[law.draw_columns] * factor, -self._q[law.draw_columns] * factor, ur, ui, i_re, i_im)
        if len(law.inverter_ports):
            at = law.inverter_ports
            ur, ui = u_re[at], u_im[at]
            p, q = self._inverter_power(xp.sqrt(ur * ur + ui * ui) if self.filtered is None else self.filtered)
            m2 = ur * ur + ui * ui
            _add(at, -p / m2, -q / m2, ur, ui, i_re, i_im)
        for k in range(len(law.damper_ports)):
            self._damp(k, u_re, u_im, i_re, i_im)

    def magnitudes(self, u_re: Array, u_im: Array) -> Array:
        """Voltage magnitude at the inverters' ports [V]."""
        at = self._law.inverter_ports
        return self._xp.sqrt(u_re[at] ** 2 + u_im[at] ** 2)

    def _inverter_power(self, m: Array) -> tuple[Array, Array]:
        xp, law = self._xp, self._law
        x = m / xp.asarray(law.inverter_nominal_v)[:, None]
        p = self._p[law.inverter_columns] * _curves(xp, law.p_curves, x)
        assert self._k is not None
        q = self._q[law.inverter_columns] + self._k[law.inverter_columns] * _curves(xp, law.q_curves, x)
        s_max = xp.asarray(law.inverter_s_max_va)[:, None]
        room = xp.sqrt(xp.maximum(s_max * s_max - p * p, 0.0))
        return p, xp.minimum(xp.maximum(q, -room), room)

    def _damp(self, k: int, u_re: Array, u_im: Array, i_re: Array, i_im: Array) -> None:
        xp, law = self._xp, self._law
        at = law.damper_ports[k]
        u = u_re[at] + 1j * u_im[at]
        i = damper_current(
            xp, u, -self._p[law.damper_columns[k]], law.damper_g_s[k], law.damper_i_max_a[k], bool(law.damper_zero[k])
        )
        for phase, port in enumerate(at):
            i_re[port] += i[phase].real
            i_im[port] += i[phase].imag


def damper_current(xp: Any, u: Array, p_out_w: Array, g_s: float, i_max_a: float, zero: bool) -> Array:
    """Current into the grid (3, n_state) [A] of a damping inverter at phase voltages `u` (3, n_state) [V]."""
    turn = xp.exp(2j * np.pi / 3 * xp.arange(3))[:, None]  # positive sequence: L2 lags, so turning forward aligns it
    u1 = (u * turn).sum(axis=0) / 3
    u0 = u.sum(axis=0) / 3
    rest = u - u1 / turn - (0.0 if zero else u0)
    main = p_out_w / (3 * xp.conj(u1)) / turn
    damp = -g_s * rest
    # The largest share of the damping part that keeps every phase within the rating: |main + share damp| <= i_max.
    a = xp.abs(damp) ** 2
    b = (xp.conj(main) * damp).real
    c = xp.abs(main) ** 2 - i_max_a**2
    root = (-b + xp.sqrt(xp.maximum(b * b - a * c, 0.0))) / xp.maximum(a, 1e-300)
    share = xp.minimum(xp.maximum(xp.where(c > 0, 0.0, root), 0.0), 1.0).min(axis=0)
    return main + share * damp


def _curves(xp: Any, rows: NDArray[np.float64], x: Array) -> Array:
    """All curves (n_curve) at `x` (n_curve, n_state)."""
    rows = xp.asarray(rows)
    y = xp.zeros_like(x) + rows[:, :1]
    for piece in range((rows.shape[1] - 1) // 3):
        start, width, slope = (rows[:, 1 + 3 * piece + k, None] for k in range(3))
        if bool((slope != 0).any()):
            y += slope * xp.minimum(xp.maximum(x - start, 0.0), width)
    return y


def _add(at: NDArray[np.int64], p: Array, q: Array, ur: Array, ui: Array, i_re: Array, i_im: Array) -> None:
    """Add `(p - j q) (ur + j ui)` to the ports `at`, which may repeat."""
    re, im = p * ur + q * ui, p * ui - q * ur
    if len(np.unique(at)) == len(at):
        i_re[at] += re
        i_im[at] += im
    else:
        for row, port in enumerate(at):
            i_re[port] += re[row]
            i_im[port] += im[row]


def derivative(prepared: Prepared, state: int, u: NDArray[np.complex128]) -> NDArray[np.float64]:
    """`d(i_re, i_im) / d(u_re, u_im)` (2n, 2n) of one state at port voltages `u` (n) [A/V]; exact but for dampers at
    their rating, which are differenced."""
    n, law = len(u), prepared.law
    found = np.zeros((2 * n, 2 * n))

    def add(port: int, at: int, by_re: complex, by_im: complex) -> None:
        found[port, at] += by_re.real
        found[port, at + n] += by_im.real
        found[port + n, at] += by_re.imag
        found[port + n, at + n] += by_im.imag

    for ports, s, slope in _powers(prepared, state, u):
        v = u[ports]
        m = np.abs(v)
        a, b = -np.conj(slope) / np.conj(v) / m, np.conj(s) / np.conj(v) ** 2
        for port, by_re, by_im in zip(ports, a * v.real + b, a * v.imag - 1j * b, strict=True):
            add(int(port), int(port), complex(by_re), complex(by_im))
    for k, at in enumerate(law.damper_ports):
        step = 1e-6 * float(np.abs(u[at]).max())

        def current(v: NDArray[np.complex128], k: int = k) -> NDArray[np.complex128]:
            p_out = -prepared.p_w[state, law.damper_columns[k]]
            g, i_max, zero = law.damper_g_s[k], law.damper_i_max_a[k], bool(law.damper_zero[k])
            i: NDArray[np.complex128] = damper_current(np, v[:, None], p_out, g, i_max, zero)[:, 0]
            return i

        for column, port in enumerate(at):
            unit = np.zeros(3, dtype=complex)
            unit[column] = step
            by_re = (current(u[at] + unit) - current(u[at] - unit)) / (2 * step)
            by_im = (current(u[at] + 1j * unit) - current(u[at] - 1j * unit)) / (2 * step)
            for row, to in enumerate(at):
                add(int(to), int(port), complex(by_re[row]), complex(by_im[row]))
    return found


def _powers(
    prepared: Prepared, state: int, u: NDArray[np.complex128]
) -> list[tuple[NDArray[np.int64], NDArray[np.complex128], NDArray[np.complex128]]]:
    """For draws and inverters: ports, power drawn [VA] and its slope over the voltage's magnitude [VA/V]."""
    law = prepared.law
    s = prepared.p_w[state] + 1j * prepared.q_var[state]
    found = []
    if len(law.draw_ports):
        x = np.abs(u[law.draw_ports]) / law.draw_nominal_v
        z, i, p = law.draw_zip
        nominal = s[law.draw_columns]
        found.append(
            (law.draw_ports, nominal * (z * x * x + i * x + p), nominal * (2 * z * x + i) / law.draw_nominal_v)
        )
    if len(law.inverter_ports):
        assert prepared.k_var is not None
        x = np.abs(u[law.inverter_ports]) / law.inverter_nominal_v
        k = prepared.k_var[state, law.inverter_columns]
        offered = s[law.inverter_columns]
        f, df = _curve_and_slope(law.p_curves, x)
        g, dg = _curve_and_slope(law.q_curves, x)
        p, dp = offered.real * f, offered.real * df
        q, dq = offered.imag + k * g, k * dg
        room = np.sqrt(np.maximum(law.inverter_s_max_va**2 - p**2, 0.0))
        over = np.abs(q) > room
        with np.errstate(divide="ignore", invalid="ignore"):
            dq = np.where(over, np.where(room > 0, -np.sign(q) * p * dp / room, 0.0), dq)
        q = np.clip(q, -room, room)
        found.append((law.inverter_ports, p + 1j * q, (dp + 1j * dq) / law.inverter_nominal_v))
    return found


def _curve_and_slope(
    rows: NDArray[np.float64], x: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, slope = rows[:, 0].copy(), np.zeros(len(x))
    for piece in range((rows.shape[1] - 1) // 3):
        start, width, rise = rows[:, 1 + 3 * piece], rows[:, 2 + 3 * piece], rows[:, 3 + 3 * piece]
        y += rise * np.clip(x - start, 0.0, width)
        slope += np.where((x > start) & (x < start + width), rise, 0.0)
    return y, slope


def explicit_derivative(u: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """`d i / d p` of extra constant power at each port at fixed voltage (n) [A/W]; `d i / d q` is `-j` times it."""
    return np.asarray(-1 / np.conj(u))
