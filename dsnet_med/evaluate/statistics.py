"""What a sample of cases says: means with intervals, and whether two sets of scores of the same cases differ.

Intervals are 95 % percentile bootstrap intervals of the mean over cases (Efron 1979), from resamples drawn with
a fixed seed. Differences between paired cases are tested with Wilcoxon's signed-rank test (1945), two-sided,
zero differences left out; several tests are corrected together by Holm's step-down procedure (1979). The effect
size is the matched-pairs rank-biserial correlation (Kerby 2014): (W+ - W-) / (W+ + W-), from -1 to 1. NaN is a
value that a protocol does not count.

Ours where SciPy has it not, or not so: `scipy.stats.bootstrap` draws other resamples than those behind the
summaries that `verify` checks, and cannot draw whole cases where a column has gaps. Holm's correction is five
lines; statsmodels has it, and brings pandas and a second of import with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, isfinite, log2, pi
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

ALPHA = 0.05
POWER = 0.8
_RESAMPLES = 10_000
_MOST_DRAWS = 4_000_000  # beyond 400 cases fewer resamples: their table would take more memory than a case
_ROUNDING = 1e-9
# The signed-rank test needs pi / 3 times the cases of a t test on normal differences (Hodges and Lehmann 1956).
_OVER_T_TEST = pi / 3

Values = NDArray[np.float64]
Interval = tuple[float, float] | None


@dataclass(frozen=True)
class PairedTest:
    """The test of second - first over the cases that count in both; None where nothing can be said."""

    n: int
    difference: float | None
    ci95: Interval
    p: float | None
    effect_size: float | None
    cases_needed: int | None


def mean_intervals(values: ArrayLike) -> tuple[list[Interval], Interval]:
    """The 95 % interval of the mean of each column of `values` (cases, columns), and of the means' mean.

    None for a column with fewer than two counted cases. All columns share the resamples: a case is drawn whole.
    """
    table = np.asarray(values, np.float64)
    if len(table) < 2 or not table.size:
        return [None] * table.shape[1], None
    counted = ~np.isnan(table)
    weights = _weights(len(table))
    with np.errstate(invalid="ignore"):  # a resample may hold no counted case of a column
        means = (weights @ np.where(counted, table, 0)) / (weights @ counted.astype(np.float64))
        known = ~np.isnan(means)
        overall = np.where(known, means, 0).sum(axis=1) / known.sum(axis=1)
    enough = counted.sum(axis=0) > 1
    intervals = [_interval(column) if many else None for column, many in zip(means.T, enough, strict=True)]
    return intervals, _interval(overall) if enough.any() else None


def fewest_cases(tests: int = 1) -> int:
    """With fewer cases than this, none of so many tests can be significant once they are corrected.

    Two-sided, n differences of one sign have p = 2 / 2^n.
    """
    return floor(log2(2 * tests / ALPHA)) + 1


def paired_test(first: Sequence[float], second: Sequence[float], tests: int = 1) -> PairedTest:
    """Compare two scores of the same cases, in the same order; one of `tests` that are corrected together."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if isfinite(a) and isfinite(b)]
    if not pairs:
        return PairedTest(0, None, None, None, None, None)
    differences = np.array([b - a for a, b in pairs])
    interval = mean_intervals(differences[:, None])[0][0]
    p, effect = signed_rank(differences)
    needed = cases_needed(differences, tests)
    return PairedTest(len(pairs), float(differences.mean()), interval, p, effect, needed)


def signed_rank(differences: Values) -> tuple[float, float]:
    """Wilcoxon's two-sided p, and the rank-biserial correlation; 1 and 0 when all differences are zero."""
    from scipy.stats import rankdata, wilcoxon  # noqa: PLC0415 -- takes a second to load

    moved = differences[differences != 0]
    if not len(moved):
        return 1.0, 0.0
    ranks = rankdata(np.abs(moved))
    effect = float(ranks[moved > 0].sum() - ranks[moved < 0].sum()) / float(ranks.sum())
    return float(wilcoxon(moved).pvalue), effect


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for each other, in the order given."""
    p, tests = np.asarray(p_values, np.float64), len(p_values)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(tests)
    adjusted[order] = np.minimum(1, np.maximum.accumulate((tests - np.arange(tests)) * p[order]))
    return adjusted.tolist()


def cases_needed(differences: Values, tests: int = 1) -> int | None:
    """How many cases would show the difference seen, at 5 % two-sided over so many tests, power 80 %.

    Each test is held to 5 % / `tests`, which is Holm's first step. The same arithmetic holds for seeds when
    each difference is one seed's. From the mean over the standard deviation of the differences, by the normal
    approximation of the t test with its small-sample term (Guenther 1981), times pi / 3 for the signed-rank
    test. None when there is no difference, or one case.
    """
    largest = float(np.abs(differences).max(initial=0))
    if len(differences) < 2 or abs(differences.mean()) <= _ROUNDING * largest:
        return None
    spread = float(differences.std(ddof=1))
    if spread <= _ROUNDING * largest:
        return fewest_cases(tests)
    standard = abs(float(differences.mean())) / spread
    tail, power = NormalDist().inv_cdf(1 - ALPHA / tests / 2), NormalDist().inv_cdf(POWER)
    return max(fewest_cases(tests), ceil(_OVER_T_TEST * (((tail + power) / standard) ** 2 + tail**2 / 2)))


@lru_cache(maxsize=4)
def _weights(cases: int) -> Values:
    """How often each resample (rows) draws each case (columns)."""
    resamples = max(100, min(_RESAMPLES, _MOST_DRAWS // cases))
    drawn = np.random.default_rng(0).integers(cases, size=(resamples, cases))
    flat = (drawn + np.arange(resamples)[:, None] * cases).ravel()
    return np.bincount(flat, minlength=resamples * cases).reshape(resamples, cases).astype(np.float64)


def _interval(means: Values) -> tuple[float, float]:
    low, high = np.nanpercentile(means, (2.5, 97.5))
    return float(low), float(high)
