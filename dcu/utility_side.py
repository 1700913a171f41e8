"""Between the DCU and its utility: what is told, and how a command becomes an input of the engine.

Alarms are looked at once a second, so one that lasts for less may go untold; decisions are told entry by entry. What
commands have set is kept beside the outbox and holds after a restart, but only ever within the configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from asyncio import Future
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from dcu.available import Forecaster
from dcu.config import DcuConfig
from dcu.hosting.decide import Rule
from dcu.hosting.engine import HostingEngine
from dcu.hosting.measurements import SUBSTATION, Point
from dcu.hosting.orders import (
    AllRevoked,
    AnotherRule,
    BandWidth,
    Change,
    NominalLimits,
    Nothing,
    Ordered,
    Sharing,
)
from dcu.utility.commands import (
    Command,
    GiveReceipt,
    Judge,
    LoadModel,
    Order,
    Refusal,
    Refused,
    RevokeAll,
    SetBand,
    SetNominalLimits,
    SetPolicy,
    TellAgain,
    parse_public,
)
from dcu.utility.documents import Class, alarm, answer, available, checkpoint, report, statistics
from dcu.utility.link import BrokerPort, OutboxPort, UtilityLink
from dcu.utility.outbox import COMMAND, Item, Span
from dcu.utility.outbox_file import OutboxFull
from shared.clock import Clock
from shared.daemon import Progress, Supervisor
from shared.errors import HeadroomError
from shared.ids import MeterId
from shared.log import event, get_logger

LOOK_S: Final = 1.0
"""[s] Between two looks at alarms."""
CHECKPOINT_S: Final = 60.0
STALL_S: Final = 45.0
"""[s] Longer than the link waits for an acknowledgement."""
RECEIPT_BYTES_MAX: Final = 1 << 17
WEEKS_S: Final = 3600.0
"""[s] Between two looks at the weeks that have ended."""
WEEK_S: Final = 604_800
TOLD: Final = "statistics_s"
READINGS_MAX: Final = 100
"""Readings in one report."""
REFUSED: Final = "command refused"
HOLD: Final = "hold again"
ROOM_S: Final = 0.05
"""[s] Between two looks at a mailbox that was full."""

_LOG: Final = get_logger("dcu")


@dataclass(frozen=True, slots=True)
class ToldAgain:
    """So many decisions, and which entries could not be read."""

    decisions: int
    unread: tuple[Span, ...] = ()


class SiteFiles(Protocol):
    """What commands and reports need from the disk."""

    async def checkpoint(self) -> str | None:
        """The ledger's published head; None before the first."""

    async def receipt(self, position: int, meter: str | None) -> str:
        """A receipt as text (HeadroomError: there is none)."""

    async def weeks(self, after_s: int) -> list[dict[str, Any]]:
        """EN 50160 figures of finished weeks that began later than ``after_s`` [s, Unix], with ``meter`` and
        ``start_s``."""

    async def refill(self) -> bool:
        """Put some of what the ledger has and the outbox missed; whether there is more."""

    async def tell_again(self, position: int, count: int) -> ToldAgain:
        """Put the decisions among ``count`` entries of the ledger from ``position`` (HeadroomError: there are no such
        entries, or no room)."""

    async def rule(self, sha256: str) -> Rule:
        """The rule that decides by a model file (HeadroomError: it cannot be used here)."""


@dataclass(frozen=True, slots=True)
class UtilityPorts:
    """What the link touches.

    Attributes:
        log: number of the ledger's log that is written.
        configured: the configuration without what commands have set.
        settings: what commands had set before this start.
        behind: whether the ledger has entries for which the outbox had no room at this start.
    """

    outbox: OutboxPort
    broker: BrokerPort
    files: SiteFiles
    log: int
    configured: DcuConfig
    settings: Mapping[str, Any]
    behind: bool = False


