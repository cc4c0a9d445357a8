"""The analysis of a trial: a table worked by hand, gaps, placebos, ranks, and what cannot be meant."""

import json
import math
import subprocess
import sys
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from dsnet_med.errors import InputError
from dsnet_med.evaluate import analyse
from dsnet_med.evaluate.measures import MEASURES
from dsnet_med.evaluate.placebo_contrasts import placebos_by_name
from dsnet_med.evaluate.ranking import pareto
from dsnet_med.evaluate.score_arrays import complete

HERE = "layer4.*.act2"


def rows_of(arm, table, **more):
    """Rows of an arm from a table (seeds, cases) of Dice, one organ."""
    return [
        {"method": arm, "seed": seed, "case": f"c{case}", "label": 1, "name": "liver", "dice": value, **more}
        for seed, row in enumerate(table)
        for case, value in enumerate(row)
    ]


def crossed(rng, effect=0.0, seeds=3, cases=8, seed_sd=0.003, residual_sd=0.004, case_effects=None):
    """Dice of an arm: its cases vary far more than arms do."""
    by_case = np.linspace(0.6, 0.8, cases) if case_effects is None else case_effects
    noise = rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, residual_sd, (seeds, cases))
    return by_case + effect + noise


def of_arm(results, arm):
    return next(entry for entry in results["contrasts"] if entry["arm"] == arm)


# ---------------------------------------------------------------- by hand


def by_hand():
    """Two seeds, three cases. Differences: 0.02 0.04 0.06 and 0.04 0.04 0.10."""
    base = np.array([[0.70, 0.80, 0.60], [0.72, 0.78, 0.60]])
    other = base + np.array([[0.02, 0.04, 0.06], [0.04, 0.04, 0.10]])
    return rows_of("fcn", base) + rows_of("fcn_se", other)


def test_a_table_worked_by_hand():
    results = analyse(by_hand(), "fcn", 0.01)
    json.dumps(results, allow_nan=False)
    assert (results["schema"], results["baseline"], results["margin"]) == (1, "fcn", 0.01)
    assert results["primary"] == {"measure": "dice", "protocol": "strict"}
    fcn, se = results["arms"]["fcn"], results["arms"]["fcn_se"]
    assert fcn["mean"] == pytest.approx(0.70)
    assert fcn["seed_means"] == pytest.approx({"0": 0.70, "1": 0.70})
    assert fcn["sd_seeds"] == pytest.approx(0, abs=1e-12)
    assert fcn["sd_cases"] == pytest.approx(np.std([0.71, 0.79, 0.60], ddof=1))
    assert se["seed_means"] == pytest.approx({"0": 0.74, "1": 0.76})
    assert se["sd_seeds"] == pytest.approx(0.02 / math.sqrt(2))
    assert (se["seeds"], se["cases"], se["placebo"]) == (2, 3, False)
    assert se["labels"] == {"liver": {"dice": pytest.approx(0.75)}}
    (entry,) = results["contrasts"]
    assert entry["difference"] == pytest.approx(0.05)
    assert entry["seed_differences"] == pytest.approx({"0": 0.04, "1": 0.06})
    # The mean is 0.05 ahead; single runs of either differ with a standard deviation of 0.02 / sqrt(2).
    assert entry["wrong_winner_single_run"] == pytest.approx(NormalDist().cdf(-0.05 / (0.02 / math.sqrt(2))))
    # Three differences of one sign: 2 / 2^3.
    assert entry["single_run_wilcoxon_p"] == pytest.approx(0.25)
    assert entry["single_run_wilcoxon_p_by_seed"]["0"] == entry["single_run_wilcoxon_p"]
    # Cases: means over seeds 0.03 0.04 0.08 against 0.71 0.79 0.60 and 0.74 0.83 0.68.
    apart = np.var([0.71, 0.79, 0.60], ddof=1) + np.var([0.74, 0.83, 0.68], ddof=1)
    removed = 1 - np.var([0.03, 0.04, 0.08], ddof=1) / apart
    assert entry["pairing"]["cases_variance_removed"] == pytest.approx(removed)
    assert entry["pairing"]["seeds_variance_removed"] == pytest.approx(0, abs=1e-9)  # the baseline has none
    assert entry["labels"]["liver"]["difference"] == pytest.approx(0.05)
    assert results["noise_floor"]["sd_seeds"] == fcn["sd_seeds"]
    assert results["ranking"]["order"] == {"dice strict": [["fcn_se"], ["fcn"]]}
    assert results["ranking"]["ranks"] == {"fcn": [0.0, 1.0], "fcn_se": [1.0, 0.0]}


