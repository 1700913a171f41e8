"""docs/utility.asyncapi.json says what is sent: every message of a whole street is held against its schema, and every
command that we accept or refuse by its form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dcu.utility.commands import KINDS, Judge, Refused
from dcu.utility.documents import DECISIONS, Class, command_topic, encode, state, state_topic, unpack, up
from hil_tests.tests.test_utility_street import command, play_with
from hil_tests.utility_bench import UTC_S, Commander
from hil_tests.virtual.broker import MemoryUtility

FILE = Path(__file__).parents[2] / "docs" / "utility.asyncapi.json"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="documentation is not part of an installed package")


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def validator(name: str) -> Draft202012Validator:
    """Of a message by its name."""
    found = document()
    payload = found["components"]["messages"][name]["payload"]
    return Draft202012Validator({"components": found["components"], **payload})


def test_every_topic_of_ours_is_documented_and_no_other() -> None:
    """Channels, operations, messages and their references fit together."""
    found = document()
    addresses = {channel["address"] for channel in found["channels"].values()}
    ours = {up("{dcu}", kind) for kind in Class} | {state_topic("{dcu}"), command_topic("{dcu}")}
    assert addresses == ours
    for operation in found["operations"].values():
        assert operation["channel"]["$ref"].rpartition("/")[2] in found["channels"]
    for channel in found["channels"].values():
        names = [message["$ref"].rpartition("/")[2] for message in channel["messages"].values()]
        assert set(names) <= found["components"]["messages"].keys()
    for name in found["components"]["messages"]:
        Draft202012Validator.check_schema(validator(name).schema)


def test_the_words_of_the_document_are_those_of_the_code() -> None:
    """Kinds of entries and of orders."""
    schemas = document()["components"]["schemas"]
    assert set(schemas["decision"]["properties"]["entry"]["properties"]["kind"]["enum"]) == DECISIONS
    assert {name.removeprefix("order_") for name in schemas if name.startswith("order_")} == KINDS


def test_everything_a_street_tells_is_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every message of a play with commands, good and bad ones, a fault and a restart of the link."""
    heard: list[tuple[str, dict[str, Any]]] = []
    take = MemoryUtility.take

    def listen(self: MemoryUtility, topic: str, payload: bytes, at_s: float) -> None:
        heard.append((topic.rpartition("/")[2], json.loads(unpack(payload))))
        take(self, topic, payload, at_s)

    monkeypatch.setattr(MemoryUtility, "take", listen)
    play_with(
        tmp_path,
        (6.0, command({"kind": "give_receipt", "position": 0})),
        (6.5, command({"kind": "tell_again", "position": 0, "count": 9})),
        (7.0, command({"kind": "set_nominal_limits", "limits": {"client2": 1100.0}})),
        (8.0, command({"kind": "set_policy", "policy": "equal"})),
        (9.0, command({"kind": "set_band", "band_pct": 4.9})),
        (10.0, command({"kind": "revoke_all"}, version=3)),
        (20.0, command({"kind": "revoke_all", "hold_s": 5.0})),
        duration_s=40.0,
        expect=False,
    )
    validators = {name: validator(name) for name in {name for name, _ in heard}}
    assert {"answer", "decision", "checkpoint", "report", "state", "alarm", "statistics"} <= validators.keys()
    wrong = [(name, e.message) for name, content in heard for e in validators[name].iter_errors(content)]
    assert wrong == []
    outcomes = {item["outcome"] for name, content in heard if name == "answer" for item in content["items"]}
    assert outcomes == {"accepted", "done", "refused", "receipt"}


def test_what_the_broker_says_in_our_place_is_as_documented() -> None:
    """The will."""
    validator("state").validate(json.loads(encode(state(0.0, online=False))))


def test_the_documented_form_of_commands_is_the_one_that_is_read() -> None:
    """Good ones pass both; what the schema refuses, the DCU refuses too."""
    commander = Commander("dcu")
    judge, schema = Judge("dcu", (commander.public,)), validator("command")
    orders: list[tuple[dict[str, Any], bool]] = [
        ({"kind": "set_nominal_limits", "limits": {"meter-1": 0}}, True),
        ({"kind": "set_nominal_limits", "limits": {}}, False),
        ({"kind": "set_nominal_limits", "limits": {"a meter": 1}}, False),
        ({"kind": "set_band", "band_pct": 10}, True),
        ({"kind": "set_band", "band_pct": 10.1}, False),
        ({"kind": "revoke_all"}, True),
        ({"kind": "revoke_all", "hold_s": 3601}, False),
        ({"kind": "give_receipt", "position": 1, "meter": None}, True),
        ({"kind": "give_receipt", "position": -1}, False),
        ({"kind": "tell_again", "position": 0, "count": 1000}, True),
        ({"kind": "tell_again", "position": 0, "count": 0}, False),
        ({"kind": "tell_again", "position": 0, "count": 1001}, False),
        ({"kind": "load_model", "sha256": "A" * 64}, False),
        ({"kind": "set_policy", "policy": "max_total", "and": 1}, False),
        ({"kind": "reboot"}, False),
    ]
    for order, good in orders:
        payload = commander.command(order, UTC_S)
        found = judge.judge(payload, retained=False, last=0, utc_s=UTC_S)
        assert isinstance(found, Refused) != good, (order, found)
        assert schema.is_valid(json.loads(payload)) == good, order
