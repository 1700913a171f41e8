"""Each error planted in a day of readings must be found and nothing else be said; a clean feeder must be called clean.
Voltages have a resolution of 0.1 V and noise of 0.03 V, the medium voltage jumps about by 1 V in each phase."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dcu.grid import readings as readings_file
from dcu.grid.calibrate import Calibration, calibrate
from dcu.grid.cli import main
from dcu.grid.feeder import Feeder, solve
from dcu.grid.injections import Injections
from dcu.grid.network import PHASES, Network, matrix
from dcu.grid.network_file import save_network
from dcu.grid.readings import Readings, read_readings
from dcu.grid.sections import places, sections
from dcu.grid.tests.golden import MADE_UP, day, feeder
from shared.errors import ConfigError

Reals = NDArray[np.float64]

NETWORK = feeder("eulv").network
PORTS = feeder("eulv").model.ports
BUSBAR = {"L1": 0, "L2": 1, "L3": 2}
START_UTC_S = 1_700_000_040.0


@dataclass(slots=True, eq=False)
class Truth:
    """What meters would say without noise."""

    u_v: Reals
    p_w: Reals
    q_var: Reals
    busbar_v: Reals


def _readings(true: Network = NETWORK, change: Callable[[Truth], None] | None = None, seed: int = 1) -> Readings:
    """A day of the true network, altered by wrong meters, and read."""
    whole = feeder("eulv") if true is NETWORK else Feeder(true)
    p, q, _ = day()
    found = solve(whole, Injections.of(p, q), results=("port_u_v", "bus_u_v"))
    nodes = [tuple(node) for node in whole.model.nodes]
    random = np.random.default_rng(seed)
    outside = random.normal(0.0, 1.0, (len(p), 3))
    busbar = np.abs(found["bus_u_v"][:, [nodes.index(("1", phase)) for phase in BUSBAR]]) + outside
    phase = [BUSBAR[label] for label in whole.model.port_labels]
    truth = Truth(np.abs(found["port_u_v"]) + outside[:, phase], p.copy(), q.copy(), busbar)
    if change is not None:
        change(truth)

    def read(u_v: Reals) -> Reals:
        return np.asarray(np.round((u_v + random.normal(0.0, 0.03, u_v.shape)) * 10) / 10)

    time_s: Reals = START_UTC_S + 60.0 * np.arange(len(p), dtype=np.float64)
    u, at_busbar = read(truth.u_v), read(truth.busbar_v)
    return Readings(time_s, u, np.round(truth.p_w), np.round(truth.q_var), at_busbar, 0, (), 0, 0)


def _at_phase(port: str, phase: str) -> Network:
    points = list(NETWORK.connection_points)
    k = PORTS.index(port)
    (own,) = points[k].connections
    points[k] = replace(points[k], connections=(replace(own, pos=next(f for f in PHASES if f == phase)),))
    return replace(NETWORK, connection_points=tuple(points), memo={})


def _scaled(top: str, end: str, factor: float) -> Network:
    """The network with the cables from one bus down to another made longer."""
    into = {b.to_end.bus: b for b in NETWORK.branches}
    ids, bus = set(), end
    while bus != top:
        ids.add(into[bus].id)
        bus = into[bus].from_end.bus
    branches = [replace(b, z_ohm=matrix(factor * b.z_ohm)) if b.id in ids else b for b in NETWORK.branches]
    return replace(NETWORK, branches=tuple(branches), memo={})


def _swapped(a: str, b: str) -> Callable[[Truth], None]:
    def change(truth: Truth) -> None:
        pair = [PORTS.index(a), PORTS.index(b)]
        for array in (truth.u_v, truth.p_w, truth.q_var):
            array[:, pair] = array[:, pair[::-1]]

    return change


def _reversed(port: str) -> Callable[[Truth], None]:
    def change(truth: Truth) -> None:
        truth.p_w[:, PORTS.index(port)] *= -1
        truth.q_var[:, PORTS.index(port)] *= -1

    return change


def _said(result: Calibration) -> list[tuple[str, str]]:
    return [(f.kind, f.where) for f in result.findings]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_clean_feeder_is_called_clean(seed: int) -> None:
    result = calibrate(NETWORK, _readings(seed=seed))
    assert result.findings == ()
    assert result.after_v < 0.07


@pytest.mark.parametrize(("port", "phase"), [("load21", "L3"), ("load51", "L3")])
def test_a_customer_on_another_phase_is_found(port: str, phase: str) -> None:
    result = calibrate(NETWORK, _readings(_at_phase(port, phase)))
    assert _said(result) == [("wrong_phase", port)]
    (finding,) = result.findings
    assert finding.value == 1 + BUSBAR[phase]
    assert f"follows {phase}" in finding.says
    assert finding.after_v < 0.3 * finding.before_v
    assert result.after_v < 0.07


@pytest.mark.parametrize(("a", "b"), [("load6", "load31"), ("load28", "load33")])
def test_swapped_meters_are_found(a: str, b: str) -> None:
    result = calibrate(NETWORK, _readings(change=_swapped(a, b)))
    assert _said(result) == [("swapped", f"{a} {b}")]
    assert result.after_v < 0.07


@pytest.mark.parametrize("port", ["load1", "load18"])
def test_a_reversed_current_transformer_is_found(port: str) -> None:
    result = calibrate(NETWORK, _readings(change=_reversed(port)))
    assert _said(result) == [("reversed", port)]


@pytest.mark.parametrize(("top", "end", "factor"), [("188", "208", 2.0), ("544", "611", 1.6), ("32", "59", 1.6)])
def test_a_cable_of_another_impedance_is_found_with_its_factor(top: str, end: str, factor: float) -> None:
    """Two services, and a stretch of the main cable."""
    result = calibrate(NETWORK, _readings(_scaled(top, end, factor)))
    (finding,) = result.findings
    assert finding.kind == "impedance"
    assert f"from bus {top} to {end}" in finding.where
    assert finding.value == pytest.approx(factor, rel=0.1)


def _late(readings: Readings, share: float) -> Readings:
    """Each meter's reading is of the minute before in a share of the sets, as meters report one after the other; the
    busbar's is not, and its voltage has jumped meanwhile."""
    n, m = readings.u_v.shape
    late = np.random.default_rng(3).random((n, m)) < share
    late[0] = False
    at = np.arange(n)[:, None] - late, np.arange(m)[None, :]
    return replace(readings, u_v=readings.u_v[at], p_w=readings.p_w[at], q_var=readings.q_var[at])


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_readings_that_are_not_of_one_instant_find_less_and_nothing_that_is_not_there(share: float) -> None:
    """A fifth, or half, of all readings a minute old, which alone disagree by 0.7 and 1.1 V."""
    assert _said(calibrate(NETWORK, _late(_readings(), share))) == []
    wrong = _late(_readings(_at_phase("load21", "L3"), _reversed("load18")), share)
    assert set(_said(calibrate(NETWORK, wrong))) == {("wrong_phase", "load21"), ("reversed", "load18")}


