"""The dead man: the coil is held by fresh beats in rising order, and by nothing else."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import types
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meter import deadman
from meter.deadman import (
    EXIT_DONE,
    EXIT_FELL,
    FACTORY_VARIABLE,
    PACKET_BYTES_MAX,
    SETTLE_S,
    SILENCE_S,
    Answer,
    Beat,
    DeadMan,
    Drive,
    End,
    LgpioPins,
    Output,
    State,
    Wiring,
    claim,
    decode_beat,
    encode_beat,
    serve,
)


def beat(seq: int, turned_s: float, *, raised: bool = True) -> bytes:
    return encode_beat(Beat(seq, round(turned_s * 1e6), raised))


def raised_at(now: float) -> DeadMan:
    man = DeadMan()
    assert man.handle(beat(1, now), now) == [Drive(raised=True), Answer(1)]
    return man


def ended(outputs: list[Output]) -> bool:
    return len(outputs) == 2 and outputs[0] == Drive(raised=False) and isinstance(outputs[1], End)


# ---- the rule --------------------------------------------------------------------------------------------------------


def test_silence_lets_the_coil_fall_and_ends() -> None:
    """Held to the last moment, fallen at the next, for good; waking early is harmless."""
    man = raised_at(100.0)
    assert man.wake_at == 100.0 + SILENCE_S
    assert man.wake(100.0 + SILENCE_S - 1e-6) == []
    assert ended(man.wake(100.0 + SILENCE_S))
    assert man.state is State.FALLEN
    assert man.handle(beat(2, 101.3), 101.3) == []
    assert man.wake(200.0) == []


def test_beats_hold_the_coil() -> None:
    """Each counts from the core's turn, not from its arrival."""
    man = raised_at(100.0)
    assert man.handle(beat(2, 100.5), 101.1) == [Answer(2)]
    assert man.wake_at == pytest.approx(100.5 + SILENCE_S)


def test_a_loop_that_lives_without_a_core_that_turns_holds_nothing() -> None:
    """Beats keep coming with rising numbers, but the turn they name stays the same."""
    man = raised_at(100.0)
    now, seq = 100.0, 1
    while man.state is State.RAISED:
        now, seq = now + 0.5, seq + 1
        man.handle(beat(seq, 100.0), now)
    assert now <= 101.5


def test_a_late_packet_finds_the_coil_fallen() -> None:
    """A dead man that was itself frozen does not believe what waited for it."""
    man = raised_at(100.0)
    assert ended(man.handle(beat(2, 101.0), 101.2))


def test_lowering_is_obeyed_however_old() -> None:
    """And silence at nominal is no event: a meter may take its time to start."""
    man = raised_at(100.0)
    assert man.handle(beat(2, 100.0, raised=False), 100.1) == [Drive(raised=False), Answer(2)]
    assert man.wake_at is None
    assert man.wake(1e6) == []
    assert man.handle(beat(3, 100.0, raised=False), 1e6) == [Answer(3)]
    assert man.handle(beat(4, 1e6), 1e6) == [Drive(raised=True), Answer(4)]


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\0",
        b"raised",
        beat(1, 100.1),
        beat(0, 100.1),
        beat(2, 99.9),
        beat(2, 100.3),
        beat(2, 100.1)[:-1],
        beat(2, 100.1) + b" ",
        b"-2 100100000 raised",
        b"2 nan raised",
        b"2 1_0 raised",
        b"2  100100000 raised",
        b"2 100100000 RAISED",
        b"2 " + b"1" * PACKET_BYTES_MAX + b" raised",
    ],
)
@pytest.mark.parametrize("state", [State.NOMINAL, State.RAISED])
def test_whatever_makes_no_sense_is_the_end(packet: bytes, state: State) -> None:
    """End of file, garbage, a number that does not rise, a turn of the past or of the future; raised or not."""
    man = raised_at(100.0)
    if state is State.NOMINAL:
        man = DeadMan()
        man.handle(beat(1, 100.0, raised=False), 100.0)
    assert ended(man.handle(packet, 100.2))
    assert man.state is State.FALLEN


def test_a_stale_turn_raises_nothing() -> None:
    """A command that was 1.2 s on its way: the core that gave it may be gone."""
    assert ended(DeadMan().handle(beat(1, 100.0), 100.0 + SILENCE_S))


