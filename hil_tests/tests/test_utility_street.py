"""The utility on the whole street, in virtual time: it hears every decision once, its commands act once and safely."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from dcu.ledger.note import Verifier
from dcu.ledger.policy import Policy
from dcu.ledger.receipt import check_receipt
from dcu.ledger.store import Ledger
from dcu.utility.documents import DECISIONS
from hil_tests.jump import JumpStreet, Utility
from hil_tests.observation import Observation
from hil_tests.player import Ear, play
from hil_tests.scenario import Ask, Expectation, load_scenario
from hil_tests.utility_bench import UTC_S, Commander
from hil_tests.verdict import judge
from hil_tests.virtual.broker import MemoryBroker, MemoryUtility
from hil_tests.virtual.loop import run_virtual
from hil_tests.world import DCU
from shared.messages import Denial, NominalLimit, Reason, Revoke

Doing = tuple[float, Callable[[JumpStreet, Utility], Awaitable[None] | None]]


def play_with(
    tmp_path: Path, *doings: Doing, duration_s: float = 30.0, expect: bool = True
) -> tuple[Observation, Utility]:
    """Scenario I with a utility, and things done at seconds of it."""
    base = load_scenario("granted")
    what = [Expectation(what="export", client="client2", at_s=duration_s, current_a=5.0)] if expect else []
    ask = Ask(do="ask", at_s=5.0, client="client1", limit_w=base.site.contract_limit_w)
    scenario = base.model_copy(update={"duration_s": duration_s, "expect": what, "action": [ask]})
    utility = Utility(MemoryBroker(MemoryUtility()), Commander(DCU))

    async def main() -> Observation:
        loop = asyncio.get_running_loop()
        ear = Ear(loop)
        street = JumpStreet(scenario, ear, tmp_path, 1, utility=utility)
        waiting = sorted(doings, key=lambda doing: doing[0])
        tasks = []

        async def run(result: Awaitable[None]) -> None:
            await result

        def arm(seen: Observation) -> None:
            while waiting and len(seen.samples) >= 10 * waiting[0][0]:
                result = waiting.pop(0)[1](street, utility)
                if result is not None:
                    tasks.append(asyncio.ensure_future(run(result)))

        return await play(scenario, street, ear, arm)

    seen = run_virtual(main)
    assert [verdict for verdict in judge(scenario, seen) if not verdict.passed] == []
    return seen, utility


def command(order: dict[str, Any], **other: Any) -> Callable[[JumpStreet, Utility], None]:
    def give(_street: JumpStreet, utility: Utility) -> None:
        utility.broker.command(utility.commander.command(order, UTC_S, **other))

    return give


def told(utility: Utility) -> list[dict[str, Any]]:
    """Entries that were told, in the order of the ledger."""
    items = sorted(utility.broker.utility.of("decision"), key=lambda item: item["position"])
    return [item["entry"] for item in items]


def outcomes(utility: Utility) -> list[str]:
    return [item["outcome"] for item in utility.broker.utility.of("answer")]


def test_every_decision_of_a_street_is_told_once_and_as_the_ledger_has_it(tmp_path: Path) -> None:
    """The link dies with acknowledgements on their way, the DCU is killed and started again; nothing is missing. The
    household gives its grant back before the end, so that no renewal falls into the play's last instant."""

    def break_it(_street: JumpStreet, utility: Utility) -> None:
        utility.broker.lose_acknowledgements = 3

    async def restart(street: JumpStreet, _utility: Utility) -> None:
        await street.kill(DCU)
        await street.launch(DCU)

    async def release(street: JumpStreet, _utility: Utility) -> None:
        await street.release("client1")

    seen, utility = play_with(tmp_path, (5.5, break_it), (12.0, restart), (34.0, release), duration_s=40.0)
    kinds = {"start", "quarantine ended", "grant", "renewal", "denial", "lowered", "revoke", "release", "expired"}
    wanted = [entry for entry in seen.ledger if entry["kind"] in kinds]
    found = told(utility)
    assert [(e["kind"], e["epoch"], e["seq"]) for e in found] == [(e["kind"], e["epoch"], e["seq"]) for e in wanted]
    assert utility.broker.utility.doubled > 0
    assert len([e for e in found if e["kind"] == "start"]) == 2
    reports = utility.broker.utility.of("report")
    assert len(reports) >= 3
    assert {one["resource"] for one in reports[-1]["readings"]} == {"substation", "client1", "client2"}
    assert utility.broker.utility.of("checkpoint")
    assert [one["resource"] for one in utility.broker.utility.of("statistics")] == ["client1", "client2"]


