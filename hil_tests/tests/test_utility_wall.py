"""The utility of a street of real daemons, over a real socket: what the ledger has is what it hears."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from dcu.utility.documents import DECISIONS
from hil_tests.observation import Observation
from hil_tests.player import Ear, play
from hil_tests.scenario import load_scenario
from hil_tests.utility_bench import Commander
from hil_tests.verdict import judge
from hil_tests.wall import UTILITY, WallStreet
from hil_tests.wall_utility import WallUtility
from hil_tests.world import DCU

pytestmark = pytest.mark.street


async def test_a_real_dcu_tells_all_it_decides_and_obeys(tmp_path: Path) -> None:
    """Scenario I to its end, over MQTT 3.1.1; meanwhile a nominal limit is lowered."""
    scenario = load_scenario("granted")
    ear = Ear(asyncio.get_running_loop())
    utility = WallUtility(Commander(DCU))
    street = WallStreet(scenario, ear, tmp_path, 1, utility=utility)
    asked: list[asyncio.Task[list[dict[str, object]]]] = []

    def order(seen: Observation) -> None:
        if len(seen.samples) == 120:
            limit = {"kind": "set_nominal_limits", "limits": {"client2": 1100.0}}
            asked.append(asyncio.ensure_future(utility.command(limit, time.time())))

    seen = await play(scenario, street, ear, order)
    assert [verdict for verdict in judge(scenario, seen) if not verdict.passed] == []
    assert [answer["outcome"] for answer in await asked[0]] == ["accepted", "done"]
    wanted = [entry for entry in seen.ledger if entry["kind"] in DECISIONS]
    found = [item["entry"] for item in sorted(utility.of("decision"), key=lambda item: item["position"])]
    assert [(e["kind"], e["seq"]) for e in found] == [(e["kind"], e["seq"]) for e in wanted[: len(found)]]
    assert len(wanted) - len(found) <= 1  # the very last may still have been on its way when the street ended
    assert "command" in [entry["kind"] for entry in wanted]
    assert utility.of("report")
    assert (tmp_path / UTILITY).read_text(encoding="utf-8").count("\n") == len(utility.items)
