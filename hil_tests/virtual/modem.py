"""A virtual ATPL230A with the tester firmware: the serial protocol byte for byte, on a virtual power line.

Its port carries bytes (`feed`, `on_bytes`), or the messages themselves (`tell`, `on_message`) for streets where framing
between two halves of one process would be most of the work; line time and firmware are the same for both.

Written from the description of the firmware, not from our driver: unknown parameters get no reply, a reset gets none
either, a SEND is checked in the firmware's order, its confirm comes at the end of the emission, and stock firmware
puts three bytes in front of every Type A frame and takes three off every received one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Any, Final

from hil_tests.virtual.events import Handle, Scheduler
from hil_tests.virtual.line import Frame, PowerLine
from prime_plc.modem_messages import (
    BUFFERS,
    BitOperation,
    BitReply,
    GetList,
    GetListReply,
    GetParameter,
    GetReply,
    HostMessage,
    ModemMessage,
    NoiseReply,
    NoiseRequest,
    Receive,
    Reset,
    Send,
    SendConfirm,
    SetParameter,
    SetReply,
    TransmitResult,
    decode_command,
)
from prime_plc.pdu import HT_BEACON
from prime_plc.phy import TICK_S, PhyMode, Scheme
from prime_plc.usi import PROTOCOL_PHY, UsiDecoder, encode_usi
from shared.errors import DecodeError

BYTE_S: Final = 10 / 115_200
"""[s] One byte on the serial port."""

FRAMING_BYTES: Final = 6
"""Marks, length and checksum around a message; escapes, a byte or two in a long one, are not counted."""

RECEIVE_BYTES: Final = 22
"""An indication without its data."""

SEND_BYTES: Final = 13
"""A transmission's message without its data."""

GET_BYTES: Final = 4
"""A question for a parameter, and its answer without the value."""

CONFIRM_BYTES: Final = 5

POLL_S: Final = 0.010
"""[s] The firmware looks at its receive buffer this often."""

PROCESSING_S: Final = 0.002
"""[s] From the end of a frame to the first byte of its indication."""

RESET_S: Final = 0.020
AIR_BYTES: Final = (7, 496)
SENTINEL: Final = b"\xaa\xaa\xaa"
RMS: Final = 140
PARAMETER_CLASSES: Final = (0xF000, 0x0200, 0x0400, 0x0100)

R_STATUS, R_TIMER, R_SNA, R_RX_TIME = 0xFE2A, 0xFE47, 0xFE62, 0xFD83
P_RX_BUFFER, P_RX_QUALITY, P_TX_QUALITY, P_CHANNEL = 0x0111, 0x0112, 0x011A, 0x0415

_SCHEMES: Final = {int(scheme): scheme for scheme in Scheme}
_MODES: Final = {int(mode): mode for mode in PhyMode}
_TYPE_A: Final = PhyMode.TYPE_A
"""A name of the module costs a tenth of a look into the class, and this one is asked for at every reception."""


class Framing(Enum):
    """Firmware as delivered, or rebuilt without the three-byte block."""

    STOCK = "stock"
    TRANSPARENT = "transparent"


def _initial_memory() -> dict[int, bytes]:
    """Parameters as after a reset, one byte each (any length can be read at any offset)."""
    memory: dict[int, bytes] = {}
    wide = {
        0x0100: b"ATPL230   ",
        0x010C: bytes.fromhex("23000102"),
        P_CHANNEL: b"\x01",
        0x0416: b"\x02",
        0x0420: b"\x02\x00",
        R_SNA: bytes.fromhex("0080E100006F"),
        0xFEFF: b"\x03",
        0xFFBF: b"\xba",
    }
    for address, value in wide.items():
        for offset, byte in enumerate(value):
            memory[address + offset] = bytes((byte,))
    return memory


