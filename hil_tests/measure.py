"""Measurements on the street: request-to-relay latency, and daemons killed at random moments."""

from __future__ import annotations

import random
import statistics
import tempfile
from pathlib import Path
from typing import Any, Final, Literal

from hil_tests.cli import Played, play_all, play_virtually
from hil_tests.scenario import CLIENTS, Ask, Expectation, Process, Release, Scenario, load_scenario
from hil_tests.verdict import latency_of

CYCLE_S: Final = 5.0
"""[s] From one question of the household to the next."""

HELD_S: Final = 3.0
"""[s] From a question to its release."""

DOWN_S: Final = 2.0
"""[s] From a kill to the next start."""

RECOVERY_S: Final = 30.0
"""[s] Played on after the last restart, so that what could go wrong has time to."""

AIRTIMES_MAX: Final = 3.0
"""Latency allowed in airtimes of the frames exchanged, beside one decision window."""


def measure_latency(grants: int, seed: int, *, virtual: bool) -> dict[str, Any]:
    """Ask and release ``grants`` times at random phases of the decision window; medians of latency and airtime [s]."""
    scenario = _asking(grants, random.Random(seed))
    (played,) = _play([scenario], seed, jobs=1, virtual=virtual)
    asked = [action.at_s for action in scenario.action if isinstance(action, Ask)]
    found = [latency_of(played.seen, CLIENTS[0], at_s) for at_s in asked]
    delays = [one for one in found if one is not None and one.request_to_relay_s < HELD_S]
    if not delays:
        return {"grants": 0, "within": False}
    median_s = statistics.median(one.request_to_relay_s for one in delays)
    airtime_s = statistics.median(one.airtime_s for one in delays)
    bound_s = AIRTIMES_MAX * airtime_s + scenario.site.decision_window_s
    return {
        "grants": len(delays),
        "asked": grants,
        "request_to_relay_s_median": round(median_s, 4),
        "request_to_relay_s_max": round(max(one.request_to_relay_s for one in delays), 4),
        "airtime_s_median": round(airtime_s, 4),
        "decision_window_s": scenario.site.decision_window_s,
        "bound_s": round(bound_s, 4),
        "within": len(delays) >= 0.9 * grants and median_s <= bound_s,
    }


def _asking(grants: int, draw: random.Random) -> Scenario:
    base = load_scenario("granted")
    actions: list[Ask | Release] = []
    for index in range(grants):
        at_s = 1.0 + CYCLE_S * index + draw.random()
        actions.append(Ask(do="ask", at_s=at_s, client="client1", limit_w=base.site.contract_limit_w))
        actions.append(Release(do="release", at_s=at_s + HELD_S, client="client1"))
    expect = Expectation(what="granted", client="client1")
    return base.model_copy(
        update={"name": "latency", "duration_s": 2.0 + CYCLE_S * grants, "action": actions, "expect": [expect]}
    )


def kill_sweep(kills: int, seed: int, jobs: int, *, virtual: bool) -> dict[str, Any]:
    """Kill meter or DCU at random moments of scenarios I and III; what never may happen is judged on every street."""
    draw = random.Random(seed)
    scenarios = [_killed(load_scenario(draw.choice(("granted", "revoked"))), number, draw) for number in range(kills)]
    played = _play(scenarios, seed, jobs=jobs, virtual=virtual)
    violations = [
        f"{item.scenario.name} ({item.scenario.title}): {verdict.expected}: {verdict.observed}"
        for item in played
        for verdict in item.verdicts
        if not verdict.passed
    ]
    victims = [action.who for item in played for action in item.scenario.action if isinstance(action, Process)]
    return {
        "kills": len(played),
        "of_dcu": victims.count("dcu") // 2,
        "of_meter": victims.count("client1") // 2,
        "seed": seed,
        "violations": violations,
    }


def _killed(base: Scenario, number: int, draw: random.Random) -> Scenario:
    """A scenario with one kill and one restart; after a DCU's return client 1 must be where the grid allows it."""
    at_s = draw.uniform(0.0, base.duration_s)
    who: Literal["dcu", "client1"] = "dcu" if draw.random() < 0.5 else "client1"
    end_s = base.duration_s + DOWN_S + RECOVERY_S
    actions = [
        *base.action,
        Process(do="kill", at_s=at_s, who=who),
        Process(do="start", at_s=at_s + DOWN_S, who=who),
    ]
    settled_a = base.plant.raised_a if base.name == "granted" and who == "dcu" else None
    if base.name == "revoked":
        settled_a = base.plant.nominal_a
    expect = (
        [Expectation(what="export", client="client1", at_s=end_s, current_a=settled_a)]
        if settled_a is not None
        else [Expectation(what="export", client="client2", at_s=end_s, current_a=base.plant.nominal_a)]
    )
    return base.model_copy(
        update={
            "name": f"kill-{number}",
            "title": f"{base.name}, kill {who} at {at_s:.3f} s",
            "duration_s": end_s,
            "action": actions,
            "expect": expect,
        }
    )


def _play(scenarios: list[Scenario], seed: int, jobs: int, *, virtual: bool) -> list[Played]:
    with tempfile.TemporaryDirectory(prefix="headroom-measure-") as name:
        directory = Path(name)
        if virtual:
            return [
                play_virtually(scenario, directory / scenario.name, seed + i) for i, scenario in enumerate(scenarios)
            ]
        from hil_tests.wall import WallStreet  # noqa: PLC0415  # servers and pseudo-terminals

        return play_all(scenarios, lambda s, ear, path: WallStreet(s, ear, path, seed), directory, jobs)


__all__ = ["kill_sweep", "measure_latency"]
