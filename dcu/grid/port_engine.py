"""The dense engine: the fixed point `u <- u_open + Z i(u)` for many states at once, on any array namespace.

Method. States are solved in blocks that fit the cache, one column a state, real and imaginary parts stacked, so that a
step is one real matrix product `(2n, 2n) @ (2n, block)` and a few element-wise passes. The map contracts with a factor
`q` well below 1 on any healthy feeder; the error left after a step is about `step q / (1 - q)`, and that, not the
step, is compared with the tolerance. `q` is estimated, not known: as the larger of the last two ratios of steps, and at
least 0.3 where there is only one. States that do not get there are given to Newton's method on the same equation,
approached along the load (`p, q` scaled up from where a solution is known), and are reported as without solution if
that fails too.

Blocks are the same for any batch; the bits of a result depend on how many threads the BLAS behind NumPy uses, and on
nothing else (run with OPENBLAS_NUM_THREADS=1 where bits matter; the sweep does not depend on threads at all).

Nomenclature: n ports, b states of a block, `x` the stacked currents, `u` the stacked voltages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.flow_result import Status
from dcu.grid.injections import Prepared
from dcu.grid.laws import Array, Currents, derivative
from dcu.grid.port_model import Lines, PortModel

STEPS_MAX: Final = 60
"""A contraction of 0.7 reaches 1e-9 in this many; what is slower goes to Newton's method."""
NEWTON_STEPS_MAX: Final = 12
NEWTON_STRIDE: Final = 0.5
"""First share of the load on the way to a state that the fixed point left."""
NEWTON_STRIDE_MIN: Final = 1e-4
"""A stride below this share of the load means that the nose has been reached."""
NEWTON_CHANGE_MAX: Final = 0.15
"""Largest change of a voltage in one step, share of the voltage; more could jump to the low-voltage branch."""
Q_FIRST: Final = 0.3
"""Contraction that is assumed at least where only one ratio of steps is known: one may be small by chance."""
QUIET: Final = 1e-14
"""[pu] Steps below this are rounding; their ratio says nothing."""
RELAXATION: Final = 0.4
"""Share by which the voltage that a curve looks at follows the solution; the plain iteration swings on steep curves."""
BLOCK_BYTES: Final = 160 << 10
"""Size of one array of a block: about ten of them share a second-level cache of 1-2 MiB."""
COLUMNS_MIN: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    """Port voltages and injected currents (n_state, n_port), and how each state ended."""

    u_v: Array
    i_a: Array
    status: NDArray[np.int8]
    contraction: NDArray[np.float64]
    iterations: NDArray[np.int32]
    error_pu: NDArray[np.float64]


def solve_ports(
    model: PortModel,
    prepared: Prepared,
    tolerance_pu: float,
    xp: Any = np,
    *,
    currents: bool = True,
    newton: bool = True,
    near_u_v: NDArray[np.complex128] | None = None,
) -> Solved:
    """Solve a batch.

    Args:
        model: the compiled feeder.
        prepared: the batch.
        tolerance_pu: estimated error of the port voltages at which a state is done [share of nominal].
        xp: array namespace, NumPy or CuPy; `u_v` and `i_a` come back as its arrays.
        currents: whether `i_a` is wanted; else it is empty.
        newton: whether states that the fixed point does not settle are followed up from no load, 10 to 100 ms each;
            else they have no solution.
        near_u_v: port voltages [V] (n) of a state near by, where the iteration starts; None for no load.
    """
    n_state, n = len(prepared.p_w), len(model.ports)
    product = _product(model, xp)
    out = Solved(
        xp.empty((n_state, n), dtype=xp.complex128),
        xp.empty((n_state if currents else 0, n), dtype=xp.complex128),
        np.zeros(n_state, dtype=np.int8),
        np.zeros(n_state),
        np.zeros(n_state, dtype=np.int32),
        np.zeros(n_state),
    )
    width = _columns(n, xp)
    for first in range(0, n_state, width):
        at = slice(first, min(first + width, n_state))
        block = _Block(xp, model, prepared, at, product)
        if near_u_v is not None:
            block.start_from(near_u_v)
        block.iterate(tolerance_pu)
        block.store(out)
    slow = np.flatnonzero(~(out.error_pu <= tolerance_pu))
    if len(slow) and newton:
        _finish(model, prepared, tolerance_pu, slow, out, xp)
    elif len(slow):
        out.status[slow] = Status.NO_SOLUTION
        out.u_v[slow] = np.nan
        if currents:
            out.i_a[slow] = np.nan
    return out


