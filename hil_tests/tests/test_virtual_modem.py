"""The virtual modem does what the firmware does, byte for byte, and the line what physics does."""

from __future__ import annotations

import asyncio
import random

import pytest

from hil_tests.virtual.channel import header_error_rate, payload_error_rate, symbol_error_rate
from hil_tests.virtual.line import Frame, LineSettings, PowerLine
from hil_tests.virtual.loop import run_virtual
from hil_tests.virtual.modem import Framing, VirtualModem, message_bytes
from prime_plc.modem_messages import (
    GetParameter,
    GetReply,
    HostMessage,
    ModemMessage,
    Receive,
    Send,
    SendConfirm,
    SetParameter,
    SetReply,
    decode_answer,
)
from prime_plc.phy import PhyMode, Scheme, frame_duration_s
from prime_plc.tests.captured_frames import CAPTURED
from prime_plc.usi import UsiDecoder, encode_usi

BEACON = bytes.fromhex(CAPTURED["beacon 19"])
REG_REQ = bytes.fromhex(CAPTURED["REG_REQ"])


class Bench:
    """Modems on a line, and what each says on its serial port, with the time of the last byte."""

    def __init__(self, count: int, framing: Framing = Framing.STOCK, settings: LineSettings | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        draw = random.Random(7)
        self.line = PowerLine(self.loop, draw, settings)
        self.modems = [VirtualModem(self.line, self.loop, f"m{number}", draw, framing) for number in range(count)]
        self.said: list[list[tuple[float, object]]] = [[] for _ in range(count)]
        self.frames: list[Frame] = []
        self.line.on_frame = self.frames.append
        for modem, said in zip(self.modems, self.said, strict=True):
            modem.on_bytes = self._listener(said)

    def _listener(self, said: list[tuple[float, object]]):  # type: ignore[no-untyped-def]  # a closure for one port
        decoder = UsiDecoder()

        def listen(data: bytes) -> None:
            said.extend((self.loop.time(), decode_answer(frame.payload)) for frame in decoder.feed(data))

        return listen

    async def tell(self, modem: int, payload: bytes, wait_s: float = 0.2) -> list[object]:
        before = len(self.said[modem])
        self.modems[modem].feed(encode_usi(0x22, payload))
        await asyncio.sleep(wait_s)
        return [message for _, message in self.said[modem][before:]]


def send(
    data: bytes, *, buffer: int = 1, mode: int = 0, scheme: int = 4, exclusive: bool = False, delay: int = 0
) -> bytes:
    return Send(buffer, 0, mode, scheme, 1, delay, exclusive, data).encode()


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (bytes.fromhex("00 0000 01"), None),
        (bytes.fromhex("0D 01"), None),
        (bytes.fromhex("00 010C 04"), GetReply(0x010C, bytes.fromhex("23000102"))),
        (bytes.fromhex("00 0100 0A"), GetReply(0x0100, b"ATPL230   ")),
        (bytes.fromhex("02 0112 01 01"), SetReply(0x0112, 0)),
        (bytes.fromhex("02 0415 01 02"), SetReply(0x0415, 3)),
        (send(REG_REQ, buffer=4), SendConfirm(4, 8, 0)),
        (send(REG_REQ, scheme=12), SendConfirm(1, 6, 0)),
        (send(REG_REQ, mode=1), SendConfirm(1, 9, 0)),
        (send(b"\0\0\0"), SendConfirm(1, 2, 0)),
        (send(bytes(494)), SendConfirm(1, 2, 0)),
        (send(REG_REQ, buffer=4, scheme=99), SendConfirm(4, 8, 0)),
    ],
)
def test_commands_are_answered_like_the_firmware_does(payload: bytes, answer: object) -> None:
    """No reply to unknown parameters and resets; errors at once and in the firmware's order of checks."""

    async def main() -> list[object]:
        return await Bench(1).tell(0, payload)

    assert run_virtual(main) == ([] if answer is None else [answer])


