"""Windows answered by what was learnt: doubt is a reason to give less, never one to bear more."""

from __future__ import annotations

import numpy as np
import pytest

from dcu.hosting.allocate import Policy, allocate
from dcu.hosting.decide import Act, Question, Standing, Verdict, Wish
from dcu.hosting.estimate import Estimate, PortMap
from dcu.hosting.headroom import GridLimits, Situation
from dcu.hosting.learned import LearnedSensitivity
from dcu.hosting.learned_outlook import LearnedOutlook
from dcu.hosting.spread import Claim
from dcu.hosting.window import GridSettings, Site, answer_window
from shared.ids import MeterId

NAMES = tuple(f"m{k}" for k in range(6))
PORTS = PortMap({MeterId(name): (k,) for k, name in enumerate(NAMES)}, ())
SITE = Site(PORTS, {name: MeterId(name) for name in NAMES}, GridSettings(nominal_voltage_v=230.0, band_pct=5.0))
LIMITS = GridLimits(np.full(6, 0.95 * 230.0), np.full(6, 1.05 * 230.0), np.zeros(0))
NOMINAL_W = 500.0
OLD, SAME_PHASE = MeterId("m0"), MeterId("m3")


def over_the_band(over_v: float, export_w: float) -> LearnedOutlook:
    """Nothing learnt; one port is measured above the band and exports."""
    p_w, u_v = np.full(6, 300.0), np.full(6, 236.0)
    p_w[0], u_v[0] = -export_w, 1.05 * 230.0 + over_v
    now = Situation(p_w, np.zeros(6), u_v, np.full(6, 0.15))
    return LearnedOutlook(LearnedSensitivity(NAMES, ("L1", "L2", "L3") * 2), LIMITS, now)


def verdicts(outlook: LearnedOutlook, *wishes: Wish) -> tuple[Verdict, ...]:
    reserved = {w.meter: w.granted_w for w in wishes if w.granted_w is not None}
    return answer_window(outlook, Estimate(1.0, outlook.now, (), ()), Question(wishes, reserved, 10), SITE, ()).verdicts


@pytest.mark.parametrize("standing", [Standing.DUE, Standing.HOLDS, Standing.MAY_RISE])
@pytest.mark.parametrize("export_w", [2000.0, 5000.0])
@pytest.mark.parametrize("over_v", [0.1, 1.0])
def test_while_a_voltage_is_over_the_band_ignorance_raises_nobody(
    over_v: float, export_w: float, standing: Standing
) -> None:
    """Far from now everything is in doubt, so that the nominal limit looks worse than the present export."""
    found = verdicts(over_the_band(over_v, export_w), Wish(OLD, standing, NOMINAL_W, 9000.0, 0.0, export_w))
    assert all(v.limit_w < export_w for v in found), found
    assert found or standing is not Standing.DUE


@pytest.mark.parametrize("export_w", [2000.0, 5000.0])
def test_while_a_voltage_is_over_the_band_ignorance_grants_a_neighbour_nothing(export_w: float) -> None:
    holder = Wish(OLD, Standing.HOLDS, NOMINAL_W, export_w, 0.0, export_w, used_w=export_w)
    found = verdicts(over_the_band(1.0, export_w), holder, Wish(SAME_PHASE, Standing.ASKS, NOMINAL_W, 5000.0, 0.0))
    assert [v.act for v in found if v.meter == SAME_PHASE] == [Act.DENY]
    assert not [v for v in found if v.meter == OLD and v.act is not Act.LOWER]


def test_what_cannot_be_mended_is_borne_as_far_as_it_is_measured() -> None:
    outlook = over_the_band(1.0, 5000.0)
    now, nominal = outlook.now.p_w.copy(), outlook.now.p_w.copy()
    nominal[0] = -NOMINAL_W
    floor = allocate(outlook, (Claim(OLD, (0,), NOMINAL_W, 9000.0),), Policy.EQUAL).floor
    assert outlook.excess(nominal)[0, 0] > 2 * outlook.excess(now)[0, 0] > 0
    assert (floor <= np.maximum(outlook.excess(now)[0], 0.0)).all()
