"""Somebody who has the whole power line: hears every frame between the daemons, keeps it, and delivers what he likes.

PRIME is taken for a hostile wire: the attacker sits where a stack hands data to its daemon, so that nothing of the MAC
protects anybody from him. He has no keys, but for those of a meter that he may have stolen.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from hil_tests.jump import JumpStreet
from hil_tests.world import DCU, EUI48
from prime_plc import sap
from shared.ids import Eui48
from shared.session import Session

FRAMES_MAX: Final = 10_000


class Trick(Enum):
    """What is done with a recorded frame."""

    REPLAY = "to whom it was meant, again"
    REFLECT = "back to who has said it"
    CROSS = "under the address of another meter"
    CUT = "without the end of its tag"
    FLIP = "with one bit changed"
    SPLICE = "its header round the content of another"
    STRIP = "without its envelope's tag byte, as a plain APDU"


@dataclass(frozen=True, slots=True)
class Kept:
    """A frame that was delivered."""

    receiver: str
    sender: Eui48
    data: bytes


class Attacker:
    """Wire-tap and pen."""

    def __init__(self, street: JumpStreet, seed: int) -> None:
        self.kept: list[Kept] = []
        self.delivered = 0
        self._street = street
        self._draw = random.Random(seed)
        self._heard: dict[str, Callable[[sap.Output], None]] = {}
        self._stolen: dict[str, Session] = {}
        self._handed: tuple[str, str] | None = None

    def tap(self, who: str, daemon: Any) -> None:
        """Listen at a daemon that has just started."""
        heard: Callable[[sap.Output], None] = daemon._runner._on_output

        def listen(output: sap.Output) -> None:
            if isinstance(output, sap.DataReceived) and len(self.kept) < FRAMES_MAX:
                self.kept.append(Kept(who, output.peer, output.data))
            self._hand_up(who, output)
            heard(output)
            self._hand_down(who, output)
            if isinstance(output, sap.DataReceived) and who in self._stolen:
                for answer in self._stolen[who].receive(output.data, asyncio.get_running_loop().time()).answers:
                    self.say(_name(output.peer), who, answer)

        daemon._runner._on_output = listen
        self._heard[who] = heard

    def play(self, tricks: list[Trick]) -> None:
        """Deliver everything that was kept, with these tricks, in a random order."""
        frames = [frame for kept in list(self.kept) for trick in tricks for frame in self._made(kept, trick)]
        self._draw.shuffle(frames)
        for frame in frames:
            self._deliver(frame)

    def say(self, to: str, sender: str, data: bytes) -> None:
        """Deliver something of his own, from the address of this end."""
        self._deliver(Kept(to, EUI48[sender], data))

    def pose(self, at: str, session: Session) -> None:
        """With stolen keys, from the address of this end, whose frames he hears and answers."""
        self._stolen[at] = session
        for data in session.hello(asyncio.get_running_loop().time()):
            self.say(DCU, at, data)

    def leave(self, at: str) -> None:
        """He poses there no longer."""
        del self._stolen[at]

    def hand_on(self, owner: str, at: str) -> None:
        """Without keys: what the owner says reaches the DCU from another address first, and what the DCU says there
        reaches the owner, whose own answers then do the same."""
        self._handed = owner, at

    def _hand_up(self, who: str, output: sap.Output) -> None:
        if self._handed is not None and who == DCU and isinstance(output, sap.DataReceived):
            owner, at = self._handed
            if output.peer == EUI48[owner]:
                self.say(DCU, at, output.data)

    def _hand_down(self, who: str, output: sap.Output) -> None:
        if self._handed is not None and who == self._handed[1] and isinstance(output, sap.DataReceived):
            self.say(self._handed[0], DCU, output.data)

    def _deliver(self, frame: Kept) -> None:
        self.delivered += 1
        self._heard[frame.receiver](sap.DataReceived(frame.sender, 1, 1, frame.data))

    def _made(self, kept: Kept, trick: Trick) -> Iterator[Kept]:
        data, draw = kept.data, self._draw
        if trick is Trick.REFLECT:
            yield Kept(_name(kept.sender), EUI48[kept.receiver], data)
            return
        if trick is Trick.CROSS:
            other = next(name for name in EUI48 if name not in {DCU, kept.receiver, _name(kept.sender)})
            yield Kept(other, kept.sender, data) if kept.receiver != DCU else Kept(DCU, EUI48[other], data)
            return
        if trick is Trick.CUT:
            data = data[: -draw.randint(1, 12)]
        elif trick is Trick.FLIP:
            at = draw.randrange(len(data))
            data = data[:at] + bytes((data[at] ^ 1 << draw.randrange(8),)) + data[at + 1 :]
        elif trick is Trick.SPLICE:
            data = data[: len(data) // 2] + draw.choice(self.kept).data[len(data) // 2 :]
        elif trick is Trick.STRIP:
            data = data[7:-12]
        yield Kept(kept.receiver, kept.sender, data)


def _name(eui48: Eui48) -> str:
    return next(name for name, address in EUI48.items() if address == eui48)
