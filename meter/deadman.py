"""The relay's dead man: a process of its own that holds the coil only while the meter's core proves that it turns.

It owns the GPIO lines. The meter sends a *beat* at every control tick and with every command: a number that rises, the
instant of the core's last turn, and whether the coil shall be held. The coil falls, and this process ends, when that
instant is `SILENCE_S` ago, when the meter closes its end (a dead process does), and at anything that makes no sense.
When this process dies the kernel takes the lines back. Nothing can be configured, and nothing outlives a fall: the
meter sees the end of its dead man, ends too, and is started again at nominal.

The rule is `DeadMan`, a machine; the rest is a poll loop and pins. Run as a script, it loads the standard library and
lgpio alone, so that it stays small; any other pin factory of gpiozero (benches) comes through `meter.pins`.

Packets of a SOCK_SEQPACKET pair, in ASCII. Beat: ``SEQ TURNED_US nominal|raised``. Back: ``ready RSS_KIB`` once the
lines are claimed, or ``error WORDS``; ``SEQ nominal|raised nominal|raised|unknown`` (what is driven, what the contact
says) after each beat, and once more when the contact has had time to follow; ``fell WORDS`` at the end.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol

SILENCE_S: Final = 1.2
"""[s] From the core's last turn to the fall of the coil; with a control tick and the contact it stays below the two
seconds of reliability rule 9, whoever of the two processes hangs."""

SETTLE_S: Final = 0.02
"""[s] After a move the contact is read once more."""

PACKET_BYTES_MAX: Final = 64
FACTORY_VARIABLE: Final = "GPIOZERO_PIN_FACTORY"
"""gpiozero's own name for the choice of a pin factory; without it, or with ``lgpio``, gpiozero is not even loaded."""

EXIT_DONE: Final = 0
EXIT_FELL: Final = 3


class State(Enum):
    """What the coil does, and that it never will again."""

    NOMINAL = "nominal"
    RAISED = "raised"
    FALLEN = "fallen"


class Word(Enum):
    """What a packet, or its absence, comes to."""

    HOLD = "hold"
    LOWER = "lower"
    BREAK = "break"


class Beat(NamedTuple):
    """A sign of life: its number, the core's last turn [us] on CLOCK_MONOTONIC, and what is commanded."""

    seq: int
    turned_us: int
    raised: bool


class Drive(NamedTuple):
    """Hold the coil, or let it go."""

    raised: bool


class Answer(NamedTuple):
    """Tell the meter what is driven and read back."""

    seq: int


class End(NamedTuple):
    """The coil has fallen; this process ends."""

    why: str


Output = Drive | Answer | End

_TABLE: Final = {
    (State.NOMINAL, Word.HOLD): State.RAISED,
    (State.NOMINAL, Word.LOWER): State.NOMINAL,
    (State.NOMINAL, Word.BREAK): State.FALLEN,
    (State.RAISED, Word.HOLD): State.RAISED,
    (State.RAISED, Word.LOWER): State.NOMINAL,
    (State.RAISED, Word.BREAK): State.FALLEN,
}
"""``(state, word) -> state``; FALLEN has no way out."""


def encode_beat(beat: Beat) -> bytes:
    """The packet of a beat."""
    return b"%d %d %s" % (beat.seq, beat.turned_us, b"raised" if beat.raised else b"nominal")


def decode_beat(packet: bytes) -> Beat | None:
    """The beat in a packet; None if it is none."""
    words = packet.split(b" ")
    if len(packet) > PACKET_BYTES_MAX or len(words) != 3 or words[2] not in {b"nominal", b"raised"}:
        return None
    if not (words[0].isdigit() and words[1].isdigit()):
        return None
    return Beat(int(words[0]), int(words[1]), words[2] == b"raised")