@given(st.integers(0, 2**63), st.integers(0, 2**53), st.booleans())
def test_a_beat_survives_its_packet(seq: int, turned_us: int, raised: bool) -> None:
    """And fits."""
    packet = encode_beat(Beat(seq, turned_us, raised))
    assert len(packet) <= PACKET_BYTES_MAX
    assert decode_beat(packet) == Beat(seq, turned_us, raised)


_STEPS = st.lists(
    st.tuples(st.integers(0, 6), st.floats(0.0, 3.0), st.floats(0.0, 2.0), st.booleans(), st.binary(max_size=8)),
    max_size=30,
)


@settings(max_examples=500, deadline=None)
@given(_STEPS)
def test_the_coil_is_never_held_beyond_the_last_good_turn(
    steps: list[tuple[int, float, float, bool, bytes]],
) -> None:
    """Whatever arrives whenever: driven means a well-formed raising beat of a turn less than 1.2 s ago (I7)."""
    man, now, seq, driven, good_s = DeadMan(), 50.0, 0, False, -1.0
    for kind, pause_s, age_s, raised, garbage in steps:
        # The poll loop wakes the machine at its deadline, however long the pause.
        if man.wake_at is not None and man.wake_at <= now + pause_s:
            at = man.wake_at
            driven = driven and not any(output == Drive(raised=False) for output in man.wake(at))
        now += pause_s
        seq += 0 if kind == 0 else 1
        packet = garbage if kind == 1 else beat(seq, now - age_s, raised=raised)
        outputs = man.handle(packet, now)
        for output in outputs:
            if isinstance(output, Drive):
                driven = output.raised
        if any(isinstance(output, Answer) for output in outputs) and raised:
            good_s = now - age_s
        assert driven is (man.state is State.RAISED)
        if driven:
            assert now < good_s + SILENCE_S + 1e-5


# ---- the process, in this one ----------------------------------------------------------------------------------------


class FakePins:
    """A coil that remembers, and a contact that follows."""

    def __init__(self) -> None:
        self.moves: list[bool] = []
        self.broken = False

    def drive(self, raised: bool) -> None:
        if self.broken:
            raise OSError(5, "Input/output error")
        self.moves.append(raised)

    def contact(self) -> str:
        return "raised" if self.moves and self.moves[-1] else "nominal"

    def close(self) -> None:
        self.moves.append(False)


class Hand:
    """CLOCK_MONOTONIC by hand: each look moves it on by a step."""

    def __init__(self, now: float = 100.0, step_s: float = 0.0) -> None:
        self.now = now
        self.step_s = step_s

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The meter's end and the dead man's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def told(ours: socket.socket) -> list[str]:
    words = []
    with contextlib.suppress(BlockingIOError):
        while packet := ours.recv(200):
            words.append(packet.decode())
    return words


def test_a_session_from_beat_to_silence(pair: tuple[socket.socket, socket.socket]) -> None:
    """Raised, answered with what the contact says, looked at once more, and fallen when nothing more comes."""
    ours, theirs = pair
    pins, clock = FakePins(), Hand(step_s=SETTLE_S)
    ours.send(beat(1, 100.0))
    assert serve(theirs.fileno(), pins, clock) == EXIT_FELL
    assert pins.moves == [True, False]
    assert told(ours) == ["1 raised raised", "1 raised raised", f"fell no turn of the core for {SILENCE_S:g} s"]
    assert clock.now <= 100.0 + SILENCE_S + 3 * SETTLE_S


def test_a_meter_that_goes_takes_its_dead_man_along(pair: tuple[socket.socket, socket.socket]) -> None:
    """Nominal at the end of file, raised or not."""
    ours, theirs = pair
    pins = FakePins()
    ours.send(beat(1, 100.0))
    ours.close()
    assert serve(theirs.fileno(), pins, Hand()) == EXIT_FELL
    assert pins.moves == [True, False]


def test_an_orderly_end_is_no_fall(pair: tuple[socket.socket, socket.socket]) -> None:
    """Lowered first, closed then."""
    ours, theirs = pair
    ours.send(beat(1, 100.0, raised=False))
    ours.close()
    assert serve(theirs.fileno(), FakePins(), Hand()) == EXIT_DONE


