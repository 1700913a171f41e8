"""An imported OpenDSS feeder has the voltages that OpenDSS itself finds for it, to 1e-6 of nominal in every node.

Each element is put into a small feeder of its own, as unbalanced as it can be, so that a wrong phase, direction, tap or
neutral shows. The second opinion is `solve_in_full`, which shares nothing with OpenDSS but the imported numbers. What
has no counterpart must be named, what is wrong must be refused with its place.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcu.grid.importers.imported import Imported
from dcu.grid.importers.opendss import import_opendss
from dcu.grid.network import Conductor, Node
from dcu.grid.oracle import solve_in_full
from shared.errors import ConfigError, HeadroomError

dss = pytest.importorskip("dss", reason="the OpenDSS engine is an extra: headroom[opendss]")

TOLERANCE_PU = 1e-6
"""What the reference cases ask of a pass."""

HEAD = """
clear
set defaultbasefreq=50
new circuit.street basekv=11 pu=1.02 angle=15 bus1=grid r1=0.1 x1=1.1 r0=0.3 x0=2.2
"""
TAIL = """
set voltagebases=[11, 0.4]
calcvoltagebases
"""
DYN = """
new transformer.station phases=3 windings=2 buses=(grid, lv) conns=(delta, wye) kvs=(11, 0.4) kvas=(250, 250)
~ xhl=4 %rs=(0.5, 0.7) %noloadloss=0.3 %imag=1.1 ppm_antifloat=0
"""
UNBALANCED = """
new load.one bus1=far.1 phases=1 kv=0.23 kw=6 pf=0.95 model=1 vminpu=0.3 vmaxpu=2
new load.two bus1=far.2 phases=1 kv=0.23 kw=9 pf=0.9 model=5 vminpu=0.3 vmaxpu=2
new load.three bus1=far.3 phases=1 kv=0.23 kw=-4 kvar=1 model=2 vminpu=0.3 vmaxpu=2
"""
CABLE = """
new linecode.cable nphases=3 r1=0.32 x1=0.08 r0=1.2 x0=0.3 c1=300 c0=150 units=km normamps=210
new line.a bus1=lv bus2=far linecode=cable length=150 units=m
"""


def written(folder: Path, body: str, tail: str = TAIL, head: str = HEAD) -> Path:
    path = folder / "feeder.dss"
    path.write_text(head + body + tail)
    return path


def engine_with(path: Path) -> Any:
    """OpenDSS with the script solved, controls off and without its artificial shunts."""
    engine = dss.DSS.NewContext()
    engine.AllowChangeDir = False
    engine.AllowForms = False
    engine.Text.Command = f'compile "{path}"'
    for command in ("set controlmode=off", "set tolerance=1e-10", "set maxiterations=500"):
        engine.Text.Command = command
    for _ in range(4):
        engine.Text.Command = "solve mode=snapshot"
    assert engine.ActiveCircuit.Solution.Converged
    return engine


def compare(path: Path) -> Imported:
    """The import, after its voltages have been found equal to OpenDSS's."""
    engine = engine_with(path)
    imported = import_opendss(path)
    network = imported.network
    ports = network.ports()
    p_w = np.array([port.connection.p_w for port in ports])
    q_var = np.array([port.connection.q_var for port in ports])
    found = solve_in_full(network, p_w, q_var)
    wires = {1: Conductor.L1, 2: Conductor.L2, 3: Conductor.L3, 4: Conductor.N}
    seen = 0
    for name in engine.ActiveCircuit.AllBusNames:
        engine.ActiveCircuit.SetActiveBus(name)
        bus = engine.ActiveCircuit.ActiveBus
        volts = np.asarray(bus.Voltages)
        volts = volts if np.iscomplexobj(volts) else volts.view(np.complex128)
        for node, u in zip(bus.Nodes, volts, strict=True):
            key = Node(name, wires[int(node)])
            if key not in found.u_v:
                continue
            gap = abs(found.u_v[key] - u) / network.bus(name).u_nominal_v
            assert gap < TOLERANCE_PU, f"{key}: seen {found.u_v[key]:.6f} V, expected {u:.6f} V"
            seen += 1
    earthed = sum(e.z_ohm == 0 for e in network.earthings)  # of which OpenDSS has no node
    assert seen == sum(len(bus.conductors) for bus in network.buses) - earthed
    return imported


def mentions(lines: list[str], *words: str) -> bool:
    return any(all(word in line for word in words) for line in lines)


