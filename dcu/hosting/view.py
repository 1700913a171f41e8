"""What the rules that foresee make of the measurements, as the ledger keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dcu.hosting.decide import Binding
from dcu.hosting.estimate import Estimate
from dcu.hosting.headroom import Situation
from shared.ids import MeterId
from shared.messages import Reason

Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """A complete set: when [s], the busbar's voltages L1 L2 L3 [V], and every port."""

    now: float
    busbar_v: Reals
    situation: Situation


@dataclass(frozen=True, slots=True, eq=False)
class GridView:
    """An estimate, the points outside the band as they are measured, and what a learning rule was taught."""

    estimate: Estimate
    outside: tuple[Binding, ...]
    taught: Taught | None = None

    def as_entry(self) -> dict[str, Any]:
        e, t = self.estimate, self.taught
        found = {
            "source": e.source,
            "situation": None if e.situation is None else _as_entry(e.situation),
            "unknown": [b.as_entry() for b in e.unknown],
            "blocked": list(e.blocked),
            "outside": [b.as_entry() | {"phase": b.phase} for b in self.outside],
        }
        if t is not None:
            found["taught"] = {"now": t.now, "busbar_v": t.busbar_v.tolist(), "situation": _as_entry(t.situation)}
        return found

    @staticmethod
    def from_entry(entry: Mapping[str, Any]) -> GridView:
        """The view that an entry keeps."""
        t = entry.get("taught")
        situation = None if entry["situation"] is None else _situation(entry["situation"])
        estimate = Estimate(entry["source"], situation, tuple(map(_binding, entry["unknown"])), tuple(entry["blocked"]))
        taught = (
            None if t is None else Taught(t["now"], np.array(t["busbar_v"], dtype=float), _situation(t["situation"]))
        )
        return GridView(estimate, tuple(map(_binding, entry["outside"])), taught)


_ARRAYS: Final = ("p_w", "q_var", "u_v", "margin_v")


def _as_entry(s: Situation) -> dict[str, Any]:
    errors = {"model_error": s.model_error, "power_error": s.power_error}
    return {name: getattr(s, name).tolist() for name in _ARRAYS} | errors


def _situation(entry: Mapping[str, Any]) -> Situation:
    arrays = {name: np.array(entry[name], dtype=float) for name in _ARRAYS}
    return Situation(**arrays, model_error=entry["model_error"], power_error=entry.get("power_error", 0.0))


def _binding(entry: Mapping[str, Any]) -> Binding:
    return Binding(Reason[entry["reason"]], MeterId(entry["binding"]), entry["value"], entry.get("phase"))
