"""Alarms of identities on disk: what was written comes back, and what cannot be understood stops nobody."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dcu.accusations import NUMBERS, NUMBERS_MAX, Accusation, AccusationFile, Numbers
from shared.errors import DeviceError
from shared.ids import MeterId, parse_eui48
from shared.secret_files import DiskFiles

FIRST, SECOND = MeterId("meter-1"), MeterId("meter-2")
ALARMS = {FIRST: Accusation(parse_eui48("02:48:44:52:09:09"), 3)}


def test_alarms_come_back_until_none_is_left(tmp_path: Path) -> None:
    """None before the first, none after the last."""
    file = AccusationFile(tmp_path / "alarms.json")
    assert file.load() == {}
    file.save(ALARMS)
    assert AccusationFile(tmp_path / "alarms.json").load() == ALARMS
    assert stat.S_IMODE((tmp_path / "alarms.json").stat().st_mode) == 0o600
    file.save({})
    assert file.load() == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b"{", b"[" * 100_000, b'{"meter-1": {"eui48": "nobody", "after": 0}}',
     b'{"meter-1": {"eui48": "02:48:44:52:09:09", "after": -1}}', b'{"meter-1": {"eui48": "02:48:44:52:09:09"}}'],
)  # fmt: skip
def test_a_damaged_file_is_no_alarm_and_no_reason_to_stop(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told in the log; the daemon starts, and what a person may still read in it is kept, however often that
    happens and whatever alarms come later."""
    caplog.set_level("ERROR", "dcu")
    file = AccusationFile(tmp_path / "alarms.json")
    for number in (1, 2):
        (tmp_path / "alarms.json").write_bytes(content)
        assert file.load() == {}
        assert f"alarms.json.damaged-{number}" in caplog.records[-1].getMessage()
        file.save(ALARMS)
        assert file.load() == ALARMS
    kept = sorted(path.name for path in tmp_path.glob("*.damaged-*"))
    assert kept == ["alarms.json.damaged-1", "alarms.json.damaged-2"]
    assert [(tmp_path / name).read_bytes() for name in kept] == [content] * 2


def test_a_damaged_file_that_cannot_be_kept_ends_the_start(tmp_path: Path) -> None:
    """Nothing overwrites it."""

    class Stuck(DiskFiles):
        def put_aside(self, path: Path) -> Path:
            raise OSError(30, "Read-only file system")

    (tmp_path / "alarms.json").write_bytes(b"{")
    with pytest.raises(DeviceError, match="Read-only"):
        AccusationFile(tmp_path / "alarms.json", Stuck()).load()
    assert (tmp_path / "alarms.json").read_bytes() == b"{"


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    """Reading ends the start in one line, writing raises what ends the daemon."""
    (tmp_path / "alarms.json").mkdir()
    file = AccusationFile(tmp_path / "alarms.json")
    with pytest.raises(DeviceError, match="directory"):
        file.load()
    with pytest.raises(OSError, match="directory"):
        file.save(ALARMS)


def test_what_was_acknowledged_comes_back_and_costs_no_alarm_if_it_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file of its own: an earlier version reads the alarms beside it as they are."""
    caplog.set_level("ERROR", "dcu")
    file = AccusationFile(tmp_path / "alarms.json")
    assert file.load_numbers().rows == {}
    file.save(ALARMS)
    file.save_numbers({FIRST: (3, 1), SECOND: (7,)})
    assert AccusationFile(tmp_path / "alarms.json").load_numbers().rows == {FIRST: (3, 1), SECOND: (7,)}
    for content in (b"", b'{"meter-1": []}', b'{"meter-1": [-1]}', b'{"meter-1": [' + b"1," * NUMBERS_MAX + b"1, 1]}"):
        (tmp_path / NUMBERS).write_bytes(content)
        assert file.load_numbers().rows == {}
        assert f"{NUMBERS}.damaged-" in caplog.records[-1].getMessage()
    assert file.load() == ALARMS


def test_a_number_that_a_lower_one_took_the_place_of_is_known_when_it_comes_back() -> None:
    """However many lie between; a number that was never there is news, and what it has passed is forgotten."""
    numbers = Numbers()
    assert not any(numbers.take(FIRST, number) for number in (0, 1, 5, 3, 2, 2))
    assert numbers.rows == {FIRST: (5, 3, 2)}
    assert numbers.take(FIRST, 3)
    assert not numbers.take(FIRST, 4)
    assert numbers.take(FIRST, 5)
    assert not numbers.take(FIRST, 6)
    assert numbers.rows == {FIRST: (6,)}
    for number in range(20, 0, -1):
        assert not numbers.take(SECOND, number)
    assert numbers.rows[SECOND] == tuple(range(1 + NUMBERS_MAX, 0, -1))
