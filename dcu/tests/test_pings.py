"""Pings and the socket they come through: an answer in any case, one at a time, and nothing that anybody can break."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcu.doors import status_door
from dcu.pings import PING_GAP_S, PING_S_MAX, Pings
from prime_plc.cli import main
from prime_plc.sap import Action, Manage, Pinged
from shared.clock import Timer
from shared.ids import Eui48, parse_eui48
from shared.status_socket import PING, QUESTION_BYTES_MAX, ask

NODE = parse_eui48("AA:BB:CC:00:00:01")
OTHER = parse_eui48("AA:BB:CC:00:00:02")


class HandClock:
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 100.0
        self._timers: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        return self.now

    def utc_s(self) -> float:
        return 0.0

    def call_at(self, at: float, callback: Callable[[], object]) -> Timer:
        entry = (at, callback)
        self._timers.append(entry)
        return _Timer(lambda: self._timers.remove(entry) if entry in self._timers else None)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for entry in [one for one in self._timers if one[0] <= self.now]:
            self._timers.remove(entry)
            entry[1]()

    @property
    def armed(self) -> int:
        return len(self._timers)


class _Timer:
    def __init__(self, cancel: Callable[[], object]) -> None:
        self._cancel = cancel

    def cancel(self) -> None:
        self._cancel()


def desk(*, takes: bool = True) -> tuple[Pings, HandClock, list[Manage]]:
    clock, asked = HandClock(), list[Manage]()

    def send(item: Manage) -> bool:
        asked.append(item)
        return takes

    return Pings(send, clock), clock, asked


async def started(pings: Pings, eui48: Eui48) -> asyncio.Task[dict[str, Any]]:
    task = asyncio.create_task(pings.ping(eui48))
    await asyncio.sleep(0)
    return task


async def test_an_answer_ends_a_ping_with_its_round_trip() -> None:
    """The stack is asked once; what another node says meanwhile is not the answer."""
    pings, clock, asked = desk()
    task = await started(pings, NODE)
    assert asked == [Manage(Action.PING, NODE)]
    pings.heard(Pinged(OTHER, 0.1))
    pings.heard(Pinged(NODE, 0.25))
    pings.heard(Pinged(NODE, 0.5))
    assert (await task)["round_trip_s"] == 0.25
    assert clock.armed == 0


async def test_a_node_that_is_silent_or_unknown_is_told_as_such() -> None:
    """Nobody waits longer than `PING_S_MAX`, and a late answer harms nobody."""
    pings, clock, _ = desk()
    task = await started(pings, NODE)
    clock.advance(PING_S_MAX)
    assert await task == {"ping": "AA:BB:CC:00:00:01", "result": "no answer", "refused": False, "round_trip_s": None}
    pings.heard(Pinged(NODE, 20.0))
    task = await started(pings, OTHER)
    pings.heard(Pinged(OTHER, None))
    assert (await task)["result"] == "not registered"


async def test_pings_are_refused_while_one_is_under_way_and_within_a_second() -> None:
    """However many ask: the line gets one ping a second."""
    pings, clock, asked = desk()
    task = await started(pings, NODE)
    assert all([(await pings.ping(OTHER))["refused"] for _ in range(100)])
    pings.heard(Pinged(NODE, 0.1))
    await task
    assert (await pings.ping(OTHER))["refused"]
    clock.advance(PING_GAP_S)
    task = await started(pings, OTHER)
    pings.heard(Pinged(OTHER, 0.1))
    assert not (await task)["refused"]
    assert len(asked) == 2


async def test_a_stack_that_does_not_keep_up_takes_no_ping() -> None:
    """It is told, and the next ping may come at once."""
    pings, _, _ = desk(takes=False)
    assert (await pings.ping(NODE))["refused"]


# ---- the socket ------------------------------------------------------------------------------------------------------


async def through(path: Path, talk: Callable[[], Any], also: dict[str, Any] | None = None) -> tuple[Any, list[str]]:
    """What ``talk``, in a thread, has from a door that repeats what it was asked, and says something ``also``."""
    questions: list[str] = []

    async def answer(question: str) -> dict[str, Any]:
        questions.append(question)
        return {"seen": question, "round_trip_s": 0.1} | (also or {})

    served = asyncio.Event()
    door = asyncio.create_task(_run(status_door(path), answer, served))
    await served.wait()
    try:
        return await asyncio.to_thread(talk), questions
    finally:
        door.cancel()
        await asyncio.gather(door, return_exceptions=True)


async def _run(door: Any, answer: Any, served: asyncio.Event) -> None:
    await door(answer, served.set)


async def test_the_socket_takes_one_question_and_is_for_its_own_user(tmp_path: Path) -> None:
    """Status without a word, a ping with two; nobody else has access: the page is in the group."""
    path = tmp_path / "status.sock"
    modes: list[int] = []

    def talk() -> list[dict[str, Any]]:
        modes.append(stat.S_IMODE(path.stat().st_mode))
        return [ask(path, "DCU"), ask(path, "DCU", f"{PING} AA:BB:CC:00:00:01")]

    answers, questions = await through(path, talk)
    assert questions == ["", "ping AA:BB:CC:00:00:01"]
    assert [one["seen"] for one in answers] == questions
    assert modes == [0o600]
    assert not path.exists()


@pytest.mark.parametrize(
    ("words", "shown", "code"),
    [([], "0x0023 4040\n0x0024 03\n", 0), (["0x24"], "0x0024 03\n", 0), (["0x23", "0x7777"], "0x0023 4040\n", 1)],
)
async def test_attributes_are_printed_by_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], shown: str, code: int
) -> None:
    """All, or those asked for; one that is not there is said and ends with 1."""
    path = tmp_path / "status.sock"
    pib = {"pib": {"0x0023": "4040", "0x0024": "03"}}
    found, questions = await through(path, lambda: main(["pib", "--socket", str(path), *words]), pib)
    assert (found, questions) == (code, ["pib"])
    seen = capsys.readouterr()
    assert seen.out == shown
    assert ("0x7777" in seen.err) == (code == 1)


async def test_an_endless_question_is_one_for_the_status(tmp_path: Path) -> None:
    """Nothing is kept of it, and the door goes on."""
    path = tmp_path / "status.sock"

    def talk() -> dict[str, Any]:
        ask(path, "DCU", "x" * (4 * QUESTION_BYTES_MAX))
        return ask(path, "DCU", "y\0\xff")

    answer, questions = await through(path, talk)
    assert questions[0] == ""
    assert answer["seen"].startswith("y")


async def test_the_command_pings_as_often_as_it_was_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON object a line, or words; the exit code says whether anybody answered."""
    path = tmp_path / "status.sock"
    arguments = ["ping", "aa-bb-cc-00-00-01", "--status-socket", str(path), "--count", "3"]
    code, questions = await through(path, lambda: main([*arguments, "--json"]))
    assert (code, len(questions)) == (0, 3)
    assert [json.loads(line)["round_trip_s"] for line in capsys.readouterr().out.splitlines()] == [0.1] * 3
    assert main(arguments) != 0  # nobody there


@pytest.mark.parametrize("wrong", ["AA:BB", "AA:BB:CC:00:00:0G", ""])
def test_an_address_that_is_none_is_refused_before_anybody_is_asked(wrong: str, tmp_path: Path) -> None:
    """By the command's own parser."""
    with pytest.raises(SystemExit):
        main(["ping", wrong, "--status-socket", str(tmp_path / "none")])
