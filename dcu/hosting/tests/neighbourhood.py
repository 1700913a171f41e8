"""A small true world for engine and rule: customers on a feeder solved exactly, meters that obey, no wire between."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dcu.grid.feeder import Feeder, solve
from dcu.grid.injections import Injections
from dcu.hosting.decide import Rule
from dcu.hosting.engine import HostingEngine
from dcu.hosting.exchange import Output, Record, ReportArrived, RequestArrived, SendDown, SubstationRead
from dcu.hosting.predicted import Predicted
from dcu.hosting.site_settings import SiteSettings
from dcu.hosting.window import GridSettings
from dcu.meters import MeterEntry
from shared.ids import BusId, Epoch, Eui48, MeterId, Nonce, Phase, RequestId
from shared.messages import (
    Alarm,
    DecisionId,
    Grant,
    LimitSource,
    PerPhase,
    Reading,
    RelayState,
    Report,
    Request,
    Revoke,
)

Reals = NDArray[np.float64]

EPOCH = Epoch(1)
NOMINAL_W, CONTRACT_W = 500.0, 20_000.0


@dataclass
class House:
    """One customer: what it draws, what its plant could give, and what its meter was told."""

    entry: MeterEntry
    port: int
    load_w: float
    pv_w: float = 0.0
    limit_w: float = NOMINAL_W
    ends_s: float = 0.0
    decision: DecisionId | None = None
    request: RequestId | None = None
    alarms: Alarm = Alarm.NONE
    voltage_factor: float = 1.0

    def draw_w(self, now: float) -> float:
        """Draw with the limit kept [W], import positive."""
        limit_w = self.limit_w if now < self.ends_s else NOMINAL_W
        return max(self.load_w - self.pv_w, -limit_w)


@dataclass
class Neighbourhood:
    """A feeder of single-phase customers around an engine; time passes a report interval at a time."""

    feeder: Feeder
    grid: GridSettings
    site: SiteSettings
    balancing_bus: str
    source: float = 1.0
    now: float = 1000.0
    reports: bool = True
    rule: Rule | None = None
    records: list[dict[str, object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        model = self.feeder.model
        self.houses = {}
        for port, (bus, label) in enumerate(zip(model.port_buses, model.port_labels, strict=True)):
            name = MeterId(f"m{port}")
            eui = Eui48(bytes((2, 0, 0, 0, port >> 8, port & 255)))
            entry = MeterEntry(name, eui, BusId(bus), (Phase[label],), NOMINAL_W, CONTRACT_W)
            self.houses[name] = House(entry, port, 300.0)
        entries = tuple(h.entry for h in self.houses.values())
        self.rule = Predicted(model, entries, self.grid) if self.rule is None else self.rule
        self.engine = HostingEngine(self.site, entries, EPOCH, self.now, self.rule)
        self._seq = 0
        self.perform(self.engine.start())
        self.report()

    def voltages(self, p_w: Reals | None = None) -> Reals:
        """True port voltages [V] now, or with other draws."""
        return np.asarray(self.source * np.abs(self._solve(self.draws() if p_w is None else p_w)[0]))

    def _solve(self, p_w: Reals) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """Port and node voltages [V] at a source of 1."""
        found = solve(self.feeder, Injections.of(p_w / self.source**2), results=("port_u_v", "bus_u_v"))
        return found["port_u_v"][0], found["bus_u_v"][0]

    def draws(self) -> Reals:
        """True draws at the ports [W]."""
        p = np.zeros(len(self.houses))
        for house in self.houses.values():
            p[house.port] = house.draw_w(self.now)
        return p

    def report(self) -> list[Output]:
        """Everybody reports, the balancing meter first."""
        p, found = self.draws(), list[Output]()
        ports, nodes = self._solve(p)
        u = self.source * np.abs(ports)
        at_busbar = [n.bus == self.balancing_bus and n.conductor != "N" for n in self.feeder.model.nodes]
        u_busbar = self.source * np.abs(nodes[at_busbar])
        labels = self.feeder.model.port_labels  # where a house is in truth, whatever its entry says
        fed = [sum(p[h.port] for h in self.houses.values() if labels[h.port] == f"L{k}") for k in (1, 2, 3)]
        volts = (float(u_busbar[0]), float(u_busbar[1]), float(u_busbar[2]))
        found += self.put(SubstationRead(_reading(volts, (float(fed[0]), float(fed[1]), float(fed[2])))))
        for house in self.houses.values() if self.reports else ():
            found += self.put(ReportArrived(house.entry.id, self._report(house, u[house.port])))
        return found

    def _report(self, house: House, u_v: float) -> Report:
        self._seq += 1
        k = house.entry.phases[0]
        volts = _one(k, round(float(u_v) * house.voltage_factor, 1))
        lives = self.now < house.ends_s
        return Report(
            boot_id=1,
            seq=self._seq,
            nonce=Nonce(self._seq),
            epoch=EPOCH,
            reading=_reading(volts, _one(k, round(house.draw_w(self.now), 1))),
            reading_age_s=0.0,
            limit_w=house.limit_w if lives else NOMINAL_W,
            source=LimitSource.GRANT if lives else LimitSource.NOMINAL,
            relay=RelayState.RAISED if lives else RelayState.NOMINAL,
            lease_left_s=max(0.0, house.ends_s - self.now),
            applied=house.decision,
            alarms=house.alarms,
        )

    def ask(self, name: str, limit_w: float, minimum_w: float = 0.0) -> None:
        """A household asks; the window is left to pass."""
        self._seq += 1
        house = self.houses[MeterId(name)]
        house.request = RequestId(self._seq)
        request = Request(house.request, Nonce(self._seq), EPOCH, limit_w, minimum_w)
        self.put(RequestArrived(house.entry.id, request))

    def put(self, item: object) -> list[Output]:
        """One input; what comes of it is performed."""
        return self.perform(self.engine.handle(item, self.now))  # type: ignore[arg-type]

    def pass_time(self, seconds: float, every_s: float = 5.0) -> list[Output]:
        """Time passes; meters report."""
        until, found = self.now + seconds, list[Output]()
        report_at = self.now + every_s
        while self.now < until:
            wake_at = self.engine.wake_at
            self.now = min(until, report_at, max(self.now, wake_at if wake_at is not None else until))
            found += self.perform(self.engine.wake(self.now))
            if self.now >= report_at:
                found += self.report()
                report_at += every_s
        return found

    def perform(self, outputs: list[Output]) -> list[Output]:
        """Meters do as they are told, at once."""
        for output in outputs:
            if isinstance(output, Record):
                self.records.append(output.entry)
            elif isinstance(output, SendDown):
                self._obey(self.houses[output.meter], output.message)
        return outputs

    def _obey(self, house: House, message: object) -> None:
        if isinstance(message, Grant):
            house.limit_w, house.ends_s, house.decision = message.limit_w, self.now + message.lease_s, message.decision
        elif isinstance(message, Revoke):
            house.decision = message.decision
            house.limit_w = max(NOMINAL_W, min(house.limit_w, message.limit_w))
            if message.limit_w <= NOMINAL_W:
                house.ends_s = 0.0

    def kinds(self) -> list[str]:
        """What was recorded, in order."""
        return [str(entry["kind"]) for entry in self.records]


def _one(k: int, value: float) -> PerPhase:
    values: list[float | None] = [None, None, None]
    values[k] = value
    return (values[0], values[1], values[2])


def _reading(u_v: PerPhase, p_w: PerPhase) -> Reading:
    i_a = tuple(None if p is None or u is None else p / u for p, u in zip(p_w, u_v, strict=True))
    q = tuple(None if p is None else 0.0 for p in p_w)
    return Reading(u_v, i_a, p_w, q, 50.0, 0, 0)  # type: ignore[arg-type]
