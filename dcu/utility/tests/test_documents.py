"""Documents: what is sent is JSON that says what it is, and the same item is the same bytes each time."""

from __future__ import annotations

import json

import pytest

from dcu.utility.documents import (
    GZIP,
    PLAIN_BYTES_MAX,
    Class,
    alarm,
    command_topic,
    encode,
    message,
    pack,
    state_topic,
    unpack,
    up,
    with_id,
)


def test_a_message_names_its_schema_its_dcu_and_its_class() -> None:
    """And carries items with their ids, in order."""
    items = [
        with_id(f'dcu-1/alarm/"{n}"', encode(alarm(1.0, "meter-1", "METER_SILENT", raised=True))) for n in range(2)
    ]
    found = json.loads(message("dcu-1", Class.ALARM, items))
    assert {key: found[key] for key in ("schema", "dcu", "kind")} == {
        "schema": "headroom-utility/1", "dcu": "dcu-1", "kind": "alarm",
    }  # fmt: skip
    assert [item["id"] for item in found["items"]] == ['dcu-1/alarm/"0"', 'dcu-1/alarm/"1"']
    assert json.loads(message("dcu-1", Class.ALARM, []))["items"] == []


def test_what_json_does_not_have_is_not_sent() -> None:
    """No NaN in anybody's parser."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode({"u_v": float("inf")})


def test_long_messages_are_compressed_and_come_back() -> None:
    """At the limit not yet, beyond it always; the same bytes each time."""
    short, long = b"x" * PLAIN_BYTES_MAX, b"x" * (PLAIN_BYTES_MAX + 1)
    assert pack(short) == short
    assert pack(long).startswith(GZIP)
    assert pack(long) == pack(long)
    assert [unpack(pack(payload)) for payload in (short, long)] == [short, long]


def test_topics_are_each_dcus_own() -> None:
    """What the broker's access list goes by."""
    topics = [up("dcu-1", kind) for kind in Class] + [state_topic("dcu-1")]
    assert all(topic.startswith("headroom/dcu-1/up/") for topic in topics)
    assert len(set(topics)) == len(Class) + 1
    assert command_topic("dcu-1") == "headroom/dcu-1/down/command"
