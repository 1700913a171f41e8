"""What customers do to the grid: draws and inverters, as functions from a port's voltage to its power.

Every element says how much active and reactive power it draws (import positive) at the voltage magnitude `m` [V]
across its port; the engines turn that into a current. A batch holds one row of powers for each state.

Elements
    Draw        constant impedance, current and power in given shares
    Inverter    power offered, with one or more rules: Q(U), P(U), cos phi(P), over-voltage cut-off
    Damper      three-phase inverter of Meersman et al. 2011: source in the positive sequence, resistance for the rest
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dcu.grid.port_model import PortModel
from shared.errors import ConfigError, Fault

CURVE_POINTS_MAX: Final = 8
LOCK_IN_SHARE: Final = 0.20
"""CEI 0-21: Q(U) acts from this share of the rated power on."""
COS_PHI_CEI: Final = 0.90


@dataclass(frozen=True, slots=True)
class Curve:
    """Straight lines between points of rising `x`, constant outside them."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __post_init__(self) -> None:
        ok = 1 < len(self.x) == len(self.y) <= CURVE_POINTS_MAX and all(
            a < b for a, b in zip(self.x, self.x[1:], strict=False)
        )
        if not ok or not all(math.isfinite(v) for v in (*self.x, *self.y)):
            raise ConfigError("curve", [Fault("points", f"x {self.x}, y {self.y}", "2 .. 8 points, x rising, finite")])

    def at(self, x: ArrayLike) -> NDArray[np.float64]:
        """Value at `x`."""
        return np.asarray(np.interp(np.asarray(x, dtype=float), self.x, self.y))


@dataclass(frozen=True, slots=True)
class Draw:
    """`S (z x^2 + i x + p)` with `x` the port's voltage over `u_nominal_v` (None: the port's own nominal voltage)."""

    port: int
    z: float = 0.0
    i: float = 0.0
    p: float = 1.0
    u_nominal_v: float | None = None

    def __post_init__(self) -> None:
        nominal = 1.0 if self.u_nominal_v is None else self.u_nominal_v
        if not (math.isfinite(self.z + self.i + self.p) and 0 < nominal < math.inf):
            seen = f"shares {self.z}, {self.i}, {self.p} at {self.u_nominal_v} V"
            raise ConfigError("draw", [Fault(f"port {self.port}", seen, "finite shares, a nominal voltage above 0")])


@dataclass(frozen=True, slots=True)
class Inverter:
    """Offers the power of its column (negative where it feeds in) under its rules.

    `q_of_u`: reactive power drawn [share of `s_rated_va`] over voltage [share of nominal], active while the offered
    power is at least `lock_in` of the rating and limited so that `p^2 + q^2 <= s_max_va^2`. `p_of_u`: factor on the
    active power over voltage. `cos_phi_of_p`: power factor, under-excited, over active power [share of rating].
    `cut_off`: share of nominal above which the inverter disconnects; of several that exceed theirs, the one furthest
    above goes first, and it stays off in that state.
    """

    port: int
    s_rated_va: float
    q_of_u: Curve | None = None
    p_of_u: Curve | None = None
    cos_phi_of_p: Curve | None = None
    cut_off: float | None = None
    lock_in: float = 0.0
    s_max_va: float | None = None

    def __post_init__(self) -> None:
        if self.cos_phi_of_p and (self.q_of_u or self.p_of_u):
            rules = "cos_phi_of_p together with a rule over voltage"
            raise ConfigError("inverter", [Fault(f"port {self.port}", rules, "cos_phi_of_p alone")])
        if not (0 < self.s_rated_va < math.inf and (self.s_max_va is None or self.s_max_va > 0)):
            seen = f"{self.s_rated_va} VA, at most {self.s_max_va} VA"
            raise ConfigError("inverter", [Fault(f"port {self.port}", seen, "ratings above 0")])