def test_a_voltmeter_that_is_constantly_off_is_found() -> None:
    def change(truth: Truth) -> None:
        truth.u_v[:, PORTS.index("load8")] *= 1.01

    (finding,) = calibrate(NETWORK, _readings(change=change)).findings
    assert (finding.kind, finding.where) == ("gain", "load8")
    assert finding.value == pytest.approx(0.01, rel=0.1)


def test_the_busbars_voltmeter_is_told_from_the_customers() -> None:
    def change(truth: Truth) -> None:
        truth.busbar_v[:, 1] *= 0.99

    (finding,) = calibrate(NETWORK, _readings(change=change)).findings
    assert (finding.kind, finding.where) == ("gain", "substation L2")
    assert finding.value == pytest.approx(-0.01, rel=0.1)


def test_several_errors_at_once_are_told_apart() -> None:
    def change(truth: Truth) -> None:
        _reversed("load34")(truth)
        _swapped("load1", "load55")(truth)
        truth.u_v[:, PORTS.index("load8")] *= 0.99

    result = calibrate(NETWORK, _readings(_at_phase("load21", "L3"), change))
    expected = {("reversed", "load34"), ("swapped", "load1 load55"), ("gain", "load8"), ("wrong_phase", "load21")}
    assert set(_said(result)) == expected
    assert len(result.findings) == 4
    assert result.after_v < 0.07


def test_sections_are_cables_with_the_same_customers_behind() -> None:
    found = sections(MADE_UP["four wires"](), "lv")
    assert [(s.top, s.end, s.ports) for s in found] == [
        ("lv", "a", (0, 1, 2, 3, 4, 5)),
        ("a", "b", (0, 2, 3, 4)),
        ("a", "c", (1,)),
    ]
    assert sections(MADE_UP["meshed"](), "lv") == ()


