"""`headroom-ledger` from the command line: what it says, and how it ends."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from dcu.hosting.replay import replay
from dcu.ledger.audit import key_of
from dcu.ledger.layout import current
from dcu.ledger.note import open_checkpoint
from dcu.ledger.store import Ledger, verify
from dcu.ledger.tests.test_seal import DAY, GRANT
from dcu.ledger.tests.test_store import Unsynced, numbered, written
from dcu.ledger_command import line_of, main


@pytest.fixture
def day(tmp_path: Path) -> Path:
    """A ledger of a day."""
    written(tmp_path / "state", [*DAY, *numbered(300)])
    return tmp_path / "state"


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    """Exit code and JSON of a command."""
    code = main([*map(str, arguments), "--json"])
    lines = capsys.readouterr().out.splitlines()
    return code, json.loads(lines[0]) if len(lines) == 1 else [json.loads(line) for line in lines]


def test_a_ledger_is_verified_in_words_and_as_json(day: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole, with entries and head; a damaged one says where and ends with 1."""
    code, found = said(capsys, "verify", day)
    assert (code, found["entries"], found["published"], found["faults"]) == (0, 304, 304, [])
    assert found["head"] == verify(day).head.hex()
    assert main(["verify", str(day)]) == 0
    assert "304 entries" in capsys.readouterr().out
    bundle = current(day).public / "tile/entries/000"
    bundle.write_bytes(bundle.read_bytes()[:-1])
    code, found = said(capsys, "verify", day)
    assert code == 1
    assert "tile" in found["faults"][0] or "bundle" in found["faults"][0]


