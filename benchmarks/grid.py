"""Power flow against its peers and against the machine, on the same states in one run; errors beside the times.

python -m benchmarks.grid [peers|engine|sizes|threads|structure|one|gpu ...] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # everything but `threads` is measured on one core

import numpy as np
from numpy.typing import NDArray

from benchmarks.feeders import merged, tree_feeder
from dcu.grid.compiler import compile_network
from dcu.grid.feeder import Feeder, solve
from dcu.grid.injections import Injections, prepare
from dcu.grid.network import Network
from dcu.grid.port_engine import solve_ports
from dcu.grid.port_model import Lines
from dcu.grid.sensitivities import sensitivity
from dcu.grid.sweep import available, sweep
from dcu.grid.tests.golden import CASES, day, feeder

TOLERANCE: Final = 1e-6
RUNS: Final = 5

Reals = NDArray[np.float64]


def _median(work: Callable[[], Any], runs: int = RUNS) -> tuple[float, Any]:
    """Median seconds of several runs, and the last result."""
    seconds, found = [], None
    for _ in range(runs):
        started = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), found


def _states(network: Network, count: int) -> tuple[Reals, Reals]:
    """Random draws that load a feeder of any size to a few per cent of voltage drop; 10 % of the ports feed in."""
    random = np.random.default_rng(20)
    ports = len(network.ports())
    p = random.uniform(0, 2000 * min(1.0, 60 / ports), (count, ports)) * np.where(random.random(ports) < 0.1, -1, 1)
    return p, 0.3 * np.abs(p)


def _eulv(count: int) -> tuple[Reals, Reals]:
    p, q, _ = day()
    rows = np.arange(count) % len(p)
    return p[rows], q[rows]


def peers() -> dict[str, Any]:
    """States a second on one core at 1e-6 pu, and the ratio to each peer's; same states, same feeder, same run."""
    eulv = feeder("eulv").network
    cases: dict[str, tuple[Network, int, int]] = {
        "eulv as published": (eulv, 28_800, 288),
        "eulv, chains merged": (merged(eulv), 28_800, 1440),
        "20 customers with service lines": (tree_feeder(20, "service"), 40_000, 4000),
        "20 customers at 20 buses": (tree_feeder(20, "each"), 40_000, 4000),
        "1000 buses, one customer each": (tree_feeder(1000, "each"), 2000, 100),
        "1000 buses, three-phase customers": (tree_feeder(1000, "three"), 1000, 100),
    }
    return {name: _against_peers(*case) for name, case in cases.items()}


def _against_peers(network: Network, ours: int, theirs: int) -> dict[str, Any]:
    whole = Feeder(network)
    p, q = _eulv(ours) if network.name.startswith("eulv") else _states(network, ours)
    prepared = prepare(Injections.of(p, q), whole.u_nominal_v)
    sweep(whole.tree, prepared, TOLERANCE, threads=1)
    seconds, found = _median(lambda: sweep(whole.tree, prepared, TOLERANCE, threads=1))
    single, _ = _median(lambda: sweep(whole.tree, prepared, TOLERANCE, threads=1, single=True))
    exact = solve(whole, Injections.of(p[:theirs], q[:theirs]), "sweep", tolerance_pu=1e-12)["port_u_v"]
    base = np.array([network.bus(port.bus).u_nominal_v for port in network.ports()])
    rate = ours / seconds
    result: dict[str, Any] = {
        "buses": len(network.buses),
        "nodes_reduced": len(whole.tree.nodes),
        "slots": whole.tree.slots,
        "sweep_states_per_s": round(rate),
        "sweep_float32_states_per_s": round(ours / single),
        "sweep_error_pu": float(np.abs((found.u_v[:theirs] - exact) / base).max()),
    }
    for name, one in _peer_runs(network, p[:theirs], q[:theirs]).items():
        work, read = one
        seconds, answer = _median(work, 3)
        result[name] = {
            "states_per_s": round(theirs / seconds, 1),
            "sweep_is_faster_by": round(rate * seconds / theirs, 1),
            "error_pu": float(np.abs(read(answer) - exact / base).max()),
        }
    return result


