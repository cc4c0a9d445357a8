"""Which prediction is better: winners only where they are significant, rankings that name their protocol."""

import json

import numpy as np
import pytest

from dsnet_med.errors import InputError
from dsnet_med.evaluate.comparison import compare, rankings, verdict
from dsnet_med.evaluate.measurements import measure_case
from dsnet_med.evaluate.pooled_volumes import borders_of_case
from dsnet_med.evaluate.report import comparison_html
from dsnet_med.evaluate.score_folders import CaseScore

NAMES = {1: "liver", 2: "spleen"}
PROTOCOLS = ("strict", "transunet", "dpcnet", "monai")


def scored(case, prediction, reference, path):
    measures = measure_case(reference, prediction, (2, 1, 1), NAMES, in_voxels=True).measures
    return CaseScore(
        case,
        path,
        path,
        measures=measures,
        borders=dict.fromkeys(NAMES, borders_of_case(reference, prediction)),
        shape=reference.shape,
    )


def reference_of(rng):
    reference = np.zeros((4, 24, 24), np.uint8)
    start = rng.integers(2, 6)
    reference[1:3, start : start + 8, 3:12], reference[1:3, 15:20, 14:20] = 1, 2
    return reference


def worse(reference, by):
    """The liver reaches `by` columns too far; the spleen is right."""
    prediction = np.roll(np.where(reference == 1, 1, 0), by, axis=2)
    return np.maximum(prediction, np.where(reference == 2, 2, 0)).astype(np.uint8)


def folders(tmp_path, cases, **errors):
    """A prediction per name, whose livers err in case n by errors[name](n) columns."""
    rng = np.random.default_rng(0)
    references = [reference_of(rng) for _ in range(cases)]
    return {
        name: [
            scored(f"case{n}", worse(reference, error(n)), reference, tmp_path / f"{n}.nii.gz")
            for n, reference in enumerate(references)
        ]
        for name, error in errors.items()
    }


def test_a_consistent_difference_over_enough_cases_wins(tmp_path):
    found = compare(folders(tmp_path, 12, good=lambda n: 0, bad=lambda n: 1 + n % 2), NAMES)
    dice = found["protocols"]["strict"]["metrics"]["dice"]
    assert dice["labels"]["liver"]["winner"] == dice["mean"]["winner"] == "good"
    (pair,) = dice["labels"]["liver"]["pairs"]
    assert (pair["first"], pair["second"], pair["n"], pair["effect_size"]) == ("good", "bad", 12, -1)
    assert pair["difference"] < 0
    assert pair["p"] <= pair["p_holm"] < 0.05
    assert pair["better"] == "good"
    # Where both are alike there is no winner.
    assert dice["labels"]["spleen"]["winner"] is None
    assert dice["labels"]["spleen"]["pairs"][0]["p"] == 1
    hd95 = found["protocols"]["strict"]["metrics"]["hd95_mm"]["labels"]["liver"]
    assert hd95["winner"] == "good"
    assert hd95["pairs"][0]["difference"] > 0
    assert "good is significantly better" in verdict(found)


def test_the_same_difference_over_too_few_cases_does_not(tmp_path):
    found = compare(folders(tmp_path, 5, good=lambda n: 0, bad=lambda n: 1 + n % 2), NAMES)
    assert found["protocols"]["strict"]["metrics"]["dice"]["labels"]["liver"]["winner"] is None
    assert "with 5 cases no difference can be significant" in found["note"]
    assert "no significant winner" in verdict(found)


def test_a_difference_that_goes_either_way_does_not(tmp_path):
    found = compare(folders(tmp_path, 12, a=lambda n: n % 2, b=lambda n: 1 - n % 2), NAMES)
    liver = found["protocols"]["strict"]["metrics"]["dice"]["labels"]["liver"]
    assert liver["winner"] is None
    assert not liver["pairs"][0]["significant"]


def test_holm_counts_every_test_of_the_metric(tmp_path):
    found = compare(folders(tmp_path, 12, good=lambda n: 0, bad=lambda n: 1 + n % 2), NAMES)
    dice = found["protocols"]["strict"]["metrics"]["dice"]
    smallest = min(pair["p"] for entry in (*dice["labels"].values(), dice["mean"]) for pair in entry["pairs"])
    assert min(
        pair["p_holm"] for entry in (*dice["labels"].values(), dice["mean"]) for pair in entry["pairs"]
    ) == pytest.approx(3 * smallest)


def test_the_best_of_three_must_beat_both(tmp_path):
    found = compare(folders(tmp_path, 14, best=lambda n: 0, near=lambda n: int(n == 0), bad=lambda n: 3), NAMES)
    liver = found["protocols"]["strict"]["metrics"]["dice"]["labels"]["liver"]
    assert len(liver["pairs"]) == 3
    assert {pair["better"] for pair in liver["pairs"]} == {"best", "near", None}
    assert liver["winner"] is None


