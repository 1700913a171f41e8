"""The modem driver: set-up, clock, confirms, and what it does when the modem does not answer."""

from __future__ import annotations

import pytest

from prime_plc.modem_host import (
    FollowBeacons,
    FrameReceived,
    ModemHost,
    ModemLost,
    ModemReady,
    ModemSettings,
    Output,
    State,
    TransmitConfirmed,
    TransmitFrame,
)
from prime_plc.modem_messages import (
    GetParameter,
    GetReply,
    Receive,
    Reset,
    Send,
    SendConfirm,
    SetParameter,
    SetReply,
    TransmitResult,
    decode_command,
)
from prime_plc.phy import PhyMode, Scheme
from prime_plc.sap import BytesReceived, Happened, PortClosed, PortOpened, ReopenPort, SendBytes
from prime_plc.tests.captured_frames import CAPTURED
from prime_plc.usi import UsiDecoder, encode_usi

BEACON = bytes.fromhex(CAPTURED["beacon 19"])
REG_REQ = bytes.fromhex(CAPTURED["REG_REQ"])


class Conversation:
    """A driver and a scripted modem whose timer runs 20 ppm fast from an odd start near the wrap."""

    def __init__(self, settings: ModemSettings | None = None) -> None:
        self.host = ModemHost(settings or ModemSettings())
        self.now = 10.0
        self.asked: list[object] = []
        self.outputs: list[Output] = []
        self.silent = False
        self.values = {0x010C: bytes.fromhex("23000102"), 0x0100: b"ATPL230   "}
        self.decoder = UsiDecoder()

    def ticks(self, at_s: float) -> int:
        return int(0xFFFF0000 + at_s * 100_002) % (1 << 32)

    def put(self, item: object) -> list[Output]:
        return self._perform(self.host.handle(item, self.now))  # type: ignore[arg-type]

    def _perform(self, outputs: list[Output]) -> list[Output]:
        self.outputs += outputs
        for output in outputs:
            if isinstance(output, SendBytes):
                for frame in self.decoder.feed(output.data):
                    self._answer(decode_command(frame.payload))
        return outputs

    def _answer(self, message: object) -> None:
        self.asked.append(message)
        if self.silent or isinstance(message, Reset | Send):
            return
        self.now += 0.004
        reply: GetReply | SetReply
        if isinstance(message, SetParameter):
            reply = SetReply(message.id, 0)
        else:
            assert isinstance(message, GetParameter)
            stamp = self.ticks(self.now - 0.002).to_bytes(4, "big")
            reply = GetReply(message.id, self.values.get(message.id, stamp))
        self.say(reply)

    def say(self, message: GetReply | SetReply | SendConfirm | Receive) -> list[Output]:
        return self.put(BytesReceived(encode_usi(0x22, message.encode())))

    def pass_time(self, seconds: float) -> list[Output]:
        until, new = self.now + seconds, []
        while (at := self.host.wake_at) is not None and at <= until:
            self.now = max(self.now, at)
            new += self._perform(self.host.wake(self.now))
        self.now = max(self.now, until)
        return new

    def of(self, kind: type) -> list[object]:
        return [output for output in self.outputs if isinstance(output, kind)]


def ready() -> Conversation:
    talk = Conversation()
    talk.put(PortOpened())
    talk.pass_time(0.2)
    assert talk.host.ready
    return talk


def test_the_set_up_goes_step_by_step() -> None:
    """Reset, version, product, both quality switches, channel, eight looks at the clock; then ready with its name."""
    talk = ready()
    assert talk.asked[0] == Reset(soft=True)
    assert talk.asked[1:6] == [
        GetParameter(0x010C, 4),
        GetParameter(0x0100, 10),
        SetParameter(0x0112, b"\x01"),
        SetParameter(0x011A, b"\x01"),
        SetParameter(0x0415, b"\x01"),
    ]
    assert talk.asked[6:] == [GetParameter(0xFE47, 4)] * 8
    assert talk.of(ModemReady) == [ModemReady("ATPL230", "23.00.01.02")]


