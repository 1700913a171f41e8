"""A revoke said to all reaches a meter that has just become deaf to its own messages; heard again it does nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from dcu.hosting import engine
from hil_tests.attacker import Attacker, Trick
from hil_tests.observation import Observation
from hil_tests.player import Ear, play
from hil_tests.scenario import Scenario, load_scenario
from hil_tests.tests.test_attacker import TappedStreet, refusals, state
from hil_tests.verdict import judge
from hil_tests.virtual.loop import run_virtual
from prime_plc import sap
from shared.messages import Revoke

DEAF_S = 27.0
"""Before the violation has lasted for long enough."""


def deaf(heard: Callable[[sap.Output], None]) -> Callable[[sap.Output], None]:
    """An ear that hears broadcasts only."""

    def listen(output: sap.Output) -> None:
        if not isinstance(output, sap.DataReceived) or output.broadcast:
            heard(output)

    return listen


def played(tmp_path: Path) -> tuple[Observation, Scenario, TappedStreet]:
    """Scenario III, until its lease is over, with a meter that loses whatever is sent to it alone."""
    scenario = load_scenario("revoked").model_copy(update={"duration_s": 44.0})
    streets: list[TappedStreet] = []

    async def main() -> Observation:
        ear = Ear(asyncio.get_running_loop())
        street = TappedStreet(scenario, ear, tmp_path, 1)
        street.attacker = Attacker(street, 1)
        streets.append(street)
        done: list[float] = []

        def follow(seen: Observation) -> None:
            t_s = len(seen.samples) / 10
            if t_s > DEAF_S and not done:
                runner = street.daemon("client1")._runner
                runner._on_output = deaf(runner._on_output)
                done.append(t_s)
            if t_s > 36.0 and len(done) == 1:
                before, refused = state(street), sum(refusals(street, "client1").values())
                street.attacker.play([Trick.REPLAY, Trick.FLIP, Trick.REFLECT])
                assert state(street) == before
                assert sum(refusals(street, "client1").values()) > refused
                done.append(t_s)

        return await play(scenario, street, ear, follow)

    return run_virtual(main), scenario, streets[0]


def test_a_deaf_meter_is_reached_by_what_is_said_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One grant counts as many here. The relay falls long before the lease ends, and every judge of the street agrees:
    the decision on the wire stands in the ledger, and nothing was exported without a grant."""
    monkeypatch.setattr(engine, "GROUP_REVOKES_MIN", 1)
    seen, scenario, _ = played(tmp_path)
    assert [verdict for verdict in judge(scenario, seen) if not verdict.passed] == []
    assert any(frame.kind == "revoke for all" and isinstance(frame.message, Revoke) for frame in seen.frames)
    falls = [move.t_s for move in seen.relay_moves if move.client == "client1" and not move.raised and move.t_s > 10.0]
    assert falls
    assert 28.0 < falls[0] < 33.0
    assert seen.status["client1"]["source"] == "REVOKED"


def test_without_it_the_lease_is_what_ends_the_export(tmp_path: Path) -> None:
    """The same deafness, and a revoke to one alone: it is not heard, and the limit falls when the lease is over."""
    seen, _, _ = played(tmp_path)
    assert not any(frame.kind == "revoke for all" for frame in seen.frames)
    assert seen.status["client1"]["source"] == "LEASE_ENDED"
