"""Modulation of a neighbour: bounded by what is heard of it, decided by what it takes and says."""

from __future__ import annotations

from prime_plc.links import PARENT, Links
from prime_plc.phy import Scheme
from prime_plc.robustness import RobustnessWatch
from prime_plc.settings import LADDER, MacSettings

SETTINGS = MacSettings()


def link(snr_db: float) -> Links:
    """One neighbour, heard once."""
    links = Links(SETTINGS)
    links.heard(PARENT, snr_db, 0.0)
    return links


def rung(links: Links) -> int:
    return LADDER.index(links.scheme(PARENT))


def test_a_new_neighbour_is_thought_to_hear_us_worse_than_we_hear_it() -> None:
    """Noise differs at the two ends: what fits eight decibels less is where it begins, and strangers get the most
    robust."""
    assert link(30.0).scheme(PARENT) is link(30.0).allowed(30.0 - SETTINGS.asymmetry_db)
    assert link(5.0).scheme(PARENT) is Scheme.DBPSK_C
    assert Links(SETTINGS).scheme(PARENT) is SETTINGS.scheme


def test_deliveries_climb_to_what_the_signal_bears_and_no_further() -> None:
    """Some in a row try the next scheme; however many there are, none beyond the signal is tried."""
    links = link(16.0)
    seen = []
    for _ in range(200):
        links.delivered(PARENT)
        seen.append(rung(links))
    assert seen[0] < seen[-1]
    assert seen == sorted(seen)
    assert LADDER[seen[-1]] is links.allowed(16.0 + 3.0)


def test_single_losses_leave_a_proven_scheme_and_a_row_of_them_does_not() -> None:
    """Collisions are no fault of the modulation: every third frame lost changes nothing, five in a row do."""
    links = link(30.0)
    for _ in range(30):
        links.delivered(PARENT)
    proven = rung(links)
    for _ in range(30):
        links.lost(PARENT)
        links.delivered(PARENT)
        links.delivered(PARENT)
    assert rung(links) == proven
    for _ in range(SETTINGS.losses_to_doubt):
        links.lost(PARENT)
    assert rung(links) == proven - 1


def test_a_try_that_fails_is_taken_back_at_once_and_comes_later_the_next_time() -> None:
    """Two losses after a step up undo it; the next try takes twice as many deliveries."""
    links = link(16.0)
    start = rung(links)
    waits = []
    for _ in range(3):
        count = 0
        while rung(links) == start:
            links.delivered(PARENT)
            count += 1
        waits.append(count)
        for _ in range(SETTINGS.losses_to_fall):
            links.lost(PARENT)
        assert rung(links) == start
    assert waits[1] == 2 * waits[0]
    assert waits[2] == 2 * waits[1]


def test_what_the_neighbour_says_is_believed_at_once_both_ways() -> None:
    """A word of a bad signal there ends a fast scheme, one of a good signal ends a slow one."""
    links = link(30.0)
    assert links.told(PARENT, 2, 1.0)
    assert links.scheme(PARENT) is Scheme.DBPSK_C
    assert links.told(PARENT, 7, 2.0)
    assert rung(links) > LADDER.index(Scheme.DQPSK_C)
    assert not links.told(5, 7, 2.0), "no neighbour"


def test_a_repetition_is_more_robust_from_the_second_on() -> None:
    """The first repetition may have been a collision."""
    links = link(40.0)
    schemes = [LADDER.index(links.scheme(PARENT, tries)) for tries in range(8)]
    assert schemes[0] == schemes[1] == schemes[2] + 1
    assert schemes[-1] == 0


def test_a_signal_too_weak_for_the_most_robust_scheme_is_told_too() -> None:
    """Nothing more robust is left to choose, but the sender may know another way."""
    watch = RobustnessWatch(SETTINGS, Links(SETTINGS))
    told = [watch.observe(7, Scheme.DBPSK_C, 3.5, float(k)) for k in range(SETTINGS.robustness_frames)]
    assert told == [None] * (SETTINGS.robustness_frames - 1) + [2]
    assert watch.observe(8, Scheme.DBPSK_C, 6.0, 0.0) is None