def test_a_silent_modem_is_asked_three_times_set_up_four_times_and_then_opened_anew() -> None:
    """Two hundred milliseconds each; after the last set-up has failed the port is closed."""
    talk = Conversation()
    talk.silent = True
    talk.put(PortOpened())
    talk.pass_time(10.0)
    assert [type(message) for message in talk.asked[:4]] == [Reset, GetParameter, GetParameter, GetParameter]
    assert sum(isinstance(message, Reset) for message in talk.asked) == 4
    assert len(talk.of(ReopenPort)) == 1
    assert talk.host.state is State.CLOSED


@pytest.mark.parametrize(
    ("parameter", "value", "said"),
    [
        (0x010C, b"", "0x010C: seen 0 bytes, expected 4"),
        (0x010C, bytes.fromhex("230001"), "0x010C: seen 3 bytes, expected 4"),
        (0x010C, bytes.fromhex("2300010200"), "0x010C: seen 5 bytes, expected 4"),
        (0x010C, bytes.fromhex("36000102"), "0x010C: seen 36.00.01.02, expected 23.00.01.02 (firmware in [plc] names"),
        (0x0100, b"PL360     ", "0x0100: seen 'PL360', expected one of ATPL230, SAM4CP16B,"),
        (0x0100, b"PL460     ", "0x0100: seen 'PL460', expected one of"),
        (0x0100, bytes(10), r"0x0100: seen '\x00"),
        (0x0100, b"\xff" * 10, r"0x0100: seen '\xff"),
        (0x0100, b"   ATPL230", "0x0100: seen '   ATPL230'"),
        (0x0100, b"ATPL230", "0x0100: seen 7 bytes, expected 10"),
        (0xFE47, b"\x01", "0xFE47: seen 1 bytes, expected 4"),
        (0xFE47, bytes(8), "0xFE47: seen 8 bytes, expected 4"),
    ],
)
def test_another_modem_is_refused_and_asked_again(parameter: int, value: bytes, said: str) -> None:
    """Never ready; said once, with where, what was seen and what is expected; its frames are nobody's. It is asked
    every five seconds, and taken when it has our firmware."""
    talk = Conversation()
    ours = talk.values.get(parameter)
    talk.values[parameter] = value
    talk.put(PortOpened())
    talk.pass_time(0.2)
    (told,) = talk.of(Happened)
    assert isinstance(told, Happened)
    assert told.what == "modem refused"
    assert said in told.detail
    assert not any(isinstance(message, SetParameter) for message in talk.asked) or parameter == 0xFE47
    assert talk.say(Receive(2, 0, 4, 0, 84, 84, 0, 0, 0, 0, REG_REQ)) == []
    talk.pass_time(20.0)
    assert sum(isinstance(message, Reset) for message in talk.asked) == 6
    assert talk.of(ModemReady) == talk.of(ReopenPort) == []
    assert talk.of(Happened) == [told]
    del talk.values[parameter]
    talk.values |= {} if ours is None else {parameter: ours}
    talk.pass_time(5.3)
    assert talk.of(ModemReady) == [ModemReady("ATPL230", "23.00.01.02")]
    assert talk.host.faults["refused"] == 5


@pytest.mark.parametrize("product", ["ATPL230   ", "SAM4CP16B ", "SAM4CMP16C", "SAM4CMS16C", "SAM4C16C  "])
def test_every_board_of_the_sheet_is_taken_and_a_version_that_is_named(product: str) -> None:
    """Five products have these messages; of versions one is established, another is taken when it is configured."""
    talk = Conversation(ModemSettings(firmware=("23.00.01.02", "23.00.01.0A")))
    talk.values |= {0x0100: product.encode(), 0x010C: bytes.fromhex("2300010A")}
    talk.put(PortOpened())
    talk.pass_time(0.2)
    assert talk.of(ModemReady) == [ModemReady(product.strip(), "23.00.01.0A")]


