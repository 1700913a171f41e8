"""The Parquet tables of a probabilistic study."""

from __future__ import annotations

from typing import Any

import numpy as np

from dcu.planning.evaluate import I_BINS, U_BINS, VUF_BINS
from dcu.planning.reading import Read
from dcu.planning.run import Findings
from dcu.planning.study.outcome import Outcome


def write_tables(out: Outcome, read: Read, found: Findings) -> None:
    """Counts of every place and level, distributions, and what the extras found."""
    points: dict[str, list[Any]] = {
        k: []
        for k in ("scenario", "level", "unit_w", "bus", "phase", "states", "over", "under", "u_max_pu", "u_min_pu")
    }
    wires: dict[str, list[Any]] = {
        k: [] for k in ("scenario", "level", "unit_w", "branch", "phase", "states", "over", "loading_max")
    }
    buses: dict[str, list[Any]] = {k: [] for k in ("scenario", "level", "unit_w", "bus", "states", "over", "vuf_max")}
    for name, log in found.logs.items():
        o = read.world.observers[name]
        for level in log:
            t, head = level.tally, (name, level.number, level.level_w)
            _rows(
                points,
                [
                    (*head, b, p, t.states, *v)
                    for (b, p), *v in zip(
                        o.points,
                        t.over.tolist(),
                        t.under.tolist(),
                        t.u_max_pu.tolist(),
                        t.u_min_pu.tolist(),
                        strict=True,
                    )
                ],
            )
            _rows(
                wires,
                [
                    (*head, b, p, t.states, *v)
                    for (b, p), *v in zip(o.wires, t.overloaded.tolist(), t.loading_max.tolist(), strict=True)
                ],
            )
            _rows(
                buses,
                [
                    (*head, b, t.states, *v)
                    for b, *v in zip(o.buses, t.unbalanced.tolist(), t.vuf_max.tolist(), strict=True)
                ],
            )
    out.table("voltages", points)
    out.table("currents", wires)
    out.table("unbalance", buses)
    out.table("distributions", _distributions(read, found))
    if found.places:
        out.table("places", {k: [getattr(p, k) for p in found.places] for k in found.places[0].__dataclass_fields__})
    if found.dynamic is not None:
        out.table(
            "exporters",
            {
                k: [getattr(e, k) for e in found.dynamic.exporters]
                for k in found.dynamic.exporters[0].__dataclass_fields__
            },
        )
    if found.losses is not None:
        out.table(
            "losses", {"by_day_wh": found.losses.by_day_wh.tolist(), "by_state_wh": found.losses.by_state_wh.tolist()}
        )


def _distributions(read: Read, found: Findings) -> dict[str, list[Any]]:
    """Histograms of each scenario at its last feasible step by voltage: voltage [pu], loading, unbalance; no
    empty bins. `place` is a bus or branch."""
    rows: dict[str, list[Any]] = {k: [] for k in ("scenario", "quantity", "place", "phase", "from", "to", "states")}
    for name, t in found.details.items():
        o = read.world.observers[name]
        for quantity, places, counts, bins in (
            ("u_pu", o.points, t.u_histogram, U_BINS),
            ("loading", o.wires, t.loading_histogram, I_BINS),
            ("vuf", tuple((b, "") for b in o.buses), t.vuf_histogram, VUF_BINS),
        ):
            low, width = bins[0], (bins[1] - bins[0]) / bins[2]
            _rows(
                rows,
                [
                    (name, quantity, *places[k], low + width * j, low + width * (j + 1), int(counts[k, j]))
                    for k, j in np.argwhere(counts).tolist()
                ],
            )
    return rows


def _rows(columns: dict[str, list[Any]], rows: list[tuple[Any, ...]]) -> None:
    for row in rows:
        for key, value in zip(columns, row, strict=True):
            columns[key].append(value)
