"""What a planner types must become the feeder meant, and every slip must be named with file, line and column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dcu.grid.compiler import compile_network
from dcu.grid.importers.tables import import_tables
from dcu.grid.injections import base_injections
from dcu.grid.network import Conductor
from dcu.grid.oracle import solve_in_full
from shared.errors import ConfigError

GOOD = {
    "buses": (
        "bus,u_nominal_v,conductors,x,y\nhv,5773.5,L1 L2 L3,0,0\n"
        "lv,230.94,{w},1,0\na,230.94,{w},2,0\nb,230.94,{w},3,1\n"
    ),
    "cables": "cable,r_ohm_per_km,x_ohm_per_km,r0_ohm_per_km,x0_ohm_per_km,rating_a\n95al,0.32,0.075,1.28,0.3,235\n",
    "lines": "line,from_bus,to_bus,cable,length_m\nl1,lv,a,95al,150\nl2,a,b,95al,80\n",
    "source": "bus,u_v,sk_va,rx_ratio\nhv,5773.5,100e6,0.2\n",
    "transformers": (
        "transformer,primary_bus,secondary_bus,vector_group,s_rated_va,u_primary_v,u_secondary_v,uk_percent,pk_w\n"
        "t,hv,lv,Dyn11,250e3,10000,400,4,3250\n"
    ),
    "customers": "customer,bus,phases,meter,p_w,q_var\nc1,a,L1,meter-1,3000,500\nc2,b,L1 L2 L3,,9000,0\n",
}


def _folder(tmp_path: Path, wires: str = "L1 L2 L3", **changes: str) -> Path:
    for name, text in (GOOD | changes).items():
        (tmp_path / f"{name}.csv").write_text(text.replace("{w}", wires), encoding="utf-8")
    return tmp_path


def test_three_wires_give_a_feeder_with_plausible_voltages(tmp_path: Path) -> None:
    network = import_tables(_folder(tmp_path)).network
    p = np.array([c.connection.p_w for c in network.ports()])
    found = solve_in_full(network, p, 0 * p)
    share = np.abs(found.port_u_v) / 230.94
    assert ((share > 0.95) & (share < 1.0)).all()
    assert network.connection_points[0].meter == "meter-1"


def test_four_wires_keep_the_neutral_and_earth_it_at_the_transformer(tmp_path: Path) -> None:
    found = import_tables(_folder(tmp_path, "L1 L2 L3 N"))
    network = found.network
    assert [(e.bus, e.conductor) for e in network.earthings] == [("lv", Conductor.N)]
    assert any("earthed" in line for line in found.account.approximated)
    p = np.array([3000.0, 0, 0, 0])
    solved = solve_in_full(network, p, 0 * p)
    # One phase loaded: phase and neutral drop alike, 0.15 km of 0.32 ohm/km each way.
    drop = 230.94 - abs(solved.port_u_v[0])
    assert drop == pytest.approx(2 * 0.15 * 0.32 * 3000 / 225, rel=0.15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"buses": "bus,u_nominal_v\nhv,230,94\n"}, "buses.csv line 2: seen 3 cells, expected 2"),
        ({"cables": GOOD["cables"].replace("0.32,", "0.32 ohm,")}, "cables.csv line 2 r_ohm_per_km: seen '0.32 ohm'"),
        ({"lines": GOOD["lines"].replace("a,95al,150", "a,50cu,150")}, "lines.csv line 2 cable: seen '50cu'"),
        ({"lines": GOOD["lines"].replace(",80", ",-80")}, "lines.csv line 3 length_m: seen -80"),
        ({"customers": GOOD["customers"].replace("L1,meter", "D,meter")}, "customers.csv line 2 phases: seen 'D'"),
        ({"customers": GOOD["customers"].replace("3000", "3 kW")}, "customers.csv line 2 p_w: seen '3 kW'"),
        ({"source": "bus,u_v\nhv,5773\n"}, "source.csv line 1.*a column sk_va"),
        ({"lines": GOOD["lines"].replace("line,", "lien,")}, "column 'lien'"),
        ({"transformers": GOOD["transformers"].replace("Dyn11", "Dyn4")}, "vector_group: seen 'Dyn4'"),
        ({"transformers": GOOD["transformers"].replace("Dyn11", "Yyn0")}, "vector_group: seen 'Yyn0'"),
        ({"buses": ""}, "buses.csv line 1: seen nothing"),
        ({"buses": "bus,u_nominal_v\n"}, "buses.csv: seen no rows"),
        (
            {"cables": GOOD["cables"].replace("0.32", '"0,32"')},
            "r_ohm_per_km: seen '0,32', expected 0.32, with a decimal",
        ),
        ({"cables": GOOD["cables"] + "95al,0.5,0.1,2,0.4,9\n"}, "cables.csv line 3 cable: seen '95al' again"),
        ({"cables": GOOD["cables"].replace("235", "-5")}, "cables.csv line 2 rating_a: seen -5"),
        ({"lines": GOOD["lines"].replace(",", ";")}, "lines.csv line 1: seen semicolons"),
        ({"lines": GOOD["lines"].replace("length_m", "length_m,cable")}, "column 'cable' twice"),
        ({"transformers": GOOD["transformers"].replace("250e3", "0")}, "s_rated_va: seen 0"),
        ({"transformers": GOOD["transformers"].replace("t,hv", "t,zz")}, "line 2 primary_bus: seen 'zz'"),
        ({"customers": GOOD["customers"].replace("c1,a", "c1,zz")}, "customers.csv line 2 bus: seen 'zz'"),
        ({"switches": "switch,from_bus,to_bus,closed\ns,a,zz,yes\n"}, "switches.csv line 2 to_bus: seen 'zz'"),
        ({"source": "bus,u_v,u_pu,sk_va\nhv,5773,1,1e8\n"}, "source.csv line 2 u_v, u_pu: seen both"),
        ({"customer": "customer\n"}, "customer.csv: seen a table of no known name"),
    ],
)
def test_a_slip_is_named_with_its_place(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        import_tables(_folder(tmp_path, **changes))


def test_the_source_voltage_may_be_given_in_pu(tmp_path: Path) -> None:
    source = import_tables(_folder(tmp_path, source="bus,u_pu,sk_va\nhv,1.02,100e6\n")).network.source
    assert source.u_v == pytest.approx((1.02 * 5773.5,) * 3)


def test_what_the_tables_do_not_say_is_said_in_the_account(tmp_path: Path) -> None:
    lines = import_tables(
        _folder(tmp_path, cables="cable,r_ohm_per_km,x_ohm_per_km\n95al,0.32,0.075\n")
    ).account.lines()
    assert any("no r0, x0; 4 times r, x assumed" in line for line in lines)


def test_all_slips_are_named_at_once(tmp_path: Path) -> None:
    text = GOOD["lines"].replace(",80", ",x").replace("a,95al,150", "a,50cu,150")
    with pytest.raises(ConfigError) as caught:
        import_tables(_folder(tmp_path, lines=text))
    assert len(caught.value.faults) == 2


def test_text_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "lines.csv").write_bytes(b"line,from_bus\n\xff\xfe")
    with pytest.raises(ConfigError, match="no UTF-8"):
        import_tables(folder)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"buses\.csv"):
        import_tables(tmp_path / "none")


def test_the_same_tables_give_the_same_base_case(tmp_path: Path) -> None:
    model = compile_network(import_tables(_folder(tmp_path)).network)
    assert base_injections(model).p_w.tolist() == [[3000.0, 3000.0, 3000.0, 3000.0]]
