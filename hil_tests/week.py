"""Days of a street in a DCU's store, for studies: from meters to `headroom-dcu export` without a power line.

A street of cores plays day after day, and its DCU's `Recorder` is told of every report, as `dcu.daemon` tells it. What
is left is what a DCU leaves: a configuration, and a store beside it. A unit that somebody measures elsewhere, under the
same sky, is written as a study's reference.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from dcu.grid.feeder import Feeder
from dcu.grid.network import Network
from dcu.hosting import exchange as hosting
from dcu.store.entries import LedgerFacts
from dcu.store.recorder import Recorder
from dcu.store.writer import Inline
from hil_tests import street_dcu
from hil_tests.cores import WARM_UP_S, Street
from hil_tests.day import MINUTES, SKIES, Day, Plant, customer_ports, make_day, open_feeder
from hil_tests.kept import toml
from hil_tests.street_dcu import StreetDcu, StreetSettings
from hil_tests.street_flow import StreetFlow
from shared.cli import EXIT_OK, run_cli
from shared.clock import Timer
from shared.errors import ConfigError, Fault

MONDAY: Final = datetime(2026, 6, 15, tzinfo=UTC)
DAYS: Final = 7
NOMINAL_W: Final = 5000.0
"""Nobody is limited: what a plant gives is what the sun gives."""
REPORT_S: Final = 120.0
TURN_S: Final = 120
"""[s] Between two turns of the recorder."""
ELSEWHERE: Final = "hall-roof"
ELSEWHERE_W: Final = 10_000.0
REFERENCE: Final = "reference.csv"
QUARTER_MINUTES: Final = 15


@dataclass(slots=True)
class _Clock:
    """The street's time, 0 when it is switched on; its first minute is Monday's."""

    now: float = 0.0

    def monotonic(self) -> float:
        """[s]."""
        return self.now

    def utc_s(self) -> float:
        """[s, Unix]."""
        return MONDAY.timestamp() - WARM_UP_S + self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """The recorder asks for none."""
        raise NotImplementedError


def days_of(network: Network, plants: dict[str, float], count: int, seed: int) -> Day:
    """Days on end: other clouds and other households' days each, the same plants [W] all the time."""
    ports = customer_ports(network)
    standing = tuple(Plant(name, ports[name][0], ports[name], peak_w) for name, peak_w in plants.items())
    some = [make_day(network, SKIES[(seed + k) % len(SKIES)], 1.0, 1000 * seed + k) for k in range(count)]
    share = np.concatenate([day.pv_share for day in some])
    pv_w = np.minimum(share, 1.0)[:, None] * np.array([plant.peak_w for plant in standing])
    draws = [np.concatenate([getattr(day, name) for day in some]) for name in ("p_w", "q_var")]
    return Day(np.arange(count * MINUTES), draws[0], draws[1], standing, pv_w, share, f"{count} days")


async def record(street: Street, directory: Path) -> None:
    """Play the street, its DCU's store in `directory`."""
    config, clock = street.dcu.config, _Clock()
    facts = LedgerFacts(1, 0, "", lambda _log, _first: iter(()))
    settings = replace(config.store_settings, free_bytes_min=0)  # a full disk is no concern of a play
    store = Recorder(directory, config.dcu.id, clock, lambda _: Inline(), facts, settings)

    def hear(item: hosting.Input) -> None:
        if isinstance(item, hosting.ReportArrived):
            store.reported(item.meter, item.report)
        elif isinstance(item, hosting.SubstationRead) and item.reading is not None:
            store.substation_read("substation", item.reading)

    street.listen(hear)
    for second in street.seconds():
        clock.now = float(second)
        if second % TURN_S == 0:
            await store.turn()
    clock.now = WARM_UP_S + 60.0 * len(street.day.minute) + 600.0  # reports on their way have come: make what is left
    await store.turn()
    store.close()


def write_reference(day: Day, path: Path) -> None:
    """Quarter-hours of a unit elsewhere under the same sky, in the layout of meter data."""
    wh = np.minimum(day.pv_share, 1.0).reshape(-1, QUARTER_MINUTES).mean(axis=1) * ELSEWHERE_W / 4
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("customer", "start_utc", "import_wh", "export_wh", "pv_wh", "u_mean_v"))
        for k, energy_wh in enumerate(wh):
            at = datetime.fromtimestamp(MONDAY.timestamp() + 900 * k, UTC)
            rows.writerow((ELSEWHERE, at.strftime("%Y-%m-%dT%H:%M:%SZ"), "", "", f"{energy_wh:.1f}", ""))


def play(network: Path, plants: dict[str, float], count: int, seed: int, out: Path) -> Day:
    """What a DCU leaves after so many days, and the reference; the day that was played."""
    feeder = Feeder(open_feeder(str(network)))
    day = days_of(feeder.network, plants, count, seed)
    flow = StreetFlow(feeder, np.flatnonzero(np.isfinite(feeder.model.rating_a)))
    # With the rule `present` no configuration may have a band above 8.69 % (10 % could not be read back).
    settings = StreetSettings(
        NOMINAL_W, 230.0, 8.5, seed=seed, reading_s=REPORT_S, report_s=REPORT_S, window_s=60.0, rule="present"
    )
    street = Street(flow, day, settings)
    out.mkdir(parents=True, exist_ok=True)
    asyncio.run(record(street, out / "store"))
    write_config(street.dcu, out)
    write_reference(day, out / REFERENCE)
    return day


def write_config(dcu: StreetDcu, out: Path) -> Path:
    """The DCU's configuration, telling studies who is who."""
    content = dcu.config.model_dump(mode="json", exclude_none=True)
    content["dcu"]["state_directory"] = str(out.resolve())
    content["store"] = content.get("store", {}) | {"export_ids": "plain"}
    path = out / street_dcu.FILE
    path.write_text(toml(content), encoding="utf-8")
    return path


def _plant(text: str) -> tuple[str, float]:
    name, _, peak_w = text.partition("=")
    try:
        return name, float(peak_w)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"seen {text!r}, expected CUSTOMER=WATTS") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m hil_tests.week`: returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m hil_tests.week", description="Days of a street in a DCU's store.")
    parser.add_argument("network", type=Path, help="a network file")
    parser.add_argument("out", type=Path, help="folder for configuration, store and reference")
    parser.add_argument("--plant", type=_plant, action="append", required=True, metavar="CUSTOMER=WATTS")
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(arguments)
    return run_cli(lambda: _played(chosen))


def _played(chosen: argparse.Namespace) -> int:
    if (chosen.out / "store").exists():
        raise ConfigError("week", [Fault("out", f"a store in {chosen.out}", "a folder without one")])
    play(chosen.network, dict(chosen.plant), chosen.days, chosen.seed, chosen.out)
    print(f"{chosen.out / street_dcu.FILE}: {chosen.days} days from {MONDAY:%Y-%m-%d} on")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