def test_entries_are_shown_and_chosen(day: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By position, kind, meter and from the end."""
    assert said(capsys, "show", day, "--position", 2) == (0, {"position": 2, "entry": GRANT})
    assert said(capsys, "show", day, "--kind", "window")[1]["position"] == 1
    assert said(capsys, "show", day, "--meter", "m1")[1]["position"] == 2
    assert [line["position"] for line in said(capsys, "show", day, "--last", 2)[1]] == [302, 303]
    assert main(["show", str(day), "--position", "2"]) == 0
    assert "1.1  grant" in capsys.readouterr().out


def test_a_line_of_an_entry_says_what_was_ordered_and_what_came_of_it() -> None:
    """Commands of the utility, done and refused; a value that is a list; one that is 0."""
    order = {"kind": "revoke_all", "hold_s": 5}
    line = line_of(
        {"kind": "command", "epoch": 1, "seq": None, "number": 7, "outcome": "done", "detail": "", "order": order}
    )
    assert line.endswith('command           number=7 outcome=done order={"kind": "revoke_all", "hold_s": 5}')
    assert "refused=expired detail=9 s ago" in line_of({"kind": "x", "refused": "expired", "detail": "9 s ago"})
    assert "limit_w=0 value=[1]" in line_of({"kind": "x", "limit_w": 0, "value": [1]})


def test_what_is_shown_is_what_the_head_covers(day: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An entry of which one digit was changed, a bundle that cannot be read, a number that is none yet: each says so
    and ends with 1, and nothing that is right is refused for it."""
    bundle = current(day).public / "tile/entries/000"
    good = bundle.read_bytes()
    assert b'"seq":100' in good
    bundle.write_bytes(good.replace(b'"seq":100', b'"seq":199'))
    assert main(["show", str(day), "--position", "3"]) == 0
    assert "changed" not in capsys.readouterr().err
    assert main(["show", str(day), "--last", "250"]) == 1
    assert "error: entry 104 is not the one under the signed head of 304 entries" in capsys.readouterr().err
    bundle.write_bytes(good[:-1])
    assert main(["show", str(day)]) == 1
    assert "seen 0 entries, expected 304" in capsys.readouterr().err
    bundle.write_bytes(good)
    assert main(["show", str(day), "--position", "304"]) == 1
    assert "entry 304: seen 304 entries" in capsys.readouterr().err


def test_a_log_that_has_ended_is_read_and_gives_receipts(
    day: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its journal was lost: what it had published and nobody has any more is said aloud, and what is in its bundles is
    shown, proven under its head and verified as far as it reaches."""
    key = said(capsys, "head", day)[1]["key"]
    ledger = Ledger(day, "dcu", Unsynced())
    ledger.append_all([DAY[0], GRANT | {"seq": 900}, GRANT | {"seq": 901}])
    ledger.close()
    for journal in current(day).private.glob("journal-*"):
        journal.unlink()
    Ledger(day, "dcu", Unsynced()).close()
    assert main(["verify", str(day)]) == 0
    assert "ended at 304 entries, 307 published; 3 PUBLISHED ENTRIES LOST" in capsys.readouterr().out
    assert main(["receipt", str(day), "--decision", "1.1", "-o", str(tmp_path / "r")]) == 2
    assert "nor looked for in" in capsys.readouterr().err
    old = day / "ended-1"
    made = ["receipt", old, "--decision", "1.1", "--meter", "m1", "-o", tmp_path / "r"]
    assert said(capsys, *made)[0] == 0
    assert said(capsys, "check-receipt", tmp_path / "r", "--key", key)[1]["position"] == 2
    assert main(["show", str(old), "--position", "2"]) == 1, "the rest cannot be read"
    assert "1.1  grant" in capsys.readouterr().out
    code, found = said(capsys, "verify", old)
    assert (code, found["entries"], found["published"]) == (1, 304, 307)


def test_a_receipt_that_opens_nothing_for_whom_it_is_made_is_not_made(
    day: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that is misspelt, and a neighbour's; a receipt without anybody's values is made all the same."""
    for name in ("m11", "m2"):
        made = ["receipt", str(day), "--position", "2", "--meter", name, "-o", str(tmp_path / "r")]
        assert main(made) == 2
        assert f"entry 2: keeps no values of {name}" in capsys.readouterr().err
        assert not (tmp_path / "r").exists()
    assert main(["receipt", str(day), "--position", "2", "-o", str(tmp_path / "r")]) == 0


def test_from_one_head_to_another_every_entry_between_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Entries before the old head, between the two and of the unfinished bundle are changed, one digit each, hashes
    left alone: those behind the old head are noticed, and named."""
    place = written(tmp_path / "log", numbered(300))
    old = tmp_path / "old-head"
    old.write_bytes(place.checkpoint.read_bytes())
    ledger = Ledger(tmp_path / "log", "dcu", Unsynced())
    ledger.append_all(numbered(400))
    ledger.close()
    arguments = ["verify", str(tmp_path / "log"), "--from", str(old)]
    assert main(arguments) == 0
    for name, digits, position in (("001", b'"seq":123', 423), ("002.p/188", b'"seq":399', 699)):
        bundle = place.public / "tile/entries" / name
        good = bundle.read_bytes()
        assert good.count(digits) == 1
        bundle.write_bytes(good.replace(digits, digits[:-1] + b"0"))
        capsys.readouterr()
        assert main(arguments) == 1
        assert f"entry {position} is not the one under the signed head of 700" in capsys.readouterr().out
        bundle.write_bytes(good[:-1])
        assert main(arguments) == 1
        assert f"{name}: bundle" in capsys.readouterr().out
        bundle.write_bytes(good)
    assert main(arguments) == 0
    assert main(["verify", str(tmp_path / "log"), "--to", str(old)]) == 0


def test_a_receipt_is_made_checked_and_read_by_a_customer(
    day: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the number of the decision; offline with the key alone; the page is in plain words, names no neighbour, asks
    nothing of the network and escapes what it shows; a changed receipt is refused with 1."""
    key = said(capsys, "head", day)[1]["key"]
    receipt, page = tmp_path / "mine.tlog-proof", tmp_path / "mine.html"
    made = ["receipt", day, "--decision", "1.1", "--meter", "m1", "-o", receipt, "--page", page]
    assert said(capsys, *made)[0] == 0
    shutil.rmtree(day)
    code, found = said(capsys, "check-receipt", receipt, "--key", key)
    assert (code, found["verified"], found["position"], found["closed"]) == (0, True, 2, 1)
    assert found["entry"]["request"] == GRANT["request"]
    assert main(["check-receipt", str(receipt), "--key", key]) == 0
    out = capsys.readouterr().out
    assert "More export was granted" in out
    assert "another customer, who is not named here (252.25 V)" in out
    text = page.read_text(encoding="utf-8")
    assert "grant L1" not in text
    assert re.findall(r"(?:src|href)=[\"'](?!data:)", text) == []
    assert "<script" not in text
    assert "the voltage would be, or was, too high" in text
    receipt.write_bytes(receipt.read_bytes().replace(b"index 2", b"index 3"))
    code, found = said(capsys, "check-receipt", receipt, "--key", key)
    assert (code, found["verified"]) == (1, False)


def test_what_a_customer_is_called_cannot_write_into_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names and reasons are text, whatever they contain."""
    bad = "<script>alert(1)</script>"
    start = DAY[0] | {"nominal_limit_w": {bad: 1.0}}
    written(tmp_path / "state", [start, GRANT | {"meter": bad, "reason": bad, "kept_by": {"binding": bad}}])
    page = tmp_path / "p.html"
    made = ["receipt", tmp_path / "state", "--position", 1, "--meter", bad, "-o", tmp_path / "r", "--page", page]
    assert said(capsys, *made)[0] == 0
    assert "<script" not in page.read_text(encoding="utf-8")


def test_a_customer_is_forgotten(day: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """His parts are counted, the log verifies, and his receipt opens nothing any more."""
    assert said(capsys, "forget", day, "dcu", "m1")[1] == {"own": 3, "shared": 2, "aside": 0}
    code, found = said(capsys, "verify", day)
    assert (code, found["forgotten"], found["entries"]) == (0, 5, 305)


def test_what_was_forgotten_is_not_decided_again() -> None:
    """Windows without their inputs and lessons are counted, not guessed; a decision whose window is there is still
    compared."""

    class Known:
        name, learns, remembers = "r", True, True

        def begin(self) -> None:
            pass

        def facts(self) -> dict[str, Any]:
            return {}

        def recall(self, entry: Any) -> Any:
            return entry

        def answer(self, view: Any, question: Any) -> Any:
            raise AssertionError("nothing whole is left")

    start = {"kind": "start", "epoch": 1, "seq": 0, "rule": "r", "facts": {}, "forgotten": 1}
    window = {"kind": "window", "epoch": 1, "window": 1, "forgotten": 2}
    grant = {"kind": "grant", "epoch": 1, "seq": 1, "window": 1, "limit_w": 1, "forgotten": 1}
    lesson = {"kind": "view", "epoch": 1, "forgotten": 1}
    whole = {"kind": "window", "epoch": 1, "window": 2}
    orphan = {"kind": "grant", "epoch": 1, "seq": 2, "window": 7, "meter": "m1", "limit_w": 1}
    found = replay(Known(), [start, window, grant, lesson, whole, orphan])  # type: ignore[arg-type]
    assert (found.windows, found.unknown, found.views, found.unseen) == (0, 3, 0, 3)
    assert found.differences == ["decision 1.2: its window says None"]


def test_an_outsider_needs_somebody_to_trust(day: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A copy of the public directory verifies with the log's key or a policy, and not without."""
    key = said(capsys, "head", day)[1]["key"]
    shutil.copytree(current(day).public, tmp_path / "copy")
    policy = tmp_path / "policy"
    policy.write_text(f"# whom we trust\nlog {key}\nquorum none\n", encoding="utf-8")
    assert said(capsys, "verify", tmp_path / "copy", "--key", key)[0] == 0
    assert said(capsys, "verify", tmp_path / "copy", "--policy", policy)[1]["entries"] == 304
    assert main(["verify", str(tmp_path / "copy")]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "nowhere"],
        ["verify", "."],
        ["verify", "state", "--key", "nonsense"],
        ["verify", "state", "--policy", "missing"],
        ["verify", "state", "--policy", "bad-policy"],
        ["verify", "state", "--from", "missing"],
        ["show", "nowhere"],
        ["head", "nowhere"],
        ["receipt", "state", "--position", "999999", "-o", "r"],
        ["receipt", "state", "--decision", "1.x", "-o", "r"],
        ["receipt", "state", "--decision", "7.7", "-o", "r"],
        ["check-receipt", "missing", "--key", "k"],
        ["check-receipt", "bad-policy"],
        ["replay", "state", "--config", "missing.toml"],
        ["forget", "nowhere", "dcu", "m1"],
        ["forget", "state", "another", "m1"],
        ["cosign", "state", "--policy", "bad-policy"],
        ["cosign", "state", "--policy", "no-address"],
        ["anchor", "nowhere", "--rpc", "http://127.0.0.1:9", "--sender", "0x0"],
        ["anchor", "state", "--rpc", "http://127.0.0.1:9", "--sender", "0x0"],
        ["check-anchors", "state", "--rpc", "http://127.0.0.1:9", "--sender", "0x0"],
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str], day: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, one line on standard error, nothing on standard output, and the ledger is as it was."""
    monkeypatch.chdir(day.parent)
    witness = "w+a6f3c1e2+BAqKptSh"
    Path("bad-policy").write_text("quorum nobody\n", encoding="utf-8")
    Path("no-address").write_text(f"witness w {witness}\nquorum w\n", encoding="utf-8")
    before = verify(day).head
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert 1 <= len(err.splitlines()) <= 3
    assert "Traceback" not in err
    assert verify(day).head == before


def test_truncation_and_forks_are_detected_by_two_heads(tmp_path: Path) -> None:
    """The owner of the key puts an older state back, or grows another history from it: everything verifies by itself,
    but not with the head that somebody kept."""
    place = written(tmp_path / "log", numbered(300))
    shutil.copytree(tmp_path / "log", tmp_path / "older")
    ledger = Ledger(tmp_path / "log", "dcu", Unsynced())
    ledger.append_all(numbered(50))
    ledger.close()
    kept = tmp_path / "kept-head"
    kept.write_bytes(place.checkpoint.read_bytes())
    arguments = ["verify", str(tmp_path / "log"), "--from", str(kept)]
    assert main(arguments) == 0
    assert verify(tmp_path / "older").faults == []
    assert main(["verify", str(tmp_path / "older"), "--from", str(kept)]) == 1
    for count in (20, 50, 90):
        shutil.copytree(tmp_path / "older", tmp_path / f"fork{count}")
        fork = Ledger(tmp_path / f"fork{count}", "dcu", Unsynced())
        fork.append_all([{"fork": n} for n in range(count)])
        fork.close()
        assert verify(tmp_path / f"fork{count}").faults == []
        assert main(["verify", str(tmp_path / f"fork{count}"), "--from", str(kept)]) == 1
        assert main([*arguments, "--to", str(tmp_path / f"fork{count}/ledger/public/checkpoint")]) == 1
    head, _ = open_checkpoint(kept.read_bytes(), key_of(place))
    assert head.size == 350