@dataclass(frozen=True, slots=True)
class Damper:
    """Three-phase damping control at three ports of one bus, in the order L1 L2 L3.

    Meersman et al., Electric Power Systems Research 81 (2011) 899-906: into the grid flows
    `g1 U1 - gd (U - U1)` per phase, `U1` the positive sequence turned to the phase, `g1 = P / (3 |U1|^2)`,
    `gd = damping * s_rated / (3 U_nominal^2)`. With `zero` false the zero sequence is left alone. Where a phase current
    would exceed the rating, the damping part is scaled down first. Its column of `p_w` is the total of the phases; its
    column of `q_var` must be zero.
    """

    ports: tuple[int, int, int]
    s_rated_va: float
    damping: float = 1.0
    zero: bool = True

    def __post_init__(self) -> None:
        if not (0 < self.s_rated_va < math.inf and 0 <= self.damping < math.inf and len(set(self.ports)) == 3):
            seen = f"ports {self.ports}, {self.s_rated_va} VA, damping {self.damping}"
            raise ConfigError("damper", [Fault("damper", seen, "three ports, a rating above 0, damping >= 0")])


Element = Draw | Inverter | Damper


def q_of_u_cei_0_21() -> Curve:
    """CEI 0-21 default: 0.90/0.92 and 1.08/1.10 of nominal, cos phi 0.90; drawn reactive power, share of rating."""
    q = math.sqrt(1 / COS_PHI_CEI**2 - 1)
    return Curve((0.90, 0.92, 1.08, 1.10), (-q, 0.0, 0.0, q))


def q_of_u_vde_4105(cos_phi: float = 0.95) -> Curve:
    """VDE-AR-N 4105 Q(U): dead band 0.97 .. 1.03, full at 0.93 and 1.07. The points are recalled, not established from
    the rule's text: check them against the edition that applies."""
    q = math.sqrt(1 - cos_phi**2)
    return Curve((0.93, 0.97, 1.03, 1.07), (-q, 0.0, 0.0, q))


@dataclass(frozen=True, slots=True, eq=False)
class Injections:
    """Powers of a batch: `p_w`, `q_var` (n_state, n_element) [W, var], import positive; `elements` (n_element), None
    for one constant-power draw at each port in the model's order."""

    p_w: NDArray[np.float64]
    q_var: NDArray[np.float64]
    elements: tuple[Element, ...] | None = None

    def __post_init__(self) -> None:
        shape = self.p_w.shape
        wide = len(shape) if self.elements is None or len(shape) < 2 else (len(shape), shape[1])
        expected = 2 if self.elements is None or len(shape) < 2 else (2, len(self.elements))
        if wide != expected:
            seen = f"shape {shape}"
            raise ConfigError("injections", [Fault("p_w", seen, "(n_state, n_element), a column for each element")])
        if self.q_var.shape != shape:
            raise ConfigError("injections", [Fault("q_var", f"shape {self.q_var.shape}", f"{shape}, as p_w")])

    @staticmethod
    def of(p_w: ArrayLike, q_var: ArrayLike = 0.0, elements: Sequence[Element] | None = None) -> Injections:
        """From anything array-like; one state may be given without its first axis.

        Raises:
            ConfigError: shapes that do not fit together, or a number that is not finite.
        """
        p = np.atleast_2d(np.asarray(p_w, dtype=np.float64))
        q = np.atleast_2d(np.asarray(q_var, dtype=np.float64))
        faults = []
        try:
            q = np.broadcast_to(q, p.shape)
        except ValueError:
            faults.append(Fault("q_var", f"shape {q.shape}", f"{p.shape}, as p_w"))
        if p.ndim != 2:
            faults.append(Fault("p_w", f"shape {p.shape}", "(n_state, n_element), or one state"))
        elif elements is not None and p.shape[1] != len(elements):
            faults.append(Fault("p_w", f"{p.shape[1]} columns", f"{len(elements)}, one for each element"))
        for name, values in (("p_w", p), ("q_var", q)):
            if not np.isfinite(values).all():
                state, column = np.argwhere(~np.isfinite(values))[0]
                faults.append(Fault(f"{name}[{state}][{column}]", f"{values[state, column]}", "a finite number"))
        if faults:
            raise ConfigError("injections", faults)
        return Injections(p, q, None if elements is None else tuple(elements))

    def ports(self) -> list[int]:
        """Every port an element names."""
        found: list[int] = []
        for element in self.elements or ():
            found += element.ports if isinstance(element, Damper) else [element.port]
        return found