def _peer_runs(network: Network, p: Reals, q: Reals) -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    try:
        from benchmarks.peers import PowerGridModel  # noqa: PLC0415 an optional peer

        peer = PowerGridModel(network)
    except ImportError:
        return {}
    update = peer.update(p, q)
    found: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {}
    for method in ("iterative_current", "newton_raphson"):
        found[f"power_grid_model_{method}"] = partial(peer.solve, update, method, TOLERANCE), peer.port_u_pu
    return found


def others() -> dict[str, Any]:
    """OpenDSS in a loop and in its time-series mode, and pandapower, on the European feeder as published."""
    from benchmarks.peers import opendss_rates, pandapower_rate  # noqa: PLC0415 optional peers

    p, q = _eulv(1440)
    whole = feeder("eulv")
    prepared = prepare(Injections.of(p, q), whole.u_nominal_v)
    seconds, _ = _median(lambda: sweep(whole.tree, prepared, TOLERANCE, threads=1))
    exact = solve(whole, Injections.of(p, q), tolerance_pu=1e-12)["port_u_v"]
    found: dict[str, Any] = {"sweep_states_per_s": round(1440 / seconds)}
    runs = [*opendss_rates(whole.network, p, q, exact), *pandapower_rate(merged(whole.network), p, q, exact)]
    for name, rate, error in runs:
        found[name] = {
            "states_per_s": round(rate, 1),
            "sweep_is_faster_by": round(1440 / seconds / rate, 1),
            "error_pu": error,
        }
    return found


