"""The operator's page beside streets: what a real DCU tells it is what it shows."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from dcu.web import models
from dcu.web.drawing import Drawing
from dcu.web.feed import Feed
from dcu.web.line import line_of
from hil_tests.live_street import LiveSettings, LiveStreet
from hil_tests.page import PageProcess
from hil_tests.player import Ear, play
from hil_tests.scenario import load_scenario
from hil_tests.wall import WallStreet


async def test_a_street_of_fifty_five_is_told_whole(tmp_path: Path) -> None:
    """European feeder, everybody's real machine, the DCU's own snapshot: every field is one the API documents."""
    street = LiveStreet(LiveSettings(minutes=1), tmp_path, tmp_path / "page.sock")
    street.warm_up()

    async def ask() -> dict[str, Any]:
        return json.loads(json.dumps(street.page()))  # type: ignore[no-any-return]

    feed = Feed(ask, 1.0, lambda: 0.0, lambda: 1.8e9)
    for _ in street.look():
        pass
    await feed.look()
    told = models.Street.model_validate(feed.street)
    assert told.state == "live"
    assert len(told.customers) == 55
    granted = [customer for customer in told.customers if customer.granted_w is not None]
    assert granted
    bound = [customer for customer in granted if customer.why_not_more is not None]
    assert bound
    assert all("voltage at" in str(customer.why_not_more) or customer.binding for customer in bound)
    able = [customer for customer in told.customers if customer.contract_w > customer.nominal_w]
    assert all(customer.headroom_w is not None for customer in able)
    assert all(customer.nominal_w <= (customer.headroom_w or 0.0) <= customer.contract_w for customer in able)
    assert all(row.words for row in told.news if row.meter is not None)
    drawing = Drawing(street.network_file).of([(customer.id, customer.bus) for customer in told.customers])
    feeder = models.Feeder.model_validate(drawing)
    assert len(feeder.tree.places) == 55
    assert len({place.y for place in feeder.tree.places}) == 55  # a line for each


@pytest.mark.street
def test_the_page_works_while_real_daemons_play(tmp_path: Path) -> None:
    """Real DCU and meters as processes, the page as another: it logs in by its link, and shows meters and the tree."""
    found: list[Any] = []

    def look(page: PageProcess) -> None:
        async def ask() -> None:
            for _ in range(40):
                found[:] = await asyncio.to_thread(fetch, page)
                if len(found[0]["customers"]) == 2 and all(c["quality"] == "good" for c in found[0]["customers"]):
                    return
                await asyncio.sleep(0.5)

        tasks.append(asyncio.get_running_loop().create_task(ask()))

    tasks: list[asyncio.Task[None]] = []
    scenario = load_scenario("granted")

    async def street() -> None:
        ear = Ear(asyncio.get_running_loop())
        await play(scenario, WallStreet(scenario, ear, tmp_path, 1, on_page=look), ear)
        await asyncio.gather(*tasks)

    asyncio.run(street())
    told: Any = found[0]
    line: Any = found[1]
    assert models.Street.model_validate(told).state == "live"
    assert [customer["id"] for customer in told["customers"]] == ["client1", "client2"]
    tree = models.Line.model_validate(line)
    assert tree.known
    assert {node.meter for node in tree.nodes} == {"client1", "client2"}


def fetch(page: PageProcess) -> list[Any]:
    answers = []
    for path in ("api/street", "api/line"):
        asked = urllib.request.Request(page.address + path, headers={"authorization": f"Bearer {page.token}"})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            answers.append(json.loads(answer.read()))
    return answers


@pytest.mark.parametrize("told", [{}, {"plc": {}}, {"plc": {"nodes": 3}}])
def test_no_power_line_is_said_to_be_none(told: dict[str, Any]) -> None:
    """A DCU of another version, or without a modem."""
    assert models.Line.model_validate(line_of(told)).known is False
