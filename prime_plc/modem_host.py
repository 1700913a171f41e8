"""The host's side of the modem: set-up, clock, transmission and reception as one machine.

After the port opens the modem is reset and set up step by step; then frames go out and come in. The modem keeps its
own time in ticks of 10 us; we keep a map between its ticks and our monotonic seconds, good to the latency of the
serial port. That latency cancels out where it matters: the frame start is derived from the modem's time stamps and
slots are scheduled through the same map.

A modem that stops answering is set up again from the beginning; if that fails the port is opened anew. A modem that
answers as another one than ours is refused, for the protocol's number alone does not say what its messages hold; it is
asked again every few seconds, as somebody may give it another firmware.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple

from prime_plc.modem_messages import (
    ATTENUATION_DB_MAX,
    BUFFER_BEACON,
    BUFFERS,
    CINR_STEPS_PER_DB,
    CINR_ZERO_DB,
    WIDTH,
    GetParameter,
    GetReply,
    HostMessage,
    Parameter,
    Receive,
    Reset,
    Send,
    SendConfirm,
    SetParameter,
    SetReply,
    TimeMode,
    TransmitResult,
    decode_answer,
)
from prime_plc.pdu import HT_BEACON
from prime_plc.phy import TICK_S, PhyMode, Scheme, frame_duration_s, payload_symbols
from prime_plc.sap import (
    BytesReceived,
    Happened,
    MessageReceived,
    PortClosed,
    PortOpened,
    ReopenPort,
    SendBytes,
    SendMessage,
)
from prime_plc.usi import PROTOCOL_PHY, UsiDecoder, encode_usi
from shared.errors import DecodeError

RESET_WAIT_S: Final = 0.1
"""[s] After a reset, which has no reply."""

ANSWER_S_MAX: Final = 0.2
"""[s] For a GET or SET; both are repeatable."""

REPEATS: Final = 3
SETUP_FAILURES_MAX: Final = 3
"""Set-ups in a row that may fail before the port is opened anew."""

PRODUCTS: Final = ("ATPL230", "SAM4CP16B", "SAM4CMP16C", "SAM4CMS16C", "SAM4C16C")
"""Boards whose firmware has the messages of `modem_messages`, by what they say of themselves."""

FIRMWARE: Final = ("23.00.01.02",)
"""Versions of which that is established; others have to be named in the configuration."""

REFUSED_S: Final = 5.0
"""[s] A modem that is not ours is asked again after so long."""

CLOCK_SAMPLES: Final = 8
"""Round trips at start; the shortest one makes the clock map."""

CLOCK_INTERVAL_S: Final = 10.0
CLOCK_SILENCE_S_MAX: Final = 2.0
"""[s] Silence on the timer register for this long means the modem is gone."""

CLOCK_HISTORY: Final = 6
"""Later samples kept; with +-20 ppm of drift a map from the oldest is wrong by 1.2 ms."""

STAMP_INTERVAL_S: Final = 4.0
"""[s] A beacon's time stamp is read this often; at +-20 ppm the frame is known to 80 us in between."""

TIMESTAMP_S_MAX: Final = 0.1
"""[s] For a beacon's time stamp; afterwards the time of arrival has to do."""

ANCHOR_S_MAX: Final = 60.0
"""[s] A tick this old is no measure any more; at +-20 ppm it is 1.2 ms off."""

SLEW_PPM: Final = 40.0
"""Rate at which instants that follow one another are led back to the map; twice what clocks drift."""

CONFIRM_MARGIN_S: Final = 0.3
SENTINEL: Final = b"\xaa\xaa\xaa"
"""What stock firmware puts in front of every Type A PDU on air, and takes off again."""

_TIMEOUT_FIXED_S: Final = {PhyMode.TYPE_A: 0.007, PhyMode.TYPE_B: 0.018, PhyMode.TYPE_BC: 0.025}
_TIMEOUT_SYMBOL_S: Final = 0.003
_SCHEMES: Final = {int(scheme): scheme for scheme in Scheme}
_MODES: Final = {int(mode): mode for mode in PhyMode}
_RESULTS: Final = {int(result): result for result in TransmitResult}
_WRAP: Final = 1 << 32


