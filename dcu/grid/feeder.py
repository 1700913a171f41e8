"""The one door to power flow: `solve(feeder, injections)`, whichever engine does it.

port   dense, any network, NumPy alone (or CuPy): `dcu.grid.port_engine`
sweep  compiled tree sweep, radial networks, many states: `dcu.grid.sweep`
auto   sweep where the network is radial and the compiled module is there, else port; `FlowResult.notes` says why
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from dcu.grid.flow_result import FlowResult, Status, check_names
from dcu.grid.injections import Injections, Inverter, Prepared, prepare
from dcu.grid.observe import observed
from dcu.grid.port_engine import Solved, newton, solve_ports
from dcu.grid.port_model import PortModel
from shared.errors import ConfigError, Fault, HeadroomError

if TYPE_CHECKING:
    from dcu.grid.network import Network
    from dcu.grid.tree_model import TreeModel

Engine = Literal["auto", "port", "sweep"]
Precision = Literal["double", "single"]

TOLERANCE_PU: Final = 1e-10
"""Default: two engines that each keep it agree to 1e-9 with room to spare."""
STATES_AT_ONCE: Final = 16_384
"""States whose complete results are held while others are still to come."""
THREADS_MAX: Final = 1024
NEWTON_PORTS_MAX: Final = 1_500
"""Newton's method on a dense Jacobian; with more ports a state that the sweep leaves is reported as unsolved."""


@dataclass(slots=True, eq=False)
class Feeder:
    """A network with what was compiled from it, each made when first needed."""

    network: Network
    _model: PortModel | None = field(default=None, repr=False)
    _tree: TreeModel | None = field(default=None, repr=False)
    _nominal: NDArray[np.float64] | None = field(default=None, repr=False)
    why_no_tree: str | None = field(default=None, repr=False)
    """Why the sweep cannot walk it; empty if it can, None before anybody asked."""

    @property
    def model(self) -> PortModel:
        """The compiled port model (needs SciPy the first time)."""
        if self._model is None:
            from dcu.grid.compiler import compile_network  # noqa: PLC0415 SciPy only where something is compiled

            self._model = compile_network(self.network)
        return self._model

    @property
    def u_nominal_v(self) -> NDArray[np.float64]:
        """Nominal voltage across each port [V] (n_port)."""
        if self._nominal is None:
            self._nominal = self.network.port_nominal_v()
        return self._nominal

    @property
    def tree(self) -> TreeModel:
        """The reduced tree.

        Raises:
            NotRadialError: the network has a loop.
        """
        if self._tree is None:
            from dcu.grid.tree import reduce_tree  # noqa: PLC0415 shares SciPy with the compiler

            self._tree = reduce_tree(self.network, self.u_nominal_v)
        return self._tree


def solve(
    feeder: Feeder | Network | PortModel,
    injections: Injections,
    engine: Engine = "auto",
    *,
    results: Sequence[str] = ("port_u_v",),
    tolerance_pu: float = TOLERANCE_PU,
    threads: int = 0,
    precision: Precision = "double",
    xp: Any = np,
) -> FlowResult:
    """Power flow of a batch of states.

    Args:
        feeder: a network, or what was compiled from it. A `Feeder` keeps what it compiles between calls; so does a
            network.
        injections: powers of each state.
        engine: see the module.
        results: names out of `dcu.grid.flow_result.RESULTS`; writing them can cost more than solving.
        tolerance_pu: estimated error of a port voltage at which a state is done [share of nominal].
        threads: of the sweep; 0 for as many as the process may use. Results do not depend on it.
        precision: `single` lets the sweep work in float32, good for 1e-6.
        xp: array namespace of the port engine (NumPy, CuPy).

    Raises:
        ConfigError: injections that do not fit, an unknown result or engine.
        HeadroomError: the engine asked for cannot solve this feeder.
    """
    names = tuple(results)
    check_names(names)
    if not tolerance_pu > 0:
        raise ConfigError("solve", [Fault("tolerance_pu", f"{tolerance_pu}", "a number above 0")])
    if precision not in ("double", "single"):
        raise ConfigError("solve", [Fault("precision", repr(precision), "double or single")])
    if not 0 <= threads <= THREADS_MAX:
        raise ConfigError("solve", [Fault("threads", f"{threads}", f"0 .. {THREADS_MAX}")])
    whole = _whole(feeder)
    chosen, notes = _choose(whole, engine)
    nominal = whole.u_nominal_v
    prepared = prepare(injections, nominal)
    if chosen == "port":
        run: _Run = _PortRun(_model_of(whole), tolerance_pu, xp)
    else:
        assert isinstance(whole, Feeder)
        run = _SweepRun(whole, tolerance_pu, threads, precision)
    batches = _batches(prepared, names, run)
    if any(isinstance(e, Inverter) and e.cut_off is not None for e in injections.elements or ()):
        parts = [_with_cut_off(run, injections, batch, nominal, names) for batch in batches]
    else:
        parts = [run.part(batch, names) for batch in batches]
    return _joined(chosen, parts, tuple(notes))


