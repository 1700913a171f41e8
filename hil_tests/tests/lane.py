"""A small four-wire street for tests: a source, three cabinets, six single-phase customers, one rated cable."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from dcu.grid.network import (
    FOUR_WIRE,
    Branch,
    BranchEnd,
    Bus,
    Conductor,
    Connection,
    ConnectionPoint,
    Earthing,
    Network,
    balanced_source,
    matrix,
    sequence_matrix,
)

PHASES = (Conductor.L1, Conductor.L2, Conductor.L3, Conductor.L1, Conductor.L2, Conductor.L1)
BUSES = ("a", "a", "b", "b", "c", "c")


def lane(rating_a: float = 60.0) -> Network:
    """Customers `h1 .. h6` with 400 W each; the first cable carries `rating_a`."""
    names = ("hub", "a", "b", "c")
    z = np.full((4, 4), 0.01 + 0.04j) + np.eye(4) * (0.09 + 0.01j)
    cables = tuple(
        Branch(
            f"{x}{y}",
            BranchEnd(x, FOUR_WIRE),
            BranchEnd(y, FOUR_WIRE),
            matrix(z),
            None,
            (rating_a,) * 4 if x == "hub" else (),
        )
        for x, y in pairwise(names)
    )
    points = tuple(
        ConnectionPoint(f"h{k + 1}", bus, (Connection(phase, Conductor.N, 400.0, 50.0),))
        for k, (bus, phase) in enumerate(zip(BUSES, PHASES, strict=True))
    )
    return Network(
        name="lane",
        source=balanced_source("hub", 230.0, sequence_matrix(0.01 + 0.03j, 0.02 + 0.05j), 0.0),
        buses=tuple(Bus(name, FOUR_WIRE, 230.0) for name in names),
        branches=cables,
        earthings=(Earthing("hub", Conductor.N, 0j),),
        connection_points=points,
    )