def test_the_interval_and_p_are_those_of_the_crossed_model():
    from dsnet_med.evaluate.crossed import estimate

    rng = np.random.default_rng(0)
    a, b = crossed(rng), crossed(rng, 0.02)
    entry = of_arm(analyse(rows_of("a", a) + rows_of("b", b)), "b")
    found = estimate(b - a, margin=0.01)
    assert (entry["difference"], entry["se"], entry["p"]) == pytest.approx((found.value, found.se, found.p))
    assert tuple(entry["ci95"]) == pytest.approx(found.ci95)
    assert entry["p_equivalence"] == pytest.approx(found.p_equivalence)
    narrow = entry["ci90"]
    assert entry["ci95"][0] < narrow[0] < narrow[1] < entry["ci95"][1]


def test_planning_counts_the_tests():
    from dsnet_med.evaluate.crossed import seeds_needed, smallest_detectable

    rng = np.random.default_rng(1)
    tables = {arm: crossed(rng, effect) for arm, effect in {"a": 0, "b": 0.004, "c": 0.002}.items()}
    rows = [row for arm, own in tables.items() for row in rows_of(arm, own)]
    entry = of_arm(analyse(rows, "a", 0.002), "b")
    table = tables["b"] - tables["a"]
    assert entry["smallest_detectable_difference"] == pytest.approx(smallest_detectable(table, tests=2))
    assert entry["verdict"] == "undecided" and entry["seeds_needed"] == seeds_needed(table, 0.002, 2)


def test_cases_are_means_over_the_organs_that_count():
    rows = [
        {"method": "a", "seed": 0, "case": "x", "label": 1, "dice": 0.8},
        {"method": "a", "seed": 0, "case": "x", "label": 2, "dice": None},
        {"method": "a", "seed": 0, "case": "y", "label": 1, "dice": 0.6},
        {"method": "a", "seed": 0, "case": "y", "label": 2, "dice": 0.2},
    ]
    results = analyse(rows)
    assert results["arms"]["a"]["mean"] == pytest.approx((0.8 + 0.4) / 2)
    assert results["arms"]["a"]["labels"] == {
        "1": {"dice": pytest.approx(0.7)},
        "2": {"dice": pytest.approx(0.2)},
    }
    assert results["contrasts"] == []
    assert any("1 of dice" in note for note in results["notes"])
    assert any("one arm only" in note for note in results["notes"])


# ---------------------------------------------------------------- verdicts


def test_verdicts_follow_the_difference_the_margin_and_holm():
    rng = np.random.default_rng(1)
    cases = np.linspace(0.6, 0.9, 20)
    base = crossed(rng, 0, 5, 20, case_effects=cases)
    arms = {
        "better": crossed(rng, 0.05, 5, 20, case_effects=cases),
        "worse": crossed(rng, -0.05, 5, 20, case_effects=cases),
        "equivalent": base + rng.normal(0, 0.0005, base.shape),
        "undecided": base + 0.007 + np.array([[0.02], [-0.02], [0.01], [-0.01], [0]]),
    }
    rows = rows_of("base", base)
    for arm, table in arms.items():
        rows += rows_of(arm, table)
    results = analyse(rows)
    assert {entry["arm"]: entry["verdict"] for entry in results["contrasts"]} == {arm: arm for arm in arms}
    for entry in results["contrasts"]:
        assert entry["arm"] in entry["words"] and "base" in entry["words"]
        assert (entry["seeds_needed"] is None) or entry["verdict"] == "undecided"
    open_one = of_arm(results, "undecided")
    assert open_one["seeds_needed"] > 5 and str(open_one["seeds_needed"]) in open_one["words"]
    by_p = sorted(results["contrasts"], key=lambda entry: entry["p"])
    stepped = [min(1, (4 - place) * entry["p"]) for place, entry in enumerate(by_p)]
    assert [entry["p_holm"] for entry in by_p] == pytest.approx(list(np.maximum.accumulate(stepped)))