class VirtualModem:
    """One modem: bytes of its serial port in and out, frames on the line."""

    # A street has hundreds; attributes at fixed places are cheaper there.
    __slots__ = (
        "_armed",
        "_decoder",
        "_draw",
        "_framing",
        "_in_free_at",
        "_line",
        "_loop",
        "_memory",
        "_name",
        "_out_free_at",
        "_quality",
        "_receive_buffer",
        "_resetting_until",
        "_sending",
        "_stamped_s",
        "_strips",
        "_taken_at",
        "_tick_rate",
        "_tick_zero",
        "burnt",
        "ignores",
        "on_bytes",
        "on_message",
        "overhears",
    )

    def __init__(
        self,
        line: PowerLine,
        loop: Scheduler,
        name: str,
        draw: random.Random,
        framing: Framing = Framing.STOCK,
    ) -> None:
        self._line = line
        self._loop = loop
        self._name = name
        self._draw = draw
        self._framing = framing
        self._strips = framing is Framing.STOCK
        self._decoder = UsiDecoder()
        self._memory = _initial_memory()
        self._quality = False
        self._stamped_s = [0.0] * BUFFERS
        self._tick_zero = draw.randrange(1 << 32)
        self._tick_rate = (1 + draw.uniform(-20e-6, 20e-6)) / TICK_S
        self._armed: dict[int, Handle] = {}
        self._sending: Frame | None = None
        self._receive_buffer = BUFFERS - 1
        self._in_free_at = self._taken_at = 0.0
        self._out_free_at = 0.0
        self._resetting_until = 0.0
        self.on_bytes: Callable[[bytes], None] = lambda _data: None
        self.on_message: Callable[[ModemMessage], None] | None = None
        self.ignores: Callable[[PhyMode, bytes, float], bool] = lambda _mode, _pdu, _now: False
        self.overhears: Callable[[Receive, float], bool] = lambda _receive, _now: False
        self.burnt: dict[int, bytes] = {}
        line.attach(self)

    @property
    def name(self) -> str:
        return self._name

    def flash(self, parameters: dict[int, bytes]) -> None:
        """Another firmware: what it answers otherwise, of any width, for good."""
        self.burnt = parameters
        self._reset()

    def unplug(self) -> None:
        """Lose power: nothing pending survives."""
        for handle in self._armed.values():
            handle.cancel()
        self._armed.clear()
        self._decoder = UsiDecoder()
        self._memory = _initial_memory()
        self._quality = False

    # ---- serial port -------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes from the host."""
        for frame in self._decoder.feed(data):
            if frame.protocol != PROTOCOL_PHY:
                continue
            try:
                message = decode_command(frame.payload)
            except DecodeError:
                continue
            self._heard(message, len(frame.payload))

    def tell(self, message: HostMessage) -> None:
        """A message from the host, without its framing."""
        self._heard(message, message_bytes(message))

    def _heard(self, message: HostMessage, length: int) -> None:
        """Its bytes take line time, then the firmware's next poll; messages are taken one after the other."""
        now = self._loop.time()
        self._in_free_at = max(now, self._in_free_at) + (length + FRAMING_BYTES) * BYTE_S
        self._taken_at = max(self._taken_at, self._in_free_at + self._draw.uniform(0.0, POLL_S))
        self._loop.call_at(self._taken_at, self._poll, message)

    def _poll(self, message: HostMessage) -> None:
        if self._loop.time() >= self._resetting_until:
            self._command(message)

    def _answer(self, message: ModemMessage) -> None:
        """Send a message to the host; its last byte arrives after the line time, messages one after the other."""
        start_s = max(self._loop.time(), self._out_free_at)
        at_s = self._out_free_at = start_s + (message_bytes(message) + FRAMING_BYTES) * BYTE_S
        if self.on_message is not None:
            self._loop.call_at(at_s, self.on_message, message)
        else:
            self._loop.call_at(at_s, self._write, encode_usi(PROTOCOL_PHY, message.encode()))

    def _write(self, data: bytes) -> None:
        self.on_bytes(data)

    # ---- commands ----------------------------------------------------------------------------------------------------

    def _command(self, message: HostMessage) -> None:
        match message:
            case GetParameter(id_, length):
                value = self._read(id_, length)
                if value is not None:
                    self._answer(GetReply(id_, value))
            case Send():
                self._send(message)
            case SetParameter(id=id_, value=value):
                self._answer(SetReply(id_, self._set(id_, value)))
            case BitOperation():
                self._answer(BitReply(message.id, message.operator, self._bits(message)))
            case GetList(items=items):
                values = tuple((id_, self._read(id_, length) or bytes(length)) for id_, length in items)
                self._answer(GetListReply(values))
            case NoiseRequest(symbols=symbols):
                self._answer(NoiseReply(7, None) if symbols > 8 else NoiseReply(0, bytes(97 * symbols)))
            case Reset():
                self._reset()

    def ticks(self) -> int:
        """The free-running timer."""
        return self._ticks_at(self._loop.time())

    def _ticks_at(self, time_s: float) -> int:
        return (self._tick_zero + int(time_s * self._tick_rate)) % (1 << 32)

    def _read(self, id_: int, length: int) -> bytes | None:
        if not any(id_ & one for one in PARAMETER_CLASSES):
            return None
        if id_ in self.burnt:
            return self.burnt[id_]
        if id_ == R_TIMER:
            return self.ticks().to_bytes(4, "big")[-length:]
        if id_ == R_STATUS:
            return bytes((0x40 if self._line.carrier(self) else 0,))
        if R_RX_TIME <= id_ < R_RX_TIME + 4 * BUFFERS:
            buffer, offset = divmod(id_ - R_RX_TIME, 4)
            last = (id_ + length - 1 - R_RX_TIME) // 4
            stamps = b"".join(self._ticks_at(at_s).to_bytes(4, "big") for at_s in self._stamped_s[buffer : last + 1])
            return stamps[offset:][:length]
        if id_ == P_RX_BUFFER and length == 1:
            return bytes((self._receive_buffer,))
        return b"".join(self._memory.get(id_ + offset, b"\0") for offset in range(length))

    def _set(self, id_: int, value: bytes) -> int:
        if not any(id_ & one for one in PARAMETER_CLASSES) or not value:
            return 1
        if id_ == P_CHANNEL and value != b"\x01":
            return 3  # this coupling has channel 1 only
        self._store(id_, value)
        return 0

    def _store(self, id_: int, value: bytes) -> None:
        for offset, byte in enumerate(value):
            self._memory[id_ + offset] = bytes((byte,))
        self._quality = self._memory.get(P_RX_QUALITY) == b"\x01"

    def _bits(self, message: BitOperation) -> int:
        if not message.id & 0xF000 or message.operator not in {2, 3, 4}:
            return 1
        old = self._memory.get(message.id, b"\0")[0]
        new = {2: old & message.mask, 3: old | message.mask, 4: old ^ message.mask}[message.operator]
        self._memory[message.id] = bytes((new,))
        return 0

    def _reset(self) -> None:
        self.unplug()
        self._resetting_until = self._loop.time() + RESET_S

    # ---- transmission ------------------------------------------------------------------------------------------------

    def _send(self, send: Send) -> None:
        air = SENTINEL + send.data if send.mode == 0 and self._framing is Framing.STOCK else send.data
        result = self._check(send, len(air))
        if result is not None:
            self._answer(SendConfirm(send.buffer, result, 0))
            return
        now = self._loop.time()
        at_s = now
        if send.delay:
            delay_ticks = max(send.delay, 10) if send.time_mode == 1 else (send.delay - self.ticks()) % (1 << 32)
            if delay_ticks < 1 << 31:  # an absolute time in the past starts at once
                at_s = now + delay_ticks / self._tick_rate
        armed = self._armed.pop(send.buffer, None)
        if armed is not None:
            armed.cancel()
        self._armed[send.buffer] = self._loop.call_at(at_s, self._start, send, air)

    def _check(self, send: Send, air_bytes: int) -> int | None:
        """The firmware's checks in its order; None if all is well."""
        if send.buffer >= BUFFERS:
            return TransmitResult.INVALID_BUFFER
        known = send.scheme in _SCHEMES
        if not known or (send.scheme >= 12 and send.mode == 0):
            return TransmitResult.INVALID_SCHEME
        if not AIR_BYTES[0] <= air_bytes <= AIR_BYTES[1]:
            return TransmitResult.WRONG_LENGTH
        if send.mode not in {0, 2, 3}:
            return TransmitResult.INVALID_MODE
        return None

    def _start(self, send: Send, air: bytes) -> None:
        self._armed.pop(send.buffer, None)
        if self._sending is not None:
            self._answer(SendConfirm(send.buffer, TransmitResult.PREVIOUS_PENDING, 0))
            return
        if not send.disable_rx and self._line.carrier(self):
            busy = TransmitResult.RECEIVING if self._line.reading(self) else TransmitResult.CHANNEL_BUSY
            self._answer(SendConfirm(send.buffer, busy, 0))
            return
        if send.mode == 0:
            air = bytes((air[0] & 0x3F,)) + air[1:]  # the two top bits are not carried
        attenuation_db = float(min(send.attenuation_db, 21))
        frame = self._line.emit(self, air, _SCHEMES[send.scheme], _MODES[send.mode], attenuation_db)
        self._sending = frame
        self._loop.call_at(frame.end_s, self._sent, send)

    def _sent(self, send: Send) -> None:
        self._sending = None
        rms = RMS if self._memory.get(P_TX_QUALITY, b"\0") == b"\x01" else 0
        self._answer(SendConfirm(send.buffer, TransmitResult.SUCCESS, rms))

    # ---- reception ---------------------------------------------------------------------------------------------------

    def deliver(self, frame: Frame, pdu: bytes, snr_db: float, level_dbuv: float) -> None:
        """A frame has ended at this receiver; the MAC checksum is the host's business."""
        if pdu[0] & 0x30 == 0x30:
            return
        buffer = self._receive_buffer = (self._receive_buffer + 1) % BUFFERS
        end_s = self._stamped_s[buffer] = frame.end_s
        data = pdu
        if self._strips and frame.mode is _TYPE_A:
            data = _stripped(pdu) if pdu is frame.pdu else pdu[len(SENTINEL) :]
        at_s = end_s + PROCESSING_S
        if at_s < self._out_free_at:  # noqa: PLR1730  # a comparison is cheaper than a call, and this is every reception
            at_s = self._out_free_at
        at_s = self._out_free_at = at_s + (RECEIVE_BYTES + len(data) + FRAMING_BYTES) * BYTE_S
        quality = (snr_db, level_dbuv) if self._quality else None
        if self.on_message is None:
            indication = _indication(frame, buffer, data, quality)
            self._loop.call_at(at_s, self._write, encode_usi(PROTOCOL_PHY, indication.encode()))
        elif at_s == frame.told_s:
            frame.telling.append((self, buffer, data, quality))
        else:
            telling: list[_Telling] = [(self, buffer, data, quality)]
            if not frame.telling:
                frame.telling, frame.told_s = telling, at_s
            self._loop.call_at(at_s, _tell_hosts, frame, telling, at_s)