def test_revoke_all_ends_every_grant_at_once_and_holds(tmp_path: Path) -> None:
    """The household asks again at once and hears no; the ledger has the command ahead of the revoke."""

    async def ask(street: JumpStreet, _utility: Utility) -> None:
        await street.ask("client1", 2400.0)

    seen, utility = play_with(tmp_path, (12.0, command({"kind": "revoke_all", "hold_s": 60.0})), (16.0, ask))
    kinds = [entry["kind"] for entry in seen.ledger if entry["kind"] in {"command", "revoke", "denial", "grant"}]
    assert kinds == ["grant", "command", "revoke", "denial"]
    revokes = [frame for frame in seen.frames if isinstance(frame.message, Revoke)]
    assert 11.8 < revokes[0].start_s < 13.0
    assert [m.reason for m in (f.message for f in revokes) if isinstance(m, Revoke)] == [Reason.OPERATOR]
    assert any(isinstance(f.message, Denial) and f.message.reason is Reason.OPERATOR for f in seen.frames)
    assert outcomes(utility) == ["accepted", "done"]


def test_a_hold_outlasts_a_restart_and_ends(tmp_path: Path) -> None:
    """Nobody knows after a restart how much of it was over, so that it begins anew; then a grant is given again."""

    async def restart(street: JumpStreet, _utility: Utility) -> None:
        await street.kill(DCU)
        await street.launch(DCU)

    async def ask(street: JumpStreet, _utility: Utility) -> None:
        await street.ask("client1", 2400.0)

    order = {"kind": "revoke_all", "hold_s": 25.0}
    doings: list[Doing] = [(8.0, command(order)), (14.0, restart), (28.0, ask), (50.0, ask)]
    seen, _ = play_with(tmp_path, *doings, duration_s=60.0)
    answers = [(e["epoch"], e["kind"], e["reason"]) for e in seen.ledger if e["kind"] in {"grant", "denial"}]
    assert answers == [(1, "grant", "GRANTED"), (2, "denial", "OPERATOR"), (2, "grant", "GRANTED")]
    assert [e["kind"] for e in seen.ledger].count("hold again") == 1


def test_a_lowered_nominal_limit_reaches_the_meter_and_survives_a_restart(tmp_path: Path) -> None:
    """The DCU is killed right after; its next start greets with the lowered limit, and the meter's relay follows."""

    async def restart(street: JumpStreet, _utility: Utility) -> None:
        await street.kill(DCU)
        await street.launch(DCU)

    order = {"kind": "set_nominal_limits", "limits": {"client2": 600.0}}
    seen, utility = play_with(tmp_path, (8.0, command(order)), (15.0, restart), duration_s=40.0, expect=False)
    limits = [f.message.limit_w for f in seen.frames if f.client == "client2" and isinstance(f.message, NominalLimit)]
    assert set(limits) == {600.0}  # what it was told before was told before the play
    starts = [entry["nominal_limit_w"]["client2"] for entry in seen.ledger if entry["kind"] == "start"]
    assert starts == [1200, 600]
    assert [e["kind"] for e in seen.ledger].count("command") == 1
    assert seen.status["client2"]["limit_w"] == 600.0
    assert outcomes(utility) == ["accepted", "done"]


def test_no_command_raises_anything_beyond_the_configuration(tmp_path: Path) -> None:
    """Above the configured nominal limit, a wider band, a stranger's meter, a model where there is none: refused."""
    seen, utility = play_with(
        tmp_path,
        (6.0, command({"kind": "set_nominal_limits", "limits": {"client1": 1300.0}})),
        (6.1, command({"kind": "set_band", "band_pct": 9.0})),
        (6.2, command({"kind": "set_nominal_limits", "limits": {"client9": 1.0}})),
        (6.3, command({"kind": "load_model", "sha256": "0" * 64})),
        (6.4, command({"kind": "set_policy", "policy": "equal"})),
        duration_s=20.0,
    )
    answers = utility.broker.utility.of("answer")
    assert [a["reason"] for a in answers] == [
        "above_configured", "above_configured", "unknown_meter", "not_here", "not_here",
    ]  # fmt: skip
    assert [e["refused"] for e in seen.ledger if e["kind"] == "command refused"] == [a["reason"] for a in answers]
    assert "command" not in [e["kind"] for e in seen.ledger]