def test_a_significant_difference_within_the_margin_is_equivalent_and_says_so():
    rng = np.random.default_rng(2)
    base = crossed(rng, 0, 5, 20)
    entry = of_arm(
        analyse(rows_of("a", base) + rows_of("b", base + 0.003 + rng.normal(0, 0.0005, base.shape))), "b"
    )
    assert entry["p_holm"] < 0.05 and entry["verdict"] == "equivalent"
    assert "too small to matter" in entry["words"]


def test_of_distances_the_lower_is_better():
    rng = np.random.default_rng(3)
    base = 5 + rng.normal(0, 0.1, (4, 10))
    tables = {"a": base, "b": base - 2 + rng.normal(0, 0.05, base.shape)}
    rows = [
        row | {"dice": 0.5, "hd95_mm": row["dice"]} for arm, own in tables.items() for row in rows_of(arm, own)
    ]
    results = analyse(rows, "a", 0.5, primary="hd95_mm")
    assert results["primary"] == {"measure": "hd95_mm", "protocol": "strict"}
    assert of_arm(results, "b")["verdict"] == "better"
    assert of_arm(results, "b")["difference"] == pytest.approx(-2, abs=0.1)
    assert results["ranking"]["order"]["hd95_mm strict"] == [["b"], ["a"]]
    assert results["ranking"]["order"]["dice strict"] == [["a", "b"]]
    assert results["ranking"]["depends_on_measure"]


def test_equal_arms_are_equivalent_and_share_their_rank():
    base = crossed(np.random.default_rng(4))
    results = analyse(rows_of("fcn", base) + rows_of("fcn+Identity@x", base))
    (entry,) = results["contrasts"]
    assert (entry["difference"], entry["ci95"], entry["p"], entry["verdict"]) == (
        0.0,
        [0.0, 0.0],
        1.0,
        "equivalent",
    )
    assert "exactly" in entry["words"]
    assert entry["wrong_winner_single_run"] is None
    assert results["ranking"]["ranks"] == {"fcn": [0.5, 0.5], "fcn+Identity@x": [0.5, 0.5]}
    assert results["arms"]["fcn+Identity@x"]["placebo"]
    strict = analyse(rows_of("fcn", base) + rows_of("fcn+Identity@x", base), margin=0)
    assert strict["contrasts"][0]["verdict"] == "equivalent"


def test_one_seed_of_equal_scores_is_no_verdict_either():
    same = crossed(np.random.default_rng(4), seeds=1)
    entry = of_arm(analyse(rows_of("a", same) + rows_of("b", same)), "b")
    assert (entry["difference"], entry["ci95"], entry["p"], entry["verdict"]) == (0.0, None, None, "no verdict")


def test_all_scores_equal():
    results = analyse(rows_of("a", np.full((3, 5), 0.9)) + rows_of("b", np.full((3, 5), 0.9)))
    assert of_arm(results, "b")["verdict"] == "equivalent"
    assert results["arms"]["a"]["sd_seeds"] == 0


@pytest.mark.parametrize(("seeds", "cases", "word"), [(1, 8, "one seed"), (3, 1, "one case"), (1, 1, "one")])
def test_one_seed_or_one_case_gives_differences_and_no_verdict(seeds, cases, word):
    rng = np.random.default_rng(5)
    rows = rows_of("a", crossed(rng, 0, seeds, cases)) + rows_of("b", crossed(rng, 0.1, seeds, cases))
    entry = of_arm(analyse(rows), "b")
    assert entry["verdict"] == "no verdict" and word in entry["reason"] and entry["reason"] in entry["words"]
    assert entry["difference"] == pytest.approx(0.1, abs=0.05)
    assert entry["ci95"] is None and entry["p"] is None and entry["p_holm"] is None


