"""The virtual power line: who hears whom, how well, and what collides; true airtime on the loop's clock.

All chance comes from the generator it is given, so one seed is one world. Levels are dBuV; the noise floor and the
attenuation between two stations give the signal-to-noise ratio. Frames that overlap are noise to each other for the
symbols they share. A station hears nothing while it sends, and a frame that begins while another is being read does
not steal the receiver.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from hil_tests.virtual.channel import (
    IMPLEMENTATION_LOSS_DB,
    bit_error_rate,
    header_error_rate,
    payload_error_rate,
    symbol_error_rate,
)
from prime_plc.phy import HEADER_PDU_BYTES, SYMBOL_S, PhyMode, Scheme, frame_duration_s, payload_symbols

PREAMBLE_S: Final = 2048e-6
"""[s] Before it is over nobody knows that a frame is there."""

PAYLOAD_START_S: Final = 6528e-6
"""[s] From the start of a Type A frame to its first payload symbol."""


@dataclass(frozen=True, slots=True)
class LineSettings:
    """Physics of a line.

    Attributes:
        level_dbuv: transmit level.
        attenuation_db: between any two stations unless set for the pair.
        noise_dbuv: noise floor at every receiver.
        implementation_loss_db: of real receivers against the tables.
        burst_rate_hz: how often a noise burst begins; 0 never.
        burst_s: mean length of a burst.
        burst_db: by which a burst lifts the noise.
    """

    level_dbuv: float = 114.0
    attenuation_db: float = 30.0
    noise_dbuv: float = 60.0
    implementation_loss_db: float = IMPLEMENTATION_LOSS_DB
    burst_rate_hz: float = 0.0
    burst_s: float = 0.5
    burst_db: float = 40.0


class Station(Protocol):
    """A modem on the line."""

    @property
    def name(self) -> str: ...

    def deliver(self, frame: Frame, pdu: bytes, snr_db: float, level_dbuv: float) -> None:
        """A frame whose header was read has ended; ``pdu`` may have wrong bits."""


@dataclass(slots=True, eq=False)
class Frame:
    """One emission.

    Attributes:
        pdu: bytes on air.
        delivered: stations that received it undamaged.
        clashes: other emissions it overlapped.
    """

    sender: Station
    pdu: bytes
    scheme: Scheme
    mode: PhyMode
    start_s: float
    end_s: float
    attenuation_db: float
    delivered: list[str] = field(default_factory=list)
    clashes: list[Frame] = field(default_factory=list)
    readers: set[str] = field(default_factory=set)


class PowerLine:
    """The medium between virtual modems."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, draw: random.Random, settings: LineSettings | None = None
    ) -> None:
        self._loop = loop
        self._draw = draw
        self._settings = settings or LineSettings()
        self._stations: list[Station] = []
        self._attenuation: dict[tuple[str, str], float] = {}
        self._loss: dict[tuple[str, str], float] = {}
        self._on_air: list[Frame] = []
        self._burst_until = -math.inf
        self._next_burst = math.inf
        self.dead = False
        self.on_frame: Callable[[Frame], None] = lambda _frame: None
        self._plan_burst(loop.time())

    def attach(self, station: Station) -> None:
        """Couple a modem to the line."""
        assert all(other.name != station.name for other in self._stations), station.name
        self._stations.append(station)

    def detach(self, station: Station) -> None:
        """Uncouple a modem."""
        self._stations.remove(station)

    def set_attenuation(self, one: str, other: str, attenuation_db: float) -> None:
        """Attenuation [dB] between two stations, both ways."""
        self._attenuation[one, other] = self._attenuation[other, one] = attenuation_db

    def set_loss(self, sender: str, receiver: str, probability: float) -> None:
        """Lose whole frames from ``sender`` at ``receiver`` with this probability, whatever their signal."""
        self._loss[sender, receiver] = probability

    def snr_db(self, sender: str, receiver: str, attenuation_db: float = 0.0) -> float:
        """Signal to noise at a receiver without any other frame [dB]."""
        return self._level(sender, receiver, attenuation_db) - self._noise()

    def emit(self, sender: Station, pdu: bytes, scheme: Scheme, mode: PhyMode, attenuation_db: float) -> Frame:
        """Put a frame on the line now; receivers and `on_frame` learn of it at its end."""
        now = self._loop.time()
        end_s = now + frame_duration_s(len(pdu), scheme, mode)
        frame = Frame(sender, pdu, scheme, mode, now, end_s, attenuation_db)
        self._prune(now)
        for other in self._on_air:
            other.clashes.append(frame)
            frame.clashes.append(other)
        busy = {other.sender.name for other in self._on_air}
        reading = set().union(*(other.readers for other in self._on_air)) if self._on_air else set()
        frame.readers = {s.name for s in self._stations if s is not sender and s.name not in busy | reading}
        for other in self._on_air:
            other.readers.discard(sender.name)  # who begins to send stops reading
        self._on_air.append(frame)
        self._loop.call_at(end_s, self._ended, frame)
        return frame

    def carrier(self, station: Station) -> bool:
        """Whether a station sees a carrier now."""
        now = self._loop.time()
        return any(
            frame.sender is not station
            and frame.start_s + PREAMBLE_S <= now < frame.end_s
            and self._hears(frame, station.name)
            for frame in self._on_air
        )

    def reading(self, station: Station) -> bool:
        """Whether a station is decoding somebody's frame now."""
        return self.carrier(station) and any(station.name in frame.readers for frame in self._on_air)

    # ---- physics -----------------------------------------------------------------------------------------------------

    def _level(self, sender: str, receiver: str, attenuation_db: float) -> float:
        path_db = self._attenuation.get((sender, receiver), self._settings.attenuation_db)
        return self._settings.level_dbuv - attenuation_db - path_db

    def _hears(self, frame: Frame, receiver: str) -> bool:
        return not self.dead and self.snr_db(frame.sender.name, receiver, frame.attenuation_db) > 0.0

    def _plan_burst(self, now: float) -> None:
        if self._settings.burst_rate_hz > 0:
            self._next_burst = now + self._draw.expovariate(self._settings.burst_rate_hz)

    def _noise(self) -> float:
        now = self._loop.time()
        while now >= self._next_burst:
            self._burst_until = self._next_burst + self._draw.expovariate(1 / self._settings.burst_s)
            self._plan_burst(max(self._next_burst, self._burst_until))
        return self._settings.noise_dbuv + (self._settings.burst_db if now < self._burst_until else 0.0)

    def _prune(self, now: float) -> None:
        self._on_air = [frame for frame in self._on_air if frame.end_s > now]

    def _ended(self, frame: Frame) -> None:
        self._prune(self._loop.time())
        if not self.dead:
            noise_dbuv = self._noise()
            for station in self._stations:
                if station is not frame.sender and station.name in frame.readers:
                    self._receive(frame, station, noise_dbuv)
        self.on_frame(frame)

    def _receive(self, frame: Frame, station: Station, noise_dbuv: float) -> None:
        sender = frame.sender.name
        level = self._level(sender, station.name, frame.attenuation_db)
        snr_db = level - noise_dbuv
        loss = self._loss.get((sender, station.name), 0.0)
        if snr_db <= 0 or (loss and self._draw.random() < loss):
            return
        margin_db = snr_db - self._settings.implementation_loss_db
        if frame.clashes:
            detected, good, worst_db = self._with_clashes(frame, station.name, level, noise_dbuv)
        else:
            symbols = payload_symbols(len(frame.pdu), frame.scheme, frame.mode)
            detected = self._draw.random() >= header_error_rate(margin_db)
            good = self._draw.random() >= payload_error_rate(margin_db, frame.scheme, symbols)
            worst_db = margin_db
        if not detected:
            return
        if good:
            frame.delivered.append(station.name)
        pdu = frame.pdu if good else self._damage(frame, worst_db)
        station.deliver(frame, pdu, snr_db, level)

    def _with_clashes(self, frame: Frame, receiver: str, level: float, noise_dbuv: float) -> tuple[bool, bool, float]:
        """Symbol by symbol, with the other frames as noise: header read, payload good, worst margin [dB]."""

        def margin_at(from_s: float, to_s: float) -> float:
            power = 10 ** (noise_dbuv / 10)
            for other in frame.clashes:
                if other.start_s < to_s and other.end_s > from_s and other.sender.name != receiver:
                    power += 10 ** (self._level(other.sender.name, receiver, other.attenuation_db) / 10)
            return level - 10 * math.log10(power) - self._settings.implementation_loss_db

        header_db = margin_at(frame.start_s, frame.start_s + PAYLOAD_START_S)
        good_probability, worst_db = 1.0, header_db
        at_s = frame.start_s + PAYLOAD_START_S
        while at_s < frame.end_s - SYMBOL_S / 2:
            margin_db = margin_at(at_s, at_s + SYMBOL_S)
            worst_db = min(worst_db, margin_db)
            good_probability *= 1.0 - min(1.0, symbol_error_rate(round(margin_db, 1), frame.scheme))
            at_s += SYMBOL_S
        detected = self._draw.random() >= header_error_rate(round(header_db, 1))
        return detected, self._draw.random() < good_probability, worst_db

    def _damage(self, frame: Frame, margin_db: float) -> bytes:
        """Flip bits of the payload; at least one. The seven bytes in the header have a checksum of their own."""
        pdu = bytearray(frame.pdu)
        first = 8 * HEADER_PDU_BYTES if len(pdu) > HEADER_PDU_BYTES + 1 else 0
        bits = range(first, 8 * len(pdu))
        rate = bit_error_rate(margin_db, frame.scheme)
        flips = max(1, sum(self._draw.random() < rate for _ in bits))
        for bit in self._draw.sample(bits, flips):
            pdu[bit // 8] ^= 0x80 >> bit % 8
        return bytes(pdu)