class UtilitySide:
    """`dcu.utility.link.Site`, and everything that is told."""

    def __init__(
        self,
        engine: HostingEngine,
        ports: UtilityPorts,
        clock: Clock,
        draw: Any,
        put: Callable[[Ordered], bool],
        alarms: Callable[[], Mapping[str, str]],
    ) -> None:
        """For a configuration that has a utility.

        Args:
            engine: whom commands act on.
            ports: the link's.
            clock, draw: the daemon's.
            put: hands an order to the engine; False while its mailbox is full.
            alarms: the DCU's own, what by source.
        """
        config = ports.configured
        assert config.utility is not None, "the caller has a utility"
        self._config, self._settings_of_link = config, config.utility
        self._engine, self._ports, self._clock, self._put = engine, ports, clock, put
        self._own_alarms = alarms
        judge = Judge(config.dcu.id, tuple(parse_public(key) for key in config.utility.command_keys))
        self.link = UtilityLink(config.dcu.id, ports.log, ports.outbox, ports.broker, judge, clock, draw)
        self.link.epoch = engine.epoch
        self.link.refill = ports.files.refill
        if ports.behind:
            self.link.missed()
        self._set = dict(ports.settings)
        self._rules: dict[str, Rule] = {}
        self._lasting: dict[tuple[str, str], None] = {}
        self._head: str | None = None
        self._hold_end_s = math.inf
        self.forecaster: Forecaster | None = None
        self._forecast_utc_s: float | None = None

    def add_workers(self, supervisor: Supervisor) -> None:
        """Everything that runs for the link."""
        supervisor.worker("utility outbox", self.link.run_outbox, STALL_S)
        supervisor.worker("utility sender", self.link.run_sender, STALL_S)
        supervisor.worker("utility commands", self._take_commands, STALL_S)
        supervisor.worker("utility reports", self._tell, STALL_S)

    def recorded(self, entry: Mapping[str, Any], record: Future[int]) -> None:
        """An entry's record is done, or has failed."""
        if not record.cancelled() and record.exception() is None:
            self.link.recorded(record.result(), entry)

    # ---- commands ----------------------------------------------------------------------------------------------------

    async def _take_commands(self, progress: Progress) -> None:
        hold_s = float(self._set.get("hold_s") or 0.0)
        if hold_s:  # how much of it is over nobody knows after a restart: it begins anew
            await self._order(AllRevoked(hold_s), HOLD, {"hold_s": hold_s})
        await self.link.run_desk(self, progress)

    async def objection(self, order: Order) -> tuple[Refusal, str] | None:
        match order:
            case SetNominalLimits(limits=limits):
                return self._limits_objection(limits)
            case SetPolicy() if "policy" not in self._engine.rule.facts():
                return Refusal.NOT_HERE, f"the rule {self._engine.rule.name} shares nothing"
            case SetBand(band_pct=band_pct) if band_pct > self._settings_of_link.band_pct_max(self._config):
                most = self._settings_of_link.band_pct_max(self._config)
                return Refusal.ABOVE_CONFIGURED, f"seen {band_pct:g} %, expected at most {most:g} %"
            case LoadModel(sha256=sha256):
                return await self._model_objection(sha256)
            case GiveReceipt(meter=str(meter)) if meter not in self._configured_w:
                return Refusal.UNKNOWN_METER, f"seen {meter!r}"
        return None

    @property
    def _configured_w(self) -> dict[str, float]:
        return {meter.id: meter.nominal_limit_w for meter in self._config.meters}

    async def _keep_setting(self, name: str, value: Any) -> None:
        """Beside those that an order sets when it is accepted (OutboxFull: there is no room)."""
        await self._ports.outbox.call(lambda outbox: outbox.keep_setting(name, value))
        self._set[name] = value

    def _limits_objection(self, limits: Mapping[str, float]) -> tuple[Refusal, str] | None:
        configured_w = self._configured_w
        for meter, limit_w in limits.items():
            if meter not in configured_w:
                return Refusal.UNKNOWN_METER, f"seen {meter!r}"
            if not 0 <= limit_w <= configured_w[meter]:
                expected = f"at most the configured {configured_w[meter]:g} W"
                return Refusal.ABOVE_CONFIGURED, f"{meter}: seen {limit_w:g} W, expected {expected}"
        return None

    async def _model_objection(self, sha256: str) -> tuple[Refusal, str] | None:
        try:
            rule = await self._ports.files.rule(sha256)
        except HeadroomError as error:
            return Refusal.NOT_HERE, str(error)[:200]
        seen, present = rule.facts().get("model"), self._engine.rule.facts().get("model")
        if present is not None and seen != present:
            return Refusal.OTHER_FEEDER, f"seen {seen!r}, expected {present!r}"
        self._rules = {sha256: rule}
        return None

    def settings(self, order: Order) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        match order:
            case SetNominalLimits(limits=limits):
                found["nominal_limit_w"] = {**self._set.get("nominal_limit_w", {}), **limits}
            case SetPolicy(policy=policy):
                found["policy"] = policy
            case SetBand(band_pct=band_pct):
                found["band_pct"] = band_pct
            case RevokeAll(hold_s=hold_s) if hold_s:
                found["hold_s"] = max(hold_s, self._set.get("hold_s") or 0.0)  # a shorter one ends no longer one
        return found

    async def carry_out(self, command: Command) -> Item | None:
        about, item, outcome, detail = command.as_entry(), None, "done", ""
        change: Change = Nothing()
        if (why := await self._objection_again(command.order)) is not None:
            await self._order(change, COMMAND, {**about, "outcome": "failed", "detail": why})
            return None
        self._set |= self.settings(command.order)
        match command.order:
            case SetNominalLimits(limits=limits):
                change = NominalLimits({MeterId(meter): float(limit_w) for meter, limit_w in limits.items()})
            case SetPolicy(policy=policy):
                change = Sharing(policy)
            case SetBand(band_pct=band_pct):
                change = BandWidth(float(band_pct))
            case RevokeAll(hold_s=hold_s):
                change = AllRevoked(float(hold_s))
            case LoadModel(sha256=sha256):
                change, outcome, detail = await self._another_rule(sha256)
            case GiveReceipt():
                item, outcome, detail = await self._receipt(command, command.order)
            case TellAgain(position=position, count=count):
                outcome, detail = await self._tell_again(position, count)
        await self._order(change, COMMAND, {**about, "outcome": outcome, "detail": detail})
        return item

    async def _objection_again(self, order: Order) -> str | None:
        """Between acceptance and effect there may be a restart with a configuration that has become stricter."""
        if isinstance(order, LoadModel):
            return None  # loading it looks at everything, and says so
        found = await self.objection(order)
        return None if found is None else f"{found[0].value}: {found[1]}"[:200]

    async def _another_rule(self, sha256: str) -> tuple[Change, str, str]:
        """The rule that was looked at when the command was judged; after a restart it is loaded again."""
        try:
            rule = self._rules.pop(sha256, None) or await self._ports.files.rule(sha256)
            await self._keep_setting("model", sha256)  # not before it has loaded: without a model nobody is granted
        except (HeadroomError, OSError, ValueError) as error:
            return Nothing(), "failed", str(error)[:200]
        rule.adjust(policy=self._set.get("policy"), band_pct=allowed_band_pct(self._config, self._set))
        return AnotherRule(rule), "done", f"model {rule.facts().get('model')}"

    async def _receipt(self, command: Command, order: GiveReceipt) -> tuple[Item | None, str, str]:
        try:
            text = await self._ports.files.receipt(order.position, order.meter)
        except (HeadroomError, OSError, ValueError) as error:
            return None, "failed", str(error)[:200]
        if len(text) > RECEIPT_BYTES_MAX:
            return None, "failed", f"{len(text)} bytes; headroom-ledger receipt writes it to a file"
        told = answer(command.number, command.sha256, "receipt", position=order.position, receipt=text)
        name = f"{self._config.dcu.id}/answer/{command.sha256[:16]}/receipt"
        return Item(Class.ANSWER, told, name), "done", ""

    async def _tell_again(self, position: int, count: int) -> tuple[str, str]:
        """After a crash once more: consumers know what they have by its name."""
        try:
            told = await self._ports.files.tell_again(position, count)
        except (HeadroomError, OSError, ValueError) as error:
            return "failed", str(error)[:200]
        done = f"{told.decisions} decisions told again"
        if not told.unread:
            return "done", done
        unread = ", ".join(f"{one.first} to {one.end - 1}" for one in told.unread)
        return "failed", f"{done}, all but entries that cannot be read: {unread}"[:200]

    async def refused(self, refused: Refused, unrecorded: int) -> None:
        more = {"unrecorded": unrecorded} if unrecorded else {}
        await self._order(Nothing(), REFUSED, {**refused.as_entry(), **more})

    async def _order(self, change: Change, kind: str, about: Mapping[str, Any]) -> None:
        """To the engine, as soon as its mailbox has room: what was accepted is carried out."""
        if isinstance(change, AllRevoked):
            end_s = self._clock.monotonic() + change.hold_s
            self._hold_end_s = end_s if self._hold_end_s == math.inf else max(end_s, self._hold_end_s)
        while not self._put(Ordered(change, kind, about)):  # noqa: ASYNC110  # a mailbox tells nobody that it has room
            await asyncio.sleep(ROOM_S)

    # ---- what is told ------------------------------------------------------------------------------------------------

    async def _tell(self, progress: Progress) -> None:
        """Alarms every second, the rest when it is time."""
        clock, every_s = self._clock, self._settings_of_link.report_interval_s
        report_s = clock.monotonic() + every_s
        head_s = weeks_s = clock.monotonic()
        while True:
            self._tell_alarms()
            self._tell_available()
            now = clock.monotonic()
            if now >= head_s:
                head_s = now + CHECKPOINT_S
                await self._tell_head()
            if now >= report_s:  # after the head, without waiting: mostly both become durable with one commit
                report_s = now + every_s
                self._tell_report(now)
            if now >= weeks_s:
                weeks_s = now + WEEKS_S
                await self._tell_weeks()
            if self._set.get("hold_s") and now > self._hold_end_s + LOOK_S and not self._engine.held(now):
                with contextlib.suppress(OutboxFull):  # tried again; until then a restart holds once more
                    await self._keep_setting("hold_s", 0.0)
            progress()
            await asyncio.sleep(LOOK_S)

    def _tell_alarms(self) -> None:
        now: dict[tuple[str, str], None] = {}
        for state in self._engine.table.states():
            now |= dict.fromkeys((str(state.entry.id), name) for name in state.alarms.names)
        now |= dict.fromkeys(self._own_alarms().items())
        for source, what in [*(key for key in now if key not in self._lasting)]:
            self._tell_alarm(source, what, raised=True)
        for source, what in [*(key for key in self._lasting if key not in now)]:
            self._tell_alarm(source, what, raised=False)
        self._lasting = now

    def _tell_alarm(self, source: str, what: str, *, raised: bool) -> None:
        self.link.tell(Item(Class.ALARM, alarm(self._clock.utc_s(), source, what, raised=raised)))

    def _tell_available(self) -> None:
        forecaster = self.forecaster
        if forecaster is None or forecaster.made_utc_s is None:
            return
        if forecaster.made_utc_s != self._forecast_utc_s:
            self._forecast_utc_s = forecaster.made_utc_s
            content = available(forecaster.made_utc_s, [one.as_entry() for one in forecaster.newest])
            self.link.tell(Item(Class.AVAILABLE, content))

    async def _tell_head(self) -> None:
        head = await self._ports.files.checkpoint()
        if head is not None and head != self._head:
            self._head = head
            self.link.tell(Item(Class.CHECKPOINT, checkpoint(head)))

    async def _tell_weeks(self) -> None:
        """Weeks that have ended since they were last told; what is told and that it is told become durable in turn."""
        told_s = await self._ports.outbox.call(lambda outbox: outbox.setting(TOLD))
        weeks = await self._ports.files.weeks(min(told_s or 0, int(self._clock.utc_s())))  # no week of the future
        if weeks:
            items = [Item(Class.STATISTICS, *_week(self._ports.configured.dcu.id, one)) for one in weeks]
            newest_s = max(one["start_s"] for one in weeks)
            with contextlib.suppress(OutboxFull):  # the store has them, and the next look finds them there
                await self._ports.outbox.call(lambda outbox: outbox.put(items))
                await self._ports.outbox.call(lambda outbox: outbox.keep_setting(TOLD, newest_s))

    def _tell_report(self, now: float) -> None:
        readings = list(self._readings(now))
        utc_s = self._clock.utc_s()
        for first in range(0, len(readings), READINGS_MAX):
            self.link.tell(Item(Class.REPORT, report(utc_s, readings[first : first + READINGS_MAX])))

    def _readings(self, now: float) -> Iterator[dict[str, Any]]:
        """What is known of every point; a value nobody vouches for is null."""
        points = {point.name: point for point in self._engine.measurements(now).points}
        yield _point(points[SUBSTATION], self._clock.utc_s())
        for state in self._engine.table.states():
            grant = self._engine.book.grant_of(state.entry.id)
            reading = state.reading
            energies = (
                {}
                if reading is None
                else {
                    "i_a": _numbers(reading.i_a),
                    "import_energy_wh": reading.import_energy_wh,
                    "export_energy_wh": reading.export_energy_wh,
                }
            )
            yield {
                **_point(points[state.entry.id], self._clock.utc_s()),
                **energies,
                "EXPORT_CAPACITY_SUBSCRIPTION": state.entry.nominal_limit_w,
                "EXPORT_CAPACITY_RESERVATION": None if grant is None else grant.limit_w,
                "EXPORT_CAPACITY_LIMIT": state.limit_w if state.reported_at_s is not None else None,
                "source": state.source.name,
            }