@pytest.mark.parametrize(
    "message",
    [
        GetParameter(0x010C, 4),
        GetReply(0x010C, bytes(4)),
        GetReply(0x0100, bytes(10)),
        Send(1, 0, 0, 4, 1, 0, False, REG_REQ),
        SendConfirm(1, 0, 0),
        SetParameter(0x0112, b"\1"),
        SetReply(0x0112, 0),
        Receive(0, 0, 4, 0, 90, 30, 0, 0, 0, 0, BEACON),
    ],
)
def test_a_message_as_a_value_takes_the_line_time_of_its_bytes(message: HostMessage | ModemMessage) -> None:
    """The most frequent ones are not written out for it."""
    assert message_bytes(message) == len(message.encode())


def test_a_confirm_comes_at_the_end_of_the_emission() -> None:
    """24 bytes on air with stock firmware are 13.248 ms; the confirm follows them by its time on the serial port."""

    async def main() -> tuple[list[Frame], float, object]:
        bench = Bench(2)
        await bench.tell(0, send(REG_REQ))
        at_s, message = bench.said[0][0]
        return bench.frames, at_s, message

    frames, at_s, message = run_virtual(main)
    (frame,) = frames
    assert frame.end_s - frame.start_s == pytest.approx(0.013248)
    assert message == SendConfirm(1, 1, 0)
    assert 0 < at_s - frame.end_s < 0.003


@pytest.mark.parametrize("framing", list(Framing))
def test_two_modems_of_one_kind_are_a_transparent_pipe(framing: Framing) -> None:
    """Data arrive as sent; with stock firmware the air carries three bytes more and every header says beacon."""

    async def main() -> tuple[bytes, Receive]:
        bench = Bench(2, framing)
        await bench.tell(1, bytes.fromhex("02 0112 01 01"))
        await bench.tell(0, send(REG_REQ))
        received = bench.said[1][-1][1]
        assert isinstance(received, Receive)
        return bench.frames[0].pdu, received

    air, received = run_virtual(main)
    stock = framing is Framing.STOCK
    assert received.data == REG_REQ
    assert len(air) == len(REG_REQ) + (3 if stock else 0)
    assert received.header_type == (2 if stock else 0)
    assert received.snr_db == pytest.approx(24.0)


def test_quality_is_silent_until_it_is_switched_on() -> None:
    """Without parameter 0112h the quality fields are zero."""

    async def main() -> object:
        bench = Bench(2)
        await bench.tell(0, send(REG_REQ))
        return bench.said[1][-1][1]

    received = run_virtual(main)
    assert isinstance(received, Receive)
    assert (received.rssi, received.cinr, received.evm_header) == (0, 0, 0)


def test_a_time_stamp_tells_the_end_of_the_frame() -> None:
    """Register FD83h + 4n of the receiver minus its timer then, in ticks of 10 us."""

    async def main() -> tuple[float, float]:
        bench = Bench(2)
        await bench.tell(0, send(REG_REQ))
        received = bench.said[1][-1][1]
        assert isinstance(received, Receive)
        (stamp,) = await bench.tell(
            1, bytes.fromhex("00") + (0xFD83 + 4 * received.buffer).to_bytes(2, "big") + b"\x04"
        )
        assert isinstance(stamp, GetReply)
        ago = (bench.modems[1].ticks() - int.from_bytes(stamp.value, "big")) % (1 << 32)
        return ago * 1e-5, bench.loop.time() - bench.frames[0].end_s

    stamped_s, true_s = run_virtual(main)
    assert stamped_s == pytest.approx(true_s, abs=2e-5 + true_s * 20e-6)