def test_a_feeder_behind_a_dyn_transformer_has_the_engines_voltages(tmp_path: Path) -> None:
    imported = compare(written(tmp_path, DYN + CABLE + UNBALANCED))
    (station,) = imported.network.transformers
    assert station.vector_group == "Dyn1"
    assert station.rating_va == 250e3
    assert station.coils[0].shunt_pu[1] == pytest.approx(0.003 - 0.011j)
    assert imported.network.branches[0].rating_a == (210.0,) * 3
    assert imported.network.frequency_hz == 50.0
    assert not mentions(imported.account.approximated, "matrix differ")
    assert mentions(imported.account.approximated, "2 loads and generators", "vminpu")


@pytest.mark.parametrize(
    ("conns", "more", "group"),
    [
        ("wye, wye", "", "YNyn0"),
        ("delta, wye", "leadlag=lead taps=(1.025, 0.975)", "Dyn11"),
        ("delta, wye", "taps=(0.95, 1.0)", "Dyn1"),
    ],
)
def test_a_bank_turns_phases_as_the_engine_does(tmp_path: Path, conns: str, more: str, group: str) -> None:
    bank = f"""
new transformer.station phases=3 windings=2 buses=(grid, lv) conns=({conns}) kvs=(11, 0.4) kvas=(250, 250)
~ xhl=4 %rs=(0.5, 0.7) ppm_antifloat=0 {more}
"""
    imported = compare(written(tmp_path, bank + CABLE + UNBALANCED))
    assert imported.network.transformers[0].vector_group == group


def test_a_star_delta_bank_keeps_its_line_voltages(tmp_path: Path) -> None:
    """The delta floats: OpenDSS holds it by shunts that are left out, so only differences of voltages are physical."""
    bank = """
new transformer.station phases=3 windings=2 buses=(grid, lv) conns=(wye, delta) kvs=(11, 0.4) kvas=(250, 250)
~ xhl=4 %rs=(0.5, 0.7)
new load.d bus1=lv phases=3 conn=delta kv=0.4 kw=30 pf=0.9 vminpu=0.3 vmaxpu=2
new load.e bus1=lv.1.3 phases=1 conn=delta kv=0.4 kw=10 pf=0.9 vminpu=0.3 vmaxpu=2
"""
    path = written(tmp_path, bank)
    engine = engine_with(path)
    imported = import_opendss(path)
    network = imported.network
    ports = [port.connection for port in network.ports()]
    draws = np.array([c.p_w for c in ports]), np.array([c.q_var for c in ports])
    found = solve_in_full(network, *draws, tolerance_pu=1e-7).u_v  # a floating zone is arbitrary to rounding
    engine.ActiveCircuit.SetActiveBus("lv")
    u = np.asarray(engine.ActiveCircuit.ActiveBus.Voltages)
    u = u if np.iscomplexobj(u) else u.view(np.complex128)
    ours = np.array([found[Node("lv", c)] for c in (Conductor.L1, Conductor.L2, Conductor.L3)])
    assert mentions(imported.account.left_out, "ppm_antifloat", "1 transformers")
    gap = np.abs((ours - np.roll(ours, 1)) - (u - np.roll(u, 1))).max() / 400
    assert gap < 1e-5  # the shunts of the engine carry a millionth of the rating
    assert network.transformers[0].vector_group in {"YNd1", "YNd11"}


def test_single_phase_units_and_an_open_delta_are_coils(tmp_path: Path) -> None:
    units = """
new transformer.u1 phases=1 windings=2 buses=(grid.1.2, lv.1.0) conns=(delta, wye) kvs=(11, 0.23) kvas=(50, 50)
~ xhl=3 %rs=(1, 1) ppm_antifloat=0
new transformer.u2 phases=1 windings=2 buses=(grid.2.3, lv.2.0) conns=(delta, wye) kvs=(11, 0.23) kvas=(50, 50)
~ xhl=3 %rs=(1, 1) ppm_antifloat=0 %imag=0.5
new transformer.u3 phases=1 windings=2 buses=(grid.3, lv.3) kvs=(6.35, 0.23) kvas=(25, 25)
~ xhl=2 %rs=(1, 1) ppm_antifloat=0
"""
    imported = compare(written(tmp_path, units + CABLE + UNBALANCED))
    assert [len(t.coils) for t in imported.network.transformers] == [1, 1, 1]


