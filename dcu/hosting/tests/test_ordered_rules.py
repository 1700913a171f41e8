"""Another policy, another band, another model on a feeder that lives: from the next window on, and reproducibly.

Decisions before and after an order are made again from the ledger's entries by one rule of the old configuration.
"""

from __future__ import annotations

from typing import Any

import pytest

from dcu.hosting.decide import Rule
from dcu.hosting.orders import AnotherRule, BandWidth, Change, Ordered, Sharing
from dcu.hosting.replay import Replay, replay
from dcu.hosting.tests.neighbourhood import Neighbourhood
from dcu.hosting.tests.test_predicted import ask_all, street
from dcu.ledger.canonical import canonical, parse_canonical


def order(world: Neighbourhood, change: Change, **about: Any) -> None:
    """As the utility's side gives it; performed as everything of the engine."""
    world.perform(world.engine.handle(Ordered(change, "command", {"order": about}), world.now))


def rule_of(world: Neighbourhood) -> Rule:
    assert world.rule is not None
    return world.rule


def again(world: Neighbourhood) -> Replay:
    fresh = street().rule
    assert fresh is not None
    return replay(fresh, [parse_canonical(canonical(entry)) for entry in world.records])


@pytest.fixture(scope="module")
def world() -> Neighbourhood:
    """Two minutes; another policy after one, a narrower band after a minute and a half."""
    found = street()
    ask_all(found)
    found.pass_time(60.0)
    order(found, Sharing("first_come"), kind="set_policy", policy="first_come")
    found.pass_time(30.0)
    order(found, BandWidth(7.0), kind="set_band", band_pct=7.0)
    found.pass_time(40.0)
    return found


def test_a_narrower_band_is_kept_within_seconds(world: Neighbourhood) -> None:
    """Grants are lowered until the worst voltage is inside 7 %."""
    assert world.voltages().max() <= 240.0 * 1.07
    assert "lowered" in world.kinds()


def test_orders_show_in_the_facts_of_the_rule(world: Neighbourhood) -> None:
    """The next start records them."""
    facts = rule_of(world).facts()
    assert (facts["policy"], facts["band_pct"]) == ("first_come", 7.0)


def test_decisions_before_and_after_an_order_are_made_again(world: Neighbourhood) -> None:
    """All of them; without the orders they would come out otherwise."""
    found = again(world)
    assert found.differences == []
    assert found.windows > 5
    deaf = street().rule
    assert deaf is not None
    kept = [parse_canonical(canonical(entry)) for entry in world.records if entry["kind"] != "command"]
    assert replay(deaf, kept).differences


def test_decisions_with_a_loaded_model_are_not_made_again_with_ours() -> None:
    """They are counted as unknown, and are no difference."""
    found = street()
    ask_all(found)
    found.pass_time(30.0)
    fresh = street().rule
    assert fresh is not None
    order(found, AnotherRule(fresh), kind="load_model", sha256="0" * 64)
    before = again(found)
    found.pass_time(30.0)
    after = again(found)
    assert after.differences == []
    assert after.windows == before.windows
    assert after.unknown > before.unknown
