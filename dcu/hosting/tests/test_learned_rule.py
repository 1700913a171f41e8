"""The learning rule refuses meters that contradict each other."""

from __future__ import annotations

import numpy as np

from dcu.hosting.learned_rule import Learned
from dcu.hosting.measurements import SUBSTATION, MeasurementSet, Point, Quality
from dcu.hosting.window import GridSettings
from dcu.meters import MeterEntry
from shared.ids import BusId, Eui48, MeterId, Phase
from shared.messages import Reason

SETTINGS = GridSettings()
ENTRIES = tuple(
    MeterEntry(MeterId(f"m{k}"), Eui48(bytes((2, 0, 0, 0, 0, k))), BusId(f"b{k}"), (Phase(k % 3),), 500.0, 9000.0)
    for k in range(6)
)


def measured(p_w: list[float], fed_w: list[float]) -> MeasurementSet:
    def point(name: MeterId, p: tuple[float, ...]) -> Point:
        return Point(name, Quality.GOOD, (231.0,) * len(p), max(0.0, -sum(p)), 1.0, p, (0.0,) * len(p))

    customers = tuple(point(entry.id, (p,)) for entry, p in zip(ENTRIES, p_w, strict=True))
    return MeasurementSet((point(SUBSTATION, (fed_w[0], fed_w[1], fed_w[2])), *customers))


def reasons(p_w: list[float], fed_w: list[float]) -> list[tuple[Reason, str]]:
    view = Learned(ENTRIES, SETTINGS).view(measured(p_w, fed_w), 100.0)
    assert (view.estimate.situation is None) == bool(view.estimate.unknown)
    return [(binding.reason, binding.point) for binding in view.estimate.unknown]


def test_sums_that_fit_are_known() -> None:
    assert reasons([300.0] * 6, [700.0] * 3) == []


def test_what_the_busbar_sees_and_no_meter_contradicts() -> None:
    """5 kW more than all meters together; then as much less."""
    for more in (5000.0, -5000.0):
        assert reasons([300.0] * 6, [600.0 + more / 3] * 3) == [(Reason.READINGS_CONTRADICT, SUBSTATION)]


def test_a_meter_on_the_wrong_phase_contradicts() -> None:
    """The sum of all is right; a customer who exports 6 kW on L1 is at the busbar on L2."""
    draws = [-6000.0] + [300.0] * 5
    by_phase = np.array([-5700.0, 600.0, 600.0])
    assert reasons(draws, by_phase.tolist()) == []
    assert reasons(draws, (by_phase + np.array([6300.0, -6300.0, 0.0])).tolist()) == [
        (Reason.READINGS_CONTRADICT, SUBSTATION)
    ]


def test_a_learning_rule_says_what_its_answers_depend_on() -> None:
    rule = Learned(ENTRIES, SETTINGS)
    assert rule.name == "learned/6"
    assert rule.facts()["nominal_voltage_v"] == SETTINGS.nominal_voltage_v
