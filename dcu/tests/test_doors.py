"""The sockets of a DCU say how things are to those who may know, take no orders, and cost decisions next to nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from asyncio import Future
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dcu import doors as door_room
from dcu.doors import group_number, page_door
from dcu.page_facts import NEWS_MAX, Recent
from shared.errors import ConfigError


@asynccontextmanager
async def serving(path: Path, told: Any, group: int | None = None) -> AsyncIterator[None]:
    """The door, open."""
    up = asyncio.Event()
    task = asyncio.ensure_future(page_door(path, group)(lambda: told, up.set))
    await up.wait()
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not path.exists()


async def hear(path: Path, say: bytes = b"") -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(say)
    data = await reader.read()
    writer.close()
    return data


async def test_who_connects_gets_one_snapshot(tmp_path: Path) -> None:
    """And whatever he says changes nothing of it."""
    path = tmp_path / "page.sock"
    async with serving(path, {"dcu": "d", "u_v": [230.1]}):
        assert json.loads(await hear(path)) == {"dcu": "d", "u_v": [230.1]}
        with contextlib.suppress(ConnectionResetError):  # what nobody reads ends a connection like that
            await hear(path, b'{"ping": "02:00:00:00:00:01"}\n')
        assert json.loads(await hear(path)) == {"dcu": "d", "u_v": [230.1]}


async def test_no_memory_for_an_answer_is_nobody_else_s_trouble(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who asks gets nothing; the door stays open, and the next one gets his snapshot."""
    path, short = tmp_path / "page.sock", [True]

    def snapshot() -> dict[str, Any]:
        if short[0]:
            raise MemoryError
        return {"dcu": "d"}

    up = asyncio.Event()
    task = asyncio.ensure_future(page_door(path, None)(snapshot, up.set))
    await up.wait()
    assert await hear(path) == b""
    short[0] = False
    assert json.loads(await hear(path)) == {"dcu": "d"}
    assert not task.done()
    assert "MemoryError" in caplog.text
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_only_its_user_and_the_page_s_group_may_connect(tmp_path: Path) -> None:
    """Modes 600 and 660; a group that is not there is named."""
    alone, shared = tmp_path / "a.sock", tmp_path / "b.sock"
    async with serving(alone, {}), serving(shared, {}, os.getgid()):
        assert alone.stat().st_mode & 0o777 == 0o600
        assert shared.stat().st_mode & 0o777 == 0o660
        assert shared.stat().st_gid == os.getgid()
    with pytest.raises(ConfigError, match=r"page_group.*no-such-group"):
        group_number("no-such-group", "dcu.toml")


async def test_no_more_are_served_at_a_time_than_a_few(tmp_path: Path) -> None:
    """Eight who do not read keep the ninth out; when they are gone, others are served."""
    path = tmp_path / "page.sock"
    async with serving(path, {"long": "x" * 5_000_000}):
        stuck = [await asyncio.open_unix_connection(str(path), limit=1024) for _ in range(door_room.CONNECTIONS_MAX)]
        assert await hear(path) == b""
        for _, writer in stuck:
            writer.transport.abort()
        async with asyncio.timeout(10):
            while len(await hear(path)) < 5_000_000:
                pass


async def test_who_does_not_read_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system's buffers do not take in time is not kept for anybody."""
    monkeypatch.setattr(door_room, "ANSWER_S_MAX", 0.0)
    path = tmp_path / "page.sock"
    async with serving(path, {"long": "x" * 20_000_000}):
        got = b""
        with contextlib.suppress(ConnectionResetError):
            got = await hear(path)
        assert len(got) < 20_000_000


async def test_who_asks_without_end_does_not_have_it_made_without_end(tmp_path: Path) -> None:
    """A page that somebody has broken into asks as fast as it can: a snapshot is made five times a second at most."""
    path, made, loop = tmp_path / "page.sock", list[float](), asyncio.get_running_loop()

    def snapshot() -> dict[str, Any]:
        made.append(loop.time())
        return {}

    up = asyncio.Event()
    task = asyncio.ensure_future(page_door(path, None)(snapshot, up.set))
    await up.wait()
    for _ in range(100):
        assert await hear(path) == b"{}"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert all(b - a >= door_room.SNAPSHOT_S for a, b in pairwise(made))
    assert len(made) < 100


def grant(seq: int, kind: str = "grant", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "epoch": 1, "seq": seq, "meter": "m", "limit_w": 2000.0, "reason": "GRANTED", **more}


async def test_what_binds_a_customer_is_its_newest_answer(tmp_path: Path) -> None:
    """Renewals bind too, and are no news; what is given back binds no more."""
    recent = Recent()
    kept_by = {"reason": "CURRENT", "binding": "branch 7 L1", "value": None}
    recent.note(grant(1), 10.0)
    recent.note(grant(2, "renewal", kept_by=kept_by), 25.0)
    recent.note({"kind": "window", "epoch": 1, "seq": None}, 25.0)
    assert [row["kind"] for row in recent.news] == ["grant"]
    assert recent.answers["m"]["reason"] == "CURRENT"
    assert recent.answers["m"]["binding"] == "branch 7 L1"
    recent.note({"kind": "release", "epoch": 1, "seq": None, "meter": "m"}, 30.0)
    assert recent.answers == {}


async def test_a_position_is_told_once_it_is_durable_and_never_before() -> None:
    """A record that fails has none."""
    recent = Recent()
    good: Future[int] = asyncio.get_running_loop().create_future()
    bad: Future[int] = asyncio.get_running_loop().create_future()
    recent.note(grant(1), 1.0, good)
    recent.note(grant(2), 2.0, bad)
    assert [row["position"] for row in recent.news] == [None, None]
    good.set_result(7)
    bad.set_exception(OSError("disk"))
    await asyncio.sleep(0)
    assert [row["position"] for row in recent.news] == [7, None]
    assert bad.exception() is not None


def test_news_are_bounded() -> None:
    """And a number that is none is not told as one."""
    recent = Recent()
    for seq in range(NEWS_MAX + 20):
        recent.note(grant(seq, request={"limit_w": "inf", "minimum_limit_w": 0.0}), float(seq))
    assert len(recent.news) == NEWS_MAX
    assert recent.news[-1]["asked_w"] is None
