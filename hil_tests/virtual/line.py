"""The virtual power line: who hears whom, how well, and what collides; true airtime on the loop's clock.

All chance comes from the generator it is given, so one seed is one world. Levels are dBuV over the whole band; path and
noise give the signal-to-noise ratio of every pair, and the tables of `hil_tests.virtual.channel` what it costs.

* Every station listens for itself: it sees the carrier of whom it hears, so that two who do not hear each other
  (hidden nodes) do send at once to a third.
* A station hears nothing while it sends, and who begins to send stops reading.
* Frames that overlap are noise to each other for the symbols they share. Of two that begin within one preamble a
  station reads the stronger one; a later one does not steal the receiver (capture).
* Noise: a floor of its own at every location, slowly wandering, bursts of two states, single impulses of a symbol.

Two stations on a bench with one attenuation between all of them are the same line with everything else at zero.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from hil_tests.virtual.bursts import Bursts, Reach
from hil_tests.virtual.channel import (
    IMPLEMENTATION_LOSS_DB,
    Reals,
    bit_error_rate,
    header_errors,
    symbol_survival,
)
from hil_tests.virtual.events import Scheduler
from hil_tests.virtual.topology import Topology
from prime_plc.phy import HEADER_PDU_BYTES, SYMBOL_S, PhyMode, Scheme, frame_duration_s, payload_symbols

PREAMBLE_S: Final = 2048e-6
"""[s] Before it is over nobody knows that a frame is there."""

WANDER_STEP_S: Final = 5.0
"""[s] Attenuation and noise wander in steps of this; their time constants are minutes."""

NOBODY: Final = -1
NEGLIGIBLE: Final = 0.1
"""Disturbance below this share of the noise is left out: less than half a decibel."""

Indices = NDArray[np.intp]
Disturbance = tuple[float | Reals, float | Reals, Reals]
"""From when to when [s], for all readers or each, and its power at each."""

Undisturbed = tuple[list[float], list[float], list[float], list[float]]
"""By receiver: header error, chance of a good payload, signal to noise [dB], level [dBuV]."""


@dataclass(frozen=True, slots=True)
class LineSettings:
    """Physics of a line; what is zero is not there.

    Attributes:
        level_dbuv: transmit level.
        attenuation_db: between any two stations the topology does not know, unless set for the pair.
        noise_dbuv: noise floor, to which the topology adds each location's own difference.
        implementation_loss_db: of real receivers against the tables.
        wander_s: time constant of what wanders.
        noise_wander_db: standard deviation of the noise floor's wandering at each station.
        path_wander_db: the same of what a station's connection to the line costs (impedances of its neighbours).
        impulse_rate_hz: impulses at each station; each spoils at most one symbol.
        impulse_db: by which an impulse lifts the noise of its symbol.
        burst_rate_hz: how often a burst begins at each of its sources, counted from the end of the last; 0 never.
        burst_s: mean length of a burst.
        burst_db: by which a burst lifts the noise at its source.
        burst_reach: where bursts come from and who hears them.
    """

    level_dbuv: float = 114.0
    attenuation_db: float = 30.0
    noise_dbuv: float = 60.0
    implementation_loss_db: float = IMPLEMENTATION_LOSS_DB
    wander_s: float = 600.0
    noise_wander_db: float = 0.0
    path_wander_db: float = 0.0
    impulse_rate_hz: float = 0.0
    impulse_db: float = 30.0
    burst_rate_hz: float = 0.0
    burst_s: float = 0.5
    burst_db: float = 40.0
    burst_reach: Reach = Reach.LINE


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
        number: of this emission on its line.
        hearers: stations that began to read it, by their place.
        told_s, telling: when receivers whose ports were free tell their hosts, and who they are.
    """

    sender: Station
    pdu: bytes
    scheme: Scheme
    mode: PhyMode
    start_s: float
    end_s: float
    attenuation_db: float
    number: int
    at: int
    delivered: list[str] = field(default_factory=list)
    clashes: list[Frame] = field(default_factory=list)
    hearers: list[int] = field(default_factory=list)
    told_s: float = math.nan
    telling: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class LineCounters:
    """What happened on a line.

    Attributes:
        frames, airtime_s: emissions, and the sum of their lengths.
        clashed: emissions that overlapped another one, whether or not anybody heard both.
        read: times that a station began to read a frame; of these
        unread: its header was not read, or everything was lost, and
        damaged: its payload was wrong.
    """

    frames: int = 0
    airtime_s: float = 0.0
    clashed: int = 0
    read: int = 0
    unread: int = 0
    damaged: int = 0