def test_a_regulator_is_frozen_at_its_tap(tmp_path: Path) -> None:
    regulator = """
new transformer.reg phases=3 windings=2 buses=(lv, out) conns=(wye, wye) kvs=(0.4, 0.4) kvas=(250, 250)
~ xhl=0.1 %rs=(0.05, 0.05) ppm_antifloat=0
new regcontrol.keeper transformer=reg winding=2 vreg=125 band=2 ptratio=1.9
new line.b bus1=out bus2=far linecode=cable length=80 units=m
"""
    codes = "\n".join(CABLE.splitlines()[:2]) + "\n"
    solved = written(tmp_path, DYN + codes + regulator + UNBALANCED, TAIL + "set controlmode=static\nsolve\n")
    imported = compare(solved)
    tap = next(t for t in imported.network.transformers if t.id == "reg").coils[0].secondary.tap
    assert tap != 1.0
    assert mentions(imported.account.approximated, "regcontrol", "present taps")


def test_a_line_from_a_geometry_has_the_engines_matrix(tmp_path: Path) -> None:
    geometry = """
new wiredata.wire gmrac=2.6 gmrunits=mm rac=0.41 runits=km diam=7 radunits=mm normamps=190
new linegeometry.pole nconds=4 nphases=3 reduce=yes
~ cond=1 wire=wire x=-0.4 h=8 units=m
~ cond=2 wire=wire x=0 h=8.2 units=m
~ cond=3 wire=wire x=0.5 h=8 units=m
~ cond=4 wire=wire x=0 h=7.1 units=m
new line.over bus1=lv bus2=far geometry=pole length=0.3 units=km
"""
    imported = compare(written(tmp_path, DYN + geometry + UNBALANCED))
    z = imported.network.branches[0].z_ohm
    assert z[0, 0] != z[1, 1]
    assert imported.network.branches[0].y_s is not None


FOUR_WIRES = """
new line.four bus1=lv.1.2.3.4 bus2=far.1.2.3.4 phases=4 length=1 units=none
~ rmatrix=(0.1 | 0.02 0.1 | 0.02 0.02 0.1 | 0.02 0.02 0.02 0.12)
~ xmatrix=(0.09 | 0.04 0.09 | 0.03 0.04 0.09 | 0.03 0.03 0.04 0.1)
~ cmatrix=(20 | -4 20 | -4 -4 20 | -3 -3 -3 18)
"""
FOUR_WIRE_LOADS = """
new load.one bus1=far.1.4 phases=1 kv=0.23 kw=6 pf=0.95 vminpu=0.3 vmaxpu=2
new load.two bus1=far.2.4 phases=1 kv=0.23 kw=2 pf=0.95 vminpu=0.3 vmaxpu=2
new load.all bus1=far.1.2.3.4 phases=3 kv=0.4 kw=6 pf=0.95 model=5 vminpu=0.3 vmaxpu=2
"""


def test_an_explicit_neutral_carries_its_current(tmp_path: Path) -> None:
    station = DYN.replace("(grid, lv)", "(grid, lv.1.2.3.4)")
    earths = (
        "new reactor.earth phases=1 bus1=lv.4 bus2=lv.0 r=2 x=0.1\nnew reactor.house phases=1 bus1=far.4 r=30 x=0\n"
    )
    imported = compare(written(tmp_path, station + earths + FOUR_WIRES + FOUR_WIRE_LOADS))
    assert {(e.bus, e.conductor) for e in imported.network.earthings} == {("lv", "N"), ("far", "N")}
    assert imported.network.ports()[0].connection.neg is Conductor.N
    assert imported.network.bus("far").conductors[-1] is Conductor.N


def test_the_star_points_impedance_of_a_transformer_is_an_earthing(tmp_path: Path) -> None:
    station = DYN.replace("(grid, lv)", "(grid, lv.1.2.3.4)") + "~ wdg=2 rneut=3 xneut=0.5\n"
    imported = compare(written(tmp_path, station + FOUR_WIRES + FOUR_WIRE_LOADS))
    (earthing,) = imported.network.earthings
    assert earthing.z_ohm == pytest.approx(3 + 0.5j)
    assert not mentions(imported.account.approximated, "matrix differ")


