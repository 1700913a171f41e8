"""Witnesses over real HTTP: a head is cosigned if it follows, and another history is an alarm."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dcu.ledger.audit import key_of
from dcu.ledger.layout import Place, current
from dcu.ledger.note import Checkpoint, KeyKind, Signer
from dcu.ledger.policy import Policy, load_policy, trust
from dcu.ledger.receipt import check_receipt, make_receipt
from dcu.ledger.store import Ledger, verify
from dcu.ledger.tests import second_verifier
from dcu.ledger.tests.test_store import Unsynced, numbered, written
from dcu.ledger.witness import Ask, Submission, cosign, post
from dcu.ledger_command import main
from hil_tests.virtual.witness import Witness, WitnessState, serve
from shared.errors import DecodeError

UTC_S = 1_790_000_000.0


@dataclass
class Bench:
    """A log, two witnesses that serve, and a policy that wants both."""

    place: Place
    witnesses: list[Witness]
    urls: list[str]
    policy_file: Path

    @property
    def policy(self) -> Policy:
        return load_policy(self.policy_file)

    def ask(self) -> tuple[bool, dict[str, int], dict[str, str], dict[str, str]]:
        """One round of cosigning: quorum, signed, silent, alarms."""
        found = cosign(self.place, key_of(self.place), self.policy, post)
        return found.quorum, found.signed, found.silent, found.alarms


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A log of 300 entries and two witnesses on loopback."""
    place = written(tmp_path / "state", numbered(300))
    key = key_of(place)
    with contextlib.ExitStack() as stack:
        witnesses, lines, urls = [], [f"log {key.vkey()}"], []
        for name in ("w1", "w2"):
            signer = Signer(f"bench.example/{name}", name.encode() * 16, KeyKind.WITNESS)
            witness = Witness(signer, {key.name: key}, WitnessState(tmp_path / f"{name}.json"), lambda: UTC_S)
            server = serve(witness)
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            url = f"http://127.0.0.1:{server.server_address[1]}"
            lines.append(f"witness {name} {signer.verifier.vkey()} {url}")
            witnesses.append(witness)
            urls.append(url)
        policy = tmp_path / "policy"
        policy.write_text("\n".join([*lines, "group both all w1 w2", "quorum both", ""]), encoding="utf-8")
        yield Bench(place, witnesses, urls, policy)


def grow(directory: Path, entries: list[dict[str, object]]) -> None:
    """Append and publish."""
    ledger = Ledger(directory, "dcu", Unsynced())
    ledger.append_all(entries)
    ledger.close()


def test_two_witnesses_cosign_and_the_receipt_shows_it(bench: Bench, tmp_path: Path) -> None:
    """First head, the same head again, a later one; each cosigned head meets the policy, the second verifier finds both
    cosignatures, a receipt carries them, and the ledger with the cosigned head beside it verifies."""
    for size in (300, 300, 700):
        if size == 700:
            grow(tmp_path / "state", numbered(400))
        assert bench.ask() == (True, {"w1": int(UTC_S), "w2": int(UTC_S)}, {}, {})
        data = (bench.place.public / "cosigned").read_bytes()
        assert trust(data, bench.policy).head.size == size
    for witness in bench.witnesses:
        second_verifier.verify_note(data, witness.signer.verifier.vkey())
    receipt = check_receipt(make_receipt(bench.place, 5, key_of(bench.place)), bench.policy)
    assert sorted(receipt.trusted.cosigned_utc_s) == ["w1", "w2"]
    assert verify(tmp_path / "state").faults == []