_Telling = tuple[VirtualModem, int, bytes, tuple[float, float] | None]
"""A modem, its receive buffer, what is in it, and signal to noise [dB] and level [dBuV] where it measures."""


def _tell_hosts(frame: Frame, telling: list[_Telling], at_s: float) -> None:
    """Receivers of a frame whose ports are done with it at the same instant, most often all, tell their hosts; not
    those that say that nothing would come of it, or that all is done."""
    mode = frame.mode
    for modem, buffer, data, quality in telling:
        beacon = data[0] >> 4 == HT_BEACON
        if not beacon and modem.ignores(mode, data, at_s):
            continue
        indication = _indication(frame, buffer, data, quality)
        if not (beacon and modem.overhears(indication, at_s)):
            assert modem.on_message is not None, modem.name
            modem.on_message(indication)


def message_bytes(message: HostMessage | ModemMessage) -> int:
    """Bytes of a message; of the most frequent ones without writing it out."""
    if type(message) is SendConfirm:
        return CONFIRM_BYTES
    if type(message) is Send:
        return SEND_BYTES + len(message.data)
    if type(message) is GetParameter:
        return GET_BYTES
    if type(message) is GetReply:
        return GET_BYTES + len(message.value)
    return len(message.encode())


@lru_cache(maxsize=16)
def _stripped(pdu: bytes) -> bytes:
    """Without the three bytes; one object for all receivers, whose hash is reckoned once."""
    return pdu[len(SENTINEL) :]


