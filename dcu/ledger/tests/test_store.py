"""The ledger: durable on return, chained, recovered to its longest valid prefix, poisoned by the first failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcu.ledger.store import FILE, Ledger, LedgerError, RealFiles, canonical, scan, verify
from shared.errors import DeviceError

ENTRIES = [{"epoch": 1, "seq": number, "kind": "denial", "text": "ä" * number} for number in range(4)]


def written(directory: Path) -> Path:
    ledger = Ledger(directory, "dcu")
    for entry in ENTRIES:
        ledger.append(entry)
    ledger.close()
    return directory / FILE


def reopened(directory: Path) -> list[dict[str, object]]:
    ledger = Ledger(directory, "dcu")
    ledger.close()
    return ledger.recovered.entries


class FailingFiles(RealFiles):
    """The k-th operation fails, once or for ever."""

    def __init__(self, failing: int) -> None:
        self.left = failing

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError(5, "Input/output error")

    def append(self, file: int, data: bytes) -> None:
        self._count()
        super().append(file, data)

    def sync(self, file: int) -> None:
        self._count()
        super().sync(file)


def test_what_was_appended_is_there_after_a_restart(tmp_path: Path) -> None:
    """Entries come back equal and in order; positions count from zero; the chain goes on."""
    written(tmp_path)
    assert reopened(tmp_path) == ENTRIES
    ledger = Ledger(tmp_path, "dcu")
    assert (ledger.position, ledger.epoch) == (4, 1)
    assert ledger.append({"epoch": 2, "seq": 0}) == 4
    ledger.close()
    assert verify(tmp_path).faults == []


def test_every_flipped_byte_is_detected(tmp_path: Path) -> None:
    """No byte of the file can change unnoticed: the header is refused, a record ends the valid prefix before it."""
    path = written(tmp_path)
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes((good[at] ^ 0x01,)) + good[at + 1 :])
        try:
            found = scan(path)
        except LedgerError:
            continue
        assert found.faults or found.head != scan_of(good, path), at


def scan_of(data: bytes, path: Path) -> bytes:
    path.write_bytes(data)
    return scan(path).head


def test_every_cut_recovers_the_longest_valid_prefix(tmp_path: Path) -> None:
    """Wherever a power cut tears the file, whole entries before the tear survive, and the torn tail is kept aside."""
    good = written(tmp_path).read_bytes()
    ends = [len(good)]
    header = good.index(b"\n") + 1
    for cut in range(header, len(good)):
        directory = tmp_path / f"cut{cut}"
        directory.mkdir()
        (directory / FILE).write_bytes(good[:cut])
        entries = reopened(directory)
        assert entries == ENTRIES[: len(entries)]
        if len(entries) < len(ENTRIES):
            tail = b"".join(path.read_bytes() for path in sorted(directory.glob("*.tail*")))
            assert (directory / FILE).read_bytes() + tail == good[:cut]
        ends.append(len(entries))
    assert set(ends) >= {0, 1, 2, 3}


@pytest.mark.parametrize("failing", range(1, 12))
def test_a_failing_disk_poisons_the_ledger_and_loses_nothing_acknowledged(tmp_path: Path, failing: int) -> None:
    """The k-th write or fsync fails: nothing is taken after it, and every entry that was acknowledged is still
    there."""
    acknowledged = 0
    try:
        ledger = Ledger(tmp_path, "dcu", FailingFiles(failing))
    except OSError:
        ledger = None
    if ledger is not None:
        for entry in ENTRIES:
            try:
                ledger.append(entry)
                acknowledged += 1
            except LedgerError:
                with pytest.raises(LedgerError, match="poisoned"):
                    ledger.append(entry)
                break
        ledger.close()
    entries = reopened(tmp_path)
    assert entries[:acknowledged] == ENTRIES[:acknowledged]
    assert entries == ENTRIES[: len(entries)]


def test_there_is_one_writer(tmp_path: Path) -> None:
    """A second instance gets one clear line; after the first has gone it may write."""
    first = Ledger(tmp_path, "dcu")
    with pytest.raises(DeviceError, match="another process"):
        Ledger(tmp_path, "dcu")
    first.close()
    Ledger(tmp_path, "dcu").close()


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    """Another DCU's ledger, a later format and a file that is no ledger are refused by name and left as they are."""
    path = written(tmp_path)
    with pytest.raises(LedgerError, match="expected that of other"):
        Ledger(tmp_path, "other")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"LEDGER 1", b"LEDGER 2", 1))
    with pytest.raises(LedgerError, match="format version 2"):
        Ledger(tmp_path, "dcu")
    path.write_bytes(b"SQLite format 3\x00" * 10)
    with pytest.raises(LedgerError, match="header line"):
        verify(tmp_path)
    with pytest.raises(LedgerError):
        verify(tmp_path / "nowhere")


def test_two_swapped_entries_break_the_chain(tmp_path: Path) -> None:
    """Each record is whole and checks by itself, but does not follow from the one before it."""
    path = written(tmp_path)
    data = path.read_bytes()
    at = data.index(b"\n") + 1
    records = []
    while at < len(data):
        length = 40 + int.from_bytes(data[at : at + 4], "big")
        records.append(data[at : at + length])
        at += length
    path.write_bytes(data[: data.index(b"\n") + 1] + records[1] + records[0] + records[2] + records[3])
    assert "does not follow" in scan(path).faults[0]


def test_an_entry_has_one_form() -> None:
    """Keys in order, no blanks, no NaN: the bytes of an entry do not depend on who wrote it."""
    assert canonical({"b": 1.5, "a": [None, "ü"]}) == '{"a":[null,"ü"],"b":1.5}'.encode()
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": float("nan")})