def test_a_head_that_somebody_kept_is_held_against_a_witnessed_log(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the documentation says: a kept head has the log's signature only, and the policy asks for both witnesses. The
    log is not witnessed; it is; another history lies there with the first one's witnessed head beside it."""
    kept = tmp_path / "kept"
    kept.write_bytes(bench.place.checkpoint.read_bytes())
    shutil.copytree(tmp_path / "state", tmp_path / "fork")
    grow(tmp_path / "state", numbered(20))
    grow(tmp_path / "fork", [{"fork": n} for n in range(20)])
    fork = current(tmp_path / "fork").public
    arguments = ["--policy", str(bench.policy_file), "--from", str(kept)]
    assert main(["verify", str(bench.place.public), *arguments]) == 1
    assert "cosigned by nobody, short of the quorum" in capsys.readouterr().out
    bench.ask()
    for copy in (tmp_path / "state", bench.place.public):
        assert main(["verify", str(copy), *arguments]) == 0
        assert "from 300 to 320 entries: verified" in capsys.readouterr().out
    shutil.copy(bench.place.public / "cosigned", fork / "cosigned")
    assert main(["verify", str(fork), *arguments]) == 1
    assert "FORK: two signed heads of 320 entries" in capsys.readouterr().out


def test_one_silent_witness_is_short_of_the_quorum(bench: Bench, tmp_path: Path) -> None:
    """Its address answers nothing; the other signs, nothing is kept as witnessed, and a later round goes on."""
    text = bench.policy_file.read_text(encoding="utf-8")
    bench.policy_file.write_text(text.replace(bench.urls[1], "http://127.0.0.1:9"), encoding="utf-8")
    quorum, signed, silent, alarms = bench.ask()
    assert (quorum, list(signed), list(silent), alarms) == (False, ["w1"], ["w2"], {})
    assert not (bench.place.public / "cosigned").exists()
    bench.policy_file.write_text(text, encoding="utf-8")
    grow(tmp_path / "state", numbered(5))
    assert bench.ask()[0]


def test_a_rollback_and_a_fork_are_alarms(bench: Bench, tmp_path: Path) -> None:
    """The log's owner puts back an older state, or grows another history to a smaller, the same or a larger size: the
    witnesses refuse, and the one who asks is told."""
    shutil.copytree(tmp_path / "state", tmp_path / "older")
    grow(tmp_path / "state", numbered(50))
    assert bench.ask()[0]
    for name, count in (("rollback", 0), ("smaller", 20), ("same", 50), ("larger", 90)):
        shutil.copytree(tmp_path / "older", tmp_path / name)
        if count:
            grow(tmp_path / name, [{"fork": n} for n in range(count)])
        bench.place = current(tmp_path / name)
        quorum, signed, silent, alarms = bench.ask()
        assert (quorum, signed, silent, sorted(alarms)) == (False, {}, {}, ["w1", "w2"]), name
    bench.place = current(tmp_path / "state")
    assert bench.ask()[0]


def test_a_witness_remembers_over_a_restart(bench: Bench, tmp_path: Path) -> None:
    """A new process with the same file knows the head it has cosigned."""
    assert bench.ask()[0]
    old = bench.witnesses[0]
    again = Witness(old.signer, {}, WitnessState(tmp_path / "w1.json"), lambda: UTC_S)
    assert again._state.heads == old._state.heads != {}


def test_the_witness_answers_as_the_specification_says(bench: Bench) -> None:
    """Status by status: unknown log 404, foreign signature 403, nonsense 400, another old size 409 with the size, a
    wrong proof 422; nothing of it changes what the witness knows."""
    witness = bench.witnesses[0]
    log = Signer("grid.example/log", bytes(32))
    witness._logs[log.verifier.name] = log.verifier
    first = log.sign(Checkpoint("grid.example/log", 2, bytes(32)).text()).encode()
    answer = witness.add_checkpoint(Submission(0, (), first).encode())
    assert (answer.status, answer.body[:3]) == (200, "\u2014".encode())
    known = dict(witness._state.heads)
    later = log.sign(Checkpoint("grid.example/log", 3, bytes(32)).text()).encode()
    stranger = Signer("grid.example/log", b"\x01" * 32).sign(Checkpoint("grid.example/log", 3, bytes(32)).text())
    unknown = log.sign(Checkpoint("another", 3, bytes(32)).text()).encode()
    other = log.sign(Checkpoint("grid.example/log", 2, b"\x01" * 32).text()).encode()
    for body, status, text in (
        (Submission(2, (), unknown).encode(), 404, None),
        (Submission(2, (), stranger.encode()).encode(), 403, None),
        (b"old x\n\n" + later, 400, None),
        (b"", 400, None),
        (b"\xff" * 100, 400, None),
        (Submission(4, (), later).encode(), 400, None),
        (Submission(0, (), later).encode(), 409, b"2\n"),
        (Submission(2, (), other).encode(), 409, b"2\n"),
        (Submission(2, (bytes(32),), later).encode(), 422, None),
    ):
        answer = witness.add_checkpoint(body)
        assert answer.status == status, body[:20]
        assert text is None or answer.body == text
        assert witness._state.heads == known


def test_the_service_refuses_what_is_no_submission(bench: Bench) -> None:
    """Over HTTP: another path, a body that is too long or of unknown length; afterwards it still serves."""
    host = bench.urls[0].removeprefix("http://")
    for path, headers, status in (
        ("/other", {}, 404),
        ("/add-checkpoint", {"Content-Length": "999999999"}, 413),
        ("/add-checkpoint", {"Content-Length": "-1"}, 413),
    ):
        link = http.client.HTTPConnection(host, timeout=10)
        link.request("POST", path, b"" if headers else b"x", headers)
        assert link.getresponse().status == status
        link.close()
    assert bench.ask()[0]


def always(answer: bytes) -> Ask:
    """Everybody answers the same."""
    return lambda _url, _body: (200, answer)


def test_an_answer_that_is_no_cosignature_is_not_taken(bench: Bench) -> None:
    """A witness that answers with another's signature, with nonsense or with another log's is silent, not trusted."""
    good = bench.witnesses[1].signer
    wrong = good.cosign("another\ntext\n", 5).line().encode()
    stranger = Signer("stranger", bytes(32), KeyKind.WITNESS).cosign("x\n", 5).line().encode()
    for answer in (wrong, stranger, b"yes\n", b"", b"\xff\n"):
        found = cosign(bench.place, key_of(bench.place), bench.policy, always(answer))
        assert (found.quorum, found.signed, sorted(found.silent)) == (False, {}, ["w1", "w2"])


@pytest.mark.parametrize(
    "body",
    [b"old 01\n\nx", b"old 1\nAA==\n\nx", b"new 1\n\nx", b"old 1\nx", b"old 1\n" + b"A\n" * 70 + b"\nx"],
)
def test_what_is_no_submission_is_refused(body: bytes) -> None:
    """Leading zeros, short hashes, another word, no empty line, too many lines."""
    with pytest.raises(DecodeError):
        Submission.parse(body)
