"""From scores of interventions to differences with intervals: by hand, against SciPy, and by simulation."""

from dataclasses import replace
from math import nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from dsnet_med.errors import InputError
from dsnet_med.explain import effects
from dsnet_med.explain.effects import between, mean_with_interval, over_organs, summarise
from dsnet_med.explain.records import Score
from dsnet_med.explain.tables import read_scores, write_scores

ORGANS = ["liver", "spleen"]


def scores_of(kind, dice, *, run="run", plugin="all", draw=0, hd95=5.0, agreement=0.9, changed=2.0):
    """Rows of a table (cases, organs) of Dice; the other measures are given for all."""
    if kind == "intact":
        plugin, agreement, changed = "", 1.0, 0.0
    return [
        Score(run, plugin, kind, draw, f"case{at}", organ, value, hd95, agreement, changed, 10.0)
        for at, row in enumerate(dice)
        for organ, value in zip(ORGANS, row, strict=True)
    ]


INTACT = [[0.9, 0.8], [0.8, 0.7], [0.7, 0.9]]


def effect(kind, dice, intact=INTACT, **more):
    rows = scores_of("intact", intact, hd95=4.0) + scores_of(kind, dice, **more)
    return summarise(rows, "run", ORGANS)


# ---------------------------------------------------------------- by hand


def test_differences_by_hand():
    (found,) = effect("identity", [[0.7, 0.8], [0.7, 0.6], [0.4, 0.7]])["interventions"]
    assert (found["plugin"], found["kind"], found["draws"]) == ("all", "identity", 1)
    liver, spleen = found["labels"]["liver"]["dice"], found["labels"]["spleen"]["dice"]
    assert (liver["difference"], spleen["difference"]) == (pytest.approx(-0.2), pytest.approx(-0.1))
    # liver: -0.2 -0.1 -0.3, whose standard deviation is 0.1; t of 2 degrees of freedom is 4.302653
    assert liver["ci95"] == pytest.approx([-0.2 - 4.302653 * 0.1 / 3**0.5, -0.2 + 4.302653 * 0.1 / 3**0.5])
    assert liver["n"] == 3
    by_case = [-0.1, -0.1, -0.25]
    expected = stats.ttest_1samp(by_case, 0).confidence_interval()
    assert found["mean"]["dice"]["difference"] == pytest.approx(-0.15)
    assert found["mean"]["dice"]["ci95"] == pytest.approx(list(expected))
    assert found["mean"]["hd95_mm"] == {"difference": 1.0, "ci95": [1.0, 1.0], "n": 3}
    assert found["mean"]["agreement"] == {"mean": pytest.approx(0.9), "ci95": pytest.approx([0.9, 0.9]), "n": 3}
    assert found["labels"]["liver"]["changed_ml"]["mean"] == 2.0


def test_the_scores_of_the_network_itself():
    found = effect("identity", INTACT)["scores"]
    assert found["labels"]["liver"]["dice"]["mean"] == pytest.approx(0.8)
    assert found["mean"]["dice"]["mean"] == pytest.approx(0.8)
    assert found["mean"]["hd95_mm"] == {"mean": 4.0, "ci95": [4.0, 4.0], "n": 3}


def test_the_draws_of_a_case_are_averaged_before_cases_are():
    intact = scores_of("intact", [[0.8, 0.8]] * 3)
    tables = [[[0.8, 0.8], [0.6, 0.6], [0.7, 0.7]], [[0.6, 0.6], [0.8, 0.8], [0.7, 0.7]]]
    rows = intact + [each for draw in (0, 1) for each in scores_of("shuffled", tables[draw], draw=draw)]
    (found,) = summarise(rows, "run", ORGANS)["interventions"]
    assert found["draws"] == 2
    assert found["labels"]["liver"]["dice"]["difference"] == pytest.approx(-0.1)
    assert found["labels"]["liver"]["dice"]["ci95"] == pytest.approx([-0.1, -0.1])  # every case: -0.1
    assert found["labels"]["liver"]["dice"]["n"] == 3


def test_a_case_in_which_an_organ_does_not_count_has_no_difference_for_it():
    intact = [[0.9, 0.8], [0.8, nan], [0.7, 0.9]]
    found = effect("identity", [[0.8, 0.5], [0.7, 0.0], [nan, 0.7]], intact)["interventions"][0]
    assert [found["labels"][organ]["dice"]["n"] for organ in ORGANS] == [2, 2]
    assert found["labels"]["spleen"]["dice"]["difference"] == pytest.approx((-0.3 - 0.2) / 2)
    assert found["mean"]["dice"]["difference"] == pytest.approx((-0.1 - 0.25) / 2)
    assert found["mean"]["dice"]["n"] == 3


def test_one_draw_that_does_not_count_leaves_the_case_out():
    intact = scores_of("intact", [[0.8, 0.8]] * 2)
    rows = (
        intact
        + scores_of("shuffled", [[0.7, 0.7], [nan, 0.7]])
        + scores_of("shuffled", [[0.7] * 2] * 2, draw=1)
    )
    assert summarise(rows, "run", ORGANS)["interventions"][0]["labels"]["liver"]["dice"]["n"] == 1


