"""The mean of a table of seeds by cases: by hand, against SciPy and plain formulas, and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from dsnet_med.errors import InputError
from dsnet_med.evaluate.crossed import (
    Squares,
    cases_needed,
    degrees_of_freedom,
    estimate,
    few_cases_decide,
    half_width,
    mean_squares,
    p_equivalence,
    p_value,
    resampled_means,
    seeds_needed,
    smallest_detectable,
)


def tables(rng, shape, sds, mean=0.0):
    """(n, seeds, cases) with standard deviations of seeds, cases and residual."""
    many, seeds, cases = shape
    by_seed, by_case = rng.normal(size=(many, seeds, 1)), rng.normal(size=(many, 1, cases))
    return mean + sds[0] * by_seed + sds[1] * by_case + sds[2] * rng.normal(size=(many, seeds, cases))


def a_table(seeds=4, cases=9, sds=(0.01, 0.02, 0.02), mean=0.01):
    return tables(np.random.default_rng(seeds * cases), (1, seeds, cases), sds, mean)[0]


def test_mean_squares_by_hand():
    # Rows 1 2 3 and 3 4 8: row means 2 and 5, column means 2, 3, 5.5, mean 3.5; residuals +-.5, +-.5, +-1.
    squares = mean_squares(np.array([[1.0, 2, 3], [3, 4, 8]]))
    assert squares.mean == 3.5
    assert squares.seeds == pytest.approx(3 * (1.5**2 + 1.5**2))
    assert squares.cases == pytest.approx(2 * (1.5**2 + 0.5**2 + 2**2) / 2)
    assert squares.residual == pytest.approx(2 * (0.5**2 + 0.5**2 + 1) / 2)


@pytest.mark.parametrize("seeds, cases", [(2, 2), (3, 12), (10, 4)])
def test_the_parts_of_the_model_explain_the_table(seeds, cases):
    table = np.random.default_rng(0).normal(size=(seeds, cases))
    squares = mean_squares(table)
    total = (seeds - 1) * squares.seeds + (cases - 1) * squares.cases
    total += (seeds - 1) * (cases - 1) * squares.residual
    assert total == pytest.approx(((table - table.mean()) ** 2).sum())


def plainly(table, level):
    """Error, degrees of freedom and half width, from the formulas of the module's first paragraph."""
    seeds, cases = table.shape
    ms = mean_squares(table)
    s, c, e = float(ms.seeds), float(ms.cases), float(ms.residual)
    error = math.sqrt(max(s + c - e, min(s, c), 0.01 * e) / (seeds * cases))
    t_s, t_c = (stats.t.ppf((1 + level) / 2, n - 1) for n in (seeds, cases))
    w_s = s * t_s**2 / (s * t_s**2 + max(c - e, 0) * t_c**2)
    w_c = c * t_c**2 / (c * t_c**2 + max(s - e, 0) * t_s**2)
    df = 1 / (w_s ** (2 + 2 / (seeds - 1)) / (seeds - 1) + w_c ** (2 + 2 / (cases - 1)) / (cases - 1))
    df = min(max(df, min(seeds, cases) - 1), seeds * cases - 1)
    return error, df, error * stats.t.ppf((1 + level) / 2, df)


@pytest.mark.parametrize("seeds, cases", [(2, 5), (3, 12), (5, 5), (12, 3), (10, 40)])
@pytest.mark.parametrize("sds", [(1, 1, 1), (0, 0, 1), (0, 1, 0.1), (1, 0, 0.1), (1, 1, 0)])
def test_against_a_plain_implementation(seeds, cases, sds):
    table = a_table(seeds, cases, sds, 0.3)
    for level in (0.9, 0.95, 0.99):
        error, df, half = plainly(table, level)
        found = estimate(table, level=level)
        assert (found.se, found.df) == pytest.approx((error, df))
        assert found.ci95 == pytest.approx((table.mean() - half, table.mean() + half))


def test_p_is_the_level_of_the_interval_that_ends_at_zero():
    for seeds, cases, mean in ((3, 12, 0.02), (5, 5, 0.01), (2, 30, 0.1)):
        table = a_table(seeds, cases, mean=mean)
        found = estimate(table)
        low, high = estimate(table, level=1 - found.p).ci95
        assert min(abs(low), abs(high)) < 1e-6 * abs(found.value)


def test_p_falls_with_the_distance():
    squares = mean_squares(a_table())
    p = [float(p_value(distance, squares, 4, 9)) for distance in np.linspace(0, 0.2, 50)]
    assert p[0] == pytest.approx(1)
    assert p == sorted(p, reverse=True)
    assert float(p_value(1e9, squares, 4, 9)) < 1e-12