def _columns(n: int, xp: Any) -> int:
    if xp is not np:
        return max(1 << 22, 1) // max(n, 1) * 8  # a device wants large blocks; about 256 MiB an array
    return max(COLUMNS_MIN, BLOCK_BYTES // (16 * max(n, 1)))


class _Dense:
    """`u_open + Z x` on stacked real and imaginary parts as one real product; the last row of `x` is 1."""

    def __init__(self, xp: Any, z: NDArray[np.complex128], u_open: NDArray[np.complex128] | None = None) -> None:
        self._xp = xp
        whole = np.block([[z.real, -z.imag], [z.imag, z.real]])
        if u_open is not None:
            whole = np.concatenate([whole, np.concatenate([u_open.real, u_open.imag])[:, None]], axis=1)
        self._z = xp.asarray(whole)

    def into(self, x: Array, u: Array) -> None:
        self._xp.matmul(self._z, x, out=u)


class _ByLines:
    """The same for a Z by outgoing lines."""

    def __init__(self, xp: Any, lines: Lines, u_open: NDArray[np.complex128]) -> None:
        self._xp = xp
        n = len(lines.transfer)
        last = np.array([2 * n])
        self._at = [xp.asarray(np.concatenate([p, p + n])) for p in lines.ports]
        self._from = [xp.asarray(np.concatenate([p, p + n, last])) for p in lines.ports]
        self._parts = [_Dense(xp, part, u_open[p]) for p, part in zip(lines.ports, lines.parts, strict=True)]
        self._lift = _Dense(xp, lines.z_busbar_ohm @ lines.transfer.T)
        self._spread = _Dense(xp, lines.transfer)
        self._busbar = 2 * len(lines.z_busbar_ohm)

    def into(self, x: Array, u: Array) -> None:
        xp = self._xp
        busbar = xp.empty((self._busbar, x.shape[1]))
        self._lift.into(x[:-1], busbar)
        self._spread.into(busbar, u)
        for at, taken, part in zip(self._at, self._from, self._parts, strict=True):
            own = xp.empty((len(at), x.shape[1]))
            part.into(x[taken], own)
            u[at] += own


def _product(model: PortModel, xp: Any) -> _Dense | _ByLines:
    key = f"product {xp.__name__}"
    if key not in model.memo:
        kind = (
            _ByLines(xp, model.z, model.u_open_v) if isinstance(model.z, Lines) else _Dense(xp, model.z, model.u_open_v)
        )
        model.memo[key] = kind
    found: _Dense | _ByLines = model.memo[key]
    return found


class _Block:
    """One block of states and its iteration; `x` holds the stacked currents and a row of ones below them."""

    def __init__(self, xp: Any, model: PortModel, prepared: Prepared, at: slice, product: _Dense | _ByLines) -> None:
        self._xp, self._at, self._product = xp, at, product
        n, b = len(model.ports), at.stop - at.start
        self._n = n

        def columns(rows: NDArray[np.float64], order: Any = slice(None)) -> Array:
            return xp.ascontiguousarray(xp.asarray(rows[at][:, order]).T)

        law = prepared.law
        self._plain = law.plain and np.array_equal(law.draw_ports, np.arange(n))
        p, q = prepared.p_w, prepared.q_var
        if self._plain:
            straight = np.array_equal(law.draw_columns, np.arange(p.shape[1]))
            order: Any = slice(None) if straight else law.draw_columns
            self._p, self._q = -columns(p, order), -columns(q, order)
        k = None if prepared.k_var is None else columns(prepared.k_var)
        self._currents = None if self._plain else Currents(xp, law, columns(p), columns(q), k)
        u_open = np.concatenate([model.u_open_v.real, model.u_open_v.imag])
        self._per_nominal = xp.asarray(np.tile(1 / model.u_nominal_v, 2))[:, None]
        self._u = xp.empty((2 * n, b))
        self._u[...] = xp.asarray(u_open)[:, None]
        self._old = xp.empty((2 * n, b))
        self._x = xp.ones((2 * n + 1, b))
        self._w, self._t = xp.empty((n, b)), xp.empty((n, b))
        self._curved = law.curved
        if self._currents is not None and law.curved:
            self._currents.filtered = self._currents.magnitudes(self._u[:n], self._u[n:])
        self.error = np.full(b, np.inf)
        self.contraction = np.zeros(b)
        self.iterations = np.zeros(b, dtype=np.int32)

    def start_from(self, u_v: NDArray[np.complex128]) -> None:
        """Begin at voltages that are known to be near."""
        self._u[...] = self._xp.asarray(np.concatenate([u_v.real, u_v.imag]))[:, None]

    def iterate(self, tolerance_pu: float) -> None:
        """Until every state's estimated error is below the tolerance, or `STEPS_MAX`."""
        with np.errstate(all="ignore"):
            # Measuring a step costs a third of it. Hardly a state is done after two, so the first goes unmeasured.
            before, blind = None, 1
            q_before: Any = Q_FIRST
            for count in range(1, STEPS_MAX + 1):
                step = self._step(measure=blind == 0)
                if blind:
                    blind -= 1
                    before = None
                    continue
                if before is None:
                    before = step
                    continue
                ratio = step / np.maximum(before, 1e-300)
                before = step
                q = np.where(step < QUIET, np.maximum(q_before, 0.5), np.minimum(np.maximum(ratio, q_before), 0.999))
                q_before = np.where(step < QUIET, q_before, np.minimum(ratio, 0.999))
                error = step * q / (1 - q)
                open_ = self.iterations == 0
                self.error = np.where(open_, error, self.error)
                self.contraction = np.where(open_ & (step >= QUIET), ratio, self.contraction)
                self.iterations[open_ & (error <= tolerance_pu)] = count
                if (self.iterations > 0).all():
                    return
                if not self._curved:
                    blind = self._steps_to_go(error, q, tolerance_pu)

    def _steps_to_go(self, error: NDArray[np.float64], q: NDArray[np.float64], tolerance_pu: float) -> int:
        """Steps that need not be measured: two fewer than the slowest state will take."""
        worst = float(np.nanmax(error, initial=0.0))
        slowest = float(np.nanmax(q, initial=0.0))
        if not 0.0 < slowest < 0.9 or not 0.0 < worst < math.inf:
            return 0
        return max(0, math.ceil(math.log(tolerance_pu / worst) / math.log(slowest)) - 2)

    def _step(self, *, measure: bool) -> Any:
        """One application of the map; the largest change of each state [pu] if it is to be measured."""
        n = self._n
        if self._currents is not None:
            self._currents.inject(self._u[:n], self._u[n:], self._x[:n], self._x[n:-1])
        else:
            self._constant_power()
        self._u, self._old = self._old, self._u
        self._product.into(self._x, self._u)
        return self._change() if measure or self._currents is not None else None

    def _constant_power(self) -> None:
        """`x = -conj(p + j q) / conj(u)`; `_p` and `_q` carry the minus."""
        xp, n = self._xp, self._n
        ur, ui, xr, xi = self._u[:n], self._u[n:], self._x[:n], self._x[n:-1]
        w, t = self._w, self._t
        xp.multiply(ur, ur, out=w)
        xp.multiply(ui, ui, out=t)
        w += t
        xp.divide(self._q, w, out=t)
        xp.divide(self._p, w, out=w)
        xp.multiply(w, ur, out=xr)
        xp.multiply(w, ui, out=xi)
        xp.multiply(t, ui, out=w)
        xr += w
        t *= ur
        xi -= t

    def _change(self) -> Any:
        """Largest change of a port voltage in each state [pu], real and imaginary part taken apart, times sqrt(2)."""
        xp, n = self._xp, self._n
        u, old = self._u, self._old
        xp.subtract(u, old, out=old)
        xp.abs(old, out=old)
        old *= self._per_nominal
        change = math.sqrt(2) * old.max(axis=0)
        if self._curved:
            assert self._currents is not None
            wish = self._currents.magnitudes(u[:n], u[n:]) - self._currents.filtered
            self._currents.filtered = self._currents.filtered + RELAXATION * wish
            at = self._currents.law_ports
            change = xp.maximum(change, (xp.abs(wish) * self._per_nominal[at]).max(axis=0))
        return change if xp is np else xp.asnumpy(change)

    def store(self, out: Solved) -> None:
        """Write the block's states to the result."""
        n, at = self._n, self._at
        xp = self._xp
        wanted = [(out.u_v, self._u), (out.i_a, self._x)]
        for whole, parts in wanted if len(out.i_a) else wanted[:1]:
            pairs = xp.stack([parts[:n].T, parts[n : 2 * n].T], axis=2)
            whole[at] = pairs.view(xp.complex128)[:, :, 0]
        out.error_pu[at], out.contraction[at] = self.error, self.contraction
        out.iterations[at] = np.where(self.iterations == 0, STEPS_MAX, self.iterations)


def _finish(
    model: PortModel, prepared: Prepared, tolerance_pu: float, slow: NDArray[np.int64], out: Solved, xp: Any
) -> None:
    """Newton's method for the states that the fixed point left; without solution they become NaN."""
    for state in slow:
        found = newton(model, prepared, int(state), tolerance_pu)
        if found is None:
            out.u_v[state] = xp.nan
            out.i_a[state : state + 1] = xp.nan
            out.status[state], out.error_pu[state] = Status.NO_SOLUTION, np.nan
        else:
            u, i, error, steps = found
            out.u_v[state] = xp.asarray(u)
            out.i_a[state : state + 1] = xp.asarray(i)
            out.error_pu[state] = error
            out.iterations[state] += steps


def newton(
    model: PortModel, prepared: Prepared, state: int, tolerance_pu: float
) -> tuple[NDArray[np.complex128], NDArray[np.complex128], float, int] | None:
    """One state by Newton's method with the exact derivative, led along a growing load; None where there is none.

    The way starts at no load and may not leave that branch of solutions: a step may change no voltage by more than
    `NEWTON_CHANGE_MAX`, and the determinant of the derivative must keep the sign it has without load (it changes at the
    nose). What does either is tried again with half the stride.

    Returns port voltages [V], injected currents [A], the last step [pu] and the number of steps.
    """
    u, reached, stride, steps = model.u_open_v.copy(), 0.0, NEWTON_STRIDE, 0
    while reached < 1.0 and stride > NEWTON_STRIDE_MIN:
        goal = min(1.0, reached + stride)
        found = _newton_at(model, _scaled(prepared, state, goal), u, tolerance_pu)
        if found is None:
            stride /= 2
            continue
        u, error, used = found
        steps += used
        reached = goal
        stride *= 2
    if reached < 1.0:
        return None
    return u, current_of(_scaled(prepared, state, 1.0), u), error, steps


def _scaled(prepared: Prepared, state: int, share: float) -> Prepared:
    """One state of the batch with its powers multiplied."""
    k = None if prepared.k_var is None else prepared.k_var[state : state + 1] * share
    at = slice(state, state + 1)
    return Prepared(prepared.law, prepared.p_w[at] * share, prepared.q_var[at] * share, k)


def current_of(one: Prepared, u: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Injected currents [A] (n) of the only state."""
    k = None if one.k_var is None else one.k_var.T
    re, im = np.empty((len(u), 1)), np.empty((len(u), 1))
    Currents(np, one.law, one.p_w.T, one.q_var.T, k).inject(u.real[:, None], u.imag[:, None], re, im)
    found: NDArray[np.complex128] = re[:, 0] + 1j * im[:, 0]
    return found


def _newton_at(
    model: PortModel, one: Prepared, u: NDArray[np.complex128], tolerance_pu: float
) -> tuple[NDArray[np.complex128], float, int] | None:
    n = len(u)
    z = model.z_ohm
    real = np.block([[z.real, -z.imag], [z.imag, z.real]])
    before = np.inf
    for count in range(1, NEWTON_STEPS_MAX + 1):
        with np.errstate(all="ignore"):
            residual = u - model.u_open_v - z @ current_of(one, u)
            slope = np.eye(2 * n) - real @ derivative(one, 0, u)
        if not (np.isfinite(slope).all() and np.isfinite(residual).all()):
            return None
        try:
            dx = np.linalg.solve(slope, -np.concatenate([residual.real, residual.imag]))
        except np.linalg.LinAlgError:
            return None
        du = dx[:n] + 1j * dx[n:]
        step = float((np.abs(du) / model.u_nominal_v).max())
        if not (np.abs(du) <= NEWTON_CHANGE_MAX * np.abs(u)).all():
            return None
        u = u + du
        if step <= tolerance_pu or (step < 1e-7 and step > before / 2):
            return (u, step, count) if np.linalg.slogdet(slope)[0] > 0 else None
        if not step < 10 or np.abs(u).min() < 1e-3 * np.abs(model.u_open_v).max():
            return None
        before = step
    return None