def test_a_clock_of_another_width_is_a_lost_modem_and_such_a_stamp_is_none() -> None:
    """A modem that was exchanged behind an open port: the beacon counts by its arrival, and the set-up runs again."""
    talk = ready()
    talk.silent = True
    talk.say(Receive(3, 0, 4, 2, 84, 84, 0, 0, 0, 0, BEACON))
    assert talk.say(GetReply(0xFD83 + 12, b"\x01\x02")) == []
    (frame,) = [output for output in talk.pass_time(0.15) if isinstance(output, FrameReceived)]
    assert not frame.precise
    assert talk.host.faults["wrong width"] == 1
    talk.silent, talk.values = False, {0xFE47: b"\x01"}
    talk.pass_time(10.0)
    (lost,) = talk.of(ModemLost)
    assert isinstance(lost, ModemLost)
    assert "0xFE47: seen 1 bytes, expected 4" in lost.reason


def test_a_slot_is_booked_in_the_modems_own_ticks() -> None:
    """An absolute start becomes the tick at that instant, right to the round trip, across the wrap of the timer."""
    talk = ready()
    start_s = talk.now + 1.5
    talk.put(TransmitFrame(BEACON, Scheme.DBPSK_C, start_s, 0, exclusive=True))
    send = talk.asked[-1]
    assert isinstance(send, Send)
    error = (send.delay - talk.ticks(start_s) + (1 << 31)) % (1 << 32) - (1 << 31)
    assert abs(error) < 10
    assert (send.time_mode, send.disable_rx, send.buffer) == (0, True, 0)


def test_a_frame_at_once_has_no_delay_and_its_confirm_comes_back() -> None:
    """Contention traffic goes out at once; one SEND for each buffer at a time."""
    talk = ready()
    frame = TransmitFrame(REG_REQ, Scheme.DBPSK_C, None, 1, exclusive=False)
    talk.put(frame)
    send = talk.asked[-1]
    assert isinstance(send, Send)
    assert (send.delay, send.data) == (0, REG_REQ)
    assert talk.put(frame) == [TransmitConfirmed(1, TransmitResult.PREVIOUS_PENDING)]
    assert talk.say(SendConfirm(1, 3, 0)) == [TransmitConfirmed(1, TransmitResult.CHANNEL_BUSY)]
    assert talk.say(SendConfirm(1, 1, 0)) == []
    assert talk.host.counters["late"] == 1


def test_a_confirm_that_never_comes_sets_the_modem_up_again() -> None:
    """The frame is reported as timed out, the modem as lost, and a reset goes out."""
    talk = ready()
    talk.put(TransmitFrame(REG_REQ, Scheme.DBPSK_C, None, 1, exclusive=False))
    new = talk.pass_time(0.5)
    assert TransmitConfirmed(1, TransmitResult.TIMEOUT) in new
    assert any(isinstance(output, ModemLost) for output in new)
    talk.pass_time(0.5)
    assert talk.host.ready
    assert len(talk.of(ModemReady)) == 2


def test_result_7_means_the_firmware_has_reset_itself() -> None:
    """Quality switches are lost then; the set-up runs again."""
    talk = ready()
    talk.put(TransmitFrame(REG_REQ, Scheme.DBPSK_C, None, 1, exclusive=False))
    talk.say(SendConfirm(1, 7, 0))
    assert talk.host.state is State.RESETTING


def test_the_clock_is_looked_at_every_ten_seconds_and_its_silence_is_loss() -> None:
    """One question in ten seconds; after two seconds without an answer the modem is lost."""
    talk = ready()
    before = len(talk.asked)
    talk.pass_time(25.0)
    assert talk.asked[before:] == [GetParameter(0xFE47, 4)] * 2
    talk.silent = True
    talk.pass_time(12.5)
    assert len(talk.of(ModemLost)) == 1