def _week(dcu: str, one: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """An item of statistics and its name."""
    figures = {key: value for key, value in one.items() if key not in {"meter", "start_s"}}
    told = {"resource": one["meter"], "start_utc_s": one["start_s"], "duration_s": WEEK_S, "figures": figures}
    return statistics(told), f"{dcu}/statistics/{one['meter']}/{one['start_s']}"


def _point(point: Point, utc_s: float) -> dict[str, Any]:
    taken = None if point.age_s is None else round(utc_s - point.age_s, 3)
    return {
        "resource": point.name,
        "taken_utc_s": taken,
        "quality": point.quality.value,
        "u_v": _numbers(point.u_v),
        "p_w": _numbers(point.p_w),
        "q_var": _numbers(point.q_var),
    }


def _numbers(values: Sequence[float | None]) -> list[float | None]:
    """What JSON can keep of them."""
    return [value if value is not None and math.isfinite(value) else None for value in values]


def ordered_config(config: DcuConfig, settings: Mapping[str, Any]) -> DcuConfig:
    """A configuration with what commands have set, as far as it still allows that: no limit, no band above its own."""
    limits_w = settings.get("nominal_limit_w") or {}
    changes: dict[str, Any] = {
        "meters": [
            meter.model_copy(
                update={"nominal_limit_w": min(meter.nominal_limit_w, limits_w.get(meter.id, meter.nominal_limit_w))}
            )
            for meter in config.meters
        ]
    }
    policy, model = settings.get("policy"), settings.get("model")
    if (band_pct := allowed_band_pct(config, settings)) is not None:
        changes["site"] = config.site.model_copy(update={"band_pct": band_pct})
    if policy is not None:
        changes["decision"] = config.decision.model_copy(update={"policy": policy})
    if model is not None and config.model is not None and config.utility is not None:
        changes["model"] = config.model.model_copy(update={"file": str(config.utility.model_file(model))})
    for name, value in settings.items():
        if value:
            event(_LOG, logging.INFO, "ordered by the utility", setting=name)
    return config.model_copy(update=changes)


def allowed_band_pct(config: DcuConfig, settings: Mapping[str, Any]) -> float | None:
    """The band that a command has set [% of nominal], as far as the configuration still allows it; None if none has."""
    band_pct = settings.get("band_pct")
    if band_pct is None or config.utility is None:
        return None
    return float(min(band_pct, config.utility.band_pct_max(config)))
