"""Register map of the EM330 and its relatives, as data.

Addresses are those on the wire (0-based); two-word values carry their *least* significant word first. The map is the
manufacturer's "EM300 and ET300 series communication protocol"; values are primary values, already multiplied by the
ratios of the current and voltage transformers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from shared.ids import Phase


class Width(Enum):
    """Form of a value in registers."""

    INT32 = "two words, low word first, signed"
    INT16 = "one word, signed"
    UINT16 = "one word"
    UINT32 = "two words, low word first"


@dataclass(frozen=True, slots=True)
class Register:
    """One value of the map: engineering value = raw / divisor."""

    name: str
    address: int
    width: Width
    divisor: int
    unit: str
    text: str

    @property
    def count(self) -> int:
        """Words on the wire."""
        return 2 if self.width in {Width.INT32, Width.UINT32} else 1


def _per_phase(first: Register, step: int = 2) -> list[Register]:
    return [
        replace(
            first,
            name=phase_name(first.name, phase),
            address=first.address + step * phase,
            text=f"{first.text}, {phase.name}",
        )
        for phase in Phase
    ]


def phase_name(name: str, phase: Phase) -> str:
    """Name of one phase's register, e.g. ``u_l2``."""
    return f"{name}_{phase.name.lower()}"


REGISTERS: Final[dict[str, Register]] = {
    register.name: register
    for register in [
        *_per_phase(Register("u", 0x0000, Width.INT32, 10, "V", "Voltage to neutral")),
        *_per_phase(Register("i", 0x000C, Width.INT32, 1000, "A", "Current; its sign is not to be relied on")),
        *_per_phase(Register("p", 0x0012, Width.INT32, 10, "W", "Active power; in mode B negative for export")),
        *_per_phase(Register("q", 0x001E, Width.INT32, 10, "var", "Reactive power; sign by quadrant in mode B")),
        Register("p_total", 0x0028, Width.INT32, 10, "W", "Active power, all phases"),
        *_per_phase(
            Register("pf", 0x002E, Width.INT16, 1000, "1", "Power factor; in mode B negative for export"), step=1
        ),
        Register("pf_total", 0x0031, Width.INT16, 1000, "1", "Power factor, all phases"),
        Register("frequency", 0x0033, Width.INT16, 10, "Hz", "Frequency"),
        Register("import_energy", 0x0034, Width.INT32, 10, "kWh", "Active energy drawn, all phases"),
        Register("export_energy", 0x004E, Width.INT32, 10, "kWh", "Active energy delivered; counts in mode B only"),
        Register("identity", 0x000B, Width.UINT16, 1, "1", "Identification code; only when read alone"),
        Register("firmware", 0x0302, Width.UINT16, 1, "1", "Firmware version, 0 = A, 1 = B and so on"),
        Register("revision", 0x0303, Width.UINT16, 1, "1", "Firmware revision"),
        Register("system", 0x1002, Width.UINT16, 1, "1", "Measuring system: 0 3P+N, 1 3P, 2 2P, 3 1P"),
        Register("ct_ratio", 0x1003, Width.UINT32, 10, "1", "Current transformer ratio"),
        Register("vt_ratio", 0x1005, Width.UINT32, 10, "1", "Voltage transformer ratio"),
        Register("mode", 0x1103, Width.UINT16, 1, "1", "Measurement mode: 0 A (unsigned), 1 B (bidirectional)"),
    ]
}
"""What the product reads; the serial number (seven words of text) stands beside it."""

MODE_BIDIRECTIONAL: Final = 1
"""Register 1103h in mode B. Whether a PFB model, bidirectional by its order code, also answers 1 is not established;
one that does not is refused, which costs export and no safety."""

BLOCK_1: Final = (0x0000, 50)
"""Address and count of the first read: voltages, currents, powers, power factors."""

BLOCK_2: Final = (0x0032, 32)
"""Address and count of the second read: frequency and energies. Another length on purpose: an answer to the wrong
request is caught by its length."""

SERIAL_BLOCK: Final = (0x5000, 7)
"""Address and count of the serial number."""

INT32_OVERFLOW: Final = 0x7FFFFFFF
"""What the display shows as EEE. One-word values without a value (power factor 7FFFh, frequency FFFFh in other masters'
code) lie outside every gate anyway."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model whose registers 0000h-0051h are those of the EM330.

    Attributes:
        name: as on its front.
        has_transformers: whether it measures through transformers, so that their ratios are settings.
    """

    name: str
    has_transformers: bool


MODELS: Final[dict[int, Model]] = {
    331: Model("EM330 (150 V)", has_transformers=True),
    332: Model("EM330 (485 V)", has_transformers=True),
    335: Model("ET330 (485 V)", has_transformers=True),
    336: Model("ET330 (150 V)", has_transformers=True),
    341: Model("EM340", has_transformers=False),
    345: Model("ET340", has_transformers=False),
    346: Model("EM341", has_transformers=False),
    355: Model("EM331", has_transformers=True),  # code known from one transcription only
}
"""Accepted identification codes."""

SAMPLES: Final = {330: "EM330 engineering sample", 340: "EM340 engineering sample"}
"""Known codes with the *high* word first: refused by name."""
