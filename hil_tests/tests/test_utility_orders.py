"""From a command to the engine: what was accepted is not lost, what was refused leaves no trace."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcu.config import DcuConfig
from dcu.hosting.decide import Band, Rule
from dcu.hosting.engine import HostingEngine
from dcu.hosting.orders import AllRevoked, AnotherRule, NominalLimits, Nothing, Ordered
from dcu.hosting.present import PresentVoltages
from dcu.tests.test_utility_side import config
from dcu.utility.commands import Command, LoadModel, RevokeAll, SetNominalLimits, TellAgain
from dcu.utility.link import LinkLost, Session
from dcu.utility.outbox import Outbox, Span
from dcu.utility.outbox_file import OutboxFull
from dcu.utility_side import ROOM_S, ToldAgain, UtilityPorts, UtilitySide
from hil_tests.virtual.loop import run_virtual
from shared.clock import LoopClock
from shared.errors import ConfigError, Fault
from shared.ids import Epoch


class Files:
    """`dcu.utility_side.SiteFiles` with a week that has ended, and no model."""

    async def checkpoint(self) -> str | None:
        return None

    async def receipt(self, position: int, meter: str | None) -> str:
        raise NotImplementedError

    async def weeks(self, after_s: int) -> list[dict[str, Any]]:
        return [{"meter": "meter-1", "start_s": 604_800}] if after_s < 604_800 else []

    async def refill(self) -> bool:
        return False

    async def tell_again(self, position: int, count: int) -> ToldAgain:
        if position > 4711:
            raise ValueError("unheard of")
        bad = (Span(1, 256, 512), Span(1, 600, 601)) if position + count > 256 else ()
        return ToldAgain(min(count, 17), bad)

    async def rule(self, sha256: str) -> Rule:
        if sha256 != GOOD:
            raise ConfigError(sha256, [Fault("file", "nothing", "a model")])
        return PresentVoltages(Band.around(230.0, 5.0))


class Nowhere:
    """A broker that is never reached."""

    async def connect(self, *_: object) -> Session:
        raise LinkLost("nobody there")


class Box:
    """The outbox without a thread; `full` refuses everything."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox, self.full = outbox, False

    async def call(self, work: Callable[[Outbox], Any]) -> Any:
        if self.full:
            raise OutboxFull("no room")
        return work(self.outbox)


