"""Several outputs learnt from the same inputs: recursive least squares around a prior, with an error bound for any
input asked about.

    y_i = x theta_i + e_i,      theta_i ~ (mean_i, C),      var e_i = s_i^2

What is kept is the information form, `A = sum keep^age x x'` and `B = sum keep^age x (y - x mean)'`. Forgetting acts on
these sums only: the prior stays, so that a direction in which nothing happens any more falls back to it, and nothing
winds up.

One decomposition serves all outputs, however different their noise: with `C = L L'` and `L' A L = V m V'`, the
covariance of theta_i is `W diag(1 / (1 + m / s_i^2)) W'`, `W = L V`. `refresh` makes it anew.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]

COLOUR_MIN: Final = 2.0
"""Neighbouring sets have errors in common (a resolution that rounds the same way twice, a customer without a meter who
cooks for half an hour): the variance of their sum is taken as this many times that of independent ones, or as many as
the errors themselves show."""
COLOUR_KEEP: Final = 0.9
"""Weight of the last error among the recent ones that a new error is compared with: some ten sets."""
GATE: Final = 6.0
"""Standard deviations beyond which a set is no noise (a tap changer, a wrong reading): it teaches nothing."""
NOISE_SETS: Final = 1500.0
"""Sets over which the noise of an output is averaged."""
NOISE_SETS_FIRST: Final = 30.0
"""Weight of the noise assumed at the start, in sets."""


class Regression:
    """k inputs, m outputs that share a prior covariance.

    Attributes:
        a, b: the sums of the module's text (k, k), (k, m).
        noise: variance of each output's error (m), in its unit squared.
        shared: covariance of an error with the sum of the recent ones (m).
        theta: the estimate (k, m) at the last refresh.
        sets: how many were learnt from.
        skipped: how many were not, because they lay beyond the gate.
    """

    def __init__(self, mean: Reals, covariance: Reals, noise: Reals, noise_least: float) -> None:
        """The prior: mean (k, m), covariance (k, k), variance of the errors (m), and what it never falls below."""
        k, m = mean.shape
        self._mean, self._noise_least = mean, noise_least
        self.a, self.b = np.zeros((k, k)), np.zeros((k, m))
        self.noise, self.sets, self.skipped = noise.copy(), 0, 0
        self.shared, self._recent = np.zeros(m), np.zeros(m)
        self.expect(covariance)

    def expect(self, covariance: Reals) -> None:
        """Put another prior covariance (k, k) in place of the old one."""
        self._root = np.linalg.cholesky(covariance)
        self.refresh()

    def learn(self, x: Reals, y: Reals, keep: float) -> bool:
        """One set, inputs (k) and outputs (m); older ones count `keep` of what they did. False if it was skipped."""
        self.a *= keep
        self.b *= keep
        error = y - x @ self.theta
        size = error / np.sqrt(self.noise + self.variance(x[None, :])[0])
        # The part of the error that the parameters explain is not noise; a wild error counts as far as the gate, so
        # that noise which has really grown opens the gate by and by.
        seen = np.clip(size, -GATE, GATE) * np.sqrt(self.noise)
        rate = max(1 / (self.sets + self.skipped + NOISE_SETS_FIRST), 1 / NOISE_SETS)
        self.noise = np.maximum(self.noise + rate * (seen**2 - self.noise), self._noise_least)
        self.shared += rate * (seen * self._recent - self.shared)
        self._recent = COLOUR_KEEP * (self._recent + seen)
        if np.abs(size).max(initial=0.0) > GATE:
            self.skipped += 1
            return False
        self.a += x[:, None] * x
        self.b += x[:, None] * (y - x @ self._mean)
        self.sets += 1
        return True

    @property
    def _counted(self) -> Reals:
        """Variance of an error as it counts among its neighbours (m)."""
        return np.asarray(self.noise * np.maximum(1 + 2 * self.shared / self.noise, COLOUR_MIN))

    def refresh(self) -> None:
        """Estimate and its covariance from all that was learnt so far."""
        per_noise, turn = self._decomposed()
        self._axes = self._root @ turn
        self._gain = 1 / (1 + per_noise)
        step = self._gain * (self._axes.T @ self.b) / self._counted
        self.theta = self._mean + self._axes @ step

    def _decomposed(self) -> tuple[Reals, Reals]:
        found, turn = np.linalg.eigh(self._root.T @ self.a @ self._root)
        return np.maximum(found, 0.0)[:, None] / self._counted, turn

    def variance(self, x: Reals) -> Reals:
        """Variance of `x theta` for each input (n, k): (n, m)."""
        return np.asarray((x @ self._axes) ** 2 @ self._gain)

    def variance_each(self, x: Reals, outputs: NDArray[np.int64]) -> Reals:
        """Variance of `x theta` for one output of each input (n, k): (n)."""
        return np.asarray(((x @ self._axes) ** 2 * self._gain[:, outputs].T).sum(axis=1))

    def deviation_slopes(self, x: Reals, outputs: NDArray[np.int64]) -> Reals:
        """Derivative of the standard deviation of `x theta` by each input (k), for some outputs (outputs, k); 0 where
        nothing is asked."""
        along = x @ self._axes
        gain = self._gain[:, outputs].T
        deviation = np.sqrt(along**2 @ gain.T)
        return np.asarray(((gain * along) @ self._axes.T) / np.maximum(deviation, 1e-12)[:, None])

    def evidence(self) -> float:
        """Logarithm of how likely this prior makes what was seen, up to a constant that does not depend on it."""
        noise = self._counted
        seen = self._axes.T @ self.b / noise
        return float(0.5 * (seen**2 * self._gain).sum() + 0.5 * np.log(self._gain).sum())
