"""Alarms of identities on disk: what was written comes back, and what cannot be understood stops nobody."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dcu.accusations import Accusation, AccusationFile
from shared.errors import DeviceError
from shared.ids import MeterId, parse_eui48
from shared.secret_files import DiskFiles

ALARMS = {MeterId("meter-1"): Accusation(parse_eui48("02:48:44:52:09:09"), 3)}


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