@pytest.mark.parametrize("axis", [0, 1])
def test_where_one_thing_varies_it_is_the_t_test_over_that(axis):
    table = a_table(5, 8, (1.0, 0, 1e-4) if axis == 0 else (0, 1.0, 1e-4), 0.5)
    test = stats.ttest_1samp(table.mean(axis=1 - axis), 0)
    found = estimate(table, margin=2)
    assert found.p == pytest.approx(test.pvalue, rel=1e-3)
    assert found.ci95 == pytest.approx(test.confidence_interval(), rel=1e-3)
    one_sided = stats.ttest_1samp(table.mean(axis=1 - axis), 2, alternative="less").pvalue
    assert found.p_equivalence >= one_sided * (1 - 1e-3)


def test_order_sign_and_unit_do_not_matter():
    table = a_table()
    found, turned = estimate(table, margin=0.02), estimate(-100 * table[::-1, ::-1], margin=2)
    assert turned.value == pytest.approx(-100 * found.value)
    assert (turned.p, turned.p_equivalence) == pytest.approx((found.p, found.p_equivalence))
    assert turned.ci95 == pytest.approx((-100 * found.ci95[1], -100 * found.ci95[0]))
    assert (turned.seeds_sd, turned.cases_sd) == pytest.approx((100 * found.seeds_sd, 100 * found.cases_sd))


def test_standard_deviations_of_the_parts():
    found = estimate(a_table(200, 300, (0.01, 0.03, 0.02)))
    assert (found.seeds_sd, found.cases_sd, found.residual_sd) == pytest.approx((0.01, 0.03, 0.02), rel=0.15)


@pytest.mark.parametrize("seeds, cases", [(3, 12), (3, 100), (5, 32), (10, 12)])
def test_errors_are_as_rare_as_promised_for_any_variances(seeds, cases):
    """Given its mean squares the mean of a table is normal; they are independent chi-squares."""
    uniform = np.clip(stats.qmc.Sobol(3, seed=1).random_base2(10), 1e-9, 1 - 1e-9).T
    degrees = seeds - 1, cases - 1, (seeds - 1) * (cases - 1)
    drawn = [stats.chi2.ppf(u, df) / df for u, df in zip(uniform, degrees, strict=True)]
    for by_seed in (1, 2, 6, 30, 1e4):
        for by_case in (1, 2, 6, 30, 1e4):
            squares = Squares(np.zeros(1), by_seed * drawn[0], by_case * drawn[1], drawn[2])
            for alpha, least, most in ((0.05, 3.5, 5.8), (0.1, 8, 10.9)):
                reach = half_width(squares, seeds, cases, alpha) * math.sqrt(seeds * cases)
                rate = 2 * stats.norm.sf(reach / math.sqrt(by_seed + by_case - 1)).mean()
                assert least < 100 * rate < most, (by_seed, by_case, alpha)


@pytest.mark.parametrize("sds", [(0.01, 0.01, 0.02), (0, 0, 0.02)])
def test_simulated_tables_err_as_rarely(sds):
    drawn = tables(np.random.default_rng(3), (3000, 3, 12), sds, 0.03)
    squares = mean_squares(drawn)
    missed = np.abs(squares.mean - 0.03) > half_width(squares, 3, 12, 0.05)
    assert 3 < 100 * missed.mean() < 6
    assert 100 * (p_equivalence(drawn, 0.03) < 0.05).mean() < 5.5
    some = [estimate(table, margin=0.03) for table in drawn[:40]]
    assert [not low <= 0.03 <= high for low, high in (one.ci95 for one in some)] == missed[:40].tolist()
    assert [one.p_equivalence for one in some] == pytest.approx(p_equivalence(drawn[:40], 0.03).tolist())


def test_equivalence_allows_for_skewness():
    """Few cases with a large effect: the sample that misses them is no proof."""
    rng = np.random.default_rng(0)
    drawn = np.repeat(rng.exponential(0.03, (3000, 1, 12)), 3, axis=1) + rng.normal(0, 0.003, (3000, 3, 12))
    squares = mean_squares(drawn)
    plain = (0.03 - squares.mean > 0) & (p_value(0.03 - squares.mean, squares, 3, 12) < 0.1)
    careful = p_equivalence(drawn, 0.03) < 0.05
    assert not (careful & ~plain).any()
    assert careful.mean() < 0.7 * plain.mean()


