"""What a table of differences, seeds by cases, says of their mean when both are samples.

The model is d[s, c] = mean + seed[s] + case[c] + residual[s, c]: each of the three parts has a variance of its
own, which may be zero. Seeds and cases are crossed, so the variance of the table's mean is

    seeds_var / S + cases_var / C + residual_var / (S C),

estimated from the mean squares of the two-way analysis of variance (Searle, Casella and McCulloch, Variance
Components, 1992) as (MS_seeds + MS_cases - MS_residual) / (S C). At three seeds its degrees of freedom by
Satterthwaite (1946), or a bootstrap over seeds and cases, give errors far from 5 %, most of all where a
variance is zero. Ours were found by simulation: the test errs in 3.7 to 5.6 %, the interval holds the mean in
94.4 to 96.3 %, for 3, 5 and 10 seeds by 12, 32 and 100 cases, whatever the three variances of a normal model
are (benchmarks/calibration.py, docs/benchmarks.md). They differ from Satterthwaite's in three places:

- The variance is taken as at least the smaller of MS_seeds and MS_cases, and a hundredth of MS_residual.
- 1 / df = w_seeds^p / (S - 1) + w_cases^q / (C - 1), with p = 2 + 2 / (S - 1) and q = 2 + 2 / (C - 1). The
  weight is a part's share of the squared margin of error: its mean square times the squared quantile of its
  own degrees of freedom, beside the other part's without MS_residual. So df depends on the level of the test.
- df is at least the smaller of S - 1 and C - 1, and at most S C - 1.

Where only seeds, or only cases, vary much it is the t test over their means. Equivalence is decided by two
one-sided tests (Schuirmann 1987), each the more careful of two: as above, and corrected for the skewness of the
cases' means (Hall 1992, On the removal of skewness by transformation), since an effect that sits in a few hard
cases looks like none where the sample has few of them. Powers are those of the noncentral t distribution, for
the variances seen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsnet_med.errors import InputError

ALPHA = 0.05
POWER = 0.8
MOST = 10_000  # seeds or cases that are worth planning
_ROUNDING = 1e-9  # of the largest value: what is closer together is equal
_LEAST_P = 1e-15
_LEAST = 0.01  # of the residual's mean square
_FEW_CASES = "one or two cases differ far more than all others: more cases must say how often that is"
_FEWEST = 7  # seeds and cases together; a table of 3 by 3 errs in up to 7.1 % at 5 %

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """The mean over seeds and cases; None where the table cannot tell.

    `p` is two-sided, of the mean being 0; `p_equivalence` the larger of the two one-sided tests against the
    margin. The standard deviations are those of the model's three parts. `unreliable` is empty, or says why no
    verdict may be given.
    """

    value: float
    se: float | None
    df: float | None
    ci95: tuple[float, float] | None
    p: float | None
    p_equivalence: float | None
    cases_sd: float | None
    seeds_sd: float | None
    residual_sd: float | None
    unreliable: str


@dataclass(frozen=True)
class Squares:
    """The mean of tables and their mean squares, each of the shape of the leading axes."""

    mean: Values
    seeds: Values
    cases: Values
    residual: Values


def mean_squares(tables: Values) -> Squares:
    """Of tables (..., seeds, cases), at least two of each."""
    seeds, cases = tables.shape[-2:]
    rows, columns = tables.mean(axis=-1, keepdims=True), tables.mean(axis=-2, keepdims=True)
    mean = rows.mean(axis=-2, keepdims=True)
    rest = ((tables - rows - columns + mean) ** 2).sum(axis=(-2, -1)) / ((seeds - 1) * (cases - 1))
    by_seed = cases * ((rows - mean) ** 2).sum(axis=(-2, -1)) / (seeds - 1)
    by_case = seeds * ((columns - mean) ** 2).sum(axis=(-2, -1)) / (cases - 1)
    return Squares(mean[..., 0, 0], by_seed, by_case, rest)


def standard_error(squares: Squares, seeds: int, cases: int) -> Values:
    """Of the mean."""
    least = np.maximum(np.minimum(squares.seeds, squares.cases), _LEAST * squares.residual)
    variance = np.maximum(squares.seeds + squares.cases - squares.residual, least)
    return np.asarray(np.sqrt(variance / (seeds * cases)), np.float64)


def degrees_of_freedom(squares: Squares, seeds: int, cases: int, alpha: ArrayLike) -> Values:
    """Of that error, for a two-sided test at `alpha`."""
    by_seed, by_case = seeds - 1, cases - 1
    seed_error = squares.seeds * t_quantile(alpha, by_seed) ** 2
    case_error = squares.cases * t_quantile(alpha, by_case) ** 2
    seed_weight = _share(seed_error, case_error, squares.cases, squares.residual)
    case_weight = _share(case_error, seed_error, squares.seeds, squares.residual)
    inverse = seed_weight ** (2 + 2 / by_seed) / by_seed + case_weight ** (2 + 2 / by_case) / by_case
    return np.asarray(1 / np.clip(inverse, 1 / (seeds * cases - 1), 1 / min(by_seed, by_case)), np.float64)


def half_width(squares: Squares, seeds: int, cases: int, alpha: ArrayLike) -> Values:
    """Of the interval of the mean at 1 - `alpha`; the test at `alpha` is whether it holds 0."""
    df = degrees_of_freedom(squares, seeds, cases, alpha)
    return standard_error(squares, seeds, cases) * t_quantile(alpha, df)


def p_value(distance: ArrayLike, squares: Squares, seeds: int, cases: int) -> Values:
    """Two-sided, of a mean this far from the one supposed: the alpha of the interval that just reaches it."""
    far = np.abs(np.asarray(distance, np.float64))
    low, high = np.full(np.shape(far), np.log(_LEAST_P)), np.zeros(np.shape(far))
    for _ in range(45):
        middle = (low + high) / 2
        reaches = half_width(squares, seeds, cases, np.exp(middle)) >= far
        low, high = np.where(reaches, middle, low), np.where(reaches, high, middle)
    return np.asarray(np.exp(high), np.float64)


def p_equivalence(tables: Values, margin: float) -> Values:
    """The larger p of the two one-sided tests, for tables (..., seeds, cases) that are not all equal."""
    seeds, cases = tables.shape[-2:]
    squares = mean_squares(tables)
    se = standard_error(squares, seeds, cases)
    skewness = _skewness_of_mean(tables, se)
    below, above = (margin - squares.mean) / se, (margin + squares.mean) / se
    corrected = np.minimum(-_without_skewness(-below, skewness), _without_skewness(above, skewness))
    inside = np.minimum(np.minimum(below, above), corrected)
    p = p_value(inside * se, squares, seeds, cases) / 2
    return np.where(inside > 0, p, 1 - p)


def few_cases_decide(tables: Values) -> NDArray[np.bool_]:
    """Whether one or two cases differ so much that the others hardly count, for tables (..., seeds, cases).

    Such a case brings any test to nothing. The kurtosis of the cases' means is 5 or more in 1 % of the samples
    of a normal distribution.
    """
    cases = tables.shape[-1]
    means = tables.mean(axis=-2)
    apart = (means - means.mean(axis=-1, keepdims=True)) ** 2
    share = (apart**2).sum(axis=-1) / np.maximum(apart.sum(axis=-1) ** 2, np.finfo(float).tiny)
    squares = mean_squares(tables)
    few = (cases >= 8) & (squares.cases > squares.seeds) & (share > max(0.4, 5 / cases))
    return np.asarray(few, np.bool_)


def estimate(table: ArrayLike, *, margin: float = 0.0, level: float = 0.95) -> Estimate:
    """The mean of a table (seeds, cases) of differences or values, both taken as samples.

    `ci95` is the interval at `level`, `df` belongs to it. A table of zeros is certain: 0, and equivalent.
    Raises InputError for a table that is empty, has gaps or is not two-dimensional.
    """
    values = _checked(table)
    seeds, cases = values.shape
    mean = float(values.mean())
    if not values.any():
        reason = _too_few(seeds, cases) if min(seeds, cases) < 2 else ""
        return Estimate(0.0, 0.0, None, (0.0, 0.0), 1.0, 0.0, 0.0, 0.0, 0.0, reason)
    if min(seeds, cases) < 2:
        return Estimate(mean, None, None, None, None, None, None, None, None, _too_few(seeds, cases))
    squares = mean_squares(values)
    seeds_sd, cases_sd, residual_sd = np.sqrt(_components(squares, seeds, cases)).tolist()
    se = float(standard_error(squares, seeds, cases))
    if se <= _ROUNDING * float(np.abs(values).max()):
        within = 0.0 if abs(mean) < margin else 1.0
        return Estimate(mean, 0.0, None, (mean, mean), 0.0, within, 0.0, 0.0, 0.0, _copies(values))
    half = float(half_width(squares, seeds, cases, 1 - level))
    p = float(p_value(mean, squares, seeds, cases))
    within = float(p_equivalence(values, margin))
    undecided = min(p, within) >= ALPHA
    reason = (
        _copies(values)
        or _too_few(seeds, cases)
        or (_FEW_CASES if undecided and few_cases_decide(values) else "")
    )
    df = float(degrees_of_freedom(squares, seeds, cases, 1 - level))
    interval = mean - half, mean + half
    return Estimate(mean, se, df, interval, p, within, cases_sd, seeds_sd, residual_sd, reason)


def smallest_detectable(table: ArrayLike, *, tests: int = 1, power: float = POWER) -> float | None:
    """The smallest true difference that a trial like this one finds significant with this power.

    At 5 % two-sided over so many tests (Holm's first step). None for one seed or one case.
    """
    values = _checked(table)
    if min(values.shape) < 2:
        return None
    squares = mean_squares(values)
    seeds, cases = values.shape
    se = float(standard_error(squares, seeds, cases))
    df = float(degrees_of_freedom(squares, seeds, cases, ALPHA / tests))
    critical = float(t_quantile(ALPHA / tests, df))
    low, high = 0.0, 2 * critical + 2
    while _beyond(critical, high, df) < power:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _beyond(critical, middle, df) >= power else (middle, high)
    return high * se


def seeds_needed(table: ArrayLike, margin: float, tests: int = 1) -> int | None:
    """How many seeds in all, with these cases, would decide at 80 % power; None where no number would.

    Decided means: the difference seen is significant at 5 % over so many tests, or lies within the margin by
    two one-sided tests at 5 %, whichever takes fewer.
    """
    values = _checked(table)
    return _fewest(values, margin, tests, lambda many: (many, values.shape[1]))


def cases_needed(table: ArrayLike, margin: float, tests: int = 1) -> int | None:
    """How many cases in all, with these seeds, would decide; as `seeds_needed`."""
    values = _checked(table)
    return _fewest(values, margin, tests, lambda many: (values.shape[0], many))


def resampled_means(tables: Mapping[str, ArrayLike], resamples: int = 2000, seed: int = 0) -> dict[str, Values]:
    """The mean of every arm's table (seeds, cases) in resamples of seeds and of cases, drawn with replacement.

    The pigeonhole bootstrap (Owen 2007). All arms share the seeds and cases drawn, as they shared them in the
    trial. Raises InputError where tables differ in shape.
    """
    values = {name: _checked(table) for name, table in tables.items()}
    shapes = {table.shape for table in values.values()}
    if len(shapes) > 1:
        raise InputError(
            f"Tables of one shape wanted, got {sorted(shapes)}: keep the seeds and cases all arms have."
        )
    if not values:
        return {}
    seeds, cases = shapes.pop()
    draw = np.random.default_rng(seed)
    by_seed = draw.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    by_case = draw.multinomial(cases, np.full(cases, 1 / cases), size=resamples) / cases
    return {name: ((by_seed @ table) * by_case).sum(axis=1) for name, table in values.items()}


def _checked(table: ArrayLike) -> Values:
    values = np.asarray(table, np.float64)
    if values.ndim != 2 or not values.size:
        raise InputError(
            f"A table of seeds by cases wanted, got the shape {values.shape}: give every seed every case."
        )
    if not np.isfinite(values).all():
        raise InputError(
            "A table without gaps wanted, got NaN or infinity: leave out the seeds or cases with gaps."
        )
    return values


def _components(squares: Squares, seeds: int, cases: int) -> Values:
    """The variances of seeds, cases and residual; a negative estimate is zero."""
    rest = squares.residual
    return np.maximum(np.stack([(squares.seeds - rest) / cases, (squares.cases - rest) / seeds, rest]), 0)


def _skewness_of_mean(tables: Values, se: Values) -> Values:
    """What the skewness of the cases' means does to that of the tables' mean."""
    cases = tables.shape[-1]
    if cases < 3:
        return np.zeros(tables.shape[:-2])
    means = tables.mean(axis=-2)
    third = ((means - means.mean(axis=-1, keepdims=True)) ** 3).sum(axis=-1) / (cases - 1) / (cases - 2)
    return np.asarray(third / cases / se**3, np.float64)


def _without_skewness(t: Values, skewness: Values) -> Values:
    """Hall's monotone transformation of a studentised mean."""
    return t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / 6


def _share(error: Values, other_error: Values, other: Values, residual: Values) -> Values:
    """Of one part of the margin of error, beside what the other has over the residual."""
    with np.errstate(invalid="ignore", divide="ignore"):
        rest = np.where(other > residual, other_error * (1 - residual / other), 0)
        return np.asarray(np.where(error > 0, error / (error + rest), 0), np.float64)


def _too_few(seeds: int, cases: int) -> str:
    if seeds < 2:
        return "one seed only: how much a difference changes from run to run cannot be seen"
    if cases < 2:
        return "one case only: how much a difference changes from case to case cannot be seen"
    few = seeds + cases < _FEWEST
    return (
        f"{seeds} seeds and {cases} cases are too few for a test that errs as rarely as it says" if few else ""
    )


def _copies(values: Values) -> str:
    equal = float(np.ptp(values, axis=0).max()) <= _ROUNDING * float(np.abs(values).max())
    return "all seeds have the same scores, as copies of one run have" if equal else ""


def t_quantile(alpha: ArrayLike, df: ArrayLike) -> Values:
    """What |T| exceeds with probability alpha."""
    from scipy.special import stdtrit  # noqa: PLC0415 -- slow to load

    return np.asarray(-stdtrit(df, np.asarray(alpha, np.float64) / 2), np.float64)


def _beyond(critical: float, shift: float, df: float) -> float:
    """P(T > critical) of a noncentral t."""
    from scipy.special import nctdtr  # noqa: PLC0415 -- slow to load

    return 1 - float(nctdtr(df, shift, critical))


def _fewest(values: Values, margin: float, tests: int, shape: Callable[[int], tuple[int, int]]) -> int | None:
    """The smallest n from 2 on of which the trial of shape(n) decides; power grows with n."""
    if min(values.shape) < 2:
        return None
    mean = abs(float(values.mean()))
    parts = _components(mean_squares(values), *values.shape)

    def decides(many: int) -> bool:
        return _power(mean, margin, tests, parts, shape(many)) >= POWER

    if not decides(MOST):
        return None
    low, high = 1, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


def _power(mean: float, margin: float, tests: int, parts: Values, shape: tuple[int, int]) -> float:
    """Of the better of both tests, in a trial of that shape whose true difference is `mean`."""
    (seeds, cases), (by_seed, by_case, rest) = shape, (float(part) for part in parts)
    expected = Squares(
        np.array(mean), np.array(cases * by_seed + rest), np.array(seeds * by_case + rest), np.array(rest)
    )
    se = float(standard_error(expected, seeds, cases))
    if se <= _ROUNDING * mean or se == 0:
        return 1.0
    df = float(degrees_of_freedom(expected, seeds, cases, ALPHA / tests))
    significant = _beyond(float(t_quantile(ALPHA / tests, df)), mean / se, df)
    if mean >= margin:
        return significant
    df = float(degrees_of_freedom(expected, seeds, cases, 2 * ALPHA))
    one_sided = float(t_quantile(2 * ALPHA, df))
    upper, lower = _beyond(one_sided, (margin - mean) / se, df), _beyond(one_sided, (margin + mean) / se, df)
    return max(significant, upper + lower - 1)
