"""Alarms of identities on disk: what was written comes back, and what cannot be understood stops nobody."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dcu.accusations import Accusation, AccusationFile
from shared.errors import DeviceError
from shared.ids import MeterId, parse_eui48

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
def test_a_damaged_file_is_no_alarm_and_no_reason_to_stop(tmp_path: Path, content: bytes) -> None:
    """It is told in the log; the daemon starts, and the next alarm replaces it."""
    (tmp_path / "alarms.json").write_bytes(content)
    file = AccusationFile(tmp_path / "alarms.json")
    assert file.load() == {}
    file.save(ALARMS)
    assert file.load() == ALARMS


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    """Reading ends the start in one line, writing raises what ends the daemon."""
    (tmp_path / "alarms.json").mkdir()
    file = AccusationFile(tmp_path / "alarms.json")
    with pytest.raises(DeviceError, match="directory"):
        file.load()
    with pytest.raises(OSError, match="directory"):
        file.save(ALARMS)
