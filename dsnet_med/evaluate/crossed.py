"""What a table of differences, seeds by cases, says of their mean when both are samples.

The model is d[s, c] = mean + seed[s] + case[c] + residual[s, c]: each of the three parts has a variance of its
own, which may be zero. Seeds and cases are crossed, so the variance of the table's mean is

    seeds_var / S + cases_var / C + residual_var / (S C),

estimated from the mean squares of the two-way analysis of variance (Searle, Casella and McCulloch, Variance
Components, 1992) as (MS_seeds + MS_cases - MS_residual) / (S C), with the degrees of freedom of Satterthwaite
(1946). Equivalence is decided by two one-sided tests (Schuirmann 1987). Powers are those of the noncentral t
distribution.
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


def error_of_mean(squares: Squares, seeds: int, cases: int) -> tuple[Values, Values]:
    """The standard error of the mean and its degrees of freedom."""
    by_seed, by_case = np.maximum(squares.seeds, squares.residual), np.maximum(squares.cases, squares.residual)
    rest = squares.residual
    variance = by_seed + by_case - rest
    with np.errstate(invalid="ignore", divide="ignore"):
        df = variance**2 / (
            by_seed**2 / (seeds - 1) + by_case**2 / (cases - 1) + rest**2 / ((seeds - 1) * (cases - 1))
        )
    return np.sqrt(variance / (seeds * cases)), np.nan_to_num(df, nan=1.0)


def estimate(table: ArrayLike, *, margin: float = 0.0, level: float = 0.95) -> Estimate:
    """The mean of a table (seeds, cases) of differences or values, both taken as samples.

    `ci95` is the interval at `level`. A table of zeros is certain: 0, and equivalent. Raises InputError for a
    table that is empty, has gaps or is not two-dimensional.
    """
    values = _checked(table)
    seeds, cases = values.shape
    if not values.any():
        return Estimate(0.0, 0.0, None, (0.0, 0.0), 1.0, 0.0, 0.0, 0.0, 0.0, _too_few(seeds, cases))
    if min(values.shape) < 2:
        return Estimate(
            float(values.mean()), None, None, None, None, None, None, None, None, _too_few(seeds, cases)
        )
    squares = mean_squares(values)
    mean = float(squares.mean)
    seeds_sd, cases_sd, residual_sd = np.sqrt(_components(squares, seeds, cases)).tolist()
    se, df = (float(part) for part in error_of_mean(squares, seeds, cases))
    reason = _copies(values)
    if se <= _ROUNDING * float(np.abs(values).max()):
        within = 0.0 if abs(mean) < margin else 1.0
        return Estimate(mean, 0.0, None, (mean, mean), 0.0, within, cases_sd, seeds_sd, residual_sd, reason)
    half = se * float(_t_quantile(1 - (1 - level) / 2, df))
    p = 2 * float(_t_tail(abs(mean) / se, df))
    within = float(_t_tail((margin - abs(mean)) / se, df))
    return Estimate(
        mean, se, df, (mean - half, mean + half), p, within, cases_sd, seeds_sd, residual_sd, reason
    )


def smallest_detectable(table: ArrayLike, *, tests: int = 1, power: float = POWER) -> float | None:
    """The smallest true difference that a trial like this one finds significant with this power.

    At 5 % two-sided over so many tests (Holm's first step). None for one seed or one case.
    """
    values = _checked(table)
    if min(values.shape) < 2:
        return None
    squares = mean_squares(values)
    se, df = (float(part) for part in error_of_mean(squares, *values.shape))
    if se == 0:
        return 0.0
    critical = float(_t_quantile(1 - ALPHA / tests / 2, df))
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


def _too_few(seeds: int, cases: int) -> str:
    if seeds < 2:
        return "one seed only: how much a difference changes from run to run cannot be seen"
    return "one case only: how much a difference changes from case to case cannot be seen" if cases < 2 else ""


def _copies(values: Values) -> str:
    equal = float(np.ptp(values, axis=0).max()) <= _ROUNDING * float(np.abs(values).max())
    return "all seeds have the same scores, as copies of one run have" if equal else ""


def _t_tail(t: float, df: float) -> float:
    """P(T > t)."""
    from scipy.special import stdtr  # noqa: PLC0415 -- slow to load

    return float(stdtr(df, -t))


def _t_quantile(share: float, df: float) -> float:
    from scipy.special import stdtrit  # noqa: PLC0415 -- slow to load

    return float(stdtrit(df, share))


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
    se, df = (float(part) for part in error_of_mean(expected, seeds, cases))
    if se <= _ROUNDING * mean or se == 0:
        return 1.0
    significant = _beyond(_t_quantile(1 - ALPHA / tests / 2, df), mean / se, df)
    if mean >= margin:
        return significant
    one_sided = _t_quantile(1 - ALPHA, df)
    upper, lower = _beyond(one_sided, (margin - mean) / se, df), _beyond(one_sided, (margin + mean) / se, df)
    return max(significant, upper + lower - 1)
