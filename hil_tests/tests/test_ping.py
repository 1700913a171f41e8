"""A ping through the running DCU of a virtual street: the node answers over the real MAC, and nothing else changes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hil_tests.tests.test_attacker import ASK, TappedStreet, attacked, state
from hil_tests.world import DCU, EUI48
from prime_plc.survey import Survey
from prime_plc.telling import tell
from prime_plc.trace import read_tap
from shared.ids import format_eui48


def test_people_ping_a_meter_while_its_grant_lives(tmp_path: Path) -> None:
    """Strangers, garbage and a flood among the pings: a known meter answers, the others are told why not, and no
    limit, decision or refusal comes of it."""
    asked: list[asyncio.Task[dict[str, Any]]] = []
    before: list[tuple[Any, Any]] = []

    def strike(street: TappedStreet) -> None:
        daemon = street.daemon(DCU)
        before.append((state(street), daemon.status()["protection"]["refused"]))
        questions = [f"ping {format_eui48(EUI48['client1'])}", *(["ping AA:AA:AA:AA:AA:AA"] * 50), "raise 9999", "ping"]
        questions += ["pib", "trace"]
        asked.extend(asyncio.ensure_future(daemon.answer(question)) for question in questions)

    def look(street: TappedStreet) -> None:
        daemon = street.daemon(DCU)
        status = asyncio.ensure_future(daemon.answer(""))
        asked.append(status)
        before.append((state(street), daemon.status()["protection"]["refused"]))

    def keys(found: dict[str, Any]) -> dict[str, Any]:
        return {key: found[key] for key in ("limit_w", "source", "epoch", "nominal_limit_w")}

    attacked(tmp_path, [ASK], {11.3: strike, 28.0: look}, 10.0)
    pong, *others, pib, trace, status = [task.result() for task in asked]
    assert pong["result"] == "answered"
    assert 0.02 < pong["round_trip_s"] < 5.0
    assert all(one.get("refused") or "error" in one for one in others)
    assert sum("error" in one for one in others) == 2
    assert pib["pib"]["0x0024"] == "03"  # a base
    assert len(pib["pib"]["0x0023"]) == 12
    frames = list(read_tap([(utc_s, way, bytes.fromhex(data)) for utc_s, way, data in trace["serial"]]))
    assert {frame.way for frame in frames} == {"sent", "received"}
    assert all(told.fault is None for told in tell(frames, None))
    (first, refused), (last, refused_after) = before
    assert keys(first) == keys(last)
    assert refused == refused_after
    nodes = {node.eui48: node for node in Survey.of(status["plc"]).nodes}
    assert nodes[format_eui48(EUI48["client1"])].alive_answered >= 1