# ---------------------------------------------------------------- gaps


def test_the_complete_part_keeps_seeds_where_few_cases_are_lost():
    table = np.zeros((3, 12))
    table[2, :6] = np.nan
    assert [len(part) for part in complete(table)] == [3, 6]
    table[2, :] = np.nan
    assert [len(part) for part in complete(table)] == [2, 12]
    long = np.zeros((5, 100))
    long[4, 3:] = np.nan
    assert [len(part) for part in complete(long)] == [4, 100]
    assert [len(part) for part in complete(np.full((2, 2), np.nan))] == [0, 0]


def test_what_only_some_arms_have_is_left_out_by_name():
    rng = np.random.default_rng(6)
    tables = {arm: crossed(rng, 0, 3, 6) for arm in "abc"}
    rows = [row for arm, table in tables.items() for row in rows_of(arm, table)]
    kept = [
        row
        for row in rows
        if not (row["method"] == "b" and row["seed"] == 2)
        and not (row["method"] == "c" and row["seed"] == 1 and row["case"] == "c4")
    ]
    results = analyse(kept)
    b, c = (of_arm(results, arm) for arm in "bc")
    assert (b["seeds"], b["cases"], c["seeds"], c["cases"]) == (2, 6, 3, 5)
    assert b["difference"] == pytest.approx((tables["b"] - tables["a"])[:2].mean())
    assert c["difference"] == pytest.approx(np.delete(tables["c"] - tables["a"], 4, axis=1).mean())
    assert len(results["left_out"]) == 2
    assert [note for note in results["notes"] if note.startswith("Not every seed of c has")]
    assert "seed 2" in results["left_out"][0] and "c4" in results["left_out"][1]
    assert results["ranking"]["seeds"] * results["ranking"]["cases"] == 10


def test_nothing_in_common_is_no_verdict():
    rng = np.random.default_rng(7)
    other = [row | {"seed": row["seed"] + 5} for row in rows_of("b", crossed(rng))]
    results = analyse(rows_of("a", crossed(rng)) + other)
    (entry,) = results["contrasts"]
    assert (entry["difference"], entry["verdict"]) == (None, "no verdict")
    assert "no seed and case" in entry["reason"]
    assert results["ranking"]["left_out"] and results["left_out"]
    json.dumps(results, allow_nan=False)


def test_an_organ_that_some_rows_lack_counts_for_nobody():
    rng = np.random.default_rng(8)
    rows = []
    for arm in "ab":
        for label in (1, 2):
            rows += [row | {"label": label, "name": ""} for row in rows_of(arm, crossed(rng))]
    whole = analyse(rows)
    lacking = [row for row in rows if (row["method"], row["label"]) != ("b", 2)]
    results = analyse(lacking)
    assert "2 is left out in every case" in results["left_out"][0]
    assert results["arms"]["a"]["mean"] == pytest.approx(whole["arms"]["a"]["labels"]["1"]["dice"])


def test_folds_of_a_seed_are_one_run_unless_cases_come_twice():
    rng = np.random.default_rng(9)
    rows = [row | {"fold": int(row["case"][1:]) % 2} for arm in "ab" for row in rows_of(arm, crossed(rng))]
    results = analyse(rows)
    assert (results["contrasts"][0]["seeds"], results["contrasts"][0]["cases"]) == (3, 8)
    twice = [row | {"fold": fold} for fold in (0, 1) for arm in "ab" for row in rows_of(arm, crossed(rng))]
    results = analyse(twice)
    assert list(results["arms"]["a"]["seed_means"])[:2] == ["0-fold-0", "0-fold-1"]
    assert results["contrasts"][0]["seeds"] == 6