def test_the_neutral_impedance_of_a_load_changes_nothing_as_in_the_engine(tmp_path: Path) -> None:
    station = DYN.replace("(grid, lv)", "(grid, lv.1.2.3.4)") + "~ wdg=2 rneut=1 xneut=0\n"
    loads = FOUR_WIRE_LOADS.replace("new load.all", "new load.all rneut=4 xneut=1")
    imported = compare(written(tmp_path, station + FOUR_WIRES + loads))
    assert len(imported.network.earthings) == 1
    assert mentions(imported.account.left_out, "load.all", "rneut")


def test_a_neutral_that_ends_at_earth_is_earthed_there(tmp_path: Path) -> None:
    four = FOUR_WIRES.replace("bus1=lv.1.2.3.4", "bus1=lv.1.2.3.0")
    imported = compare(written(tmp_path, DYN + four + FOUR_WIRE_LOADS))
    (earthing,) = imported.network.earthings
    assert (earthing.bus, earthing.z_ohm) == ("lv", 0)


def test_loads_of_every_connection_draw_what_the_engine_draws(tmp_path: Path) -> None:
    loads = """
new load.delta bus1=far phases=3 conn=delta kv=0.4 kw=21 pf=0.9 vminpu=0.3 vmaxpu=2
new load.across bus1=far.3.1 phases=1 conn=delta kv=0.4 kw=7 pf=0.8 model=5 vminpu=0.3 vmaxpu=2
new load.wye bus1=far phases=3 kv=0.4 kw=9 kvar=-2 model=2 vminpu=0.3 vmaxpu=2
new load.pair bus1=far.1.2 phases=2 kv=0.4 kw=4 kvar=1 vminpu=0.3 vmaxpu=2
new load.halves bus1=far.1.2.3 phases=2 conn=delta kv=0.4 kw=4 kvar=1 vminpu=0.3 vmaxpu=2
new load.mix bus1=far.2 phases=1 kv=0.23 kw=5 kvar=1 model=8 zipv=(0.2 0.3 0.5 0.2 0.3 0.5 0.1) vminpu=0.3 vmaxpu=2
new generator.roof bus1=far.1 phases=1 kv=0.23 kw=3 pf=0.9 model=1 vminpu=0.3 vmaxpu=2
set loadmult=1.1
"""
    imported = compare(written(tmp_path, DYN + CABLE + loads))
    names = [port.name for port in imported.network.ports()]
    assert names[:4] == ["delta.L1L2", "delta.L2L3", "delta.L3L1", "across"]
    by_name = {port.name: port.connection for port in imported.network.ports()}
    assert by_name["roof"].p_w == pytest.approx(-3000)
    assert by_name["mix"].zip_share == pytest.approx((0.2, 0.3, 0.5))
    assert imported.account.taken["generators"] == 1


def test_a_load_model_without_counterpart_is_named(tmp_path: Path) -> None:
    loads = """
new load.motor bus1=far.1 phases=1 kv=0.23 kw=1 kvar=1 model=3
new load.mix bus1=far.2 phases=1 kv=0.23 kw=5 kvar=1 model=8 zipv=(0.2 0.3 0.5 1 0 0 0.1)
"""
    imported = import_opendss(written(tmp_path, DYN + CABLE + loads))
    assert mentions(imported.account.approximated, "load.motor", "model 3")
    assert mentions(imported.account.approximated, "load.mix", "ZIP")


def test_capacitors_and_reactors_are_shunts_or_branches(tmp_path: Path) -> None:
    elements = """
new capacitor.star bus1=far phases=3 kv=0.4 kvar=30
new capacitor.ring bus1=far phases=3 kv=0.4 kvar=12 conn=delta
new capacitor.loose bus1=far bus2=far.4.4.4 phases=3 kv=0.4 kvar=9
new capacitor.one bus1=far.2 phases=1 kv=0.23 kvar=5
new reactor.choke bus1=far bus2=end phases=3 r=0.01 x=0.05
new reactor.coil bus1=end.3 phases=1 r=20 x=5
new load.last bus1=end.1 phases=1 kv=0.23 kw=4 pf=1 vminpu=0.3 vmaxpu=2
"""
    path = written(tmp_path, DYN + CABLE + UNBALANCED + elements)
    imported = compare(path)
    assert Conductor.N not in imported.network.bus("far").conductors
    assert {s.id for s in imported.network.shunts} == {"star", "ring", "loose", "one", "coil"}
    assert "choke" in {b.id for b in imported.network.branches}