class Side:
    """The utility's side of one DCU, and what it hands to the engine."""

    def __init__(self, directory: Path, configured: DcuConfig, settings: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        clock = LoopClock(loop)
        self.box = Box(Outbox(directory, "substation-1"))
        engine = HostingEngine(configured.site_settings, configured.entries, Epoch(1), clock.monotonic())
        ports = UtilityPorts(self.box, Nowhere(), Files(), 1, configured, settings)
        self.given: list[Ordered] = []
        self.refusals = 0
        self.side = UtilitySide(engine, ports, clock, random.Random(1), self._put, dict)

    def _put(self, order: Ordered) -> bool:
        if self.refusals:
            self.refusals -= 1
            return False
        self.given.append(order)
        return True


def command(order: Any) -> Command:
    return Command(1, "0" * 64, "k", order)


GOOD = "1" * 64
LOWER = SetNominalLimits(kind="set_nominal_limits", limits={"meter-1": 700.0})


def test_an_accepted_command_waits_for_room_at_the_engine(tmp_path: Path) -> None:
    """The mailbox is full five times; then the order is there, once."""

    async def main() -> None:
        subject = Side(tmp_path, config(tmp_path), {})
        subject.refusals = 5
        before_s = asyncio.get_running_loop().time()
        await subject.side.carry_out(command(LOWER))
        assert asyncio.get_running_loop().time() - before_s == pytest.approx(5 * ROOM_S)
        assert [order.change for order in subject.given] == [NominalLimits({"meter-1": 700.0})]  # type: ignore[dict-item]

    run_virtual(main)


def test_a_command_that_a_restart_finds_too_generous_fails(tmp_path: Path) -> None:
    """Accepted, crashed, and meanwhile the configuration has become stricter: no effect, and a reason."""

    async def main() -> None:
        base = config(tmp_path)
        strict = base.model_copy(
            update={"meters": [m.model_copy(update={"nominal_limit_w": 500.0}) for m in base.meters]}
        )
        subject = Side(tmp_path, strict, {})
        await subject.side.carry_out(command(LOWER))
        (order,) = subject.given
        assert isinstance(order.change, Nothing)
        assert order.about["outcome"] == "failed"
        assert "above_configured" in order.about["detail"]

    run_virtual(main)


def test_a_model_is_loaded_with_the_band_that_the_configuration_allows_now(tmp_path: Path) -> None:
    """A command had set 9 % when 9 % was allowed; 5 % is now, and another model does not bring the 9 % back."""

    async def main() -> None:
        subject = Side(tmp_path, config(tmp_path), {"band_pct": 9.0})
        await subject.side.carry_out(command(LoadModel(kind="load_model", sha256=GOOD)))
        change = subject.given[0].change
        assert isinstance(change, AnotherRule)
        assert isinstance(change.rule, PresentVoltages)
        assert change.rule.facts() == PresentVoltages(Band.around(230.0, 5.0)).facts()
        assert subject.box.outbox.setting("model") == GOOD

    run_virtual(main)


def test_what_could_not_be_told_again_is_named(tmp_path: Path) -> None:
    """All of a range, all but what cannot be read, and something that nobody thought of."""

    async def main() -> None:
        subject = Side(tmp_path, config(tmp_path), {})
        for position, count in ((0, 20), (200, 500), (4712, 1)):
            await subject.side.carry_out(command(TellAgain(kind="tell_again", position=position, count=count)))
        assert [(order.about["outcome"], order.about["detail"]) for order in subject.given] == [
            ("done", "17 decisions told again"),
            ("failed", "17 decisions told again, all but entries that cannot be read: 256 to 511, 600 to 600"),
            ("failed", "unheard of"),
        ]

    run_virtual(main)


def test_a_model_that_fails_to_load_is_not_tried_again_at_the_next_start(tmp_path: Path) -> None:
    """Without a model nobody would be granted anything."""

    async def main() -> None:
        subject = Side(tmp_path, config(tmp_path), {})
        order = LoadModel(kind="load_model", sha256="0" * 64)
        assert subject.side.settings(order) == {}
        await subject.side.carry_out(command(order))
        assert subject.given[0].about["outcome"] == "failed"
        assert subject.box.outbox.setting("model") is None

    run_virtual(main)


def test_a_command_that_is_not_accepted_leaves_no_setting(tmp_path: Path) -> None:
    """Looked at and refused for want of room; the next one is merged with what holds, not with it."""

    async def main() -> None:
        subject = Side(tmp_path, config(tmp_path), {})
        subject.side.settings(LOWER)
        other = SetNominalLimits(kind="set_nominal_limits", limits={"meter-2": 800.0})
        assert subject.side.settings(other) == {"nominal_limit_w": {"meter-2": 800.0}}
        await subject.side.carry_out(command(other))
        assert subject.side.settings(LOWER) == {"nominal_limit_w": {"meter-1": 700.0, "meter-2": 800.0}}

    run_virtual(main)


def test_a_hold_that_the_engine_has_not_heard_of_yet_is_not_taken_for_over(tmp_path: Path) -> None:
    """The engine never hears of it: only once its time is over the setting goes."""

    async def main() -> None:
        subject = Side(tmp_path, config(tmp_path), {})
        order = RevokeAll(kind="revoke_all", hold_s=30.0)
        subject.box.outbox.keep_setting("hold_s", 30.0)
        await subject.side.carry_out(command(order))
        telling = asyncio.ensure_future(subject.side._tell(lambda: None))
        await asyncio.sleep(25.0)
        assert isinstance(subject.given[0].change, AllRevoked)
        assert subject.box.outbox.setting("hold_s") == 30.0
        subject.box.full = True
        await asyncio.sleep(10.0)
        subject.box.full = False
        await asyncio.sleep(10.0)
        assert subject.box.outbox.setting("hold_s") == 0.0
        telling.cancel()

    run_virtual(main)


def test_a_shorter_hold_ends_no_longer_one_after_a_restart_either(tmp_path: Path) -> None:
    """An hour, then ten seconds, then none: the engine keeps to the hour, and so does whoever starts next."""

    async def main() -> None:
        subject = Side(tmp_path, config(tmp_path), {})
        for hold_s in (3600.0, 10.0, 0.0):
            order = RevokeAll(kind="revoke_all", hold_s=hold_s)
            for name, value in subject.side.settings(order).items():
                subject.box.outbox.keep_setting(name, value)
            await subject.side.carry_out(command(order))
        assert subject.box.outbox.setting("hold_s") == 3600.0
        telling = asyncio.ensure_future(subject.side._tell(lambda: None))
        await asyncio.sleep(3590.0)
        assert subject.box.outbox.setting("hold_s") == 3600.0
        await asyncio.sleep(20.0)
        assert subject.box.outbox.setting("hold_s") == 0.0
        telling.cancel()

    run_virtual(main)


def test_weeks_that_a_full_outbox_has_no_room_for_are_told_later(tmp_path: Path) -> None:
    """It ends no worker; an hour later there is room, and the week is told once."""

    async def main() -> None:
        subject = Side(tmp_path, config(tmp_path), {})
        put, subject.box.outbox.put = subject.box.outbox.put, _full  # type: ignore[assignment, method-assign]
        telling = asyncio.ensure_future(subject.side._tell(lambda: None))
        await asyncio.sleep(10.0)
        assert not telling.done()
        subject.box.outbox.put = put  # type: ignore[method-assign]
        await asyncio.sleep(2 * 3600.0 + 10.0)
        assert subject.box.outbox.waiting == {"statistics": 1}
        assert math.isclose(subject.box.outbox.setting("statistics_s"), 604_800)
        telling.cancel()

    run_virtual(main)


def _full(*_: object) -> None:
    raise OutboxFull("no room")