class DeadMan:
    """The rule: held only by fresh beats in rising order. A machine; its inputs are packets, an empty one is the end of
    the meter."""

    def __init__(self) -> None:
        self.state = State.NOMINAL
        self.seq = 0
        self._turned_us = 0

    @property
    def wake_at(self) -> float | None:
        """When the coil falls for silence [s]; None while there is nothing to fall."""
        return self._turned_us / 1e6 + SILENCE_S if self.state is State.RAISED else None

    def handle(self, packet: bytes, now: float) -> list[Output]:
        """A packet has come. One that comes too late finds the coil fallen, and is not looked at."""
        outputs = self.wake(now)
        if self.state is State.FALLEN:
            return outputs
        beat = decode_beat(packet)
        if beat is None:
            return self._go(Word.BREAK, f"garbage {packet[:20]!r}" if packet else "the meter has gone")
        wrong = self._wrong(beat, now)
        if wrong:
            return self._go(Word.BREAK, wrong)
        self.seq, self._turned_us = beat.seq, beat.turned_us
        return [*self._go(Word.HOLD if beat.raised else Word.LOWER), Answer(beat.seq)]

    def wake(self, now: float) -> list[Output]:
        """Fall if the core's last turn is too long ago; harmless if early."""
        wake_at = self.wake_at
        if wake_at is None or now < wake_at:
            return []
        return self._go(Word.BREAK, f"no turn of the core for {SILENCE_S:g} s")

    def _wrong(self, beat: Beat, now: float) -> str:
        turned_s = beat.turned_us / 1e6
        if beat.seq <= self.seq:
            return f"beat {beat.seq} after {self.seq}"
        if turned_s > now or beat.turned_us < self._turned_us:
            return f"beat {beat.seq} of a turn that cannot be"
        if beat.raised and now >= turned_s + SILENCE_S:
            return f"beat {beat.seq} without a turn of the core for {SILENCE_S:g} s"
        return ""

    def _go(self, word: Word, why: str = "") -> list[Output]:
        before = self.state
        self.state = _TABLE[before, word]
        if self.state is State.FALLEN:
            return [Drive(raised=False), End(why)]
        return [] if self.state is before else [Drive(self.state is State.RAISED)]


# ---- pins ------------------------------------------------------------------------------------------------------------


class Wiring(NamedTuple):
    """Which pins, and the level of each that means raised; no read-back pin is None."""

    pin: int
    energised_high: bool
    read_back_pin: int | None
    raised_high: bool


class Pins(Protocol):
    """The coil and its auxiliary contact."""

    def drive(self, raised: bool) -> None:
        """Hold the coil or let it go; raises what the pin library raises if the pin does not obey."""

    def contact(self) -> str:
        """nominal, raised or unknown."""

    def close(self) -> None:
        """Let go and give the pins back."""


class LgpioPins:
    """Pins of a Raspberry Pi by lgpio; the output is claimed together with its level, so no relay clicks at a start."""

    def __init__(self, wiring: Wiring) -> None:
        import lgpio  # noqa: PLC0415 - exists on the device only

        self._lgpio: Any = lgpio
        self._wiring = wiring
        self._chip = lgpio.gpiochip_open(_chip_number())
        lgpio.gpio_claim_output(self._chip, wiring.pin, int(not wiring.energised_high))
        if wiring.read_back_pin is not None:
            # The pin is pulled towards the open contact, so that a broken wire reads as nominal.
            pull = lgpio.SET_PULL_DOWN if wiring.raised_high else lgpio.SET_PULL_UP
            lgpio.gpio_claim_input(self._chip, wiring.read_back_pin, pull)

    def drive(self, raised: bool) -> None:
        self._lgpio.gpio_write(self._chip, self._wiring.pin, int(raised is self._wiring.energised_high))

    def contact(self) -> str:
        if self._wiring.read_back_pin is None:
            return "unknown"
        try:
            high = self._lgpio.gpio_read(self._chip, self._wiring.read_back_pin) == 1
        except (self._lgpio.error, OSError):
            return "unknown"
        return "raised" if high is self._wiring.raised_high else "nominal"

    def close(self) -> None:
        try:
            self.drive(raised=False)
        finally:
            self._lgpio.gpiochip_close(self._chip)


def _chip_number() -> int:
    """The chip with the 40-pin header: 4 on a Raspberry Pi 5 whose kernel has it there, else 0 (as gpiozero finds)."""
    try:
        with open("/proc/device-tree/model", "rb") as file:  # noqa: PTH123 - pathlib would cost this process 1 MiB
            five = b"Raspberry Pi 5" in file.read(64)
    except OSError:
        five = False
    return 4 if five and os.path.exists("/dev/gpiochip4") else 0  # noqa: PTH110 - the same


