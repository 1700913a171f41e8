"""An impossible value makes an invalid point, whoever says it: nothing is computed with it, nothing granted on it, and
what the ledger is given it can write."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dcu.grid.tests.golden import feeder
from dcu.hosting.engine import HostingEngine
from dcu.hosting.exchange import Output, Record, ReportArrived, RequestArrived, SubstationRead
from dcu.hosting.learned_rule import Learned
from dcu.hosting.measurements import BUSBAR_W, Credible, Quality, Substation, measure_one
from dcu.hosting.predicted import Predicted
from dcu.hosting.site_settings import SiteSettings
from dcu.hosting.tests.neighbourhood import _one, _reading
from dcu.hosting.window import GridSettings
from dcu.ledger.store import canonical
from dcu.meters import MeterEntry, MeterState
from shared.ids import BusId, Epoch, Eui48, MeterId, Nonce, Phase, RequestId
from shared.messages import Alarm, LimitSource, PerPhase, Reading, Reason, RelayState, Report, Request

MODEL = feeder("eulv").model
ENTRIES = tuple(
    MeterEntry(MeterId(f"m{k}"), Eui48(k.to_bytes(6, "big")), BusId(bus), (Phase[label],), 500.0, 9000.0)
    for k, (bus, label) in enumerate(zip(MODEL.port_buses, MODEL.port_labels, strict=True))
)
ENTRY = replace(ENTRIES[0], phases=(Phase.L1,))
CREDIBLE = Credible.of(ENTRIES, 40.0, 230.0)
FUSE_W = 34_500.0


def quality(u_v: float, p_w: float, q_var: float = 0.0, contract_w: float = 9000.0) -> Quality:
    reading = Reading(_one(0, u_v), _one(0, 1.0), _one(0, p_w), _one(0, q_var), 50.0, 0, 0)
    state = MeterState(replace(ENTRY, contract_limit_w=contract_w), reading=reading, reading_at_s=99.0)
    return measure_one(state, Substation(), CREDIBLE, 100.0).quality


@pytest.mark.parametrize("u_v", [0.0, 1e-9, 114.9, 345.1, 500.0, 1e308, -230.0, math.nan, math.inf])
def test_a_voltage_that_no_connected_phase_has_is_invalid(u_v: float) -> None:
    assert quality(u_v, 300.0) is Quality.INVALID


@pytest.mark.parametrize("draw", [2e8, -2e8, 1.001 * FUSE_W, -1.001 * FUSE_W])
def test_more_than_the_largest_house_connection_carries_is_invalid(draw: float) -> None:
    assert quality(230.0, draw) is Quality.INVALID
    assert quality(230.0, 300.0, draw) is Quality.INVALID
    if abs(draw) < 1e6:
        assert quality(230.0, draw, contract_w=20_000.0) is Quality.GOOD, "the contract is for more"


@pytest.mark.parametrize("u_v", [115.1, 180.0, 230.0, 260.0, 344.9])
@pytest.mark.parametrize("draw", [0.0, 0.999 * FUSE_W, -0.999 * FUSE_W])
def test_what_may_be_is_good(u_v: float, draw: float) -> None:
    assert quality(u_v, draw, -draw) is Quality.GOOD


@pytest.mark.parametrize(
    ("u_v", "p_w", "expected"),
    [
        ((231.0, 230.0, 229.0), (-5e5, 5e5, 0.0), Quality.GOOD),
        ((250.0, None, None), (0.0, None, None), Quality.INVALID),
        ((230.0, None, 230.0), (0.0, 0.0, 0.0), Quality.INVALID),
        ((230.0, 0.0, 230.0), (0.0, 0.0, 0.0), Quality.INVALID),
        ((1e6, 1e6, 1e6), (0.0, 0.0, 0.0), Quality.INVALID),
        ((230.0, 230.0, 230.0), (0.0, 1.1 * BUSBAR_W, 0.0), Quality.INVALID),
    ],
)
def test_the_balancing_meter_shows_every_phase_of_the_customers_and_nothing_impossible(
    u_v: PerPhase, p_w: PerPhase, expected: Quality
) -> None:
    reading = Reading(u_v, (0.0,) * 3, p_w, tuple(None if p is None else 0.0 for p in p_w), 50.0, 0, 0)  # type: ignore[arg-type]
    busbar = Substation(reading, 99.0)
    assert measure_one(None, busbar, CREDIBLE, 100.0).quality is expected


@pytest.mark.parametrize(
    ("u_v", "p_w", "expected"),
    [(230.0, 300.0, Quality.STALE), (0.0, 300.0, Quality.INVALID), (230.0, 2e8, Quality.INVALID)],
)
def test_what_is_impossible_is_no_better_for_being_old(u_v: float, p_w: float, expected: Quality) -> None:
    """A stale reading still says what was at its instant, and the rules remember that; an impossible one does not."""
    reading = Reading(_one(0, u_v), _one(0, 1.0), _one(0, p_w), _one(0, 0.0), 50.0, 0, 0)
    state = MeterState(ENTRY, reading=reading, reading_at_s=10.0)
    assert measure_one(state, Substation(), CREDIBLE, 100.0).quality is expected


def test_where_all_customers_are_on_one_phase_the_balancing_meter_may_be_there_alone() -> None:
    credible = Credible.of((ENTRY,), 40.0, 230.0)
    busbar = Substation(_reading(_one(0, 231.0), _one(0, 100.0)), 99.0)
    assert measure_one(None, busbar, credible, 100.0).quality is Quality.GOOD
    other = Substation(_reading(_one(1, 231.0), _one(1, 100.0)), 99.0)
    assert measure_one(None, other, credible, 100.0).quality is Quality.INVALID


@pytest.mark.parametrize("shown_v", [0.0, 500.0])
@pytest.mark.parametrize("kind", ["predicted", "mixed", "learned"])
def test_one_impossible_reading_stops_grants_and_not_the_dcu(kind: str, shown_v: float) -> None:
    """Good readings, then one meter's 0 V or 500 V: the entries of every set can be written, a question is answered,
    and good readings count again afterwards."""
    grid = GridSettings(nominal_voltage_v=240.0, band_pct=8.0, balancing_bus="1")
    rule = Learned(ENTRIES, grid) if kind == "learned" else Predicted(MODEL, ENTRIES, grid, mixed=kind == "mixed")
    site = SiteSettings(nominal_voltage_v=240.0, band_pct=8.0)
    engine, outputs = HostingEngine(site, ENTRIES, Epoch(1), 0.0, rule), list[Output]()
    engine.start()
    seq, liar = 0, ENTRIES[3].id
    for step in range(12):
        now = 15.0 * (step + 1)
        outputs += engine.handle(SubstationRead(_reading((250.0,) * 3, (1500.0, 2100.0, 1900.0))), now)
        for entry in ENTRIES:
            seq, k = seq + 1, entry.phases[0]
            lies = entry.id == liar and 4 <= step < 8
            volts = shown_v if lies else 249.5
            reading = Reading(_one(k, volts), _one(k, 0.4), _one(k, 100.0), _one(k, 0.0), 50.0, 0, 0)
            report = Report(
                1, seq, Nonce(seq), Epoch(1), reading, 0.0, 500.0, LimitSource.NOMINAL, RelayState.NOMINAL, 0.0, None,
                Alarm.NONE,
            )  # fmt: skip
            outputs += engine.handle(ReportArrived(entry.id, report), now)
        if step in {6, 11}:
            seq += 1
            request = Request(RequestId(step), Nonce(seq), Epoch(1), 3000.0, 0.0)
            outputs += engine.handle(RequestArrived(ENTRIES[10].id, request), now)
        for at in (now, now + 1.0, now + 2.0):
            outputs += engine.wake(at)
    entries = [output.entry for output in outputs if isinstance(output, Record)]
    assert all(canonical(entry) for entry in entries)
    answers = [str(e.get("reason", e["kind"])) for e in entries if e["kind"] in {"denial", "grant"}]
    assert answers[0] == Reason.READING_INVALID.name
    assert len(answers) == 2
    assert answers[1] != Reason.READING_INVALID.name