def _write(path: Path, readings: Readings, sets: int, spoil: Callable[[int, str], str] | None = None) -> None:
    lines = ["time_utc_s,meter,phase,u_v,p_w,q_var"]
    labels = feeder("eulv").model.port_labels
    for t in range(sets):
        time_s = readings.time_utc_s[t] + 3.0
        rows = [
            f"{time_s:.0f},{port},{label},{readings.u_v[t, k]:.1f},{readings.p_w[t, k]:.0f},{readings.q_var[t, k]:.0f}"
            for k, (port, label) in enumerate(zip(PORTS, labels, strict=True))
        ]
        rows += [f"{time_s:.0f},substation,{phase},{readings.busbar_v[t, f]:.1f},," for phase, f in BUSBAR.items()]
        lines += rows
    if spoil is not None:
        lines[1:] = [spoil(k, line) for k, line in enumerate(lines[1:], 2)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_the_command_says_what_is_wrong_from_file_to_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, file = tmp_path / "eulv.json", tmp_path / "readings.csv"
    save_network(NETWORK, network)
    spoiled = {5: "x,load1", 70: "1e9,load1,L1,230,1e999,0"}
    _write(file, _readings(_at_phase("load21", "L3")), 400, spoiled.get)
    assert main(["calibrate", str(network), "--readings", str(file)]) == 1
    text = capsys.readouterr().out
    assert "load21: its voltage follows L3, the model has it at" in text
    assert "row 5: seen 2 cells" in text
    assert "398 complete sets" in text
    assert main(["calibrate", str(network), "--readings", str(file), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [f["kind"] for f in found["findings"]] == ["wrong_phase"]
    assert found["bad_rows"] == 2
    assert found["incomplete_sets"] == 2
    assert [bad["row"] for bad in found["bad"]] == ["row 5", "row 70"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1700000040,load1,L1,241.0,100", "5 cells"),
        ("1700000040,load1,L1,241,0,100,5", "7 cells"),
        ("1700000040,load99,L1,241.0,100,5", "meter 'load99'"),
        ("1700000040,load1,L2,241.0,100,5", "phase 'L2' of 'load1'"),
        ("1700000040,load1,L9,241.0,100,5", "phase 'L9'"),
        ("1700000040,load1,L1,nan,100,5", "u_v 'nan'"),
        ("1700000040,load1,L1,1e308,100,5", "u_v 1e+308"),
        ("1700000040,load1,L1,0,100,5", "u_v 0"),
        ("1700000040,load1,L1,500,100,5", "u_v 500"),
        ("1700000040,load1,L1,241.0,=1+1,5", "p_w '=1+1'"),
        ("1700000040,load1,L1,241.0,3kW,5", "p_w '3kW'"),
        ("1700000040,load1,L1,241.0,,5", "p_w ''"),
        ("1700000040,load1,L1,241.0,1e9,5", "p_w 1e+09"),
        ("0,load1,L1,241.0,100,5", "time_utc_s 0"),
        ("9e9,load1,L1,241.0,100,5", "time_utc_s 9e+09"),
        ("1700000101,load2,L2,241.0,100,5", "a second reading"),
    ],
)
def test_a_bad_row_is_reported_with_row_and_reason_and_changes_nothing(tmp_path: Path, row: str, reason: str) -> None:
    file = tmp_path / "r.csv"
    _write(file, _readings_kept(), 3, lambda k, line: line + ("\n" + row if k == 100 else ""))
    clean = tmp_path / "clean.csv"
    _write(clean, _readings_kept(), 3)
    args = places(NETWORK), NETWORK.port_nominal_v(), BUSBAR, 60.0
    found, wanted = read_readings(file, *args), read_readings(clean, *args)
    (fault,) = found.faults
    assert fault.where == "row 101"
    assert reason in fault.seen
    assert (found.bad_rows, found.rows) == (1, 3 * 58 + 1)
    assert all(
        np.array_equal(getattr(found, name), getattr(wanted, name)) for name in ("u_v", "p_w", "q_var", "busbar_v")
    )


_KEPT: list[Readings] = []


def _readings_kept() -> Readings:
    if not _KEPT:
        _KEPT.append(_readings())
    return _KEPT[0]


def test_a_file_of_bad_rows_is_refused_with_their_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, file = tmp_path / "eulv.json", tmp_path / "readings.csv"
    save_network(NETWORK, network)
    _write(file, _readings_kept(), 5, lambda k, line: line.replace(".", ",") if k % 20 == 0 else line)
    assert main(["calibrate", str(network), "--readings", str(file)]) == 2
    text = capsys.readouterr().err
    assert "bad rows of 290" in text
    assert "row 20: seen" in text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "row 1"),
        (b"time_utc_s;meter;phase;u_v;p_w;q_var\n", "row 1"),
        (b"time_utc_s,meter,phase,u_v,p_w,p_w\n", "row 1"),
        (b"time_utc_s,meter,phase,u_v,p_w,q_var\n\xff\xfe\n", "no UTF-8"),
        (b"time_utc_s,meter,phase,u_v,p_w,q_var\n", "0 complete sets"),
    ],
)
def test_a_file_that_is_none_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, reason: str
) -> None:
    network, file = tmp_path / "eulv.json", tmp_path / "readings.csv"
    save_network(NETWORK, network)
    file.write_bytes(content)
    assert main(["calibrate", str(network), "--readings", str(file)]) == 2
    text = capsys.readouterr().err
    assert reason in text
    assert "Traceback" not in text


def test_the_size_of_a_file_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "r.csv"
    _write(file, _readings_kept(), 3)
    args = places(NETWORK), NETWORK.port_nominal_v(), BUSBAR, 60.0
    for name, limit in (("FILE_BYTES_MAX", 100), ("ROWS_MAX", 100), ("NUMBERS_MAX", 400)):
        with monkeypatch.context() as patched:
            patched.setattr(readings_file, name, limit)
            with pytest.raises(ConfigError, match="at most"):
                read_readings(file, *args)