def test_nothing_but_zeros_is_certain():
    found = estimate(np.zeros((3, 3)), margin=0.01)
    assert (found.value, found.se, found.ci95, found.p, found.p_equivalence) == (0, 0, (0, 0), 1, 0)
    assert not found.unreliable


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_one_seed_or_one_case_has_a_value_and_a_reason(shape):
    found = estimate(np.full(shape, 0.25))
    assert (found.value, found.se, found.ci95, found.p, found.p_equivalence) == (0.25, None, None, None, None)
    assert "one seed" in found.unreliable if shape[0] == 1 else "one case" in found.unreliable
    assert smallest_detectable(np.full(shape, 0.25)) is None
    assert seeds_needed(np.full(shape, 0.25), 0.01) is None


def test_copies_of_one_run_and_tiny_tables_have_a_reason():
    assert "copies" in estimate(np.full((3, 12), 0.25)).unreliable
    assert "copies" in estimate(np.repeat(a_table()[:1], 3, axis=0)).unreliable
    assert "too few" in estimate(a_table(3, 3)).unreliable
    assert not estimate(a_table(3, 4)).unreliable


def test_one_case_that_carries_all_is_said_unless_the_test_decides():
    table = a_table(3, 12, (0, 0.02, 0.001), 0.0)
    assert not few_cases_decide(table)
    table[:, 4] -= 0.6
    assert few_cases_decide(table)
    assert "one or two cases" in estimate(table, margin=0.01).unreliable
    assert not estimate(table + 1, margin=0.01).unreliable


@pytest.mark.parametrize("table", [[], [[]], [1.0, 2.0], [[1.0, math.nan]], [[1.0, math.inf]]])
def test_gaps_and_other_shapes_are_refused(table):
    with pytest.raises(InputError, match="got"):
        estimate(table)


def test_smallest_detectable_is_found_four_times_in_five():
    table = a_table(5, 40)
    squares = mean_squares(table)
    parts = [(squares.seeds - squares.residual) / 40, (squares.cases - squares.residual) / 5, squares.residual]
    difference = smallest_detectable(table)
    drawn = tables(np.random.default_rng(1), (2000, 5, 40), np.sqrt(np.maximum(parts, 0)), difference)
    found = mean_squares(drawn)
    assert 0.72 < (found.mean > half_width(found, 5, 40, 0.05)).mean() < 0.88
    assert smallest_detectable(table, tests=9) > difference > smallest_detectable(table, power=0.5)


@pytest.mark.parametrize("needed, mean, margin", [(seeds_needed, 0.015, 0.01), (cases_needed, 0.004, 0.02)])
def test_the_number_needed_decides_four_times_in_five(needed, mean, margin):
    table = a_table(4, 10, (0.01, 0.015, 0.02), 0.0)
    table = table - table.mean() + mean
    many = needed(table, margin)
    squares = mean_squares(table)
    parts = [(squares.seeds - squares.residual) / 10, (squares.cases - squares.residual) / 4, squares.residual]
    seeds, cases = (many, 10) if needed is seeds_needed else (4, many)
    drawn = tables(np.random.default_rng(2), (2000, seeds, cases), np.sqrt(np.maximum(parts, 0)), mean)
    found = mean_squares(drawn)
    decided = np.abs(found.mean) > half_width(found, seeds, cases, 0.05)
    decided |= p_equivalence(drawn, margin) < 0.05
    assert 0.7 < decided.mean() < 0.9


def test_no_number_decides_what_the_other_sample_hides():
    table = a_table(3, 12, (0.03, 0, 0.001), 0.0)
    assert cases_needed(table - table.mean() + 0.01, 0.01) is None
    assert seeds_needed(np.zeros((3, 4)), 0.01) == 2


def test_freedom_of_the_parts():
    squares = Squares(np.zeros(1), np.array([1.0, 0, 1]), np.array([0.0, 1, 1]), np.zeros(3))
    df = degrees_of_freedom(squares, 3, 12, 0.05)
    assert df[:2] == pytest.approx([2, 11])
    assert 2 < df[2] < 12


def test_resampled_means_share_seeds_and_cases():
    table = np.random.default_rng(0).normal(size=(3, 8))
    means = resampled_means({"a": table, "b": table + 1}, 500)
    assert means["a"].shape == (500,)
    assert means["b"] - means["a"] == pytest.approx(1)
    assert means["a"].mean() == pytest.approx(table.mean(), abs=0.1)
    with pytest.raises(InputError, match="one shape"):
        resampled_means({"a": table, "b": table[:2]}, 10)
    assert resampled_means({}, 10) == {}