class TypeAFraming(Enum):
    """What the firmware does with Type A PDUs; cannot be asked from the modem, so it is configured."""

    __hash__ = object.__hash__  # that of enumerations is Python, and this is part of a key at every frame

    STOCK = "stock"
    TRANSPARENT = "transparent"


class Port(Enum):
    """What stands between this machine and the modem.

    Bytes with their framing, as on a serial line; or the messages themselves, for large virtual streets, where framing
    and checksums between two halves of one process would be most of the work. Everything else is the same.
    """

    BYTES = "bytes"
    MESSAGES = "messages"


@dataclass(frozen=True, slots=True)
class ModemSettings:
    """How a modem is driven.

    Attributes:
        framing: stock firmware adds three bytes to every Type A frame on air.
        channel: 1 to 8; PRIME 1.3.6 uses 1.
        attenuation_db: below maximum output, 0 to 21.
        port: bytes, or messages as values.
        firmware: versions that are taken.
    """

    framing: TypeAFraming = TypeAFraming.STOCK
    channel: int = 1
    attenuation_db: int = 0
    port: Port = Port.BYTES
    firmware: tuple[str, ...] = FIRMWARE

    def __post_init__(self) -> None:
        assert 1 <= self.channel <= 8, self.channel
        assert 0 <= self.attenuation_db <= ATTENUATION_DB_MAX, self.attenuation_db

    @property
    def stock(self) -> bool:
        """Whether the firmware adds its three bytes."""
        return self.framing is TypeAFraming.STOCK

    def air_bytes(self, length: int, mode: PhyMode = PhyMode.TYPE_A) -> int:
        """Bytes on air of a PDU of ``length`` bytes; frames of 1.4 pass the firmware unchanged."""
        return length + len(SENTINEL) if self.stock and mode is PhyMode.TYPE_A else length

    def airtime_s(self, length: int, scheme: Scheme, mode: PhyMode = PhyMode.TYPE_A) -> float:
        """Airtime [s] of a PDU of ``length`` bytes."""
        return frame_duration_s(self.air_bytes(length, mode), scheme, mode)


@dataclass(frozen=True, slots=True)
class TransmitFrame:
    """Send a PDU: at ``start_s`` [s] of our clock, or at once; ``exclusive`` ignores the carrier (slots of one's
    own)."""

    pdu: bytes
    scheme: Scheme
    start_s: float | None
    buffer: int
    exclusive: bool
    mode: PhyMode = PhyMode.TYPE_A


@dataclass(frozen=True, slots=True)
class FollowBeacons:
    """Whose beacons set the frame: one switch's of one subnetwork; anybody's when ``sna`` is empty."""

    sna: bytes
    sid: int


@dataclass(frozen=True, slots=True)
class ModemReady:
    """The modem is set up."""

    product: str
    version: str


@dataclass(frozen=True, slots=True)
class ModemLost:
    """The modem is gone; it will be set up again."""

    reason: str


class FrameReceived(NamedTuple):
    """A PDU came in, checked by nobody yet; a tuple, as a street makes hundreds in a second.

    Attributes:
        start_s: when its emission began on our clock [s]: by the modem's time stamp if ``precise``, else by arrival.
    """

    pdu: bytes
    scheme: Scheme
    header_type: int
    start_s: float
    duration_s: float
    snr_db: float
    level_dbuv: int
    precise: bool
    mode: PhyMode = PhyMode.TYPE_A


@dataclass(frozen=True, slots=True)
class TransmitConfirmed:
    """A TransmitFrame has ended."""

    buffer: int
    result: TransmitResult


Input = PortOpened | PortClosed | BytesReceived | MessageReceived | TransmitFrame | FollowBeacons
Output = SendBytes | SendMessage | ReopenPort | Happened | ModemReady | ModemLost | FrameReceived | TransmitConfirmed


class State(Enum):
    """Where the modem stands."""

    __hash__ = object.__hash__  # that of enumerations is Python, and tables are looked into at every frame

    CLOSED = "closed"
    RESETTING = "resetting"
    SETTING_UP = "setting up"
    READY = "ready"