def test_an_open_switch_stays_open_and_a_closed_one_joins(tmp_path: Path) -> None:
    switches = """
new line.tie bus1=lv bus2=far switch=yes
new line.b bus1=lv bus2=mid linecode=cable length=90 units=m
new line.shut bus1=mid bus2=next phases=3 switch=yes r1=1e-4 x1=0 r0=1e-4 x0=0 c1=0 c0=0 length=1
new load.next bus1=next.2 phases=1 kv=0.23 kw=5 pf=0.95 vminpu=0.3 vmaxpu=2
open line.tie 2
"""
    imported = compare(written(tmp_path, DYN + CABLE + UNBALANCED + switches))
    (tie,) = imported.network.switches
    assert (tie.id, tie.closed) == ("tie", False)
    assert {b.id for b in imported.network.branches} == {"a", "b", "shut"}


@pytest.mark.parametrize(("order", "closed"), [("action=open", False), ("action=close", True)])
def test_a_switch_control_is_obeyed_though_nothing_was_solved(tmp_path: Path, order: str, closed: bool) -> None:
    loop = f"""
new line.b bus1=lv bus2=end linecode=cable length=90 units=m
new line.tie bus1=far bus2=end switch=yes
new swtcontrol.hand switchedobj=line.tie switchedterm=1 {order}
"""
    network = import_opendss(written(tmp_path, DYN + CABLE + loop + UNBALANCED)).network
    assert ("tie" in {b.id for b in network.branches}) == closed
    assert [s.closed for s in network.switches] == ([] if closed else [False])


def test_a_line_open_in_one_phase_feeds_the_others(tmp_path: Path) -> None:
    body = DYN + CABLE + "new line.b bus1=far bus2=end linecode=cable length=90 units=m\nopen line.b 1 3\n"
    load = "new load.last bus1=end.1 phases=1 kv=0.23 kw=4 pf=1 vminpu=0.3 vmaxpu=2\n"
    imported = import_opendss(written(tmp_path, body + load))
    line = next(b for b in imported.network.branches if b.id == "b")
    assert line.to_end.conductors == (Conductor.L1, Conductor.L2)
    assert imported.network.bus("end").conductors == (Conductor.L1, Conductor.L2)
    assert mentions(imported.account.approximated, "line.b", "open in some phases")


def test_what_has_no_way_to_the_source_is_dropped_and_said(tmp_path: Path) -> None:
    island = """
new line.gone bus1=isle bus2=rock linecode=cable length=1 units=km
new load.alone bus1=rock.1 phases=1 kv=0.23 kw=1
new line.off bus1=lv bus2=far linecode=cable length=1 units=km enabled=no
new monitor.eye element=line.a
new pvsystem.sun bus1=far phases=3 kv=0.4 kva=5 pmpp=5
"""
    imported = import_opendss(written(tmp_path, DYN + CABLE + UNBALANCED + island, tail=""))
    assert {b.id for b in imported.network.buses} == {"grid", "lv", "far"}
    left = imported.account.left_out
    assert mentions(left, "2 buses", "without a way")
    assert mentions(left, "1 loads")
    assert mentions(left, "1 disabled")
    assert mentions(left, "1 monitor")
    assert mentions(left, "1 pvsystem")


def test_nominal_voltages_come_from_transformers_where_the_script_gives_none(tmp_path: Path) -> None:
    imported = import_opendss(written(tmp_path, DYN + CABLE + UNBALANCED, tail=""))
    assert imported.network.bus("far").u_nominal_v == pytest.approx(400 / 3**0.5)
    assert imported.network.bus("grid").u_nominal_v == pytest.approx(11e3 / 3**0.5)


def test_coordinates_become_positions(tmp_path: Path) -> None:
    (tmp_path / "places.csv").write_text("lv, 10, 20\nfar, 30, 45.5\n")
    path = written(tmp_path, DYN + CABLE + UNBALANCED, TAIL + "buscoords places.csv\n")
    here = Path.cwd()
    network = import_opendss(path).network
    assert network.bus("far").position == (30.0, 45.5)
    assert network.bus("grid").position is None
    assert Path.cwd() == here


