"""What a person checks when a meter goes into service: who the EM330 is, what it measures, and that the relay obeys."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from meter.config import MeterConfig
from meter.relay import RelayPort
from shared.clock import Clock
from shared.em330 import Em330Reader, Identity, Invalid
from shared.ids import Phase
from shared.messages import Reading, RelayState
from shared.modbus import RegisterPort

CLICK_S: Final = 0.5
"""[s] How long the relay is held in each position before it is read back."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    seen: str
    good: bool


async def inspect_em330(config: MeterConfig, registers: RegisterPort, clock: Clock) -> list[Finding]:
    """Identity, settings and one reading of the analyzer; leaves its connection closed."""
    reader = Em330Reader(registers, config.em330_settings, clock)
    try:
        identity = await reader.identify()
        reading = await reader.read() if isinstance(identity, Identity) else None
    finally:
        await reader.close()
    if isinstance(identity, Invalid):
        return [Finding("EM330", str(identity), good=False)]
    findings = [
        Finding("EM330", identity.model, good=True),
        Finding("firmware", identity.firmware or "not told", good=True),
        Finding("serial number", identity.serial or "not told", good=True),
        Finding("measuring system", identity.system.name.lower().replace("_", " "), good=True),
        Finding("measurement mode", "B, export is measured", good=True),
        Finding("current transformer ratio", f"{identity.ct_ratio:g}", good=True),
        Finding("voltage transformer ratio", f"{identity.vt_ratio:g}", good=True),
    ]
    if not isinstance(reading, Reading):
        return [*findings, Finding("reading", str(reading), good=False)]
    connected = [phase for phase in Phase if reading.u_v[phase] is not None]
    return [
        *findings,
        *(Finding(f"reading {phase.name}", _phase(reading, phase), good=True) for phase in connected),
        Finding("export now", f"{reading.export_w:g} W", good=True),
    ]


async def click_relay(relay: RelayPort) -> list[Finding]:
    """Energise the relay, let it go, and see whether the contact follows; leaves it nominal."""
    findings = []
    try:
        for name, move, expected in (
            ("relay raised", relay.raise_export, RelayState.RAISED),
            ("relay nominal", relay.to_nominal, RelayState.NOMINAL),
        ):
            move()
            await asyncio.sleep(CLICK_S)
            seen = relay.read_back()
            findings.append(Finding(name, f"read back {seen.name}", good=seen is expected))
    finally:
        relay.to_nominal()
    return findings


def _phase(reading: Reading, phase: Phase) -> str:
    values = ((reading.u_v, "V"), (reading.i_a, "A"), (reading.p_w, "W"), (reading.q_var, "var"))
    return "  ".join(f"{quantity[phase]:g} {unit}" for quantity, unit in values)