def test_a_busy_line_is_reported_and_an_exclusive_slot_is_not_asked() -> None:
    """Carrier at the instant of emission: result 5 (decoding) for contention traffic; beacons go out anyway."""

    async def main() -> tuple[list[object], list[object]]:
        bench = Bench(3)
        bench.modems[0].feed(encode_usi(0x22, send(bytes(300), delay=1000)))
        polite = encode_usi(0x22, send(REG_REQ, delay=7000))
        bench.modems[1].feed(polite)
        bench.modems[2].feed(encode_usi(0x22, send(BEACON, buffer=0, exclusive=True, delay=8000)))
        await asyncio.sleep(1.0)
        return [m for _, m in bench.said[1]], [m for _, m in bench.said[2] if isinstance(m, SendConfirm)]

    polite, exclusive = run_virtual(main)
    assert SendConfirm(1, 5, 0) in polite
    assert exclusive == [SendConfirm(0, 1, 0)]


def test_frames_that_overlap_spoil_each_other() -> None:
    """Two equally strong frames at one receiver: neither arrives undamaged."""

    async def main() -> list[list[str]]:
        bench = Bench(3)
        for modem in (0, 1):
            bench.modems[modem].feed(encode_usi(0x22, send(bytes(100), exclusive=True, delay=5000)))
        await asyncio.sleep(1.0)
        return [frame.delivered for frame in bench.frames]

    assert run_virtual(main) == [[], []]


def test_who_sends_does_not_hear_and_a_dead_line_carries_nothing() -> None:
    """No echo of one's own frame; with the line dead nobody receives, but the modem confirms its emission."""

    async def main() -> tuple[list[object], list[object], list[object]]:
        bench = Bench(2)
        first = await bench.tell(0, send(REG_REQ))
        bench.line.dead = True
        second = await bench.tell(0, send(REG_REQ))
        return first, second, [message for _, message in bench.said[1]]

    first, second, heard = run_virtual(main)
    assert first == second == [SendConfirm(1, 1, 0)]
    assert len(heard) == 1


def test_frame_errors_follow_the_table() -> None:
    """2000 frames of 20 symbols in DBPSK_C at 3 dB without implementation loss: 10 to 14 % damaged payloads."""

    async def main() -> tuple[int, int, int]:
        settings = LineSettings(level_dbuv=100, attenuation_db=37, noise_dbuv=60, implementation_loss_db=0)
        bench = Bench(2, Framing.TRANSPARENT, settings)
        pdu = bytes(126)
        for _ in range(2000):
            bench.line.emit(bench.modems[0], pdu, Scheme.DBPSK_C, PhyMode.TYPE_A, 0.0)
            await asyncio.sleep(frame_duration_s(len(pdu), Scheme.DBPSK_C) + 0.01)
        received = [message for _, message in bench.said[1] if isinstance(message, Receive)]
        damaged = sum(message.data != pdu for message in received)
        return len(bench.frames), len(received), damaged

    sent, received, damaged = run_virtual(main)
    assert sent == 2000
    assert 0.10 <= damaged / sent <= 0.14
    assert 0.002 <= 1 - received / sent <= 0.016


def test_the_tables_hold_at_their_points_and_between() -> None:
    """Published entries come back; between two the logarithm is linear; beyond the end the slope goes on to 1e-7."""
    assert symbol_error_rate(3.0, Scheme.DBPSK_C) == pytest.approx(6.2e-3)
    assert symbol_error_rate(2.75, Scheme.DBPSK_C) == pytest.approx((2.4e-2 * 6.2e-3) ** 0.5)
    assert symbol_error_rate(-9.0, Scheme.DBPSK_C) == 1.0
    assert symbol_error_rate(30.0, Scheme.D8PSK) == pytest.approx(1e-7)
    assert header_error_rate(3.0) == pytest.approx(7.7e-3)
    assert payload_error_rate(3.0, Scheme.DBPSK_C, 20) == pytest.approx(1 - (1 - 6.2e-3) ** 20)
    assert payload_error_rate(0.0, Scheme.ROBUST_DBPSK, 80) == pytest.approx(1 - (1 - 4.5e-5) ** 20)