def test_profiles_follow_the_shapes_as_the_engine_does(tmp_path: Path) -> None:
    shapes = """
new loadshape.morning npts=4 interval=0.5 mult=(0.5, 1, 0.25, 0.1)
new loadshape.both npts=2 interval=1 mult=(0.5, 1) qmult=(1, 0.3)
new loadshape.watts npts=4 interval=0.5 mult=(5, 10, 2, 1) useactual=yes
new loadshape.sun npts=4 sinterval=1800 mult=(0, 0.4, 1, 0.3)
new load.m bus1=far.1 phases=1 kv=0.23 kw=6 pf=0.9 daily=morning vminpu=0.3 vmaxpu=2
new load.b bus1=far.2 phases=1 kv=0.23 kw=6 kvar=2 yearly=both daily=both vminpu=0.3 vmaxpu=2
new load.w bus1=far phases=3 kv=0.4 kw=6 pf=0.95 daily=watts vminpu=0.3 vmaxpu=2
new load.f bus1=far.3 phases=1 kv=0.23 kw=3 kvar=1 status=fixed daily=morning vminpu=0.3 vmaxpu=2
new load.e bus1=far.3 phases=1 kv=0.23 kw=3 kvar=1 status=exempt daily=morning vminpu=0.3 vmaxpu=2
new load.n bus1=far.3 phases=1 kv=0.23 kw=1 kvar=0.5 vminpu=0.3 vmaxpu=2
new generator.g bus1=far.1 phases=1 kv=0.23 kw=3 pf=1 daily=sun vminpu=0.3 vmaxpu=2
set loadmult=1.2
"""
    path = written(tmp_path, DYN + CABLE + shapes)
    imported = import_opendss(path)
    profiles = imported.profiles
    assert profiles is not None
    assert profiles.step_s == 1800
    assert profiles.p_w.shape == (4, 9)
    assert profiles.ports == tuple(port.name for port in imported.network.ports())
    engine = engine_with(path)
    engine.Text.Command = "set mode=daily stepsize=30m number=1 time=(0, 0)"
    for step in range(4):
        engine.Text.Command = "solve"
        at = 0
        for point in imported.network.connection_points:
            kind = "generator" if point.id == "g" else "load"
            engine.ActiveCircuit.SetActiveElement(f"{kind}.{point.id}")
            powers = np.asarray(engine.ActiveCircuit.ActiveCktElement.Powers).ravel()
            s = 1e3 * (powers.sum() if np.iscomplexobj(powers) else powers[::2].sum() + 1j * powers[1::2].sum())
            n = len(point.connections)
            ours = profiles.p_w[step, at : at + n].sum() + 1j * profiles.q_var[step, at : at + n].sum()
            assert ours == pytest.approx(s, abs=1e-3), f"{point.id} in step {step}"
            at += n


def test_no_shapes_give_no_profiles(tmp_path: Path) -> None:
    assert import_opendss(written(tmp_path, DYN + CABLE + UNBALANCED)).profiles is None


def test_a_script_in_parts_is_read_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "cable.dss").write_text(CABLE)
    compare(written(tmp_path, DYN + "redirect parts/cable.dss\n" + UNBALANCED))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("new line.bad bus1=lv bus2=far linecode=nowhere", ["nowhere", "line 11"]),
        ("new gizmo.a bus1=lv", ["gizmo", "line 11"]),
        ("new line.bad bus1=lv bus2=far lenght=3", ["lenght"]),
        ("new load.five bus1=far.5 phases=1 kv=0.23 kw=1", ["load.five", "node 5", "far"]),
        ("new vsource.other bus1=far basekv=0.4", ["vsource", "one voltage source"]),
        ("new transformer.big phases=3 windings=3 buses=(grid, lv, far) kvs=(11, 0.4, 0.4)", ["big", "3 windings"]),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(tmp_path: Path, line: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        import_opendss(written(tmp_path, DYN + CABLE + line + "\n" + UNBALANCED, tail=""))
    for word in words:
        assert word in str(refused.value)


def test_an_autotransformer_is_refused_by_name(tmp_path: Path) -> None:
    auto = "new autotrans.at phases=3 windings=2 buses=(far, end) kvs=(0.4, 0.38) kvas=(100, 100) xhx=2\n"
    with pytest.raises(ConfigError, match=r"AutoTrans\.at"):
        import_opendss(written(tmp_path, DYN + CABLE + auto, tail=""))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        import_opendss(tmp_path / "nothing.dss")


def test_a_script_without_a_circuit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.dss"
    path.write_text("clear\n")
    with pytest.raises(ConfigError, match="circuit"):
        import_opendss(path)


def test_a_missing_engine_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dss", None)
    with pytest.raises(HeadroomError, match=r"headroom\[opendss\]"):
        import_opendss(written(tmp_path, DYN))
