"""The meter's side of its dead man: who stops answering is killed, and who is gone is fatal; in time by hand."""

from __future__ import annotations

import pytest

from meter.daemon import TICK_S
from meter.deadman import SILENCE_S, Beat, DeadMan, Drive, State, decode_beat
from meter.guard import ANSWER_S_MAX, GuardedRelay
from meter.relay import RelaySettings
from shared.errors import DeviceError
from shared.messages import RelayState

CONTACT_S = 0.1
"""[s] From coil to contact, generously."""


class Bench:
    """A relay, a dead man that really follows the rule, and a clock.

    Attributes:
        frozen: the dead man neither reads nor answers.
        deaf: nothing more fits into its socket.
        coil: what it drives; a killed one drives nothing.
    """

    def __init__(self, first: bytes = b"ready 9000") -> None:
        self.now = 1000.0
        self.man = DeadMan()
        self.frozen = self.deaf = self.killed = self.let_gone = False
        self.coil = False
        self._first = first
        self._waiting: list[bytes] = []
        self.answers: list[bytes] = []
        self.relay = GuardedRelay(RelaySettings(5), lambda _settings: self, lambda: self.now)

    # ---- the keeper ----

    def send(self, packet: bytes) -> bool:
        if self.deaf or self.killed:
            return False
        self._waiting.append(packet)
        self._work()
        return True

    def receive(self) -> bytes | None:
        return self.answers.pop(0) if self.answers else None

    def first(self) -> bytes:
        return self._first

    def kill(self) -> None:
        self.killed, self.coil = True, False

    def let_go(self) -> None:
        self.let_gone, self.coil = True, False

    def _work(self) -> None:
        while self._waiting and not self.frozen and self.man.state is not State.FALLEN:
            packet = self._waiting.pop(0)
            self._obey(self.man.handle(packet, self.now))
            sent = decode_beat(packet)
            assert isinstance(sent, Beat)
            state = "raised" if self.coil else "nominal"
            self.answers.append(f"{sent.seq} {state} {state}".encode())

    def _obey(self, outputs: object) -> None:
        assert isinstance(outputs, list)
        for output in outputs:
            if isinstance(output, Drive):
                self.coil = output.raised
            elif hasattr(output, "why"):
                self.answers.append(f"fell {output.why}".encode())

    # ---- the meter ----

    def ticks(self, seconds: float) -> None:
        """Control ticks of a core that turns."""
        for _ in range(round(seconds / TICK_S)):
            self.now += TICK_S
            if not self.frozen:
                self._obey(self.man.wake(self.now))
            self.relay.read_back()
            self.relay.beat(self.now)


def test_the_times_add_up_to_less_than_two_seconds() -> None:
    """Rule 9 for each side's patience, a control tick and the contact included; and patience for a hiccup of a tick."""
    assert 2 * TICK_S < SILENCE_S <= 2.0 - TICK_S - CONTACT_S
    assert TICK_S < ANSWER_S_MAX <= 2.0 - 2 * TICK_S - CONTACT_S


def test_a_relay_that_is_held_answers_and_reads_back() -> None:
    """For as long as the core turns; lowered when told."""
    bench = Bench()
    assert (bench.relay.commanded, bench.relay.read_back(), bench.relay.rss_kib) == (
        RelayState.NOMINAL,
        RelayState.UNKNOWN,
        9000,
    )
    bench.relay.raise_export()
    bench.ticks(600.0)
    assert (bench.coil, bench.relay.commanded, bench.relay.read_back()) == (True, RelayState.RAISED, RelayState.RAISED)
    bench.relay.to_nominal()
    assert (bench.coil, bench.relay.read_back()) == (False, RelayState.NOMINAL)


def test_a_dead_man_that_hangs_is_killed_within_the_two_seconds() -> None:
    """Frozen just after an answer, the worst moment: the kernel has the pins back one second and a tick later."""
    bench = Bench()
    bench.relay.raise_export()
    bench.ticks(10.0)
    bench.frozen = True
    frozen_s = bench.now
    with pytest.raises(DeviceError, match=r"no answer for 1\.0 s, killed"):
        bench.ticks(10.0)
    assert bench.killed
    assert bench.now - frozen_s <= ANSWER_S_MAX + 2 * TICK_S <= 2.0
    assert bench.relay.read_back() is RelayState.UNKNOWN
    for call in (bench.relay.raise_export, bench.relay.to_nominal, lambda: bench.relay.beat(bench.now)):
        with pytest.raises(DeviceError, match="no answer"):
            call()
    assert bench.relay.commanded is RelayState.NOMINAL
    bench.relay.close()


def test_a_pause_without_beats_is_not_held_against_the_dead_man() -> None:
    """A meter that took five seconds to start has asked nothing, and the answers of a stall are waiting to be read."""
    bench = Bench()
    bench.now += 5.0
    bench.relay.beat(bench.now)
    bench.now += 5.0
    bench.relay.beat(bench.now)
    assert not bench.killed


def test_a_hung_core_is_told_why_it_lost_its_relay() -> None:
    """The control tick still runs, but names the same turn again and again."""
    bench = Bench()
    bench.relay.raise_export()
    turned_s = bench.now

    def tick_for_ever() -> None:
        while True:
            bench.now += TICK_S
            bench.relay.beat(turned_s)

    with pytest.raises(DeviceError, match=r"fell: .*no turn of the core"):
        tick_for_ever()
    assert not bench.coil
    assert bench.now - turned_s <= SILENCE_S + 2 * TICK_S


@pytest.mark.parametrize(("answer", "why"), [(b"", "ended"), (b"hello", "seen"), (b"x raised raised", "seen")])
def test_a_dead_man_that_is_gone_or_talks_nonsense_is_fatal(answer: bytes, why: str) -> None:
    """Killed, to be sure, and said at the next beat; looking at the contact says unknown and raises nothing."""
    bench = Bench()
    bench.relay.raise_export()
    bench.answers.append(answer)
    assert bench.relay.read_back() is RelayState.UNKNOWN
    assert bench.killed
    with pytest.raises(DeviceError, match=why):
        bench.relay.beat(bench.now)


def test_a_dead_man_that_takes_nothing_more_is_killed_at_once() -> None:
    """Lowering must never wait for one that hangs."""
    bench = Bench()
    bench.relay.raise_export()
    bench.deaf = True
    with pytest.raises(DeviceError, match="takes nothing"):
        bench.relay.to_nominal()
    assert (bench.killed, bench.coil) == (True, False)


def test_closing_lets_it_end_twice_over() -> None:
    """Nominal first, and nothing after it."""
    bench = Bench()
    bench.relay.raise_export()
    bench.relay.close()
    bench.relay.close()
    assert (bench.let_gone, bench.killed, bench.coil, bench.man.state) == (True, False, False, State.NOMINAL)


@pytest.mark.parametrize(
    ("first", "line"),
    [
        (b"error relay pin GPIO5: already in use (busy)", "^relay pin GPIO5: already in use"),
        (b"", "did not start"),
        (b"ready", "did not start"),
        (b"1 raised raised", "did not start"),
    ],
)
def test_a_dead_man_that_does_not_start_is_one_line(first: bytes, line: str) -> None:
    """Its own words about the pins, or that it said nothing."""
    with pytest.raises(DeviceError, match=line):
        Bench(first)


def test_a_program_that_cannot_be_started_is_one_line() -> None:
    """No memory, no permission to start processes."""

    def start(_settings: RelaySettings) -> Bench:
        raise OSError(11, "Resource temporarily unavailable")

    with pytest.raises(DeviceError, match="cannot be started"):
        GuardedRelay(RelaySettings(5), start)