def _whole(feeder: Feeder | Network | PortModel) -> Feeder | PortModel:
    if isinstance(feeder, Feeder | PortModel):
        return feeder
    kept = feeder.memo.get("feeder")
    if not isinstance(kept, Feeder):
        kept = feeder.memo["feeder"] = Feeder(feeder)
    return kept


def _model_of(whole: Feeder | PortModel) -> PortModel:
    return whole.model if isinstance(whole, Feeder) else whole


def _choose(whole: Feeder | PortModel, engine: str) -> tuple[Literal["port", "sweep"], list[str]]:
    if engine not in ("auto", "port", "sweep"):
        raise ConfigError("solve", [Fault("engine", repr(engine), "auto, port or sweep")])
    if engine == "port":
        return "port", []
    why = _why_no_sweep(whole)
    if why is None:
        return "sweep", []
    if engine == "sweep":
        raise HeadroomError(f"engine sweep: {why}")
    return "port", [f"port engine: {why}"]


def _why_no_sweep(whole: Feeder | PortModel) -> str | None:
    if isinstance(whole, PortModel):
        return "a port model has no tree any more; give the network"
    if whole.why_no_tree is None:
        whole.why_no_tree = _look_for_tree(whole)
    return whole.why_no_tree or None


def _look_for_tree(feeder: Feeder) -> str:
    if not _sweeping().available():
        return "the compiled module is not installed"
    from dcu.grid.tree import NotRadialError  # noqa: PLC0415 see _sweeping

    try:
        _ = feeder.tree
    except NotRadialError as error:
        return str(error)
    return ""


@cache
def _sweeping() -> ModuleType:
    """The sweep's module, imported when first needed: the DCU has neither a compiler's output nor SciPy."""
    from dcu.grid import sweep  # noqa: PLC0415

    return sweep


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Results of consecutive states, every array over states."""

    status: NDArray[np.int8]
    contraction: NDArray[np.float64]
    iterations: NDArray[np.int32]
    error_pu: NDArray[np.float64]
    values: dict[str, NDArray[Any]]


_DIRECT: Final = frozenset({"port_u_v", "u_min_pu", "u_max_pu"})
"""What the sweep writes itself, without the port model's matrices."""


_FROM_VOLTAGES: Final = _DIRECT | {"port_u_magnitude_v"}
"""What needs no currents."""


@dataclass(frozen=True, slots=True, eq=False)
class _PortRun:
    model: PortModel
    tolerance_pu: float
    xp: Any

    def whole(self, names: tuple[str, ...]) -> bool:
        """Whether a batch may be solved in one piece: nothing asked for is wider than the solution."""
        return self.xp is not np or set(names) <= {"port_u_v", "port_i_a"}

    def part(self, prepared: Prepared, names: tuple[str, ...]) -> _Part:
        currents = not set(names) <= _FROM_VOLTAGES
        solved = solve_ports(self.model, prepared, self.tolerance_pu, self.xp, currents=currents)
        values = observed(self.model, solved.u_v, solved.i_a, names, self.xp)
        return _Part(solved.status, solved.contraction, solved.iterations, solved.error_pu, values)