def engine() -> dict[str, Any]:
    """The port engine against the machine's own dgemm of the same shape: floating-point operations of its products."""
    found = {}
    for ports in (55, 110, 220, 440):
        network = tree_feeder(ports, "each")
        model = compile_network(network, observe=False, by_lines=False)
        p, q = _states(network, max(2000, 200_000 // ports))
        prepared = prepare(Injections.of(2 * p, 2 * q), model.u_nominal_v)
        steps = _products(model, prepared)
        seconds, _ = _median(lambda m=model, b=prepared: solve_ports(m, b, TOLERANCE, currents=False))  # type: ignore[misc]
        rate = 8.0 * ports**2 * steps / seconds
        gemm = _dgemm(2 * ports)
        found[f"{ports} ports"] = {
            "states_per_s": round(len(p) / seconds),
            "gflop_per_s": round(rate / 1e9, 1),
            "dgemm_gflop_per_s": round(gemm / 1e9, 1),
            "share_of_dgemm": round(rate / gemm, 3),
        }
    return found


def _products(model: Any, prepared: Any) -> int:
    """Columns that went through Z: states times the steps of their blocks."""
    from dcu.grid import port_engine  # noqa: PLC0415

    product = port_engine._product(model, np)
    counted = 0
    into = product.into

    def count(x: Any, u: Any) -> None:
        nonlocal counted
        counted += x.shape[1]
        into(x, u)

    product.into = count  # type: ignore[method-assign]
    solve_ports(model, prepared, TOLERANCE, currents=False)
    del product.into
    return counted


def _dgemm(size: int) -> float:
    """The machine's rate on a product of the engine's shape [flop/s]."""
    from dcu.grid.port_engine import _columns  # noqa: PLC0415

    columns = _columns(size // 2, np)
    a, b = np.random.default_rng(0).random((size, size)), np.random.default_rng(1).random((size, columns))
    out = np.empty((size, columns))
    count = max(20, int(2e9 / (2.0 * size * size * columns)))

    def work() -> None:
        for _ in range(count):
            np.matmul(a, b, out=out)

    work()
    seconds, _ = _median(work)
    return 2.0 * size * size * columns * count / seconds


def sizes() -> dict[str, Any]:
    """States a second against customers, and seconds against states."""
    customers = {}
    for count in (10, 20, 50, 100, 200, 500, 1000):
        network = tree_feeder(count, "service")
        whole = Feeder(network)
        p, q = _states(network, max(400, 400_000 // count))
        prepared = prepare(Injections.of(p, q), whole.u_nominal_v)
        swept, _ = _median(lambda w=whole, b=prepared: sweep(w.tree, b, TOLERANCE, threads=1))  # type: ignore[misc]
        few = prepared.rows(slice(0, max(64, len(p) // 20)))
        dense, _ = _median(lambda w=whole, b=few: solve_ports(w.model, b, TOLERANCE), 3)  # type: ignore[misc]
        customers[count] = {
            "sweep_states_per_s": round(len(p) / swept),
            "port_states_per_s": round(len(few.p_w) / dense),
        }
    states = {}
    whole = feeder("eulv")
    for count in (1, 10, 100, 1000, 10_000, 100_000, 1_000_000):
        batch = Injections.of(*_eulv(count))
        seconds, _ = _median(lambda b=batch: solve(whole, b, "sweep", tolerance_pu=TOLERANCE), 3)  # type: ignore[misc]
        states[count] = {"seconds": seconds, "states_per_s": round(count / seconds)}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"customers": customers, "eulv_states": states, "peak_memory_gib": round(memory, 2)}


def threads() -> dict[str, Any]:
    """States a second against threads and instruction sets; European feeder, voltages written."""
    whole = feeder("eulv")
    prepared = prepare(Injections.of(*_eulv(100_000)), whole.u_nominal_v)
    found: dict[str, Any] = {}
    for count in range(1, len(os.sched_getaffinity(0)) + 1):
        seconds, _ = _median(lambda n=count: sweep(whole.tree, prepared, TOLERANCE, threads=n))  # type: ignore[misc]
        found[f"{count} threads"] = round(100_000 / seconds)
    for kernels in available():
        seconds, _ = _median(lambda k=kernels: sweep(whole.tree, prepared, TOLERANCE, threads=1, kernels=k), 3)  # type: ignore[misc]
        found[kernels] = round(100_000 / seconds)
    seconds, _ = _median(lambda: sweep(whole.tree, prepared, TOLERANCE, threads=1, voltages=False, extremes=True))
    found["extremes only"] = round(100_000 / seconds)
    return found


def structure() -> dict[str, Any]:
    """What storing Z by outgoing lines saves: bytes and time a state, against the dense form."""
    found = {}
    for lines in (2, 4, 8):
        network = _substation(lines, 110)
        dense, by_lines = (compile_network(network, observe=False, by_lines=how) for how in (False, True))
        assert isinstance(by_lines.z, Lines)
        prepared = prepare(Injections.of(*_states(network, 1000)), dense.u_nominal_v)
        one, _ = _median(lambda m=dense, b=prepared: solve_ports(m, b, TOLERANCE, currents=False), 3)  # type: ignore[misc]
        two, _ = _median(lambda m=by_lines, b=prepared: solve_ports(m, b, TOLERANCE, currents=False), 3)  # type: ignore[misc]
        size = sum(part.nbytes for part in by_lines.z.parts) + by_lines.z.transfer.nbytes
        found[f"{lines} lines of 110 ports"] = {
            "dense_us_per_state": round(1e3 * one, 1),
            "by_lines_us_per_state": round(1e3 * two, 1),
            "dense_mib": round(16 * len(dense.ports) ** 2 / 2**20, 1),
            "by_lines_mib": round(size / 2**20, 1),
        }
    return found


def _substation(lines: int, customers: int) -> Network:
    """Several made-up feeders behind one transformer."""
    from dataclasses import replace  # noqa: PLC0415

    from dcu.grid.network import Branch, BranchEnd, Bus, ConnectionPoint  # noqa: PLC0415

    whole = tree_feeder(2, "each")
    buses, branches, points = list(whole.buses[:2]), [], []
    for k in range(lines):
        part = tree_feeder(customers, "each", seed=k)
        name = {"lv": "lv", "hv": "hv"} | {b.id: f"{k}.{b.id}" for b in part.buses if b.id not in ("hv", "lv")}
        buses += [Bus(name[b.id], b.conductors, b.u_nominal_v) for b in part.buses[2:]]
        for b in part.branches:
            ends = [BranchEnd(name[e.bus], e.conductors) for e in (b.from_end, b.to_end)]
            branches.append(Branch(f"{k}.{b.id}", ends[0], ends[1], b.z_ohm))
        points += [ConnectionPoint(f"{k}.{c.id}", name[c.bus], c.connections) for c in part.connection_points]
    return replace(
        whole, buses=tuple(buses), branches=tuple(branches), connection_points=tuple(points), name="substation", memo={}
    )


def one() -> dict[str, Any]:
    """Microseconds for one state, and milliseconds for the sensitivities of a large feeder."""
    whole = feeder("eulv")
    batch = Injections.of(*_eulv(1))
    prepared = prepare(batch, whole.u_nominal_v)
    found = {
        "sweep_call_us": _us(lambda: sweep(whole.tree, prepared, TOLERANCE)),
        "sweep_through_the_door_us": _us(lambda: solve(whole, batch, "sweep", tolerance_pu=TOLERANCE)),
        "port_through_the_door_us": _us(lambda: solve(whole, batch, "port", tolerance_pu=TOLERANCE)),
    }
    model = compile_network(tree_feeder(200, "each"), observe=False)
    many = prepare(Injections.of(np.full((1, 200), 500.0)), model.u_nominal_v)
    u = solve_ports(model, many, 1e-10).u_v[0]
    found["sensitivities_200_ports_ms"] = _us(lambda: sensitivity(model, many, 0, u), 20) / 1e3
    return {name: round(value, 2) for name, value in found.items()}


def _us(work: Callable[[], Any], count: int = 500) -> float:
    work()
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return 1e6 * statistics.median(seconds)


def gpu() -> dict[str, Any]:
    """The port engine on a GPU through CuPy, arrays staying there; nothing where there is none."""
    try:
        import cupy  # noqa: PLC0415 the extra headroom[gpu]

        if not cupy.cuda.runtime.getDeviceCount():
            return {}
    except Exception:  # no driver, no library: each has its own exception
        return {}
    model = feeder("eulv").model
    found = {}
    for count in (10_000, 100_000, 1_000_000):
        prepared = prepare(Injections.of(*_eulv(count)), model.u_nominal_v)
        moved = type(prepared)(prepared.law, cupy.asarray(prepared.p_w), cupy.asarray(prepared.q_var), None)

        def work(batch: Any = moved) -> Any:
            solved = solve_ports(model, batch, TOLERANCE, cupy)
            cupy.cuda.Device().synchronize()
            return solved

        work()
        seconds, solved = _median(work)
        exact = solve(model, Injections.of(*_eulv(1440)), tolerance_pu=1e-12)["port_u_v"]
        error = float(np.abs(cupy.asnumpy(solved.u_v[:1440]) - exact).max() / 230)
        found[f"{count} states"] = {"states_per_s": round(count / seconds), "error_pu": error}
    return found


ALL: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "peers": peers,
    "others": others,
    "engine": engine,
    "sizes": sizes,
    "threads": threads,
    "structure": structure,
    "one": one,
    "gpu": gpu,
}


def measure(names: list[str]) -> dict[str, Any]:
    """The named measurements, or all; what fails for want of a peer says so."""
    found: dict[str, Any] = {"feeder_data": str(CASES.name), "instruction_sets": list(available())}
    for name in names or list(ALL):
        try:
            found[name] = ALL[name]()
        except ImportError as error:
            found[name] = f"not measured: {error}"
    return found


def main() -> None:
    """Measure and write `grid.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grid", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*ALL, []])
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args()
    result = measure(options.names)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "grid.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
