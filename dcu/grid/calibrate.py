"""A model against its meters: what looks wrong, and how much better the two agree with that put right.

The exact power flow with the measured powers gives each meter's voltage relative to the busbar; the meters give the
same. What is between them, less its mean, is explained step by step: every round tries each single error on every
meter and cable, solves the likeliest of each kind exactly, keeps the one that takes most of the disagreement away,
puts it right and looks again, until nothing is left that is both sure and large. The means are looked at last: a
constant difference is a voltmeter's.

    wrong_phase     a meter's voltage follows another phase's
    swapped         two meters' voltages follow each other's place
    reversed        power counts with the wrong sign
    impedance       a cable drops another multiple of what the model says
    gain            a voltmeter reads a constant share too much

What cannot be told: two meters swapped whose places see the same voltages; a reversed meter that draws nothing; a cable
whose drop the meters do not resolve; the phases of customers with several of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.comparison import Belief, Comparison, View
from dcu.grid.network import PHASES, Network
from dcu.grid.readings import Readings
from dcu.grid.sections import busbar_of

Reals = NDArray[np.float64]

FINDINGS_MAX: Final = 40
TRIED_OF_A_KIND: Final = 6
"""Likeliest hypotheses of each kind that are solved exactly."""
NOISE_V: Final = 0.05
"""Least disagreement [V] expected of two meters: a resolution of 0.1 V, or a class of noise."""
BETTER_MIN: Final = 0.3
"""Share of the disagreement of the meters concerned that a finding must take away."""
SURE: Final = 60.0
"""Squared disagreement that a finding takes away, in variances of noise: eight standard deviations of one number."""
WORTH: Final = 0.01
"""And in shares of the noise of all meters it touches: less is nothing that anybody has to repair."""
SCALE: Final = (0.25, 4.0)
"""Factors of an impedance that are looked for; beyond, it is something else."""
SCALE_MIN: Final = 0.25
"""A cable's impedance is reported where it is this much off: joints and temperature make a tenth."""
SCALE_ERROR_MAX: Final = 0.1
"""Standard deviation of the factor."""
GAIN_MIN: Final = 0.004
"""A voltmeter is reported where it is this share off: classes of meters allow up to 0.5 %, mostly they hold 0.2 %."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that looks wrong.

    Attributes:
        kind: see the module.
        where: meter, meters, or cable.
        says: the finding in words.
        value: phase as 1 2 3, factor of an impedance, share of a gain; 0 where there is none.
        before_v, after_v: root mean square disagreement [V] of the meters concerned, without and with it put right.
    """

    kind: str
    where: str
    says: str
    value: float
    before_v: float
    after_v: float

    def as_entry(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind,
            "where": self.where,
            "says": self.says,
            "value": round(self.value, 4),
            "before_v": round(self.before_v, 4),
            "after_v": round(self.after_v, 4),
            "disagreement_left": round(self.after_v / self.before_v, 4) if self.before_v else 1.0,
        }


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was found, and the disagreement [V] of all meters before and after everything is put right."""

    findings: tuple[Finding, ...]
    sets: int
    before_v: float
    after_v: float
    notes: tuple[str, ...]


def calibrate(network: Network, readings: Readings, busbar: str | None = None) -> Calibration:
    """Everything that looks wrong with a model or its meters.

    Raises:
        ConfigError: too few complete sets, no solution, or more than this comparison can do.
    """
    compared = Comparison(network, readings, busbar or busbar_of(network))
    belief, findings = compared.belief(), list[Finding]()
    view = compared.view(belief, whole=True)
    before = _rms(view.squares, view)
    while len(findings) < FINDINGS_MAX:
        noise = max(float(np.median(view.apart.var(axis=0))), NOISE_V**2)
        best = max(
            (found for found in _tried(compared, belief, view, noise) if found is not None),
            key=lambda found: found[0],
            default=None,
        )
        if best is None:
            break
        _, belief, finding = best
        findings.append(finding)
        view = compared.view(belief, whole=True)
    findings += _gains(compared, belief, view)
    notes = []
    if not compared.sections:
        notes.append("the feeder has a loop: impedances were not looked at")
    if not compared.movable.all():
        notes.append("customers with several phases: their phases and places were not looked at")
    return Calibration(tuple(findings), len(view.apart), before, _rms(view.squares, view), tuple(notes))


def _rms(squares: Reals, view: View) -> float:
    return float(np.sqrt(squares.sum() / (len(view.apart) * len(squares))))


_Tried = tuple[float, Belief, Finding] | None


def _tried(compared: Comparison, belief: Belief, view: View, noise: float) -> Iterator[_Tried]:
    """What each likely hypothesis takes away [V2], solved exactly; None for those that are not sure and large."""
    squares = view.squares
    by_phase = squares[:, None] - compared.other_phase(belief, view)
    by_phase[~compared.movable] = -np.inf
    for k, f in _largest(by_phase):
        changed = replace(belief, phase=_put(belief.phase, [k], [f]))
        says = f"{compared.meters[k]}: its voltage follows {PHASES[f]}, the model has it at {PHASES[belief.phase[k]]}"
        yield _judged(compared, view, changed, noise, [k], ("wrong_phase", compared.meters[k], says, f + 1.0))
    crossed = np.triu(squares[:, None] + squares - compared.exchanged(belief, view), 1)
    crossed[~compared.movable] = crossed[:, ~compared.movable] = 0.0
    for j, k in _largest(crossed):
        changed = replace(
            belief,
            port=_put(belief.port, [j, k], belief.port[[k, j]]),
            phase=_put(belief.phase, [j, k], belief.phase[[k, j]]),
        )
        a, b = compared.meters[j], compared.meters[k]
        says = f"{a} and {b}: each one's voltage fits the other's place"
        yield _judged(compared, view, changed, noise, [j, k], ("swapped", f"{a} {b}", says, 0.0))
    reversing = compared.less_by_reversing(belief, view)
    for (k,) in _largest(reversing):
        changed = replace(belief, sign=_put(belief.sign, [k], -belief.sign[[k]]))
        says = f"{compared.meters[k]}: voltages answer its power with the wrong sign (current transformer reversed?)"
        yield _judged(compared, view, changed, noise, [k], ("reversed", compared.meters[k], says, 0.0))
    off, less, size = compared.scale(belief, view)
    for (s,) in _largest(less):
        factor = belief.scale.get(s, 1.0) + off[s]
        if not SCALE[0] <= factor <= SCALE[1] or abs(factor - 1) < SCALE_MIN or size[s] * SCALE_ERROR_MAX**2 < noise:
            continue
        changed = replace(belief, scale=belief.scale | {s: factor})
        section = compared.sections[s]
        meters = np.flatnonzero(np.isin(belief.port, section.ports)).tolist()
        says = f"{section.name}: {factor:.2f} x the model's impedance"
        yield _judged(compared, view, changed, noise, meters, ("impedance", section.name, says, factor))


def _largest(values: Reals) -> list[tuple[int, ...]]:
    """Places of the largest values above 0, not more than are to be tried."""
    order = np.argsort(-values, axis=None)[:TRIED_OF_A_KIND]
    return [tuple(int(x) for x in np.unravel_index(at, values.shape)) for at in order if values.flat[at] > 0]


def _put(values: NDArray[Any], at: list[int], new: Any) -> NDArray[Any]:
    changed = values.copy()
    changed[at] = new
    return changed


def _judged(
    compared: Comparison,
    view: View,
    changed: Belief,
    noise: float,
    meters: list[int],
    words: tuple[str, str, str, float],
) -> _Tried:
    """The hypothesis solved exactly, if it takes enough away."""
    after = compared.view(changed)
    less = float(view.squares.sum() - after.squares.sum())
    # Those concerned: the meters named, and all whose disagreement it changes by more than noise would.
    touched = np.abs(view.squares - after.squares) > SURE / 4 * noise
    touched[meters] = True
    before, left = view.squares[touched], after.squares[touched]
    floor = noise * len(view.apart) * int(touched.sum())
    beyond = max(float(before.sum()) - floor, 0.0)
    if less < SURE * noise or less < BETTER_MIN * beyond or less < WORTH * floor:
        return None
    return less, changed, Finding(*words, _rms(before, view), _rms(left, view))


def _gains(compared: Comparison, belief: Belief, view: View) -> Iterator[Finding]:
    """Voltmeters that are constantly off, against the middle of all meters of their phase; and the busbar's, if that
    middle is off itself."""
    middles = np.zeros(3)
    for f in range(3):
        at = belief.phase == f
        if at.sum() >= 3:  # of two that differ nobody knows which is right
            middles[f] = np.median(view.mean_v[at])
    level = float(np.median(compared.nominal_v()))
    for f in range(3):
        gain = -middles[f] / level
        if abs(gain) > GAIN_MIN:
            says = f"substation: its {PHASES[f]} reads {100 * gain:+.2f} % against all meters of that phase"
            yield Finding("gain", f"substation {PHASES[f]}", says, gain, abs(middles[f]), 0.0)
    for k, meter in enumerate(compared.meters):
        own = view.mean_v[k] - middles[belief.phase[k]]
        gain = own / level
        if abs(gain) > GAIN_MIN:
            says = f"{meter}: its voltmeter reads {100 * gain:+.2f} %"
            yield Finding("gain", meter, says, gain, abs(own), 0.0)


def as_json(network: Network, result: Calibration, readings: Readings) -> dict[str, Any]:
    """Everything for machines."""
    return {
        "feeder": network.name,
        "sets": result.sets,
        "incomplete_sets": readings.incomplete_sets,
        "rows": readings.rows,
        "bad_rows": readings.bad_rows,
        "bad": [{"row": f.where, "seen": f.seen, "expected": f.expected} for f in readings.faults],
        "disagreement_v": {"before": round(result.before_v, 4), "after": round(result.after_v, 4)},
        "findings": [finding.as_entry() for finding in result.findings],
        "notes": list(result.notes),
    }


def as_table(network: Network, result: Calibration, readings: Readings, file: str) -> list[str]:
    """Everything for people."""
    sets = f"{len(readings.time_utc_s)} complete sets, {result.sets} used, {readings.incomplete_sets} incomplete"
    lines = [
        f"{network.name}: {sets}; {readings.rows} rows, {readings.bad_rows} bad",
        *(f"{file}: {fault}" for fault in readings.faults),
        *(f"note: {note}" for note in result.notes),
    ]
    if not result.findings:
        return [*lines, f"nothing looks wrong: model and meters agree within {result.after_v:.3f} V (rms)"]
    lines += ["", f"{'what':12} {'before':>8} {'after':>8}  finding"]
    for f in result.findings:
        lines.append(f"{f.kind:12} {f.before_v:6.3f} V {f.after_v:6.3f} V  {f.says}")
    return [
        *lines,
        "",
        f"all meters: {result.before_v:.3f} V before, {result.after_v:.3f} V with all of this put right",
    ]