# A name of the module costs a tenth of a look into the class, and these are asked for at every frame.
_TYPE_A: Final = PhyMode.TYPE_A
_READY: Final = State.READY
_RESETTING: Final = State.RESETTING
_RECEIVE_TIME: Final = int(Parameter.RECEIVE_TIME)
_STATUS: Final = int(Parameter.STATUS)
_TIMER: Final = int(Parameter.TIMER)


class ModemClock:
    """Map between the modem's 32-bit ticks and our seconds, from round trips.

    The map moves by milliseconds when a better round trip replaces an old one, and slots leave two to spare. So slots
    are not booked by the map alone but by the last instant that was known in both, the anchor: a beacon's stamp at a
    node, its own last beacon at a base, which is led back to the map slowly.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, float]] = deque(maxlen=CLOCK_SAMPLES)
        self._anchor: tuple[int, float] | None = None

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, sent_s: float, received_s: float, ticks: int) -> None:
        """One reading of the timer register."""
        if len(self._samples) >= CLOCK_SAMPLES:
            while len(self._samples) >= CLOCK_HISTORY:
                self._samples.popleft()
        self._samples.append((received_s - sent_s, ticks, (sent_s + received_s) / 2))

    def host_s(self, ticks: int) -> float:
        """Our time [s] of a tick near the present."""
        _, reference, host_s = min(self._samples)
        delta = (ticks - reference + _WRAP // 2) % _WRAP - _WRAP // 2
        return host_s + delta * TICK_S

    def ticks(self, host_s: float) -> int:
        """The modem's tick at a time [s] of ours; by the anchor if there is a fresh one."""
        if self._anchor is not None and abs(host_s - self._anchor[1]) < ANCHOR_S_MAX:
            reference, base_s = self._anchor
        else:
            _, reference, base_s = min(self._samples)
        return (reference + round((host_s - base_s) / TICK_S)) % _WRAP

    def stamped(self, ticks: int) -> float:
        """Our time [s] of an event that sets the frame: the anchor from now on."""
        host_s = self.host_s(ticks)
        self._anchor = (ticks, host_s)
        return host_s

    def booked(self, host_s: float) -> int:
        """The modem's tick for our own next beacon; the anchor from now on, unless another's beacon is it."""
        if self._anchor is None or not 0.0 < host_s - self._anchor[1] < ANCHOR_S_MAX:
            self._anchor = None
            ticks = self.ticks(host_s)
        else:
            ticks = self.ticks(host_s)
            slew = int(SLEW_PPM * 1e-6 * (host_s - self._anchor[1]) / TICK_S)
            error = round((self.host_s(ticks) - host_s) / TICK_S)
            ticks = (ticks - max(-slew, min(slew, error))) % _WRAP
        self._anchor = (ticks, host_s)
        return ticks


@dataclass(slots=True)
class _Asked:
    message: GetParameter | SetParameter
    sent_s: float
    left: int


_SETUP: Final = (
    Parameter.VERSION,
    Parameter.PRODUCT,
    Parameter.RECEIVE_QUALITY,
    Parameter.TRANSMIT_QUALITY,
    Parameter.CHANNEL,
)
"""Steps of the set-up before the clock: two questions, two switches, the channel."""