def claim(wiring: Wiring) -> Pins:
    """The pins this machine and its environment ask for; raises whatever is in the way."""
    if os.environ.get(FACTORY_VARIABLE, "lgpio").lower() == "lgpio":
        return LgpioPins(wiring)
    from meter.pins import ZeroPins  # noqa: PLC0415 - gpiozero, on benches

    return ZeroPins(wiring)


def in_words(where: str, error: BaseException) -> str:
    """One line about pins that cannot be had or do not obey."""
    reason = str(error) or type(error).__name__
    low = reason.lower()
    if "busy" in low:
        return f"{where}: already in use ({reason})"
    if isinstance(error, FileNotFoundError) or "can not open gpiochip" in low:
        return f"{where}: no GPIO chip found ({reason})"
    if isinstance(error, PermissionError) or "permission" in low:
        return f"{where}: permission denied, is the user in group gpio? ({reason})"
    if isinstance(error, ImportError):
        return f"{where}: no such pin library here ({reason})"
    return f"{where}: {reason}"


# ---- the process -----------------------------------------------------------------------------------------------------


def serve(fd: int, pins: Pins, monotonic: Callable[[], float] = time.monotonic) -> int:
    """Run the rule on a packet socket until it ends; the exit code. The coil has been let go then."""
    os.set_blocking(fd, False)  # a meter that does not read must never hold us
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    man = DeadMan()
    look_at: float | None = None
    while True:
        deadlines = [at for at in (man.wake_at, look_at) if at is not None]
        wait_ms = int(max(0.0, min(deadlines) - monotonic()) * 1000) + 1 if deadlines else None
        ready = poller.poll(wait_ms)
        now = monotonic()
        before = man.state
        for output in man.handle(_receive(fd), now) if ready else man.wake(now):
            if isinstance(output, Drive):
                pins.drive(output.raised)
                look_at = now + SETTLE_S
            elif isinstance(output, Answer):
                _tell(fd, f"{output.seq} {man.state.value} {pins.contact()}")
            else:
                _tell(fd, f"fell {output.why}")
                return EXIT_FELL if before is State.RAISED else EXIT_DONE
        if look_at is not None and now >= look_at:
            look_at = None
            _tell(fd, f"{man.seq} {man.state.value} {pins.contact()}")


def _receive(fd: int) -> bytes:
    try:
        return os.read(fd, PACKET_BYTES_MAX + 1)
    except OSError:  # reset: nobody is at the other end
        return b""


def _tell(fd: int, words: str) -> None:
    try:
        os.write(fd, words.encode("ascii", "replace"))
    except OSError:  # full or closed: whoever does not listen is not told
        return


def _resident_kib() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - pathlib would cost this process 1 MiB
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    except (OSError, IndexError, ValueError):
        return 0


def main(arguments: list[str]) -> int:
    """``deadman.py FD PIN low|high [READ_BACK_PIN low|high]``; started by `meter.guard`, never by hand."""
    # systemd asks every process of a unit to end. This one ends with its meter, whose last beat it must not miss.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    fd = int(arguments[0])
    read_back_pin = int(arguments[3]) if len(arguments) > 3 else None
    wiring = Wiring(int(arguments[1]), arguments[2] == "high", read_back_pin, arguments[-1] == "high")
    try:
        pins = claim(wiring)
    except Exception as error:  # whatever a pin library may raise; the meter's message tells it
        known = str(error) if type(error).__name__ == "DeviceError" else in_words(f"relay pin GPIO{wiring.pin}", error)
        _tell(fd, f"error {known}")
        return EXIT_FELL
    try:
        _tell(fd, f"ready {_resident_kib()}")
        return serve(fd, pins)
    finally:
        pins.close()


if __name__ == "__main__":
    # The tree this file stands in, for the pins of a bench; the folder of the script itself is kept out by -P.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120 - see above
    sys.exit(main(sys.argv[1:]))
