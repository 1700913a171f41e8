"""Whatever a meter, the balancing meter, a household or a clock says: a decision with a reason, or nothing; never an
exception, never a grant while a point is unknown, never an entry that the ledger cannot write, and no lasting harm."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from dcu.grid.tests.golden import feeder
from dcu.hosting.decide import Rule, unknown
from dcu.hosting.exchange import ReleaseArrived, ReportArrived, RequestArrived, SubstationRead
from dcu.hosting.learned_rule import Learned
from dcu.hosting.predicted import Predicted
from dcu.hosting.present import PresentVoltages
from dcu.hosting.tests.neighbourhood import EPOCH, House, Neighbourhood
from dcu.hosting.tests.test_predicted import GRID, SITE, ask_all
from dcu.ledger.store import canonical
from shared.ids import Epoch, MeterId, Nonce, RequestId
from shared.messages import Alarm, DecisionId, PerPhase, Reading, Reason, Release, Report, Request

WORST = (math.nan, math.inf, -math.inf, 1e308, -1e308, 2e8, -240.0, 1e-300, 0.0, -0.0)
JUMPS_S = (0.0,) * 9 + (1e5,)
"""[s] A device that was suspended; monotonic clocks do not go back."""
STEPS = 150
FEEDER = feeder("eulv")
ENTRIES = tuple(house.entry for house in Neighbourhood(FEEDER, GRID, SITE, "1").houses.values())
RULES: dict[str, Callable[[], Rule]] = {
    "present": lambda: PresentVoltages(SITE.band),
    "predicted": lambda: Predicted(FEEDER.model, ENTRIES, GRID),
    "mixed": lambda: Predicted(FEEDER.model, ENTRIES, GRID, mixed=True),
    "learned": lambda: Learned(ENTRIES, GRID),
}


def _phases(values: PerPhase, draw: random.Random) -> PerPhase:
    """One of them is anything, or nothing."""
    found = list(values)
    found[draw.randrange(3)] = draw.choice((*WORST, None))
    return (found[0], found[1], found[2])


def _spoiled(reading: Reading, draw: random.Random) -> Reading | None:
    changes: list[Callable[[], Reading | None]] = [
        lambda: None,
        lambda: replace(reading, u_v=_phases(reading.u_v, draw)),
        lambda: replace(reading, p_w=_phases(reading.p_w, draw)),
        lambda: replace(reading, q_var=_phases(reading.q_var, draw)),
    ]
    return draw.choice(changes)()


def _wrong(report: Report, draw: random.Random) -> Report:
    """A report with one thing that cannot be, or that nobody expects."""
    assert report.reading is not None
    reading, number = report.reading, draw.choice(WORST)
    changes: list[Callable[[], Report]] = [
        lambda: replace(report, reading=_spoiled(reading, draw)),
        lambda: replace(report, reading_age_s=number),
        lambda: replace(report, reading=_spoiled(reading, draw), reading_age_s=abs(number)),
        lambda: replace(report, lease_left_s=number, limit_w=number),
        lambda: replace(report, seq=draw.choice([0, 2**32 - 1]), boot_id=2),
        lambda: replace(report, applied=DecisionId(Epoch(draw.choice([1, 9])), draw.randrange(100))),
        lambda: replace(report, epoch=Epoch(draw.choice([0, 9]))),
        lambda: replace(report, alarms=Alarm(1 << draw.randrange(16))),
    ]
    return draw.choice(changes)()


def _disturb(world: Neighbourhood, house: House, draw: random.Random) -> None:
    """A wrong report, or a balancing meter, a household, a clock that says anything."""
    world.now += draw.choice(JUMPS_S)
    meter = house.entry.id
    world.put(ReportArrived(meter, _wrong(world._report(house, 250.0), draw)))
    if draw.random() < 0.3:
        three = Reading((240.0,) * 3, (None,) * 3, (1000.0,) * 3, (0.0,) * 3, 50.0, 0, 0)
        world.put(SubstationRead(_spoiled(three, draw)))
    asked = RequestId(draw.randrange(1000))
    limits = draw.choice([(6000.0, 0.0), (draw.choice(WORST), 0.0), (6000.0, draw.choice(WORST))])
    world.put(RequestArrived(meter, Request(asked, Nonce(draw.getrandbits(64)), EPOCH, *limits)))
    if draw.random() < 0.1:
        world.put(ReleaseArrived(meter, Release(asked, EPOCH, None)))


@pytest.mark.parametrize("kind", RULES)
def test_nothing_that_is_said_is_granted_on_while_a_point_is_unknown(kind: str) -> None:
    """Seeded disturbances one after the other, each looked at by a window before anybody else has reported. Then the
    street is well again, and what a rule grants it grants as before; a learning one still says why not."""
    draw = random.Random(f"bad input {kind}")
    world = Neighbourhood(FEEDER, GRID, SITE, "1", rule=RULES[kind]())
    for port in np.random.default_rng(1).choice(len(ENTRIES), 10, replace=False):
        world.houses[MeterId(f"m{port}")].pv_w = 9_000.0
    world.pass_time(60.0)
    ask_all(world)
    world.pass_time(20.0)
    looked = 0
    for _ in range(STEPS):
        _disturb(world, draw.choice(list(world.houses.values())), draw)
        world.now += 1.0
        dark = bool(unknown(world.engine.measurements(world.now).points))
        before = len(world.records)
        world.perform(world.engine.wake(world.now))
        decided = [str(entry["kind"]) for entry in world.records[before:]]
        looked += dark and "denial" in decided
        assert not dark or not {"grant", "renewal"} & set(decided), decided
        world.report()
        world.pass_time(1.0)
    assert looked > STEPS // 10, "denials while something is unknown"
    for entry in world.records:
        canonical(entry)
    known = {reason.name for reason in Reason}
    assert {str(entry["reason"]) for entry in world.records if entry["kind"] == "denial"} <= known
    world.pass_time(400.0)
    before = len(world.records)
    ask_all(world)
    world.pass_time(5.0)
    answers = {str(entry.get("reason")) for entry in world.records[before:] if entry["kind"] in {"grant", "denial"}}
    expected = Reason.NOT_LEARNT if kind in {"mixed", "learned"} else Reason.GRANTED
    assert expected.name in answers
