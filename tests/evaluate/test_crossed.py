"""The mean of a table of seeds by cases: by hand, against SciPy, and by simulation."""

import math

import numpy as np
import pytest

from dsnet_med.errors import InputError
from dsnet_med.evaluate.crossed import (
    estimate,
    mean_squares,
    resampled_means,
    seeds_needed,
    smallest_detectable,
)


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


def test_nothing_but_zeros_is_certain():
    found = estimate(np.zeros((3, 5)), margin=0.01)
    assert (found.value, found.se, found.ci95, found.p, found.p_equivalence) == (0, 0, (0, 0), 1, 0)
    assert not found.unreliable


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_one_seed_or_one_case_has_a_value_and_a_reason(shape):
    found = estimate(np.full(shape, 0.25))
    assert (found.value, found.se, found.ci95, found.p, found.p_equivalence) == (0.25, None, None, None, None)
    assert "one seed" in found.unreliable if shape[0] == 1 else "one case" in found.unreliable
    assert smallest_detectable(np.full(shape, 0.25)) is None
    assert seeds_needed(np.full(shape, 0.25), 0.01) is None


@pytest.mark.parametrize("table", [[], [[]], [1.0, 2.0], [[1.0, math.nan]], [[1.0, math.inf]]])
def test_gaps_and_other_shapes_are_refused(table):
    with pytest.raises(InputError, match="got"):
        estimate(table)


def test_resampled_means_share_seeds_and_cases():
    table = np.random.default_rng(0).normal(size=(3, 8))
    means = resampled_means({"a": table, "b": table + 1}, 500)
    assert means["a"].shape == (500,)
    assert means["b"] - means["a"] == pytest.approx(1)
    assert means["a"].mean() == pytest.approx(table.mean(), abs=0.1)
    with pytest.raises(InputError, match="one shape"):
        resampled_means({"a": table, "b": table[:2]}, 10)
    assert resampled_means({}, 10) == {}