def test_a_meter_that_does_not_read_never_holds_its_dead_man(pair: tuple[socket.socket, socket.socket]) -> None:
    """The socket is full of answers nobody takes; the coil falls all the same."""
    ours, theirs = pair
    theirs.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            theirs.send(b"x")
    ours.send(beat(1, 100.0))
    pins = FakePins()
    assert serve(theirs.fileno(), pins, Hand(step_s=0.1)) == EXIT_FELL
    assert pins.moves == [True, False]


def test_pins_that_do_not_obey_end_the_process(pair: tuple[socket.socket, socket.socket]) -> None:
    """Their state is unknown; the kernel takes them back."""
    ours, theirs = pair
    pins = FakePins()
    pins.broken = True
    ours.send(beat(1, 100.0))
    with pytest.raises(OSError, match="Input/output"):
        serve(theirs.fileno(), pins, Hand())


# ---- lgpio -----------------------------------------------------------------------------------------------------------


class LgpioError(Exception):
    """As lgpio's own."""


def fake_lgpio(calls: list[tuple[object, ...]], fault: str = "", level: int = 1) -> types.ModuleType:
    """An lgpio that records its calls; ``fault`` is what opening the chip raises."""
    module = types.ModuleType("lgpio")

    def opened(chip: int) -> int:
        if fault:
            raise LgpioError(fault)
        return chip

    def recorder(name: str) -> Callable[..., None]:
        return lambda *arguments: calls.append((name, *arguments))

    module.error = LgpioError  # type: ignore[attr-defined]
    module.SET_PULL_UP, module.SET_PULL_DOWN = 32, 64  # type: ignore[attr-defined]
    module.gpiochip_open = opened  # type: ignore[attr-defined]
    module.gpio_read = lambda *_: level  # type: ignore[attr-defined]
    for name in ("gpiochip_close", "gpio_claim_input", "gpio_claim_output", "gpio_write"):
        setattr(module, name, recorder(name))
    return module


@pytest.mark.parametrize(("high", "resting", "pull"), [(False, 1, 32), (True, 0, 64)])
def test_on_a_raspberry_pi_the_claim_carries_the_level(
    monkeypatch: pytest.MonkeyPatch, high: bool, resting: int, pull: int
) -> None:
    """One output claim at the resting level, the contact pulled towards open; raised is the other level."""
    calls: list[tuple[object, ...]] = []
    monkeypatch.setitem(sys.modules, "lgpio", fake_lgpio(calls, level=1 - int(high)))
    monkeypatch.delenv(FACTORY_VARIABLE, raising=False)
    pins = claim(Wiring(5, high, 6, high))
    assert isinstance(pins, LgpioPins)
    pins.drive(raised=True)
    assert pins.contact() == "nominal"
    pins.close()
    assert calls == [
        ("gpio_claim_output", 0, 5, resting),
        ("gpio_claim_input", 0, 6, pull),
        ("gpio_write", 0, 5, 1 - resting),
        ("gpio_write", 0, 5, resting),
        ("gpiochip_close", 0),
    ]


def test_an_unreadable_contact_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never the last level, and never an error that ends the process."""
    module = fake_lgpio([], level=0)
    monkeypatch.setitem(sys.modules, "lgpio", module)
    pins = LgpioPins(Wiring(5, False, 6, False))
    assert pins.contact() == "raised"

    def broken(*_: object) -> int:
        raise LgpioError("bad handle")

    module.gpio_read = broken  # type: ignore[attr-defined]
    assert pins.contact() == "unknown"
    assert LgpioPins(Wiring(5, False, None, False)).contact() == "unknown"


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("can not open gpiochip", "no GPIO chip found"),
        ("no permission", "permission denied"),
        ("GPIO busy", "already in use"),
        ("odd", "relay pin GPIO5: odd"),
        (None, "no such pin library"),
    ],
)
def test_pins_that_cannot_be_had_are_one_line(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[socket.socket, socket.socket], fault: str | None, line: str
) -> None:
    """A missing chip, a missing group, another process, no library: told to the meter, and the end."""
    monkeypatch.setitem(sys.modules, "lgpio", None if fault is None else fake_lgpio([], fault))
    monkeypatch.delenv(FACTORY_VARIABLE, raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    ours, theirs = pair
    assert deadman.main([str(theirs.fileno()), "5", "low", "6", "low"]) == EXIT_FELL
    (words,) = told(ours)
    assert words.startswith("error relay pin GPIO5: ")
    assert line in words