def test_a_beacon_is_stamped_by_the_modem_and_other_frames_are_not() -> None:
    """The start of a beacon is the stamp less its airtime; without an answer the arrival has to do."""
    talk = ready()
    end_s = talk.now - 0.007
    (frame,) = talk.say(Receive(2, 0, 4, 0, 84, 84, 0, 0, 0, 0, REG_REQ))
    assert isinstance(frame, FrameReceived)
    assert (frame.precise, frame.snr_db) == (False, 24.0)
    talk.silent = True
    assert [type(output) for output in talk.say(Receive(3, 0, 4, 2, 84, 84, 0, 0, 0, 0, BEACON))] == [SendBytes]
    assert talk.asked[-1] == GetParameter(0xFD83 + 12, 4)
    (stamped,) = talk.say(GetReply(0xFD83 + 12, talk.ticks(end_s).to_bytes(4, "big")))
    assert isinstance(stamped, FrameReceived)
    assert stamped.precise
    assert stamped.start_s + stamped.duration_s == pytest.approx(end_s, abs=1e-4)
    talk.now += 10.0
    talk.say(Receive(0, 0, 4, 2, 84, 84, 0, 0, 0, 0, BEACON))
    (late,) = [output for output in talk.pass_time(0.15) if isinstance(output, FrameReceived)]
    assert not late.precise


def test_only_the_beacons_that_are_followed_are_stamped() -> None:
    """A street has a dozen switches in earshot; the questions are kept for the one that sets the frame."""
    talk = ready()
    sna, sid = BEACON[6:12], BEACON[1]
    talk.silent = True
    talk.put(FollowBeacons(sna, sid ^ 1))
    (frame,) = talk.say(Receive(1, 0, 4, 2, 84, 84, 0, 0, 0, 0, BEACON))
    assert isinstance(frame, FrameReceived)
    assert not frame.precise
    talk.put(FollowBeacons(sna, sid))
    talk.say(Receive(2, 0, 4, 2, 84, 84, 0, 0, 0, 0, BEACON))
    assert talk.asked[-1] == GetParameter(0xFD83 + 8, 4)


def test_frames_of_the_next_version_pass_the_driver() -> None:
    """Type B goes out with its own airtime and comes in unchanged, without the three bytes of Type A."""
    talk = ready()
    out = TransmitFrame(BEACON, Scheme.ROBUST_DBPSK, None, 1, exclusive=True, mode=PhyMode.TYPE_B)
    assert len(talk.put(out)) == 1
    send = talk.asked[-1]
    assert isinstance(send, Send)
    assert (send.mode, send.scheme, send.data) == (PhyMode.TYPE_B, Scheme.ROBUST_DBPSK, BEACON)
    (frame,) = talk.say(Receive(0, 2, 12, 2, 84, 84, 0, 0, 0, 0, BEACON))
    assert isinstance(frame, FrameReceived)
    assert (frame.pdu, frame.mode) == (BEACON, PhyMode.TYPE_B)
    assert frame.duration_s == pytest.approx(0.052992)


def test_a_lost_port_is_a_lost_modem_and_transmissions_are_refused_meanwhile() -> None:
    """PortClosed ends everything pending; frames come back as timed out until the modem is up again."""
    talk = ready()
    assert talk.put(PortClosed("unplugged")) == [ModemLost("unplugged")]
    frame = TransmitFrame(REG_REQ, Scheme.DBPSK_C, None, 1, exclusive=False)
    assert talk.put(frame) == [TransmitConfirmed(1, TransmitResult.TIMEOUT)]
    assert talk.host.wake_at is None


def test_garbage_and_foreign_messages_change_nothing_but_counters() -> None:
    """Noise, other protocols, unknown answers and frame types that do not exist are counted."""
    talk = ready()
    assert talk.put(BytesReceived(b"\x00\x7e\x01\x02\x7e" + encode_usi(0x3F, b"\x00"))) == []
    assert talk.put(BytesReceived(encode_usi(0x22, b"\xff\xff"))) == []
    assert talk.say(Receive(0, 1, 4, 0, 84, 84, 0, 0, 0, 0, b"no type")) == []
    assert talk.say(GetReply(0x1234, b"\x00")) == []
    assert talk.host.ready
    assert {"other protocol", "undecodable", "other frame type", "late"} <= set(talk.host.faults)