class PowerLine:
    """The medium between virtual modems."""

    def __init__(
        self,
        loop: Scheduler,
        draw: random.Random,
        settings: LineSettings | None = None,
        topology: Topology | None = None,
    ) -> None:
        self._loop = loop
        self._chance = np.random.default_rng(draw.getrandbits(64))
        self._settings = settings or LineSettings()
        self._topology = topology
        self._stations: list[Station] = []
        self._names: list[str] = []
        self._index: dict[str, int] = {}
        self._links = _Links(self._settings, self._chance)
        self._bursts = Bursts(
            self._settings.burst_reach, self._settings.burst_rate_hz, self._settings.burst_s, self._chance, loop.time()
        )
        self._luck = random.Random(draw.getrandbits(64))
        self._present: list[bool] = []
        self._sending: list[bool] = []
        self._reading: list[int] = []
        self._on_air: list[Frame] = []
        self.dead = False
        self.counters = LineCounters()
        self.on_frame: Callable[[Frame], None] = lambda _frame: None

    def attach(self, station: Station) -> None:
        """Couple a modem to the line; one of a name that was uncoupled takes its place."""
        at = self._index.get(station.name)
        if at is not None:
            assert not self._present[at], station.name
            self._stations[at] = station
            self._present[at] = True
            return
        at = self._index[station.name] = len(self._stations)
        self._stations.append(station)
        self._names.append(station.name)
        self._present.append(True)
        self._sending.append(False)
        self._reading.append(NOBODY)
        self._links.grow(self._topology, self._names)
        self._bursts.grow(at + 1)

    def detach(self, station: Station) -> None:
        """Uncouple a modem."""
        at = self._index[station.name]
        assert self._present[at], station.name
        self._present[at] = False
        self._reading[at] = NOBODY

    def set_attenuation(self, one: str, other: str, attenuation_db: float) -> None:
        """Attenuation [dB] between two stations, both ways."""
        a, b = self._index[one], self._index[other]
        self._links.path_db[a, b] = self._links.path_db[b, a] = attenuation_db
        self._links.changed = True

    def set_loss(self, sender: str, receiver: str, probability: float) -> None:
        """Lose whole frames from ``sender`` at ``receiver`` with this probability, whatever their signal."""
        self._links.loss[self._index[sender], self._index[receiver]] = probability
        self._links.lossy = True

    def snr_db(self, sender: str, receiver: str) -> float:
        """Signal to noise at a receiver without bursts and other frames [dB]."""
        self._links.refresh(self._loop.time())
        return float(self._links.snr_db[self._index[sender], self._index[receiver]])

    def emit(self, sender: Station, pdu: bytes, scheme: Scheme, mode: PhyMode, attenuation_db: float) -> Frame:
        """Put a frame on the line now; receivers and `on_frame` learn of it at its end."""
        now = self._loop.time()
        end_s = now + frame_duration_s(len(pdu), scheme, mode)
        at = self._index[sender.name]
        frame = Frame(sender, pdu, scheme, mode, now, end_s, attenuation_db, self.counters.frames, at)
        self.counters.frames += 1
        self.counters.airtime_s += end_s - now
        self._links.refresh(now)
        self._find_readers(frame, now)
        for other in self._on_air:
            other.clashes.append(frame)
            frame.clashes.append(other)
        self._sending[at] = True
        self._reading[at] = NOBODY
        self._on_air.append(frame)
        self._loop.call_at(end_s, self._ended, frame)
        return frame

    def carrier(self, station: Station) -> bool:
        """Whether a station sees a carrier now."""
        if self.dead or not self._on_air:
            return False
        now, at = self._loop.time(), self._index[station.name]
        self._links.refresh(now)
        snr_db = self._links.snr_db
        return any(
            frame.at != at
            and frame.start_s + PREAMBLE_S <= now < frame.end_s
            and snr_db[frame.at, at] > frame.attenuation_db
            for frame in self._on_air
        )

    def reading(self, station: Station) -> bool:
        """Whether a station is decoding somebody's frame now."""
        return self._reading[self._index[station.name]] != NOBODY and self.carrier(station)

    # ---- reception ---------------------------------------------------------------------------------------------------

    def _find_readers(self, frame: Frame, now: float) -> None:
        """Who will read this frame: whoever is free and hears it, and who has just begun with a weaker one."""
        links, reading = self._links, self._reading
        hearers = links.hearers(frame.at, frame.attenuation_db)
        if not self._on_air:
            for station in hearers:
                if self._present[station]:
                    reading[station] = frame.number
            frame.hearers = hearers
            return
        power = _weaker(links.power[frame.at], frame.attenuation_db)
        others = links.noise.copy()
        weaker: dict[int, Reals] = {}
        for other in self._on_air:
            theirs = _weaker(links.power[other.at], other.attenuation_db)
            others += theirs
            if now < other.start_s + PREAMBLE_S:  # of two that begin at once, the stronger
                weaker[other.number] = theirs
        hears = (power > links.colour[frame.at] * others).tolist()
        for station in hearers:
            if not hears[station] or not self._present[station] or self._sending[station]:
                continue
            busy = reading[station]
            if busy == NOBODY or (busy in weaker and power[station] > weaker[busy][station]):
                reading[station] = frame.number
                frame.hearers.append(station)

    def _ended(self, frame: Frame) -> None:
        self._on_air.remove(frame)
        self._sending[frame.at] = False
        reading = self._reading
        readers = [station for station in frame.hearers if reading[station] == frame.number]
        for station in readers:
            reading[station] = NOBODY
        self.counters.clashed += bool(frame.clashes)
        if readers and not self.dead:
            self._receive(frame, readers)
        frame.clashes.clear()  # a chain of them would keep every frame of the day
        self.on_frame(frame)

    def _receive(self, frame: Frame, readers: list[int]) -> None:
        links, at, counters, chance = self._links, frame.at, self.counters, self._luck.random
        links.settle()  # somebody may have come since the frame began, and be a source of noise
        symbols = payload_symbols(len(frame.pdu), frame.scheme, frame.mode)
        header_errors_, goods, snrs_db, levels_dbuv = links.row(at, frame.scheme, symbols)
        disturbed = self._disturbance(frame, readers, symbols)
        counters.read += len(readers)
        lossy, stations, names, delivered = links.lossy, self._stations, self._names, frame.delivered
        for reader in readers:
            if reader in disturbed:
                header_error, good, snr_db = disturbed[reader]
            else:
                header_error, good, snr_db = header_errors_[reader], goods[reader], snrs_db[reader]
            if chance() < header_error or (lossy and chance() < links.loss[at, reader]):
                counters.unread += 1
                continue
            pdu = frame.pdu
            if chance() < good:
                delivered.append(names[reader])
            else:
                counters.damaged += 1
                pdu = self._damage(frame, snr_db - self._settings.implementation_loss_db)
            stations[reader].deliver(frame, pdu, snr_db, levels_dbuv[reader] - frame.attenuation_db)

    def _disturbance(self, frame: Frame, stations: list[int], symbols: int) -> dict[int, tuple[float, float, float]]:
        """Whom noise beyond the floor concerns: header error, chance of a good payload, mean signal to noise [dB].

        Its power stands in a matrix by time and reader; the first row is preamble and header, the others are one
        payload symbol each.
        """
        links, settings = self._links, self._settings
        if not (frame.clashes or settings.burst_rate_hz or settings.impulse_rate_hz or frame.attenuation_db):
            return {}
        impulses = [(self._luck.randrange(symbols + 1), column) for column in self._impulses(frame, stations)]
        quiet = self._bursts.quiet(frame.start_s, frame.end_s)
        if quiet and not frame.clashes and not frame.attenuation_db:
            return self._struck(frame, stations, symbols, impulses)
        readers = np.array(stations)
        noise = links.noise[readers]
        heard: list[Disturbance] = [
            (other.start_s, other.end_s, _weaker(links.power[other.at][readers], other.attenuation_db))
            for other in frame.clashes
        ]
        if not quiet:
            lift = 10 ** (settings.burst_db / 10) - 1
            heard += self._bursts.during(frame.start_s, frame.end_s, links, readers, lift)
        if frame.attenuation_db:
            return self._disturbed(frame, readers, self._spread(frame, symbols, noise, heard, impulses))
        least = NEGLIGIBLE * noise
        if not impulses and not (sum(theirs for _, _, theirs in heard) > least).any():  # even if all came at once
            return {}
        power = self._spread(frame, symbols, noise, heard, impulses)
        columns = (np.maximum.reduce(power) > least).nonzero()[0]
        return self._disturbed(frame, readers[columns], power[:, columns]) if len(columns) else {}

    def _struck(
        self, frame: Frame, stations: list[int], symbols: int, impulses: list[tuple[int, int]]
    ) -> dict[int, tuple[float, float, float]]:
        """The same where single impulses are all there is: what is known of the reader but for the symbols they hit."""
        found: dict[int, tuple[float, float, float]] = {}
        lift = 10 ** (self._settings.impulse_db / 10)
        if lift <= NEGLIGIBLE:
            return found
        for struck in dict.fromkeys(column for _, column in impulses):
            reader = stations[struck]
            header_error, _, snr_db, _ = (one[reader] for one in self._links.row(frame.at, frame.scheme, symbols))
            margin_db = snr_db - self._settings.implementation_loss_db
            hits = Counter(row for row, column in impulses if column == struck)
            rows_db = [10 * math.log10(1 + count * lift) for count in hits.values()]
            left = symbols - len(hits) + (0 in hits)
            survival = left * float(self._links.survival(frame.at, frame.scheme)[reader])
            for row, lift_db in zip(hits, rows_db, strict=True):
                if row:
                    survival += float(symbol_survival(np.array(margin_db - lift_db), frame.scheme))
                else:
                    header_error = float(header_errors(np.array(margin_db - lift_db)))
            found[reader] = header_error, math.exp(survival), snr_db - sum(rows_db) / (symbols + 1)
        return found

    def _spread(
        self, frame: Frame, symbols: int, noise: Reals, heard: list[Disturbance], impulses: list[tuple[int, int]]
    ) -> Reals:
        """Power of what disturbs a frame by time and reader; the first row is preamble and header, the others are one
        payload symbol each."""
        power = np.zeros((symbols + 1, len(noise)))
        from_s = frame.end_s - _symbol_starts(symbols)
        from_s[0] = frame.start_s
        starts = from_s.tolist()
        for on_s, off_s, theirs in heard:
            if isinstance(on_s, float) and isinstance(off_s, float):
                power[_rows(starts, on_s, off_s)] += theirs
            else:
                to_s = np.append(from_s[1:], frame.end_s)
                power += ((from_s[:, None] < off_s) & (to_s[:, None] > on_s)) * theirs
        for row, column in impulses:
            power[row, column] += noise[column] * 10 ** (self._settings.impulse_db / 10)
        return power

    def _impulses(self, frame: Frame, stations: list[int]) -> list[int]:
        """One position in ``stations`` for each impulse that somebody hears during a frame."""
        rate_hz = self._settings.impulse_rate_hz * len(stations)
        if not rate_hz:
            return []
        found = []
        at_s = frame.start_s + self._luck.expovariate(rate_hz)
        while at_s < frame.end_s:
            found.append(self._luck.randrange(len(stations)))
            at_s += self._luck.expovariate(rate_hz)
        return found

    def _disturbed(self, frame: Frame, readers: Indices, power: Reals) -> dict[int, tuple[float, float, float]]:
        links, at = self._links, frame.at
        signal_db = links.level_dbuv[at][readers] - frame.attenuation_db - links.colour_db[at][readers]
        snr_db = signal_db - 10 * np.log10(links.noise[readers] + power)
        margin_db = snr_db - self._settings.implementation_loss_db
        good = np.exp(np.add.reduce(symbol_survival(margin_db[1:], frame.scheme)))
        mean_db = np.add.reduce(snr_db) / len(snr_db)
        found = (header_errors(margin_db[0]).tolist(), good.tolist(), mean_db.tolist())
        return dict(zip(readers.tolist(), zip(*found, strict=True), strict=True))

    def _damage(self, frame: Frame, margin_db: float) -> bytes:
        """Flip bits of the payload; at least one. The seven bytes in the header have a checksum of their own."""
        pdu = bytearray(frame.pdu)
        first = 8 * HEADER_PDU_BYTES if len(pdu) > HEADER_PDU_BYTES + 1 else 0
        end = 8 * len(pdu)
        chance, log, log_right = self._luck.random, math.log, _log_right(round(margin_db, 1), frame.scheme)
        bit = first - 1
        while (bit := bit + 1 + int(log(1.0 - chance()) / log_right)) < end:  # right ones in a row, then a wrong one
            pdu[bit >> 3] ^= 0x80 >> (bit & 7)
        if pdu == frame.pdu:
            bit = first + int(chance() * (end - first))
            pdu[bit >> 3] ^= 0x80 >> (bit & 7)
        return bytes(pdu)