def test_one_case_has_no_interval():
    found = effect("identity", [[0.7, 0.8]], [[0.9, 0.8]])
    assert found["interventions"][0]["mean"]["dice"] == {
        "difference": pytest.approx(-0.1),
        "ci95": None,
        "n": 1,
    }
    assert found["scores"]["mean"]["dice"]["ci95"] is None


def test_an_organ_that_never_counts_is_null():
    found = effect("identity", [[0.7, nan]] * 2, [[0.9, nan]] * 2)
    assert found["interventions"][0]["labels"]["spleen"]["dice"] == {"difference": None, "ci95": None, "n": 0}
    assert found["interventions"][0]["mean"]["dice"]["difference"] == pytest.approx(-0.2)


def test_without_a_reference_the_mask_alone_is_told():
    gone = [[nan, nan]] * 3
    rows = scores_of("intact", gone, hd95=nan) + scores_of("identity", gone, hd95=nan)
    found = summarise(rows + scores_of("mean", gone, hd95=nan), "run", ORGANS)
    assert found["scores"] is None
    for entry in (found["interventions"][0]["mean"], found["interventions"][0]["labels"]["liver"]):
        assert (entry["dice"], entry["hd95_mm"]) == (None, None)
        assert (entry["changed_ml"]["mean"], entry["agreement"]["n"]) == (2.0, 3)
    assert found["image_dependence"]["dice"]["share_kept_by_constant"] is None
    assert "without a reference" in found["image_dependence"]["words"]
    assert between([*rows, *(replace(each, run="b") for each in rows)], ["run", "b"], ORGANS) == []


def test_all_plugins_come_first_and_kinds_in_their_order():
    rows = scores_of("intact", INTACT)
    for plugin, kind in (
        ("b", "mean"),
        ("a", "shuffled"),
        ("b", "identity"),
        ("all", "other"),
        ("all", "identity"),
    ):
        rows += scores_of(kind, INTACT, plugin=plugin)
    got = [(each["plugin"], each["kind"]) for each in summarise(rows, "run", ORGANS)["interventions"]]
    assert got == [("all", "identity"), ("all", "other"), ("b", "identity"), ("b", "mean"), ("a", "shuffled")]


def test_runs_are_compared_on_the_cases_of_both():
    first = scores_of("intact", INTACT, run="fcn")
    second = scores_of("intact", [[0.95, 0.8], [0.9, 0.7], [0.85, 0.9], [0.1, 0.1]], run="dsm")
    (found,) = between(first + second, ["fcn", "dsm"], ORGANS)
    assert (found["first"], found["second"]) == ("fcn", "dsm")
    assert found["labels"]["liver"]["dice"]["difference"] == pytest.approx(0.1)
    expected = stats.ttest_rel([0.95, 0.9, 0.85], [0.9, 0.8, 0.7]).confidence_interval()
    assert found["labels"]["liver"]["dice"]["ci95"] == pytest.approx(list(expected))
    assert found["mean"]["dice"] == {
        "difference": pytest.approx(0.05),
        "n": 3,
        "ci95": found["mean"]["dice"]["ci95"],
    }


# ---------------------------------------------------------------- invariants


TABLES = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.floats(-1, 1) | st.just(nan)
)


@given(TABLES)
def test_the_mean_over_organs_is_the_mean_of_the_organs_means(table):
    means = [column[~np.isnan(column)].mean() for column in table.T if not np.isnan(column).all()]
    values = over_organs(table)
    np.testing.assert_array_equal(np.isnan(values), np.isnan(table).all(axis=1))
    if means:
        assert np.nanmean(values) == pytest.approx(np.mean(means), abs=1e-12)
    if not np.isnan(table).any():
        np.testing.assert_allclose(values, table.mean(axis=1), atol=1e-12)


@given(st.permutations(range(12)))
def test_the_order_of_rows_changes_nothing(order):
    rows = scores_of("intact", INTACT) + scores_of("identity", [[0.7, 0.8], [0.7, 0.6], [0.4, 0.7]])
    assert summarise([rows[at] for at in order], "run", ORGANS) == summarise(rows, "run", ORGANS)