def test_nan_is_not_counted_and_an_arm_of_nan_has_no_verdict():
    rng = np.random.default_rng(10)
    gone = rows_of("c", np.full((3, 8), np.nan))
    results = analyse(rows_of("a", crossed(rng)) + rows_of("b", crossed(rng)) + gone)
    assert of_arm(results, "c")["verdict"] == "no verdict" and results["arms"]["c"]["mean"] is None
    assert of_arm(results, "b")["verdict"] != "no verdict"
    json.dumps(results, allow_nan=False)


# ---------------------------------------------------------------- placebos, ranks, costs


def placebo_trial(gain):
    rng = np.random.default_rng(11)
    cases = np.linspace(0.5, 0.8, 15)
    effects = {
        "fcn": 0.0,
        f"fcn+SE@{HERE}": gain,
        f"fcn+Identity@{HERE}": 0.0,
        f"fcn+PointwiseConv(SE)@{HERE}": 0.03,
        f"fcn+PointwiseConv(ECA)@{HERE}": 0.5 - 0.4,
        "fcn+Identity@elsewhere": 0.09,
        f"fcn+UniformDSM@{HERE}": 0.09,
    }
    return [
        row
        for arm, effect in effects.items()
        for row in rows_of(arm, crossed(rng, effect, 4, 15, case_effects=cases))
    ]


@pytest.mark.parametrize(("gain", "verdict"), [(0.06, "better"), (0.0, "worse")])
def test_an_arm_is_held_against_the_best_of_its_own_placebos(gain, verdict):
    results = analyse(placebo_trial(gain), "fcn")
    own = [f"fcn+Identity@{HERE}", f"fcn+PointwiseConv(SE)@{HERE}"]
    assert results["placebos"] == {f"fcn+SE@{HERE}": own}
    (entry,) = results["placebo"]
    assert entry["placebo"] == own[1] and entry["verdict"] == verdict
    assert entry["difference"] == pytest.approx(min(one["difference"] for one in entry["each"].values()))
    # Below: the lowest of the plain bounds. Above: wider than that of the best, since it is corrected.
    assert entry["ci95"][0] == pytest.approx(min(one["ci95"][0] for one in entry["each"].values()))
    assert entry["ci95"][1] > min(one["ci95"][1] for one in entry["each"].values())
    if verdict == "better":  # than every one of them
        assert entry["p"] == max(one["p"] for one in entry["each"].values())


def test_placebos_of_plugins_with_arguments_and_files():
    found = placebos_by_name(
        [
            f"fcn+DSM(bias=True)@{HERE}",
            f"fcn+mine.py:Mine@{HERE}",
            "fcn_dsm",
            f"fcn+PointwiseConv(DSM(bias=True))@{HERE}",
            f"fcn+PointwiseConv(Mine)@{HERE}",
            f"fcn+UniformDSM(bias=True)@{HERE}",
            f"fcn+RandomGate(seed=3)@{HERE}",
        ]
    )
    gate = f"fcn+RandomGate(seed=3)@{HERE}"
    assert found == {
        f"fcn+DSM(bias=True)@{HERE}": [
            f"fcn+PointwiseConv(DSM(bias=True))@{HERE}",
            f"fcn+UniformDSM(bias=True)@{HERE}",
            gate,
        ],
        f"fcn+mine.py:Mine@{HERE}": [f"fcn+PointwiseConv(Mine)@{HERE}", gate],
    }


def test_against_one_placebo_it_is_the_plain_contrast():
    rng = np.random.default_rng(15)
    tables = {"fcn": crossed(rng), "fcn+SE": crossed(rng, 0.003), "fcn+Identity": crossed(rng)}
    rows = [row for arm, table in tables.items() for row in rows_of(arm, table)]
    (entry,) = analyse(rows, "fcn")["placebo"]
    plain = of_arm(analyse(rows, "fcn+Identity"), "fcn+SE")
    for key in ("difference", "ci95", "ci90", "p", "p_equivalence"):
        assert entry[key] == pytest.approx(plain[key]), key


def test_placebos_are_those_that_are_named():
    results = analyse(placebo_trial(0.06), "fcn", placebos={"fcn": [f"fcn+Identity@{HERE}", "gone"]})
    assert [entry["arm"] for entry in results["placebo"]] == ["fcn"]
    assert results["arms"][f"fcn+Identity@{HERE}"]["placebo"]
    assert any("gone" in note for note in results["notes"])