@dataclass(frozen=True, slots=True, eq=False)
class _SweepRun:
    feeder: Feeder
    tolerance_pu: float
    threads: int
    precision: Precision

    def whole(self, names: tuple[str, ...]) -> bool:
        """As in `_PortRun`."""
        return set(names) <= _DIRECT | {"port_i_a"}

    def part(self, prepared: Prepared, names: tuple[str, ...]) -> _Part:
        sweep = _sweeping()
        single = self.precision == "single"
        direct = set(names) <= _DIRECT
        swept = sweep.sweep(
            self.feeder.tree,
            prepared,
            self.tolerance_pu,
            voltages=not direct or "port_u_v" in names,
            currents=not direct,
            extremes=direct and bool({"u_min_pu", "u_max_pu"} & set(names)),
            single=single,
            threads=self.threads,
        )
        status = np.zeros(len(swept.error_pu), dtype=np.int8)
        limit = max(self.tolerance_pu, sweep.SINGLE_TOLERANCE_PU) if single else self.tolerance_pu
        solved = Solved(swept.u_v, swept.i_a, status, swept.contraction, swept.iterations, swept.error_pu)
        if not (done := swept.error_pu <= limit).all():
            self._finish(prepared, np.flatnonzero(~done), solved, swept)
        if not direct:
            values = observed(self.feeder.model, swept.u_v, swept.i_a, names)
        else:
            found = {"port_u_v": swept.u_v, "u_min_pu": swept.u_min_pu, "u_max_pu": swept.u_max_pu}
            values = {name: value for name in names if (value := found[name]) is not None}
        return _Part(solved.status, solved.contraction, solved.iterations, solved.error_pu, values)

    def _finish(self, prepared: Prepared, slow: NDArray[np.int64], solved: Solved, swept: Any) -> None:
        """Newton's method for the states the sweep left, on the port model."""
        nominal = self.feeder.u_nominal_v
        possible = len(nominal) <= NEWTON_PORTS_MAX
        for state in slow:
            found = newton(self.feeder.model, prepared, int(state), self.tolerance_pu) if possible else None
            if found is None:
                solved.status[state], solved.error_pu[state] = Status.NO_SOLUTION, np.nan
            else:
                solved.error_pu[state] = found[2]
                solved.iterations[state] += found[3]
            u, i = (found[0], found[1]) if found is not None else (np.nan, np.nan)
            if swept.u_v is not None:
                swept.u_v[state] = u
            if swept.i_a is not None:
                swept.i_a[state] = i
            if swept.u_min_pu is not None:
                share = np.abs(u) / nominal
                swept.u_min_pu[state], swept.u_max_pu[state] = share.min(), share.max()


_Run = _PortRun | _SweepRun


def _batches(prepared: Prepared, names: tuple[str, ...], run: _Run) -> list[Prepared]:
    """The batch in one piece, or in several where the results are wider than the solution."""
    states = len(prepared.p_w)
    if states <= STATES_AT_ONCE or run.whole(names):
        return [prepared]
    return [prepared.rows(slice(at, at + STATES_AT_ONCE)) for at in range(0, states, STATES_AT_ONCE)]


def _joined(engine: str, parts: list[_Part], notes: tuple[str, ...]) -> FlowResult:
    def whole(arrays: list[NDArray[Any]]) -> NDArray[Any]:
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    return FlowResult(
        engine,
        whole([p.status for p in parts]),
        whole([p.contraction for p in parts]),
        whole([p.iterations for p in parts]),
        whole([p.error_pu for p in parts]),
        {name: whole([p.values[name] for p in parts]) for name in parts[0].values},
        notes,
    )


def _with_cut_off(
    run: _Run, injections: Injections, prepared: Prepared, nominal: NDArray[np.float64], names: tuple[str, ...]
) -> _Part:
    """Disconnect inverters above their cut-off, in each state the one furthest above first, until none is left.

    A state is solved again only while something in it changed; at most once for every inverter with a cut-off.
    """
    elements = injections.elements or ()
    guarded = [(k, e) for k, e in enumerate(elements) if isinstance(e, Inverter) and e.cut_off is not None]
    columns = np.array([k for k, _ in guarded])
    ports = np.array([e.port for _, e in guarded])
    limits = np.array([e.cut_off for _, e in guarded], dtype=float)
    off = np.zeros(prepared.p_w.shape, dtype=bool)
    now = Prepared(prepared.law, prepared.p_w.copy(), prepared.q_var.copy(), prepared.k_var)
    open_states = np.arange(len(off))
    while len(open_states):
        part = run.part(now.rows(open_states), ("port_u_v",))
        u = np.abs(part.values["port_u_v"][:, ports]) / nominal[ports]
        above = np.where(off[open_states][:, columns], -np.inf, u - limits)
        worst = np.nanargmax(np.where(np.isnan(above), -np.inf, above), axis=1)
        trips = above[np.arange(len(open_states)), worst] > 0
        open_states, worst = open_states[trips], worst[trips]
        off[open_states, columns[worst]] = True
        now.silence(open_states, columns[worst])
    wanted = tuple(name for name in names if name != "cut_off")
    part = run.part(now, wanted)
    return _Part(
        part.status,
        part.contraction,
        part.iterations,
        part.error_pu,
        part.values | ({"cut_off": off} if "cut_off" in names else {}),
    )