@lru_cache(maxsize=8192)
def _log_right(margin_db: float, scheme: Scheme) -> float:
    """Natural logarithm of the share of right bits in a damaged payload."""
    return math.log1p(-bit_error_rate(margin_db, scheme))


def _weaker(power: Reals, attenuation_db: float) -> Reals:
    """What an attenuated sender's power is."""
    return power * 10 ** (-attenuation_db / 10) if attenuation_db else power


@lru_cache(maxsize=1024)
def _symbol_starts(symbols: int) -> Reals:
    """[s] Before the end of a frame that its parts begin: preamble and header (to be set), then each symbol."""
    return np.asarray(SYMBOL_S * np.arange(symbols + 1, 0, -1), dtype=np.float64)


def _rows(starts: list[float], on_s: float, off_s: float) -> slice:
    """Parts of a frame that something touches which lasts from one instant to another."""
    return slice(max(0, bisect_right(starts, on_s) - 1), bisect_left(starts, off_s))


class _Links:
    """Every pair of stations as it stands now: levels, noise, errors. Rows send, columns receive."""

    def __init__(self, settings: LineSettings, chance: np.random.Generator) -> None:
        self._settings = settings
        self._chance = chance
        self._count = 0
        self._stepped_s = 0.0
        self._survival: dict[tuple[int, Scheme], Reals] = {}
        self._known: dict[int, tuple[list[float], list[float], list[float]]] = {}
        self._rows: dict[tuple[int, Scheme, int], Undisturbed] = {}
        self._hearers: dict[int, list[int]] = {}
        self.path_db = np.zeros((0, 0))
        self.colour_db = np.zeros((0, 0))
        self.loss = np.zeros((0, 0))
        self.lossy = False
        self.changed = True
        self._own_noise_db = np.zeros(0)
        self._noise_wander = np.zeros(0)
        self._path_wander = np.zeros(0)

    def grow(self, topology: Topology | None, names: list[str]) -> None:
        """One station more, the last of ``names``."""
        n = self._count = len(names)
        for matrix in ("path_db", "colour_db", "loss"):
            wider = np.zeros((n, n))
            wider[:-1, :-1] = getattr(self, matrix)
            setattr(self, matrix, wider)
        self.path_db[-1, :-1] = self.path_db[:-1, -1] = self._settings.attenuation_db
        own_db = 0.0
        known = {} if topology is None else topology.index
        if topology is not None and names[-1] in known:
            at = known[names[-1]]
            own_db = float(topology.noise_db[at])
            for k, name in enumerate(names[:-1]):
                if name in known:
                    self.path_db[-1, k] = self.path_db[k, -1] = topology.path_db[at, known[name]]
                    self.colour_db[-1, k] = self.colour_db[k, -1] = topology.colour_db[at, known[name]]
        self._own_noise_db = np.append(self._own_noise_db, own_db)
        self._noise_wander = np.append(self._noise_wander, self._chance.standard_normal())
        self._path_wander = np.append(self._path_wander, self._chance.standard_normal())
        self.changed = True

    def refresh(self, now: float) -> None:
        """Let wander what wanders, and compute everything anew if anything has changed."""
        settings = self._settings
        wanders = settings.noise_wander_db > 0 or settings.path_wander_db > 0
        if wanders and now >= self._stepped_s + WANDER_STEP_S:
            keep = np.exp(-(now - self._stepped_s) / settings.wander_s)
            fresh = self._chance.standard_normal((2, self._count)) * np.sqrt(1 - keep**2)
            self._noise_wander = keep * self._noise_wander + fresh[0]
            self._path_wander = keep * self._path_wander + fresh[1]
            self._stepped_s = now
            self.changed = True
        self.settle()

    def settle(self) -> None:
        """Compute everything anew if anything has changed."""
        if self.changed:
            self.changed = False
            self._compute()

    def _compute(self) -> None:
        settings = self._settings
        wander_db = settings.path_wander_db * self._path_wander
        noise_dbuv = settings.noise_dbuv + self._own_noise_db + settings.noise_wander_db * self._noise_wander
        self.level_dbuv = settings.level_dbuv - self.path_db - wander_db[:, None] - wander_db
        self.power = 10 ** (self.level_dbuv / 10)
        self.noise = 10 ** (noise_dbuv / 10)
        self.snr_db = self.level_dbuv - self.colour_db - noise_dbuv
        self.colour = 10 ** (self.colour_db / 10)
        np.fill_diagonal(self.snr_db, -np.inf)
        self._survival.clear()
        self._known.clear()
        self._rows.clear()
        self._hearers.clear()

    def hearers(self, sender: int, attenuation_db: float) -> list[int]:
        """Who hears a sender at all: more signal than noise."""
        if attenuation_db:
            return np.flatnonzero(self.snr_db[sender] > attenuation_db).tolist()
        found = self._hearers.get(sender)
        if found is None:
            found = self._hearers[sender] = np.flatnonzero(self.snr_db[sender] > 0).tolist()
        return found

    def row(self, sender: int, scheme: Scheme, symbols: int) -> Undisturbed:
        """For every station header error, chance of a good payload, signal to noise [dB] and level [dBuV], when
        nothing disturbs; kept until something changes."""
        found = self._rows.get((sender, scheme, symbols))
        if found is None:
            header_error, snr_db, level_dbuv = self._known.get(sender) or self._know(sender)
            good = np.exp(symbols * self.survival(sender, scheme)).tolist()
            found = self._rows[sender, scheme, symbols] = header_error, good, snr_db, level_dbuv
        return found

    def survival(self, sender: int, scheme: Scheme) -> Reals:
        """`symbol_survival` of everybody who reads a sender undisturbed."""
        found = self._survival.get((sender, scheme))
        if found is None:
            margin_db = self.snr_db[sender] - self._settings.implementation_loss_db
            found = self._survival[sender, scheme] = symbol_survival(margin_db, scheme)
        return found

    def _know(self, sender: int) -> tuple[list[float], list[float], list[float]]:
        """The same that does not depend on what is sent."""
        errors = header_errors(self.snr_db[sender] - self._settings.implementation_loss_db)
        known = errors.tolist(), self.snr_db[sender].tolist(), self.level_dbuv[sender].tolist()
        self._known[sender] = known
        return known
