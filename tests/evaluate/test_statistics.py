"""Intervals, paired tests and corrections: by hand, against SciPy, and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsnet_med.evaluate.statistics import (
    cases_needed,
    fewest_cases,
    holm,
    mean_intervals,
    paired_test,
    signed_rank,
)


def test_holm_by_hand():
    # Sorted .01, .03, .04 with factors 3, 2, 1: .03, .06, .04 raised to .06.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_raises_p_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert sorted(adjusted) == [adjusted[index] for index in order]
    assert max(adjusted) <= min(1.0, len(p_values) * max(p_values)) + 1e-12


def test_signed_rank_by_hand():
    # |d| = 1, 2, 3, 4, 5, 6 have ranks 1 to 6; only the smallest is negative: W+ = 20, W- = 1.
    p, effect = signed_rank(np.array([-1.0, 2, 3, 4, 5, 6]))
    assert effect == pytest.approx((20 - 1) / 21)
    # Sign patterns with W- at most 1: two of 64, on either side.
    assert p == pytest.approx(4 / 64)
    assert signed_rank(np.zeros(5)) == (1.0, 0.0)


def test_fewer_cases_than_six_are_never_significant():
    for cases in range(1, 12):
        p, effect = signed_rank(np.arange(1.0, cases + 1))
        assert effect == 1
        assert (p < 0.05) == (cases >= fewest_cases())
        assert (holm([p] * 9)[0] < 0.05) == (cases >= fewest_cases(9))


def test_paired_test_leaves_out_what_is_not_counted():
    first, second = [0.5, math.nan, 0.7, 0.8], [0.6, 0.9, math.nan, 0.8]
    test = paired_test(first, second)
    assert test.n == 2
    assert test.difference == pytest.approx(0.05)
    assert test.ci95 == pytest.approx((0, 0.1))
    nothing = paired_test([math.nan], [1.0])
    assert (nothing.n, nothing.p, nothing.difference) == (0, None, None)
    one = paired_test([0.0], [1.0])
    assert (one.n, one.ci95, one.cases_needed, one.p) == (1, None, None, 1.0)


def test_swapping_the_two_turns_the_sign_alone():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 12))
    forth, back = paired_test(a, b), paired_test(b, a)
    assert forth.p == pytest.approx(back.p)
    assert (forth.difference, forth.effect_size) == pytest.approx((-back.difference, -back.effect_size))
    assert forth.cases_needed == back.cases_needed


@pytest.mark.parametrize("standardised", [0.4, 0.7, 1.0])
def test_cases_needed_give_the_power_they_promise(standardised):
    # Two differences with this mean and a sample deviation of one.
    half = 1 / math.sqrt(2)
    cases = cases_needed(np.array([standardised - half, standardised + half]))
    rng = np.random.default_rng(0)
    found = [signed_rank(rng.normal(standardised, 1, cases))[0] < 0.05 for _ in range(600)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def test_no_number_of_cases_shows_no_difference():
    assert cases_needed(np.zeros(9)) is None
    assert cases_needed(np.array([1.0, -1.0])) is None
    assert cases_needed(np.array([1.0])) is None
    assert cases_needed(np.full(9, 0.1)) == 6
    assert cases_needed(np.full(9, 0.1), tests=9) == 9


def test_intervals_cover_the_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        (low, high), whole = mean_intervals(rng.normal(0.8, 0.1, (30, 1)))[0][0], None
        covered.append(low <= 0.8 <= high)
    assert whole is None
    # A percentile interval of 30 cases is a little narrow: about 93 %.
    assert 0.90 <= np.mean(covered) <= 0.98


@given(st.integers(2, 12), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_intervals_hold_their_mean_and_are_the_same_each_time(cases, columns, seed):
    table = np.random.default_rng(seed).random((cases, columns))
    table[0, 0] = np.nan
    intervals, whole = mean_intervals(table)
    assert (intervals, whole) == mean_intervals(table)
    for column, interval in zip(table.T, intervals, strict=True):
        counted = column[~np.isnan(column)]
        if len(counted) < 2:
            assert interval is None
        else:
            assert interval[0] - 1e-12 <= counted.mean() <= interval[1] + 1e-12
    if whole is not None:
        assert whole[0] - 0.2 <= np.nanmean(table) <= whole[1] + 0.2


def test_one_case_has_no_interval():
    assert mean_intervals(np.ones((1, 3))) == ([None] * 3, None)
    assert mean_intervals(np.empty((0, 2))) == ([None] * 2, None)
    assert mean_intervals(np.full((5, 1), np.nan)) == ([None], None)


def test_interval_of_two_cases_by_hand():
    # Of resamples of {0, 1} a quarter have mean 0 and a quarter mean 1: the 95 % interval is all of it.
    assert mean_intervals(np.array([[0.0], [1.0]]))[0] == [(0.0, 1.0)]
