"""An OpenDSS feeder must come out as the circuit the engine has: its own solution is the judge, to 1e-6 pu.

The circuits are made to hold what real files hold: delta and star transformers with taps and no-load branches, a
regulator, linecodes, geometry, capacitance, a neutral conductor, delta loads, three load models, load shapes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dcu.grid.feeder import Feeder, solve
from dcu.grid.importers.opendss import import_opendss
from dcu.grid.injections import base_injections
from dcu.grid.network import Conductor, Network
from shared.errors import ConfigError

dss = pytest.importorskip("dss", reason="needs the extra headroom[opendss]")

HEAD = """
clear
new circuit.test basekv=11 pu=1.03 angle=10 mvasc3=60 mvasc1=50
new linecode.lv nphases=3 r1=0.32 x1=0.075 r0=1.1 x0=0.3 c1=0 c0=0 units=km normamps=240
new linecode.cable nphases=3 r1=0.2 x1=0.08 r0=0.6 x0=0.2 c1=300 c0=200 units=km
"""
TAIL = """
set voltagebases=[11 0.4]
calcvoltagebases
"""
STREET = (
    HEAD
    + """
new transformer.t phases=3 windings=2 buses=(sourcebus b0) conns=(delta wye) kvs=(11 0.4) kvas=(400 400) xhl=4 %r=0.6
~ ppm_antifloat=0 %noloadloss=0.2 %imag=0.7 taps=(0.975 1)
new line.l1 bus1=b0 bus2=b1 linecode=cable length=0.4
new line.l2 bus1=b1.1.2.3 bus2=b2.1.2.3 linecode=lv length=120 units=m
new line.l3 bus1=b2.2 bus2=b3.2 phases=1 r1=0.5 x1=0.08 r0=0.5 x0=0.08 c1=0 c0=0 length=0.06
new line.l4 bus1=b2.1.3 bus2=b4.1.3 phases=2 rmatrix=(0.3 | 0.1 0.3) xmatrix=(0.1 | 0.05 0.1) cmatrix=(0 | 0 0) length=0.1
new capacitor.c bus1=b2 phases=3 kvar=20 kv=0.4
new capacitor.d bus1=b1 phases=3 kvar=12 kv=0.4 conn=delta
new load.a bus1=b3.2 phases=1 kv=0.23 kw=6 kvar=2 model=1 vminpu=0.3 vmaxpu=2
new load.b bus1=b4.1 phases=1 kv=0.23 kw=4 kvar=1 model=2 vminpu=0.3 vmaxpu=2
new load.c bus1=b2 phases=3 kv=0.4 kw=21 kvar=6 model=5 vminpu=0.3 vmaxpu=2
new load.d bus1=b2 phases=3 kv=0.4 kw=15 kvar=5 conn=delta model=1 vminpu=0.3 vmaxpu=2
new load.e bus1=b4.1.3 phases=1 kv=0.4 kw=5 kvar=1 conn=delta model=1 vminpu=0.3 vmaxpu=2
new generator.pv bus1=b2.3 phases=1 kv=0.23 kw=5 kvar=0 model=1 vminpu=0.3 vmaxpu=2
"""
    + TAIL
)
FOUR_WIRE = (
    HEAD
    + """
new transformer.t phases=3 windings=2 buses=(sourcebus b0.1.2.3.4) conns=(delta wye) kvs=(11 0.4) kvas=(250 250) xhl=4 %r=0.8
~ ppm_antifloat=0
new reactor.earth bus1=b0.4 bus2=b0.0 phases=1 r=0.5 x=0
new wiredata.w gmrac=0.00273 gmrunits=m diam=0.0075 radunits=m rac=0.44 runits=km normamps=180
new linegeometry.g nconds=4 nphases=4 reduce=no cond=1 wire=w x=-0.6 h=8 units=m cond=2 wire=w x=-0.2 h=8 units=m
~ cond=3 wire=w x=0.2 h=8 units=m cond=4 wire=w x=0.6 h=8 units=m
new line.l1 bus1=b0.1.2.3.4 bus2=b1.1.2.3.4 geometry=g length=0.2 units=km
new line.l2 bus1=b1.1.4 bus2=b2.1.4 phases=2 rmatrix=(0.9 | 0.05 0.9) xmatrix=(0.3 | 0.2 0.3) cmatrix=(0 | 0 0) length=0.05
new load.a bus1=b2.1.4 phases=1 kv=0.23 kw=3 kvar=1 model=1 vminpu=0.3 vmaxpu=2
new load.b bus1=b1.2.4 phases=1 kv=0.23 kw=5 kvar=1 model=1 vminpu=0.3 vmaxpu=2
new load.c bus1=b1.1.2.3.4 phases=3 kv=0.4 kw=9 kvar=3 model=1 vminpu=0.3 vmaxpu=2
"""
    + TAIL
)
REGULATED = (
    HEAD
    + """
