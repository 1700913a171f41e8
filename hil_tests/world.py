"""The physical side of a street, the same in wall-clock and virtual time: feeder, line, modems, analyzers, relays."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

from hil_tests.enrolment import enrol
from hil_tests.player import Ear, build_feeder
from hil_tests.scenario import CLIENTS, Scenario
from hil_tests.virtual.em330 import Measured, VirtualEm330
from hil_tests.virtual.gpio import BenchRelay
from hil_tests.virtual.line import Frame, LineSettings, PowerLine
from hil_tests.virtual.modem import Framing, VirtualModem
from hil_tests.wire import WireReader
from shared.clock import Clock
from shared.ids import format_eui48, parse_eui48

DCU: Final = "dcu"
SUBSTATION: Final = "substation"
EUI48: Final = {
    DCU: parse_eui48("02:48:44:52:00:01"),
    "client1": parse_eui48("02:48:44:52:01:01"),
    "client2": parse_eui48("02:48:44:52:01:02"),
}
"""Locally administered addresses of the street's nodes."""

RELAY_PIN: Final = 5
READ_BACK_PIN: Final = 6
FRAMING: Final = Framing.STOCK
SENTINEL_BYTES: Final = 3

CONTROL_REPEAT_S: Final = 2.0
"""[s] PRIME control packets are repeated sooner than the field's 15 s, so that a play stays short."""

RETURN_SPREAD_S: Final = 0.5
"""[s] Two meters do not crowd the line; the field's window is half a minute."""

READING_AGE_S_MAX: Final = 9.0
"""[s] Four report intervals and a poll."""


class World:
    """Devices and physics; daemons are the street's business."""

    def __init__(
        self,
        scenario: Scenario,
        ear: Ear,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        seed: int,
        line: LineSettings | None = None,
    ) -> None:
        draw = random.Random(seed)
        self._ear = ear
        self.feeder = build_feeder(scenario)
        self.line = PowerLine(loop, draw, line)
        self.line.on_frame = self._on_frame
        self.modems = {name: VirtualModem(self.line, loop, name, draw, FRAMING) for name in (DCU, *CLIENTS)}
        self.relays = {name: BenchRelay(name, clock, self._relay_moved) for name in CLIENTS}
        self.meters = {name: VirtualEm330(jitter=random.Random(f"{name} {seed}")) for name in (SUBSTATION, *CLIENTS)}
        for name in CLIENTS:
            self.meters[name].refresh = self._refresher(name)
        self.meters[SUBSTATION].refresh = self._show_busbar
        self.ring = enrol(EUI48, DCU, random.Random(f"keys {seed}"))
        self.reader = WireReader(EUI48[DCU], {EUI48[name]: name for name in CLIENTS}, self.ring)

    def _refresher(self, name: str) -> Callable[[VirtualEm330], None]:
        customer = self.feeder.customer(name)

        def show(meter: VirtualEm330) -> None:
            now = self._ear.now
            u_v, i_a = customer.u_v(now), customer.export_a(now)
            meter.set_reading(
                Measured(
                    u_v=(u_v, None, None),
                    i_a=(-i_a, None, None),
                    p_w=(-u_v * i_a, None, None),
                    export_wh=customer.export_energy_ws / 3600,
                )
            )

        return show

    def _show_busbar(self, meter: VirtualEm330) -> None:
        now = self._ear.now
        u_v = self.feeder.busbar.at(now)
        i_a = self.feeder.total_export_a(now)
        meter.set_reading(Measured(u_v=(u_v, None, None), i_a=(-i_a, None, None), p_w=(-u_v * i_a, None, None)))

    def _relay_moved(self, relay: BenchRelay) -> None:
        self.feeder.customer(relay.name).set_raised(relay.raised, self._ear.now)
        self._ear.relay(relay.name, relay.raised)

    def _on_frame(self, frame: Frame) -> None:
        pdu = frame.pdu[SENTINEL_BYTES:]  # what stock firmware put in front
        start_s = self._ear.scenario_time(frame.start_s)
        duration_s = frame.end_s - frame.start_s
        for told in self.reader.read(start_s, duration_s, frame.sender.name, pdu, bool(frame.delivered)):
            self._ear.frame(told)


def dcu_config(
    scenario: Scenario, em330_url: str, plc_url: str, state: str, socket: str, keys: str
) -> dict[str, object]:
    """The DCU's configuration for this street."""
    site = scenario.site
    return {
        "dcu": {"id": DCU, "eui48": format_eui48(EUI48[DCU]), "state_directory": state},
        "site": {
            "nominal_voltage_v": site.nominal_voltage_v,
            "band_pct": site.band_pct,
            "persistence_s": site.persistence_s,
            "lease_s": site.lease_s,
            "renew_interval_s": site.renew_interval_s,
            "decision_window_s": site.decision_window_s,
            "reading_age_s_max": max(READING_AGE_S_MAX, 3 * site.report_interval_s),
        },
        "balancing": {"url": em330_url, "phases": ["L1"]},
        "plc": {"url": plc_url, "framing": FRAMING.value, "control_repeat_s": CONTROL_REPEAT_S},
        "protection": {"key_file": keys},
        "status": {"socket": socket, "page_socket": f"{socket}.page"},
        "meters": [
            {
                "id": name,
                "eui48": format_eui48(EUI48[name]),
                "bus": f"bus{number}",
                "phases": ["L1"],
                "nominal_limit_w": site.nominal_limit_w,
                "contract_limit_w": site.contract_limit_w,
            }
            for number, name in enumerate(CLIENTS, 1)
        ],
    }


def meter_config(
    scenario: Scenario, name: str, em330_url: str, plc_url: str, state: str, home: tuple[int, str], keys: str
) -> dict[str, object]:
    """A meter's configuration for this street; ``home`` is port and token file."""
    site = scenario.site
    return {
        "meter": {
            "id": name,
            "eui48": format_eui48(EUI48[name]),
            "state_directory": state,
            "nominal_limit_w": site.nominal_limit_w,
            "contract_limit_w": site.contract_limit_w,
            "nominal_voltage_v": site.nominal_voltage_v,
            "report_interval_s": site.report_interval_s,
        },
        "em330": {"url": em330_url},
        "relay": {"pin": RELAY_PIN, "read_back_pin": READ_BACK_PIN},
        "plc": {"url": plc_url, "framing": FRAMING.value, "control_repeat_s": CONTROL_REPEAT_S},
        "protection": {"key_file": keys},
        "request": {"return_spread_s": RETURN_SPREAD_S},
        "home": {"port": home[0], "token_file": home[1]},
    }