def base_injections(model: PortModel) -> Injections:
    """The draws the network file states, as one state."""
    elements = tuple(Draw(k, *(float(v) for v in share)) for k, share in enumerate(model.base_zip))
    plain = all(e.p == 1.0 and e.z == 0.0 and e.i == 0.0 for e in elements)
    return Injections(model.base_p_w[None, :], model.base_q_var[None, :], None if plain else elements)


@dataclass(frozen=True, eq=False)
class Law:
    """Elements as arrays, sorted by kind, ready for an engine; one per batch.

    Draws carry `zip` (3, e) and nominal voltage; inverters two piecewise-linear factors over `m / nominal`; dampers a
    conductance. `columns` says which column of `p_w` and `q_var` each came from.
    """

    n_port: int
    draw_columns: NDArray[np.int64]
    draw_ports: NDArray[np.int64]
    draw_zip: NDArray[np.float64]
    draw_nominal_v: NDArray[np.float64]
    inverter_columns: NDArray[np.int64]
    inverter_ports: NDArray[np.int64]
    inverter_nominal_v: NDArray[np.float64]
    inverter_s_max_va: NDArray[np.float64]
    p_curves: NDArray[np.float64]
    q_curves: NDArray[np.float64]
    damper_columns: NDArray[np.int64]
    damper_ports: NDArray[np.int64]
    damper_g_s: NDArray[np.float64]
    damper_i_max_a: NDArray[np.float64]
    damper_zero: NDArray[np.bool_]

    @cached_property
    def plain(self) -> bool:
        """Constant power only, no two draws at one port."""
        only_p = not (self.draw_zip[:2].any() or (self.draw_zip[2] != 1.0).any())
        once = len(np.unique(self.draw_ports)) == len(self.draw_ports)
        return not len(self.inverter_ports) and not len(self.damper_ports) and only_p and once

    @property
    def curved(self) -> bool:
        """Some reactive or active power follows the voltage along a curve: the iteration needs damping."""
        return bool(len(self.inverter_ports))


