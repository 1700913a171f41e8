"""The meter's side of its dead man: `RelayPort` on a process that holds the pins and is itself watched.

Each keeps an eye on the other. The dead man (`meter.deadman`) lets the coil fall when the core's beats stop; this side
kills it when its answers stop, whereupon the kernel takes the pins back. Either way the daemon ends: a relay whose
state is unknown is fatal, and the start that follows is at nominal.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final, NoReturn, Protocol

from meter import deadman
from meter.deadman import PACKET_BYTES_MAX, Beat, encode_beat
from meter.relay import RelaySettings
from shared.errors import DeviceError
from shared.messages import RelayState

ANSWER_S_MAX: Final = 0.9
"""[s] A beat without an answer for so long: the dead man is dead itself. Looked at in every control tick."""

START_S_MAX: Final = 10.0
"""[s] From its start to its claim of the pins; a Raspberry Pi needs about one."""

END_S_MAX: Final = 1.0
"""[s] To its end after it was let go or killed."""

_STATES: Final = {state.name.lower(): state for state in RelayState}


class Keeper(Protocol):
    """A dead man as its meter sees it."""

    def send(self, packet: bytes) -> bool:
        """Whether it could be given; never waits."""

    def receive(self) -> bytes | None:
        """A packet, None if there is none now, an empty one if it has gone; never waits."""

    def first(self) -> bytes:
        """Its first packet, waited for; an empty one if it has gone or says nothing."""

    def kill(self) -> None:
        """End it now, with SIGKILL; harmless twice."""

    def let_go(self) -> None:
        """Let it end by itself, or kill it."""


class KeeperProcess:
    """A dead man of this machine.

    A child rather than a unit of its own: its only door is a socket pair that nobody else can reach, it lives and dies
    with its meter, and whoever starts a meter by hand has it too. It leads a session of its own, so that a signal from
    a terminal, which goes to a whole group, does not stop both.
    """

    def __init__(self, settings: RelaySettings) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-S", "-P", deadman.__file__, str(theirs.fileno()), str(settings.pin)]
            command.append(settings.energised.value)
            if settings.read_back_pin is not None:
                command += [str(settings.read_back_pin), settings.read_back_raised.value]
            # Without site packages of its own it is 5 MB smaller; what it imports it finds where we found ours.
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            self._process = subprocess.Popen(  # noqa: S603 - our own program with numbers and two words
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment,
                start_new_session=True,
            )
        self._socket = ours
        self.pid = self._process.pid

    def send(self, packet: bytes) -> bool:
        try:
            return self._socket.send(packet) == len(packet)
        except OSError:
            return False

    def receive(self) -> bytes | None:
        try:
            return self._socket.recv(4 * PACKET_BYTES_MAX)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def first(self) -> bytes:
        self._socket.settimeout(START_S_MAX)
        try:
            return self._socket.recv(4 * PACKET_BYTES_MAX)
        except OSError:
            return b""
        finally:
            self._socket.setblocking(False)

    def kill(self) -> None:
        self._process.kill()
        self._reap()
        self._socket.close()

    def let_go(self) -> None:
        self._socket.close()
        if not self._reap():
            self.kill()

    def _reap(self) -> bool:
        try:
            self._process.wait(END_S_MAX)
        except subprocess.TimeoutExpired:
            return False
        return True


class GuardedRelay:
    """`meter.relay.RelayPort` held by a dead man.

    Attributes:
        rss_kib: the dead man's resident memory at its start [KiB].
    """

    def __init__(
        self,
        settings: RelaySettings,
        start: Callable[[RelaySettings], Keeper] = KeeperProcess,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start a dead man and wait until it has claimed the pins, de-energised.

        Args:
            settings: the wiring.
            start: starts the dead man.
            monotonic: CLOCK_MONOTONIC, which both processes read.

        Raises:
            DeviceError: it does not start, or the pins cannot be had.
        """
        self._monotonic = monotonic
        self._commanded = RelayState.NOMINAL
        self._contact = RelayState.UNKNOWN
        self._seq = 0
        self._turned_s = monotonic()
        self._unanswered: dict[int, float] = {}
        self._lost: str | None = None
        try:
            self._keeper = start(settings)
        except OSError as error:
            raise DeviceError(f"relay dead man: cannot be started ({error.strerror or error})") from error
        words = self._keeper.first().decode("ascii", "replace").split(" ", 1)
        if words[0] != "ready" or len(words) < 2 or not words[1].isdigit():
            self._keeper.kill()
            told = words[1] if words[0] == "error" and len(words) > 1 else "relay dead man: did not start"
            raise DeviceError(told)
        self.rss_kib = int(words[1])

    @property
    def commanded(self) -> RelayState:
        return self._commanded

    def beat(self, turned_s: float) -> None:
        self._hear()
        waiting_s = self._monotonic() - min(self._unanswered.values(), default=self._monotonic())
        if waiting_s > ANSWER_S_MAX:
            self._lose(f"no answer for {waiting_s:.1f} s, killed")
        self._say(turned_s)

    def raise_export(self) -> None:
        self._hear()
        self._commanded = RelayState.RAISED
        self._say(self._monotonic())

    def to_nominal(self) -> None:
        self._commanded = RelayState.NOMINAL
        self._say(self._monotonic())

    def read_back(self) -> RelayState:
        self._listen()
        return RelayState.UNKNOWN if self._lost is not None else self._contact

    def close(self) -> None:
        """De-energise and let the dead man end; harmless twice."""
        self._commanded = RelayState.NOMINAL
        if self._lost is None:
            self._lost = "closed"
            self._send(self._monotonic())
            self._keeper.let_go()

    def _say(self, turned_s: float) -> None:
        self._check()
        if not self._send(turned_s):
            self._lose("takes nothing any more, killed")

    def _send(self, turned_s: float) -> bool:
        self._turned_s = max(self._turned_s, turned_s)
        self._seq += 1
        self._unanswered[self._seq] = self._monotonic()
        beat = Beat(self._seq, int(self._turned_s * 1e6), self._commanded is RelayState.RAISED)
        return self._keeper.send(encode_beat(beat))

    def _hear(self) -> None:
        self._listen()
        self._check()

    def _check(self) -> None:
        if self._lost is not None:
            raise DeviceError(f"relay dead man: {self._lost}")

    def _listen(self) -> None:
        while self._lost is None and (packet := self._keeper.receive()) is not None:
            match packet.decode("ascii", "replace").split(" "):
                case [seq, drive, contact] if seq.isdigit() and drive in _STATES and contact in _STATES:
                    self._contact = _STATES[contact]
                    self._unanswered = {sent: at_s for sent, at_s in self._unanswered.items() if sent > int(seq)}
                case ["fell", *why]:
                    self._end(f"fell: {' '.join(why)}")
                case [""]:
                    self._end("ended")
                case _:
                    self._end(f"seen {packet[:20]!r}, expected an answer")

    def _lose(self, why: str) -> NoReturn:
        self._end(why)
        raise DeviceError(f"relay dead man: {why}")

    def _end(self, why: str) -> None:
        """Whatever it is, the kernel takes the pins back with it."""
        self._lost = why
        self._commanded = RelayState.NOMINAL
        self._keeper.kill()