@pytest.mark.parametrize("cases", [3, 5, 12])
def test_an_interval_over_few_cases_holds_what_it_says(cases):
    draw = np.random.default_rng(cases).normal(0.3, 1, (2000, cases))
    intervals = [mean_with_interval(sample)["ci95"] for sample in draw]
    assert np.mean([low <= 0.3 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.015)


def test_an_interval_with_gaps_holds_what_it_says():
    """Organs that count in some cases only, whose means differ, and cases that are hard for every organ."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(2000):
        table = np.array([0.0, 1.0, 5.0]) + rng.normal(size=(12, 1)) + rng.normal(size=(12, 3))
        table[rng.random(table.shape) < (0.0, 0.2, 0.5)] = nan
        low, high = mean_with_interval(over_organs(table))["ci95"]
        held.append(low <= 2 <= high)
    assert 0.93 <= np.mean(held) <= 0.97


# ---------------------------------------------------------------- how much a constant keeps


def dependence(identity, mean, intact=INTACT):
    rows = scores_of("intact", intact) + scores_of("identity", identity) + scores_of("mean", mean)
    return summarise(rows, "run", ORGANS)["image_dependence"]


def less(by, table=INTACT):
    return (np.array(table) - np.array(by)[:, None]).tolist()


def test_a_plug_in_that_does_nothing_has_no_share():
    found = dependence(INTACT, INTACT)
    assert found["dice"] == {"identity": 0.0, "mean": 0.0, "share_kept_by_constant": None, "ci95": None}
    assert "changes no score" in found["words"]


def test_a_constant_gate_is_kept_whole():
    found = dependence(less([0.2, 0.25, 0.3]), INTACT)
    assert found["dice"]["share_kept_by_constant"] == 1.0
    assert found["dice"]["ci95"] == [1.0, 1.0]
    assert "a constant keeps 100% (100% to 100%) of what it adds" in found["words"]


def test_a_share_by_hand():
    found = dependence(less([0.2, 0.2, 0.23]), less([0.05, 0.04, 0.06]))["dice"]
    assert (found["identity"], found["mean"]) == (pytest.approx(-0.21), pytest.approx(-0.05))
    assert found["share_kept_by_constant"] == pytest.approx(1 - 5 / 21)


def test_no_ratio_of_noise():
    found = dependence(less([0.2, -0.1, 0.01]), less([0.1, 0.1, 0.1]))
    assert found["dice"]["share_kept_by_constant"] is None
    assert "cannot be told from 0" in found["words"]
    assert "one case" in dependence([[0.1, 0.1]], [[0.2, 0.2]], [[0.9, 0.9]])["words"]


def test_a_plug_in_that_harms_is_told_as_such():
    assert "of what it costs" in dependence(less([-0.02, -0.03, -0.02]), less([-0.01, -0.01, -0.02]))["words"]


def test_it_takes_both_interventions():
    assert "it takes the interventions" in effect("identity", INTACT)["image_dependence"]["words"]
    assert (
        "Nothing was replaced"
        in summarise(scores_of("intact", INTACT), "run", ORGANS)["image_dependence"]["words"]
    )


@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_the_ends_of_the_share_s_interval_are_where_a_paired_test_turns(seed, cases):
    rng = np.random.default_rng(seed)
    identity = rng.uniform(-0.4, -0.1, cases)
    mean = rng.uniform(-1, 1.2) * identity + rng.normal(0, 0.05, cases)
    if stats.ttest_1samp(identity, 0).pvalue < 0.049:
        low, high = effects._ratio_interval(mean, identity)
        assert low < mean.mean() / identity.mean() < high
        for end in (low, high):  # that mean is end times identity is just rejected at 5 %
            assert stats.ttest_1samp(mean - end * identity, 0).pvalue == pytest.approx(0.05, abs=1e-6)


# ---------------------------------------------------------------- refused, and read back


def test_a_row_given_twice_is_refused():
    rows = scores_of("intact", INTACT)
    with pytest.raises(InputError, match="twice"):
        summarise([*rows, replace(rows[0], dice=0.1)], "run", ORGANS)


def test_a_run_without_its_own_scores_is_refused():
    with pytest.raises(InputError, match="no scores of the intact network"):
        summarise(scores_of("identity", INTACT), "run", ORGANS)


def test_an_organ_that_nobody_named_is_refused():
    with pytest.raises(InputError, match="'spleen' is none of liver"):
        summarise(scores_of("intact", INTACT), "run", ["liver"])


def test_scores_csv_reads_back_as_it_was_written(tmp_path):
    rows = scores_of("intact", [[1 / 3, nan], [0.1 + 0.2, 1.0]], run="=run, a") + scores_of(
        "mean", [[0.5, 0.5]]
    )
    write_scores(tmp_path / "scores.csv", rows)
    assert repr(read_scores(tmp_path / "scores.csv")) == repr(rows)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("run,plugin", "method,plugin", "first line"),
        (",0.9,5.0,", ",1.9,5.0,", "dice is '1.9', wanted a number from 0 to 1"),
        (",0.9,5.0,", ",0.9,-5.0,", "hd95_mm"),
        (",0.9,5.0,", ",0.9,inf,", "hd95_mm"),
        (",0.9,5.0,", ",0_9,5.0,", "dice"),
        (",0.9,5.0,", ',"0,9",5.0,', "dice"),
        ("intact", "whole", "kind is 'whole', wanted one of intact, identity, mean, other, shuffled"),
        ("case0", "", "case is '', wanted a name"),
        (",liver,", ",spleen,", "given before"),
        (",liver,", ",liver,,", "cells"),
    ],
)
def test_scores_csv_that_is_otherwise_is_refused(tmp_path, old, new, words):
    file = tmp_path / "scores.csv"
    write_scores(file, scores_of("intact", INTACT))
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=words):
        read_scores(file)


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"scores\.csv: cannot be read"):
        read_scores(tmp_path / "scores.csv")