def test_a_receipt_is_given_and_verifies(tmp_path: Path) -> None:
    """The start of the epoch, proved under the newest head."""
    _, utility = play_with(tmp_path, (10.0, command({"kind": "give_receipt", "position": 0})), duration_s=20.0)
    answers = {a["outcome"]: a for a in utility.broker.utility.of("answer")}
    assert set(answers) == {"accepted", "receipt", "done"}
    assert answers["receipt"]["receipt"].startswith("c2sp.org/tlog-proof@v1")


def test_a_hole_in_the_numbers_is_closed_by_asking_for_it(tmp_path: Path) -> None:
    """All that was told from the second entry on has never arrived. One command brings it, under the same names, and
    nothing else: no window, no view, nothing of another log. What it has already it has once."""
    hidden: dict[str, dict[str, Any]] = {}

    def lose_and_ask(_street: JumpStreet, utility: Utility) -> None:
        items = utility.broker.utility.items
        for name in [name for name in items if "/decision/" in name][1:]:
            hidden[name] = items.pop(name).item
        utility.broker.command(utility.commander.command({"kind": "tell_again", "position": 0, "count": 1000}, UTC_S))
        utility.broker.command(utility.commander.command({"kind": "tell_again", "position": 10**6, "count": 1}, UTC_S))

    seen, utility = play_with(tmp_path, (70.0, lose_and_ask), duration_s=75.0, expect=False)
    found = {name: taken.item for name, taken in utility.broker.utility.items.items() if "/decision/" in name}
    assert len(hidden) > 3
    assert [found[name]["entry"] for name in hidden] == [item["entry"] for item in hidden.values()]
    assert len(found) == len([entry for entry in seen.ledger if entry["kind"] in DECISIONS])
    last = [a for a in utility.broker.utility.of("answer") if a["outcome"] != "accepted"]
    assert [(a["number"], a["outcome"]) for a in last] == [(1, "done"), (2, "failed")]
    assert int(last[0]["detail"].split()[0]) >= len(hidden) + 1
    assert "no such entry" in last[1]["detail"]


def test_a_hole_in_the_numbers_is_closed_with_receipts(tmp_path: Path) -> None:
    """A grant has never arrived. Its number is missing between its neighbours'; the utility asks for each entry between
    their positions, for each customer, and holds what comes against the log's key."""
    hidden: list[dict[str, Any]] = []

    def lose_and_ask(_street: JumpStreet, utility: Utility) -> None:
        items = utility.broker.utility.items
        lost = next(name for name, taken in items.items() if taken.item.get("entry", {}).get("kind") == "grant")
        hidden.append(items.pop(lost).item)
        entries = {taken.item["position"]: taken.item["entry"] for taken in items.values() if "position" in taken.item}
        numbers = {entry["seq"]: place for place, entry in entries.items() if entry["seq"] is not None}
        seq = next(number for number in range(max(numbers)) if number not in numbers)
        for position in range(numbers[seq - 1] + 1, numbers[seq + 1]):
            for client in ("client1", "client2") if position not in entries else ():
                order = {"kind": "give_receipt", "position": position, "meter": client}
                utility.broker.command(utility.commander.command(order, UTC_S))

    _, utility = play_with(tmp_path, (70.0, lose_and_ask), duration_s=75.0, expect=False)
    ledger = Ledger(tmp_path / "state" / DCU, DCU)
    key = Policy.of_log(Verifier.parse(ledger.vkey))
    ledger.close()
    texts = [answer["receipt"] for answer in utility.broker.utility.of("answer") if "receipt" in answer]
    receipts = [check_receipt(text.encode(), key) for text in texts]
    lost = hidden[0]["entry"]
    found = [receipt for receipt in receipts if receipt.entry["seq"] == lost["seq"] and not receipt.closed]
    assert [(receipt.position, receipt.customer) for receipt in found] == [(hidden[0]["position"], lost["meter"])]
    assert found[0].entry == {**found[0].entry, **lost}