class ModemHost:
    """Machine between a MAC and an ATPL230A on a serial port."""

    # A street has hundreds; attributes at fixed places are cheaper there.
    __slots__ = (
        "_asked",
        "_clock",
        "_confirm_by",
        "_decoder",
        "_failures",
        "_followed",
        "_next_clock_at",
        "_product",
        "_refusal",
        "_resume_at",
        "_stamp_at",
        "_stamped",
        "_step",
        "_version",
        "counters",
        "heard_s",
        "settings",
        "state",
        "wake_at",
    )

    def __init__(self, settings: ModemSettings) -> None:
        self.settings = settings
        self.counters: Counter[str] = Counter()
        self.state = State.CLOSED
        self._decoder = UsiDecoder()
        self._clock = ModemClock()
        self._asked: _Asked | None = None
        self._step = 0
        self._failures = 0
        self._version = ""
        self._product = ""
        self._refusal = ""
        self._resume_at = 0.0
        self._next_clock_at = math.inf
        self.heard_s = 0.0
        self._confirm_by: dict[int, float] = {}
        self._stamped: dict[int, tuple[Receive, float]] = {}
        self._stamp_at = 0.0
        self._followed = b""
        self.wake_at: float | None = None

    # ---- the machine -------------------------------------------------------------------------------------------------

    def handle(self, item: Input, now: float) -> list[Output]:
        if self.state is _READY and type(item) is MessageReceived:
            message = item.message
            self.heard_s = now
            if type(message) is Receive:  # most of all inputs
                return self._incoming(message, now)  # only a beacon whose time stamp is asked for moves a deadline
            outputs = self._message(message, now)
            self._set_wake()
            return outputs
        action = _TABLE.get((self.state, type(item)))
        outputs = [] if action is None else action(self, item, now)
        self._set_wake()
        return outputs

    def wake(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        if self.state is _RESETTING and now >= self._resume_at:
            self.state = State.SETTING_UP
            self._step = 0
            self._clock = ModemClock()
            outputs += self._ask_step(now)
        if self._asked is not None and now >= self._asked.sent_s + ANSWER_S_MAX:
            outputs += self._repeat(now)
        if self.state is _READY:
            outputs += self._wake_ready(now)
        self._set_wake()
        return outputs

    @property
    def ready(self) -> bool:
        """Whether frames can be sent."""
        return self.state is _READY

    @property
    def faults(self) -> dict[str, int]:
        """Everything thrown away so far, by kind."""
        return {fault.value: count for fault, count in self._decoder.faults.items()} | dict(self.counters)

    def _set_wake(self) -> None:
        state, asked = self.state, self._asked
        at = self._resume_at if state is _RESETTING else math.inf
        if asked is not None:
            at = min(at, asked.sent_s + ANSWER_S_MAX)
        elif state is _READY:
            at = self._next_clock_at
        if state is _READY:
            if self._confirm_by:
                at = min(at, *self._confirm_by.values())
            if self._stamped:
                at = min(at, *(until for _, until in self._stamped.values()))
        self.wake_at = at if at < math.inf else None

    # ---- set-up ------------------------------------------------------------------------------------------------------

    def _opened(self, _item: Input, now: float) -> list[Output]:
        self._failures = 0
        self._refusal = ""
        self._decoder = UsiDecoder()
        return self._reset(now)

    def _closed(self, item: Input, _now: float) -> list[Output]:
        assert isinstance(item, PortClosed)
        was_ready = self.ready
        self._forget()
        self.state = State.CLOSED
        return [ModemLost(item.reason)] if was_ready else []

    def _reset(self, now: float) -> list[Output]:
        self._forget()
        self.state = State.RESETTING
        self._resume_at = now + RESET_WAIT_S
        reset = self._say(Reset(soft=True))
        return [SendBytes(b"\x7e\x7e" + reset.data) if isinstance(reset, SendBytes) else reset]

    def _follow(self, item: Input, _now: float) -> list[Output]:
        """Other beacons are not worth a question to the modem each."""
        assert isinstance(item, FollowBeacons)
        self._followed = item.sna and bytes((item.sid,)) + item.sna
        self._stamp_at = 0.0
        return []

    def _forget(self) -> None:
        self._asked = None
        self._confirm_by.clear()
        self._stamped.clear()
        self._stamp_at = 0.0

    def _ask_step(self, now: float) -> list[Output]:
        if self._step == len(_SETUP):
            return self._ask(GetParameter(Parameter.TIMER, WIDTH[Parameter.TIMER]), now)
        parameter = _SETUP[self._step]
        if parameter in {Parameter.VERSION, Parameter.PRODUCT}:
            return self._ask(GetParameter(parameter, WIDTH[parameter]), now)
        value = self.settings.channel if parameter is Parameter.CHANNEL else 1
        return self._ask(SetParameter(parameter, bytes((value,))), now)

    def _ask(self, message: GetParameter | SetParameter, now: float) -> list[Output]:
        self._asked = _Asked(message, now, REPEATS - 1)
        return [self._say(message)]

    def _repeat(self, now: float) -> list[Output]:
        assert self._asked is not None
        self.counters["unanswered"] += 1
        silent = now - self.heard_s > CLOCK_SILENCE_S_MAX
        if self._asked.left > 0 or (self.state is State.READY and not silent):
            self._asked.left -= 1
            self._asked.sent_s = now
            return [self._say(self._asked.message)]
        return self._lost("no answer from the modem", now)

    def _lost(self, reason: str, now: float) -> list[Output]:
        """Set the modem up again; after some failures open the port anew."""
        outputs: list[Output] = []
        pending = sorted(self._confirm_by)
        if self.ready:
            outputs += [TransmitConfirmed(buffer, TransmitResult.TIMEOUT) for buffer in pending]
            outputs += [ModemLost(reason), Happened("modem lost", reason)]
        self._failures += 1
        if self._failures > SETUP_FAILURES_MAX:
            self._forget()
            self.state = State.CLOSED
            return [*outputs, ReopenPort(reason)]
        return outputs + self._reset(now)

    def _refused(self, what: str, seen: object, expected: str, now: float) -> list[Output]:
        """Not the modem that these messages are for: said once, and asked again later from the beginning."""
        reason = f"{what}: seen {seen}, expected {expected}"
        if self.ready:
            return self._lost(reason, now)
        self.counters["refused"] += 1
        outputs = self._reset(now)
        self._resume_at = now + REFUSED_S
        news, self._refusal = reason != self._refusal, reason
        return [Happened("modem refused", reason), *outputs] if news else outputs

    def _say(self, message: HostMessage) -> SendBytes | SendMessage:
        if self.settings.port is Port.MESSAGES:
            return SendMessage(message)
        return SendBytes(encode_usi(PROTOCOL_PHY, message.encode()))

    # ---- bytes in ----------------------------------------------------------------------------------------------------

    def _told(self, item: Input, now: float) -> list[Output]:
        assert isinstance(item, MessageReceived)
        self.heard_s = now
        return self._message(item.message, now)

    def _received(self, item: Input, now: float) -> list[Output]:
        assert isinstance(item, BytesReceived)
        outputs: list[Output] = []
        for frame in self._decoder.feed(item.data):
            if frame.protocol != PROTOCOL_PHY:
                self.counters["other protocol"] += 1
                continue
            try:
                message = decode_answer(frame.payload)
            except DecodeError:
                self.counters["undecodable"] += 1
                continue
            self.heard_s = now
            outputs += self._message(message, now)
        return outputs

    def _message(self, message: object, now: float) -> list[Output]:
        match message:
            case GetReply():
                return self._got(message, now)
            case SendConfirm() if self.ready:
                return self._confirmed(message, now)
            case SetReply():
                return self._was_set(message, now)
            case Receive() if self.ready:
                return self._incoming(message, now)
        self.counters["unexpected"] += 1
        return []

    def _got(self, reply: GetReply, now: float) -> list[Output]:
        buffer = (reply.id - _RECEIVE_TIME) // 4
        if reply.id >= _RECEIVE_TIME and 0 <= buffer < BUFFERS and reply.id != _STATUS:
            if len(reply.value) != WIDTH[Parameter.RECEIVE_TIME]:
                self.counters["wrong width"] += 1
                return []
            return self._stamp(buffer, int.from_bytes(reply.value, "big"))
        asked = self._asked
        if asked is None or not isinstance(asked.message, GetParameter) or asked.message.id != reply.id:
            self.counters["late"] += 1
            return []
        self._asked = None
        if len(reply.value) != asked.message.length:
            what = f"modem's answer for parameter 0x{reply.id:04X}"
            return self._refused(what, f"{len(reply.value)} bytes", f"{asked.message.length}", now)
        if reply.id == _TIMER:
            return self._timed(asked, int.from_bytes(reply.value, "big"), now)
        return self._identified(reply, now)

    def _identified(self, reply: GetReply, now: float) -> list[Output]:
        """The next step, if version and product are those of the modem that our messages are for."""
        if reply.id == Parameter.VERSION:
            self._version = ".".join(f"{byte:02X}" for byte in reply.value)
            if self._version not in self.settings.firmware:
                expected = f"{' or '.join(self.settings.firmware)} (firmware in [plc] names those that are taken)"
                return self._refused("modem's firmware version, parameter 0x010C", self._version, expected, now)
        else:
            self._product = reply.value.decode("latin-1").rstrip(" ")
            if self._product not in PRODUCTS:
                expected = f"one of {', '.join(PRODUCTS)}"
                return self._refused("modem's product, parameter 0x0100", ascii(self._product), expected, now)
        self._step += 1
        return self._ask_step(now)

    def _was_set(self, reply: SetReply, now: float) -> list[Output]:
        asked = self._asked
        if asked is None or not isinstance(asked.message, SetParameter) or asked.message.id != reply.id:
            self.counters["late"] += 1
            return []
        self._asked = None
        if reply.result != 0:
            return self._lost(f"the modem refused parameter {reply.id:#06x}: result {reply.result}", now)
        self._step += 1
        return self._ask_step(now)

    def _timed(self, asked: _Asked, ticks: int, now: float) -> list[Output]:
        self._clock.add(asked.sent_s, now, ticks)
        if self.state is State.SETTING_UP:
            if len(self._clock) < CLOCK_SAMPLES:
                return self._ask_step(now)
            self.state = State.READY
            self._failures = 0
            self._refusal = ""
            self._next_clock_at = now + CLOCK_INTERVAL_S
            ready = f"{self._product} firmware {self._version}"
            return [ModemReady(self._product, self._version), Happened("modem ready", ready)]
        self._next_clock_at = now + CLOCK_INTERVAL_S
        return []

    # ---- ready -------------------------------------------------------------------------------------------------------

    def _wake_ready(self, now: float) -> list[Output]:
        if any(now >= until for until in self._confirm_by.values()):
            return self._lost("no confirm of a transmission", now)
        outputs: list[Output] = []
        for buffer in [buffer for buffer, (_, until) in self._stamped.items() if now >= until]:
            receive, until = self._stamped.pop(buffer)
            outputs.append(self._frame(receive, until - TIMESTAMP_S_MAX, precise=False))
        if self._asked is None and now >= self._next_clock_at:
            outputs += self._ask(GetParameter(Parameter.TIMER, WIDTH[Parameter.TIMER]), now)
        return outputs

    def _transmit(self, item: Input, now: float) -> list[Output]:
        assert isinstance(item, TransmitFrame)
        if item.buffer in self._confirm_by:
            return [TransmitConfirmed(item.buffer, TransmitResult.PREVIOUS_PENDING)]
        start_s = now if item.start_s is None else max(now, item.start_s)
        symbols = payload_symbols(self.settings.air_bytes(len(item.pdu), item.mode), item.scheme, item.mode)
        patience_s = _TIMEOUT_FIXED_S[item.mode] + _TIMEOUT_SYMBOL_S * symbols + CONFIRM_MARGIN_S
        airtime_s = self.settings.airtime_s(len(item.pdu), item.scheme, item.mode)
        self._confirm_by[item.buffer] = start_s + airtime_s + patience_s
        absolute = item.start_s is not None and item.start_s > now
        send = Send(
            buffer=item.buffer,
            attenuation_db=self.settings.attenuation_db,
            mode=item.mode,
            scheme=item.scheme,
            time_mode=TimeMode.ABSOLUTE if absolute else TimeMode.RELATIVE,
            delay=(self._ticks(start_s, item.buffer) or 1) if absolute else 0,
            disable_rx=item.exclusive,
            data=item.pdu,
        )
        return [self._say(send)]

    def _ticks(self, start_s: float, buffer: int) -> int:
        """When to emit, in the modem's time; the beacons of a node that follows nobody follow each other."""
        alone = buffer == BUFFER_BEACON and not self._followed
        return self._clock.booked(start_s) if alone else self._clock.ticks(start_s)

    def _transmit_unready(self, item: Input, _now: float) -> list[Output]:
        assert isinstance(item, TransmitFrame)
        return [TransmitConfirmed(item.buffer, TransmitResult.TIMEOUT)]

    def _confirmed(self, confirm: SendConfirm, now: float) -> list[Output]:
        if self._confirm_by.pop(confirm.buffer, None) is None:
            self.counters["late"] += 1
            return []
        result = _RESULTS.get(confirm.result)
        if result is None:
            self.counters["unknown result"] += 1
            result = TransmitResult.TIMEOUT
        outputs: list[Output] = [TransmitConfirmed(confirm.buffer, result)]
        if result is TransmitResult.TIMEOUT:  # the firmware has reset its PHY by itself
            outputs += self._lost("the modem timed out and reset itself", now)
        return outputs

    def _incoming(self, receive: Receive, now: float) -> list[Output]:
        data = receive.data
        if receive.mode not in _MODES or receive.scheme not in _SCHEMES or not data:
            self.counters["other frame type"] += 1
            return []
        if data[0] >> 4 & 3 != HT_BEACON or receive.mode != _TYPE_A or now < self._stamp_at:
            return [self._frame(receive, now, precise=False)]
        if self._followed and data[1:2] + data[6:12] != self._followed:
            return [self._frame(receive, now, precise=False)]
        self._stamp_at = now + STAMP_INTERVAL_S
        self._stamped[receive.buffer] = (receive, now + TIMESTAMP_S_MAX)
        self._set_wake()
        return [self._say(GetParameter(Parameter.RECEIVE_TIME + 4 * receive.buffer, WIDTH[Parameter.RECEIVE_TIME]))]

    def passing(self, receive: Receive, now: float) -> FrameReceived | None:
        """A beacon that sets no frame here, as another switch is followed; None for everything else."""
        data = receive.data
        if self.state is not _READY or not self._followed or not data or receive.mode != _TYPE_A:
            return None
        if data[0] >> 4 != HT_BEACON or data[1:2] + data[6:12] == self._followed or receive.scheme not in _SCHEMES:
            return None
        self.heard_s = now
        return self._frame(receive, now, precise=False)

    def _stamp(self, buffer: int, ticks: int) -> list[Output]:
        waiting = self._stamped.pop(buffer, None)
        if waiting is None:
            self.counters["late"] += 1
            return []
        end_s = self._clock.stamped(ticks) if self._followed else self._clock.host_s(ticks)
        return [self._frame(waiting[0], end_s, precise=True)]

    def _frame(self, receive: Receive, end_s: float, *, precise: bool) -> FrameReceived:
        _, mode_code, scheme_code, header_type, rssi, cinr, _, _, _, _, data = receive
        scheme, mode, duration_s = _kind(scheme_code, mode_code, len(data), self.settings.framing)
        snr_db = cinr / CINR_STEPS_PER_DB + CINR_ZERO_DB
        return FrameReceived(data, scheme, header_type, end_s - duration_s, duration_s, snr_db, rssi, precise, mode)


@lru_cache(maxsize=4096)
def _kind(scheme: int, mode: int, length: int, framing: TypeAFraming) -> tuple[Scheme, PhyMode, float]:
    """Modulation, frame type and airtime [s] of a received frame by the modem's codes and the bytes it gave us."""
    known = _SCHEMES[scheme], _MODES[mode]
    return *known, ModemSettings(framing).airtime_s(length, *known)


_Action = Callable[[ModemHost, Input, float], list[Output]]

_TABLE: Final[dict[tuple[State, type], _Action]] = {
    (State.CLOSED, PortOpened): ModemHost._opened,
    (State.CLOSED, FollowBeacons): ModemHost._follow,
    (State.CLOSED, TransmitFrame): ModemHost._transmit_unready,
    (State.RESETTING, PortOpened): ModemHost._opened,
    (State.RESETTING, PortClosed): ModemHost._closed,
    (State.RESETTING, FollowBeacons): ModemHost._follow,
    (State.RESETTING, TransmitFrame): ModemHost._transmit_unready,
    (State.SETTING_UP, PortOpened): ModemHost._opened,
    (State.SETTING_UP, PortClosed): ModemHost._closed,
    (State.SETTING_UP, BytesReceived): ModemHost._received,
    (State.SETTING_UP, MessageReceived): ModemHost._told,
    (State.SETTING_UP, FollowBeacons): ModemHost._follow,
    (State.SETTING_UP, TransmitFrame): ModemHost._transmit_unready,
    (State.READY, PortOpened): ModemHost._opened,
    (State.READY, PortClosed): ModemHost._closed,
    (State.READY, BytesReceived): ModemHost._received,
    (State.READY, MessageReceived): ModemHost._told,
    (State.READY, FollowBeacons): ModemHost._follow,
    (State.READY, TransmitFrame): ModemHost._transmit,
}
"""Every state change of the set-up and of the traffic; what is not here is ignored (bytes while resetting are
flushed)."""