def curve_steps(curve: Curve | None, constant: float) -> NDArray[np.float64]:
    """A curve as `y0 + sum_k slope_k clip(x - x_k, 0, width_k)`: row (1 + 3 * 7) of y0, then x, width and slope of each
    of seven pieces; a form without branches."""
    row = np.zeros(1 + 3 * (CURVE_POINTS_MAX - 1))
    row[0] = constant if curve is None else curve.y[0]
    if curve is not None:
        x, y = np.array(curve.x), np.array(curve.y)
        pieces = np.stack([x[:-1], np.diff(x), np.diff(y) / np.diff(x)], axis=1)
        row[1 : 1 + pieces.size] = pieces.ravel()
    return row


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A batch ready for an engine: `p_w`, `q_var`, Q(U) gain `k_var` [var at 1 of the curve] (n_state, n_element)."""

    law: Law
    p_w: NDArray[np.float64]
    q_var: NDArray[np.float64]
    k_var: NDArray[np.float64] | None

    def rows(self, at: slice | NDArray[np.int64]) -> Prepared:
        """Some of the states."""
        return Prepared(self.law, self.p_w[at], self.q_var[at], None if self.k_var is None else self.k_var[at])

    def silence(self, states: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
        """Take an element out of each of some states, in place."""
        for powers in (self.p_w, self.q_var, self.k_var):
            if powers is not None:
                powers[states, columns] = 0.0


def prepare(injections: Injections, u_nominal_v: NDArray[np.float64]) -> Prepared:
    """Check the batch against the ports and apply the rules that do not depend on voltage.

    Args:
        injections: the batch.
        u_nominal_v: nominal voltage of each port [V] (n_port).

    Raises:
        ConfigError: a port that does not exist, or columns that do not fit.
    """
    n_port = len(u_nominal_v)
    elements = injections.elements
    if elements is None and injections.p_w.shape[1] != n_port:
        seen = f"{injections.p_w.shape[1]} columns"
        raise ConfigError("injections", [Fault("p_w", seen, f"{n_port}, one for each port of the model")])
    law = _kept_law(injections, u_nominal_v)
    if len(law.damper_columns) and injections.q_var[:, law.damper_columns].any():
        raise ConfigError("injections", [Fault("q_var", "reactive power of a damper", "0")])
    q_var, k_var = injections.q_var, None
    if law.curved:
        q_var = np.array(q_var)
        k_var = np.zeros(q_var.shape)
        assert elements is not None
        for column in law.inverter_columns:
            e = elements[column]
            assert isinstance(e, Inverter)
            offered = np.abs(injections.p_w[:, column])
            if e.cos_phi_of_p is not None:
                q_var[:, column] += offered * np.tan(np.arccos(e.cos_phi_of_p.at(offered / e.s_rated_va)))
            if e.q_of_u is not None:
                k_var[:, column] = np.where(offered >= e.lock_in * e.s_rated_va, e.s_rated_va, 0.0)
    return Prepared(law, injections.p_w, q_var, k_var)


_laws: list[tuple[tuple[Element, ...] | None, bytes, Law]] = []
"""The last few laws: a loop that solves state after state gives the same elements each time."""
LAWS_KEPT: Final = 8


def _kept_law(injections: Injections, u_nominal_v: NDArray[np.float64]) -> Law:
    elements, nominal = injections.elements, u_nominal_v.tobytes()
    for kept, at, law in _laws:
        if kept is elements and at == nominal:
            return law
    n_port = len(u_nominal_v)
    wrong = sorted({k for k in injections.ports() if not 0 <= k < n_port})
    if wrong:
        raise ConfigError("injections", [Fault("elements", f"port {wrong[0]}", f"0 .. {n_port - 1}")])
    law = _law(tuple(Draw(k) for k in range(n_port)) if elements is None else elements, u_nominal_v)
    _laws.insert(0, (elements, nominal, law))
    del _laws[LAWS_KEPT:]
    return law


def _law(elements: tuple[Element, ...], u_nominal_v: NDArray[np.float64]) -> Law:
    draws = [(k, e) for k, e in enumerate(elements) if isinstance(e, Draw)]
    inverters = [(k, e) for k, e in enumerate(elements) if isinstance(e, Inverter)]
    dampers = [(k, e) for k, e in enumerate(elements) if isinstance(e, Damper)]

    def integers(values: list[int]) -> NDArray[np.int64]:
        return np.array(values, dtype=np.int64)

    draw_ports = integers([e.port for _, e in draws])
    own = np.array([np.nan if e.u_nominal_v is None else e.u_nominal_v for _, e in draws], dtype=float)
    inverter_ports = integers([e.port for _, e in inverters])
    damper_ports = integers([p for _, e in dampers for p in e.ports]).reshape(-1, 3)
    damper_u = u_nominal_v[damper_ports].mean(axis=1) if dampers else np.zeros(0)
    s_damper = np.array([e.s_rated_va for _, e in dampers])
    blank = np.zeros((0, len(curve_steps(None, 0.0))))
    return Law(
        n_port=len(u_nominal_v),
        draw_columns=integers([k for k, _ in draws]),
        draw_ports=draw_ports,
        draw_zip=np.array([(e.z, e.i, e.p) for _, e in draws], dtype=float).reshape(-1, 3).T.copy(),
        draw_nominal_v=np.where(np.isnan(own), u_nominal_v[draw_ports], own),
        inverter_columns=integers([k for k, _ in inverters]),
        inverter_ports=inverter_ports,
        inverter_nominal_v=u_nominal_v[inverter_ports],
        inverter_s_max_va=np.array([e.s_max_va or np.inf for _, e in inverters], dtype=float),
        p_curves=np.array([curve_steps(e.p_of_u, 1.0) for _, e in inverters]) if inverters else blank,
        q_curves=np.array([curve_steps(e.q_of_u, 0.0) for _, e in inverters]) if inverters else blank,
        damper_columns=integers([k for k, _ in dampers]),
        damper_ports=damper_ports,
        damper_g_s=np.array([e.damping for _, e in dampers]) * s_damper / (3 * damper_u**2),
        damper_i_max_a=s_damper / (3 * damper_u),
        damper_zero=np.array([e.zero for _, e in dampers], dtype=bool),
    )