def test_mean_and_ranks_that_disagree_have_no_winner(tmp_path):
    # Eleven cases a little better, one lost: ranks favour `risky`, the mean does not.
    scores = folders(tmp_path, 12, steady=lambda n: 1, risky=lambda n: 0)
    rng = np.random.default_rng(0)
    reference = reference_of(rng)
    nothing = np.where(reference == 1, 0, reference)
    scores["risky"][0] = scored("case0", nothing, reference, tmp_path)
    liver = compare(scores, NAMES)["protocols"]["strict"]["metrics"]["hd95_mm"]["labels"]["liver"]
    (pair,) = liver["pairs"]
    assert pair["difference"] > 0 > pair["effect_size"]
    assert pair["better"] is None


def test_the_ranking_can_depend_on_the_protocol(tmp_path):
    # `careful` finds every liver, some columns off; `lazy` is exact and misses half of them. A missed organ has
    # HD95 0 under transunet, none under monai, and the diagonal under strict.
    rng = np.random.default_rng(1)
    references = [reference_of(rng) for _ in range(8)]
    scores = {"careful": [], "lazy": []}
    for n, reference in enumerate(references):
        lazy = np.where(reference == 1, 0, reference) if n % 2 else reference
        scores["careful"].append(scored(f"{n}", worse(reference, 1), reference, tmp_path))
        scores["lazy"].append(scored(f"{n}", lazy, reference, tmp_path))
    found = compare(scores, NAMES, PROTOCOLS)
    assert found["ranking"]["hd95"]["depends_on_protocol"]
    assert found["ranking"]["hd95"]["order"]["strict"] == [["careful"], ["lazy"]]
    assert found["ranking"]["hd95"]["order"]["transunet"] == [["lazy"], ["careful"]]
    assert found["ranking"]["hd95"]["order"]["monai"] == [["lazy"], ["careful"]]
    assert any("depends on the protocol" in line for line in rankings(found))
    same = compare(scores, NAMES, ("transunet", "monai"))
    assert not same["ranking"]["hd95"]["depends_on_protocol"]


def test_a_stacked_protocol_has_nothing_to_test(tmp_path):
    found = compare(folders(tmp_path, 7, a=lambda n: 0, b=lambda n: 2), NAMES, PROTOCOLS)
    assert found["protocols"]["dpcnet"]["metrics"] == {}
    assert found["ranking"]["dice"]["order"]["dpcnet"] == [["a"], ["b"]]
    assert found["protocols"]["transunet"]["metrics"].keys() == {"dice", "hd95_voxels", "nsd"}


def test_only_cases_that_all_have_are_compared(tmp_path):
    scores = folders(tmp_path, 8, a=lambda n: 0, b=lambda n: 1)
    broken = CaseScore("case3", tmp_path, tmp_path, error="damaged")
    scores["b"] = [*scores["b"][:3], broken, *scores["b"][4:7]]
    found = compare(scores, NAMES)
    assert found["cases"] == 6
    assert found["cases_left_out"] == {"a": ["case3", "case7"], "b": []}
    assert found["protocols"]["strict"]["metrics"]["dice"]["labels"]["liver"]["pairs"][0]["n"] == 6


def test_what_cannot_be_compared(tmp_path):
    scores = folders(tmp_path, 2, a=lambda n: 0, b=lambda n: 1)
    with pytest.raises(InputError, match="at least two"):
        compare({"a": scores["a"]}, NAMES)
    with pytest.raises(InputError, match="no case was scored for every one of a, b"):
        compare({"a": scores["a"][:1], "b": scores["b"][1:]}, NAMES)


def test_the_page_and_the_json(tmp_path):
    scores = folders(tmp_path, 12, **{"<good>": lambda n: 0, "bad": lambda n: 1 + n % 2})
    found = compare(scores, NAMES, PROTOCOLS)
    json.dumps(found, allow_nan=False)
    page = comparison_html(found, {"<good>": "good/report.html"})
    assert "<good>" not in page
    assert "significantly best" in page
    assert "not significant" in page
    for name in PROTOCOLS:
        assert f"Protocol {name}" in page


def test_ties_are_ties_and_any_name_is_an_organ(tmp_path):
    scores = folders(tmp_path, 6, a=lambda n: 1, b=lambda n: 1, c=lambda n: 2)
    found = compare(scores, {1: "mean over organs", 2: "None"}, PROTOCOLS)
    assert found["ranking"]["dice"]["order"]["strict"] == [["a", "b"], ["c"]]
    assert not found["ranking"]["dice"]["depends_on_protocol"]
    assert "by Dice: a = b > c under" in rankings(found)[0]
    dice = found["protocols"]["strict"]["metrics"]["dice"]
    assert dice["labels"].keys() == {"mean over organs", "None"}
    liver, mean = (entry["pairs"][1] for entry in (dice["labels"]["mean over organs"], dice["mean"]))
    assert liver["difference"] == pytest.approx(2 * mean["difference"])
