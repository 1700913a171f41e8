"""Sampled states solved once more by OpenDSS, element by element."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dcu.grid.network import Network
from dcu.planning.evaluate import currents
from dcu.planning.tests.stand_in import read

dss = pytest.importorskip("dss", reason="the OpenDSS engine is an extra: headroom[opendss]")

STATES = 2000
LEVEL_W = 11_000.0
AGREED_PU = 1e-6
PHASES = ("L1", "L2", "L3")


def _script(network: Network, ports: list[tuple[str, str]]) -> str:
    """The feeder as OpenDSS takes it: four conductors, the neutral earthed at the source alone."""
    source = network.source
    base_kv = source.u_v[0] * 3**0.5 / 1000
    lines = [
        "clear",
        f"new circuit.feeder bus1=b{source.bus} basekv={base_kv!r} pu=1 phases=3 r1=1e-6 x1=0 r0=1e-6 x0=0",
        f"new reactor.earth phases=1 bus1=b{source.bus}.4 bus2=b{source.bus}.0 r=1e-7 x=0",
    ]
    for k, branch in enumerate(network.branches):
        r, x = (
            " | ".join(" ".join(repr(float(v)) for v in row[: at + 1]) for at, row in enumerate(part))
            for part in (branch.z_ohm.real, branch.z_ohm.imag)
        )
        zero = " | ".join(" ".join("0" for _ in range(at + 1)) for at in range(4))
        lines.append(
            f"new line.l{k} phases=4 bus1=b{branch.from_end.bus}.1.2.3.4 bus2=b{branch.to_end.bus}.1.2.3.4 "
            f"length=1 rmatrix=[{r}] xmatrix=[{x}] cmatrix=[{zero}]"
        )
    phase = {"L1": 1, "L2": 2, "L3": 3}
    lines += [
        f"new load.p{k} phases=1 bus1=b{bus}.{phase[c]}.4 kv=0.23 kw=0 kvar=0 model=1 vminpu=0.1 vmaxpu=3"
        for k, (bus, c) in enumerate(ports)
    ]
    return "\n".join([*lines, "set tolerance=1e-10 maxiterations=200", ""])


def test_two_thousand_states_agree_with_opendss(tmp_path: Path) -> None:
    """Voltages of every bus and phase of scenario A at 11 kVA a unit agree to 1e-6 pu in every state."""
    world = read(days=2, scenarios="A").world
    case, observer = world.cases["A"], world.observers["A"]
    base, per_w = world.lit_states("A", 0, 100)
    pick = np.linspace(0, len(per_w) - 1, STATES).astype(int)
    base, per_w = base[pick], per_w[pick]
    p_kw = case.injections(base, per_w, LEVEL_W).p_w / 1000
    i_a, bad = currents(case, base, per_w, LEVEL_W)
    assert not len(bad)
    ours = np.concatenate([np.sqrt(observer.observe(i_a[at : at + 500])[0]) for at in range(0, STATES, 500)], axis=1)
    network = case.feeder.network
    ports = [(p.bus, str(p.connection.pos)) for p in network.ports()]
    path = tmp_path / "feeder.dss"
    path.write_text(_script(network, ports), "utf-8")
    engine = dss.DSS.NewContext()
    engine.AllowForms = False
    engine.Text.Command = f'redirect "{path}"'
    circuit, loads = engine.ActiveCircuit, engine.ActiveCircuit.Loads
    worst = 0.0
    for state in range(STATES):
        for k in range(len(ports)):
            loads.idx = k + 1
            loads.kW = float(p_kw[state, k])
            loads.kvar = 0.0
        circuit.Solution.Solve()
        assert circuit.Solution.Converged
        pairs = np.array(circuit.YNodeVarray)
        by_node = dict(zip(circuit.YNodeOrder, pairs[::2] + 1j * pairs[1::2], strict=True))
        theirs = np.array(
            [abs(by_node[f"B{bus}.{PHASES.index(c) + 1}"] - by_node[f"B{bus}.4"]) / 230 for bus, c in observer.points]
        )
        worst = max(worst, float(np.abs(ours[:, state] - theirs).max()))
    assert worst <= AGREED_PU, worst