def test_the_interval_against_the_best_placebo_covers_the_smallest_advantage():
    """Two placebos of the same effect: a bound that took no care of that would miss too often."""
    rng = np.random.default_rng(12)
    missed, trials = 0, 60
    from dsnet_med.evaluate.placebo_contrasts import _bounds

    for _ in range(trials):
        tables = {name: rng.normal(0, 0.01, (10, 10)) for name in "ab"}
        low, high = _bounds(tables, 1, 0.05)
        missed += not low <= 0 <= high
    assert missed <= stats.binom.ppf(0.999, trials, 0.05)


def test_the_front_holds_who_is_not_beaten_at_the_price():
    means = {"a": 0.8, "b": 0.9, "c": 0.85, "d": None, "e": 0.9}
    costs = {
        "a": {"parameters": 1},
        "b": {"parameters": 2},
        "c": {"parameters": 3, "macs": 1},
        "d": {"parameters": 0},
        "e": {"parameters": 2.5},
    }
    assert pareto(means, costs, MEASURES["dice"]) == {"parameters": ["a", "b"]}
    assert pareto(means, costs, MEASURES["hd95_mm"]) == {"parameters": ["a"]}


def test_ranks_over_resamples_add_up():
    rng = np.random.default_rng(13)
    rows = [row for arm in "abcd" for row in rows_of(arm, crossed(rng))]
    ranks = np.array(list(analyse(rows)["ranking"]["ranks"].values()))
    assert ranks.sum(axis=0) == pytest.approx(np.ones(4)) and ranks.sum(axis=1) == pytest.approx(np.ones(4))
    assert analyse(rows) == analyse(list(rows))


# ---------------------------------------------------------------- what cannot be meant


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"dice": "high"}, "wanted a number"),
        ({"dice": "0,91"}, "with a point"),
        ({"dice": "1_0"}, "wanted a number"),
        ({"dice": True}, "wanted a number"),
        ({"dice": 91.3}, "per cent"),
        ({"dice": -0.1}, "negative"),
        ({"dice": math.inf}, "finite"),
        ({"method": " "}, "'method' is blank"),
        ({"seed": None}, "'seed' is blank"),
        ({"seed": 1}, "row 9: .* given before, in row 1"),
    ],
)
def test_a_row_that_cannot_be_meant_is_named(change, word):
    rows = rows_of("a", crossed(np.random.default_rng(14)))
    rows[0] = rows[0] | change
    with pytest.raises(InputError, match=word) as caught:
        analyse(rows)
    assert "row 1" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"baseline": "fnc"}, "did you mean 'fcn'"),
        ({"margin": -1}, "margin"),
        ({"margin": 1.0}, "margin"),
        ({"margin": math.nan}, "margin"),
        ({"primary": "dcie"}, "did you mean 'dice'"),
        ({"primary": "nsd"}, "no row has a score in 'nsd'"),
    ],
)
def test_arguments_that_cannot_be_meant(arguments, word):
    with pytest.raises(InputError, match=word):
        analyse(by_hand(), **arguments)


def test_rows_that_are_no_table():
    with pytest.raises(InputError, match="no scores"):
        analyse([])
    with pytest.raises(InputError, match="mapping"):
        analyse([3])
    every = [{"method": "a", "seed": n, "case": n, "label": n, "dice": 0.5} for n in range(1000)]
    with pytest.raises(InputError, match="something else"):
        analyse(every)


def test_columns_that_say_nothing_are_told_and_numbers_may_be_texts():
    rows = [row | {"dice": str(row["dice"]), "seed": float(row["seed"]), "hd95": 3} for row in by_hand()]
    results = analyse(rows, "fcn")
    assert results["arms"] == analyse(by_hand(), "fcn")["arms"]
    assert any("hd95" in note for note in results["notes"])


def test_the_analysis_needs_no_torch():
    code = "import sys, dsnet_med.evaluate\nprint({'torch', 'monai', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
