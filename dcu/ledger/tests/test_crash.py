"""Power cuts at every write, sync and rename: what was acknowledged is there, and the ledger goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dcu.ledger.forget import forget
from dcu.ledger.layout import current, ended
from dcu.ledger.seal import expanded
from dcu.ledger.store import CONTINUED, Ledger, verify
from dcu.ledger.tests.crash_disk import Medium, RecordingFiles, lay
from dcu.ledger.tests.test_seal import DAY
from dcu.ledger.tests.test_store import Unsynced, numbered, written

STARTED = 252
"""Entries before the life that is cut: the fourth one after them fills a bundle."""


def entries_of(count: int) -> list[dict[str, Any]]:
    """Numbers, and now and then something personal."""
    return [DAY[n % 4] | {"seq": n} if n % 7 == 0 and n > STARTED else {"epoch": 1, "seq": n} for n in range(count)]


def recorded_life(directory: Path, entries: list[dict[str, Any]]) -> RecordingFiles:
    """Start, append one by one and in a batch, publish, stop; on a medium that remembers."""
    files = RecordingFiles(acknowledged=min(STARTED, len(entries)) if directory.exists() else 0)
    ledger = Ledger(directory, "dcu", files)
    position = ledger.position
    for entry in entries[position : position + 6]:
        ledger.append(entry)
        files.acknowledged = ledger.position
    ledger.publish()
    rest = entries[ledger.position :]
    if rest:
        ledger.append_all(rest)
        files.acknowledged = ledger.position
    ledger.close()
    return files


def check_start(directory: Path, entries: list[dict[str, Any]], acknowledged: int) -> int:
    """A start on what is left: everything acknowledged is there, nothing else but what was being written; it verifies
    and takes more. The number of operations it took."""
    files = RecordingFiles()
    ledger = Ledger(directory, "dcu", files)
    assert ledger.position >= acknowledged
    assert not ended(directory)
    count = ledger.position
    ledger.append({"epoch": 2, "seq": 0})
    ledger.close()
    found = verify(directory)
    assert found.faults == []
    assert found.entries[:count] == entries[:count]
    assert found.entries[count:] == [{"epoch": 2, "seq": 0}]
    return len(files.steps)


@pytest.mark.parametrize(("started", "variants"), [(0, 3), (STARTED, 1)])
def test_a_power_cut_at_every_operation_loses_nothing_acknowledged(tmp_path: Path, started: int, variants: int) -> None:
    """The first life of a ledger, and one across a full bundle, cut before each of its operations; of each cut several
    states that the medium may be left in, torn and reordered."""
    entries = entries_of(started + 12)
    base = tmp_path / "base"
    if started:
        written(base, entries[:started])
    shutil.copytree(base, tmp_path / "life") if started else None
    files = recorded_life(tmp_path / "life", entries)
    assert len(files.steps) > 30
    draw = random.Random(7)
    for cut in range(len(files.steps) + 1):
        for variant in range(variants):
            medium = Medium(draw)
            if started:
                medium = Medium.holding(base, draw)
                medium.names = {tmp_path / "life" / p.relative_to(base): node for p, node in medium.names.items()}
                medium.durable = dict(medium.names)
            for step in files.steps[:cut]:
                medium.play(step)
            image = tmp_path / "image"
            image.mkdir()
            lay(medium.left(), tmp_path / "life", image)
            acknowledged = files.steps[cut].acknowledged if cut < len(files.steps) else files.acknowledged
            try:
                check_start(image, entries, acknowledged)
            except AssertionError as error:
                raise AssertionError(f"cut {cut}, variant {variant}: {error}") from error
            shutil.rmtree(image)


def test_a_power_cut_during_recovery_loses_nothing_either(tmp_path: Path) -> None:
    """Cut at the roll, then cut again at every operation of the start that follows, to a depth of three."""
    entries = entries_of(STARTED + 12)
    base, life = tmp_path / "base", tmp_path / "life"
    written(base, entries[:STARTED])
    shutil.copytree(base, life)
    steps = recorded_life(life, entries).steps
    draw = random.Random(11)
    for cut in range(14, len(steps), 6):
        medium = Medium.holding(base, draw)
        medium.names = medium.durable = {life / p.relative_to(base): node for p, node in medium.names.items()}
        medium.durable = dict(medium.names)
        for step in steps[:cut]:
            medium.play(step)
        state, acknowledged = medium.left(), steps[cut].acknowledged
        for depth in range(3):
            image = tmp_path / f"image{depth}"
            lay(state, life if depth == 0 else tmp_path / f"image{depth - 1}", image)
            before = Medium.holding(image, draw)
            again = RecordingFiles()
            Ledger(image, "dcu", again).close()
            for step in again.steps[: draw.randrange(len(again.steps) + 1)]:
                before.play(step)
            state = before.left()
        final = tmp_path / "final"
        lay(state, tmp_path / "image2", final)
        check_start(final, entries, acknowledged)
        for name in ("image0", "image1", "image2", "final"):
            shutil.rmtree(tmp_path / name)


def test_a_lying_medium_never_leaves_a_ledger_that_cannot_be_opened(tmp_path: Path) -> None:
    """A third of all syncs is dropped. Entries may be lost, and a log may end, but every start succeeds, what is there
    is a true prefix, it verifies and takes more."""
    entries = entries_of(STARTED + 12)
    base, life = tmp_path / "base", tmp_path / "life"
    written(base, entries[:STARTED])
    shutil.copytree(base, life)
    steps = recorded_life(life, entries).steps
    draw = random.Random(13)
    over = 0
    for cut in range(0, len(steps) + 1, 2):
        for _ in range(2):
            medium = Medium.holding(base, draw, lies=0.33)
            medium.names = {life / p.relative_to(base): node for p, node in medium.names.items()}
            medium.durable = dict(medium.names)
            for step in steps[:cut]:
                medium.play(step)
            image = tmp_path / "image"
            image.mkdir()
            lay(medium.left(), life, image)
            ledger = Ledger(image, "dcu", Unsynced())
            ledger.append({"epoch": 9, "seq": 0})
            ledger.close()
            found = verify(image)
            assert found.faults == []
            kept = [entry for entry in found.entries if entry.get("kind") != CONTINUED and entry.get("epoch") != 9]
            assert kept == entries[: len(kept)]
            over += bool(ended(image))
            shutil.rmtree(image)
    assert over > 0, "the medium never lied badly enough"


def test_a_kill_while_forgetting_leaves_a_ledger_that_verifies(tmp_path: Path) -> None:
    """Cut at every operation of a deletion; the log verifies, and another deletion finishes the work."""
    life = tmp_path / "life"
    written(life, [*DAY, *numbered(256), *DAY])
    shutil.copytree(life, tmp_path / "base")
    files = RecordingFiles()
    forget(life, "dcu", "m1", files)
    draw = random.Random(17)
    for cut in range(len(files.steps) + 1):
        medium = Medium.holding(tmp_path / "base", draw)
        medium.names = {life / p.relative_to(tmp_path / "base"): node for p, node in medium.names.items()}
        medium.durable = dict(medium.names)
        for step in files.steps[:cut]:
            medium.play(step)
        image = tmp_path / "image"
        image.mkdir()
        lay(medium.left(), life, image)
        forget(image, "dcu", "m1", Unsynced())
        assert verify(image).faults == []
        private = b"".join(expanded(p.read_bytes()) for p in current(image).private.rglob("*") if p.is_file())
        assert b"777.5" not in private
        shutil.rmtree(image)


CHILD = """
import sys
from pathlib import Path
from dcu.ledger.store import Ledger
ledger = Ledger(Path(sys.argv[1]), "dcu")
while True:
    first = ledger.position
    ledger.append_all([{"epoch": 1, "seq": first + n} for n in range(1 + first % 5)])
    print(ledger.position, flush=True)
    if first % 3 == 0:
        ledger.publish()
"""


def test_killed_writers_lose_nothing_acknowledged(tmp_path: Path) -> None:
    """Real processes on the real disk, killed at random moments: every number they said is in the next one's ledger."""
    draw = random.Random(3)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, env=environment, text=True
        ) as child:
            assert child.stdout is not None
            said = 0
            for _ in range(draw.randrange(5, 120)):
                said = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
            said = max([said, *map(int, child.stdout.read().split("\n")[:-1])])
        found = verify(tmp_path)
        assert [entry["seq"] for entry in found.entries] == list(range(len(found.entries)))
        assert len(found.entries) >= said
        assert [fault for fault in found.faults if "no commit" not in fault and "bytes, expected" not in fault] == []
    ledger = Ledger(tmp_path, "dcu", Unsynced())
    ledger.close()
    assert verify(tmp_path).faults == []