new transformer.t phases=3 windings=2 buses=(sourcebus b0) conns=(wye wye) kvs=(11 0.4) kvas=(400 400) xhl=4 ppm_antifloat=0
new transformer.r1 phases=1 windings=2 buses=(b0.1 b1.1) kvs=(0.23 0.23) kvas=(60 60) xhl=0.1 %r=0.01 ppm_antifloat=0 taps=(1 1.025)
new transformer.r2 phases=1 windings=2 buses=(b0.2 b1.2) kvs=(0.23 0.23) kvas=(60 60) xhl=0.1 %r=0.01 ppm_antifloat=0
new transformer.r3 phases=1 windings=2 buses=(b0.3 b1.3) kvs=(0.23 0.23) kvas=(60 60) xhl=0.1 %r=0.01 ppm_antifloat=0
new regcontrol.c1 transformer=r1 winding=2 vreg=120 ptratio=2
new line.l1 bus1=b1 bus2=b2 linecode=lv length=0.3
new load.a bus1=b2 phases=3 kv=0.4 kw=30 kvar=6 model=1 vminpu=0.3 vmaxpu=2
"""
    + TAIL
)


def _engine_voltages(path: Path) -> dict[tuple[str, str], complex]:
    engine = dss.DSS.NewContext()
    engine.AllowForms = engine.AllowChangeDir = False
    for command in (f'compile "{path}"', "set controlmode=off tolerance=1e-10 maxiterations=200", "solve", "solve", "solve"):
        engine.Text.Command = command
    circuit = engine.ActiveCircuit
    found = {}
    for name in circuit.AllBusNames:
        circuit.SetActiveBus(name)
        bus = circuit.ActiveBus
        values = np.asarray(bus.Voltages)
        values = values if np.iscomplexobj(values) else values[::2] + 1j * values[1::2]
        for node, u in zip(bus.Nodes, values, strict=True):
            found[name, ("L1", "L2", "L3", "N")[int(node) - 1]] = complex(u)
    return found


def _deviation(path: Path, network: Network) -> float:
    feeder = Feeder(network)
    result = solve(feeder, base_injections(feeder.model), results=("bus_u_v",))
    wanted = _engine_voltages(path)
    nodes = feeder.model.nodes
    assert {(n.bus, n.conductor) for n in nodes} == set(wanted)
    off = [
        abs(u - wanted[n.bus, n.conductor]) / base
        for n, u, base in zip(nodes, result["bus_u_v"][0], feeder.model.node_nominal_v, strict=True)
    ]
    return float(max(off))


def _written(folder: Path, text: str) -> Path:
    path = folder / "Master.dss"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", [STREET, FOUR_WIRE, REGULATED], ids=["street", "four wires", "regulators"])
def test_the_imported_feeder_has_the_engines_voltages(tmp_path: Path, text: str) -> None:
    path = _written(tmp_path, text)
    assert _deviation(path, import_opendss(path).network) < 1e-6


def test_a_regulator_is_frozen_at_its_tap_and_said_to_be(tmp_path: Path) -> None:
    found = import_opendss(_written(tmp_path, REGULATED))
    taps = {t.id: t.coils[0].secondary.tap for t in found.network.transformers}
    assert taps["r1"] == pytest.approx(1.025)
    assert any("regcontrol.c1" in line and "1.025" in line for line in found.account.approximated)


def test_a_neutral_conductor_stays_a_conductor(tmp_path: Path) -> None:
    network = import_opendss(_written(tmp_path, FOUR_WIRE)).network
    assert network.bus("b1").conductors == (Conductor.L1, Conductor.L2, Conductor.L3, Conductor.N)
    assert network.ports()[0].connection.neg is Conductor.N


def test_load_shapes_become_profiles(tmp_path: Path) -> None:
    shape = "new loadshape.s npts=4 minterval=15 mult=(0 0.5 1 0.25)\n"
    text = STREET.replace("new load.a bus1", shape + "new load.a daily=s bus1")
    found = import_opendss(_written(tmp_path, text))
    assert found.profiles is not None
    assert found.profiles.step_s == pytest.approx(900)
    at = found.profiles.ports.index("a")
    assert found.profiles.p_w[:, at].tolist() == [0, 3000, 6000, 1500]
    assert found.profiles.q_var[:, at].tolist() == [0, 1000, 2000, 500]


def test_an_open_line_leaves_an_island_that_is_dropped_and_named(tmp_path: Path) -> None:
    text = STREET.replace("set voltagebases", "open line.l3 1\nset voltagebases")
    found = import_opendss(_written(tmp_path, text))
    assert "b3" not in {bus.id for bus in found.network.buses}
    assert any("l3" in line for line in found.account.left_out)
    assert any("b3" in line for line in found.account.left_out)


def test_what_is_not_read_is_listed(tmp_path: Path) -> None:
    text = STREET.replace("set voltagebases", "new pvsystem.p bus1=b2 kv=0.4 kva=5 pmpp=5\nset voltagebases")
    found = import_opendss(_written(tmp_path, text))
    assert any("pvsystem" in line.lower() for line in found.account.left_out)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (HEAD + "frobnicate everything\n", "frobnicate"),
        (HEAD + "new line.x bus1=sourcebus bus2=b linecode=nowhere\n", "nowhere"),
        (HEAD + "new line.x bus1=sourcebus.1.2.3 bus2=b.5.6.7 linecode=lv length=0.1\n" + TAIL, "node 5"),
        (
            HEAD
            + "new transformer.w windings=3 buses=(sourcebus b c) kvs=(11 0.4 0.4) kvas=(100 50 50)\n"
            + TAIL,
            "3 windings",
        ),
    ],
)
def test_a_file_we_cannot_hold_is_refused_with_the_place(tmp_path: Path, text: str, seen: str) -> None:
    with pytest.raises(ConfigError, match="(?i)" + seen):
        import_opendss(_written(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected an OpenDSS file"):
        import_opendss(tmp_path / "none.dss")