def _indication(frame: Frame, buffer: int, data: bytes, quality: tuple[float, float] | None) -> Receive:
    """What the firmware says of a frame; ``quality`` is signal to noise [dB] and level [dBuV] where it measures."""
    header_type = frame.pdu[0] >> 4 & 3
    if quality is None:
        return Receive(buffer, frame.mode, frame.scheme, header_type, 0, 0, 0, 0, 0, 0, data)
    snr_db, level_dbuv = quality
    cinr = 0 if snr_db < 3 else 255 if snr_db > 66.75 else round(4 * snr_db - 12)
    rssi = 0 if level_dbuv < 0 else 255 if level_dbuv > 255 else round(level_dbuv)
    return Receive(buffer, frame.mode, frame.scheme, header_type, rssi, cinr, 16, 20, 500, 800, data)


class MemoryTransport(asyncio.Transport):
    """The serial port between a daemon and a virtual modem in one process."""

    def __init__(self, modem: VirtualModem, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._modem = modem
        self._protocol = protocol
        self._closed = False
        modem.on_bytes = self._arrived
        protocol.connection_made(self)

    def _arrived(self, data: bytes) -> None:
        if not self._closed:
            self._protocol.data_received(data)

    def write(self, data: Any) -> None:
        if not self._closed:
            self._modem.feed(bytes(data))

    def close(self) -> None:
        self._closed = True

    def is_closing(self) -> bool:
        return self._closed

    def lose(self) -> None:
        """The port vanishes, as when the modem is unplugged."""
        if not self._closed:
            self._closed = True
            self._protocol.connection_lost(OSError(5, "Input/output error"))


def open_memory_port(modem: VirtualModem) -> Callable[[Callable[[], asyncio.Protocol]], Any]:
    """What a daemon opens instead of a serial device."""

    async def connect(factory: Callable[[], asyncio.Protocol]) -> tuple[asyncio.Transport, asyncio.Protocol]:
        protocol = factory()
        return MemoryTransport(modem, protocol), protocol

    return connect
