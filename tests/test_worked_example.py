"""The example of docs/comparing.md is what `analyse` gives, and every key of results.json has a line there."""

import re
from pathlib import Path
from statistics import NormalDist

import pytest

from dsnet_med.evaluate import analyse
from dsnet_med.evaluate.trial_output import write_trial

TEXT = (Path(__file__).parents[1] / "docs" / "comparing.md").read_text(encoding="utf-8")
ADDED = {"files", "seal"}  # by write_trial


def table(name):
    """The rows of the table of the example, its head aside, as texts."""
    inside = re.search(rf"<!-- example: {name} -->\n(.*?)<!-- end of example -->", TEXT, re.DOTALL)[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in inside.splitlines()[2:]]


def scores():
    return [
        {"method": method, "seed": seed, "case": f"c{number}", "label": 1, "dice": float(dice)}
        for method, seed, *values in table("scores")
        for number, dice in enumerate(values, 1)
    ]


@pytest.fixture(scope="module")
def results():
    return analyse(scores(), "plain", 0.01)


def at(results, path):
    for key in path.strip("`").split("."):
        results = results[int(key) if isinstance(results, list) else key]
    return results


@pytest.mark.parametrize(("path", "told"), table("results"), ids=lambda text: text.strip("`"))
def test_analyse_gives_the_numbers_of_the_example(results, path, told):
    found = at(results, path)
    assert found == told if isinstance(found, str) else f"{found:.{len(told.partition('.')[2])}f}" == told


def test_the_steps_of_the_example_lead_to_its_numbers(results):
    (entry,) = results["contrasts"]
    by_seed, by_case, rest = 4 * (1 + 0 + 1) / 2, 3 * (1 + 0 + 0 + 1) / 3, 4 / (2 * 3)
    assert entry["se"] == pytest.approx(((by_seed + by_case - rest) / 12) ** 0.5 / 100)
    seeds, cases = by_seed * 4.3026527**2, by_case * 3.1824463**2
    seeds_share = seeds / (seeds + cases * (1 - rest / by_case))
    cases_share = cases / (cases + seeds * (1 - rest / by_seed))
    assert entry["df"] == pytest.approx(1 / (seeds_share**3 / 2 + cases_share ** (2 + 2 / 3) / 3))
    assert entry["ci95"] == pytest.approx([(3 - 3.063 * 2 / 3) / 100, (3 + 3.063 * 2 / 3) / 100], abs=1e-5)
    assert entry["wrong_winner_single_run"] == pytest.approx(NormalDist().cdf(-3 / 11**0.5))
    assert set(entry["single_run_wilcoxon_p_by_seed"].values()) == {2 / 2**4}


def keys_told(heading):
    """The keys that the first table behind `heading` names in its first column."""
    lines = TEXT.partition(f"\n{heading}\n")[2].partition("\n|")[2].partition("\n\n")[0].splitlines()
    return {key for row in lines[2:] for key in re.findall(r"`([a-z0-9_]+)`", row.split("|")[1])}


def test_every_key_of_results_json_has_a_line(results, tmp_path):
    write_trial(tmp_path, scores(), results, html="<p>")
    assert keys_told("### results.json") == {*results, *ADDED}
    assert keys_told("**`arms`**") == set(results["arms"]["plain"])
    assert keys_told("**`contrasts`**") == set(results["contrasts"][0])


def test_every_key_of_a_placebo_s_entry_is_told():
    renamed = {"plain": "fcn+Identity@layer4.*.act2", "plug-in": "fcn+SE@layer4.*.act2"}
    (entry,) = analyse([row | {"method": renamed[row["method"]]} for row in scores()])["placebo"]
    told = TEXT.partition("**`placebo`**")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z0-9_]+)`", told)) == set(entry)


def test_the_keys_of_the_ranking_are_told(results):
    line = next(line for line in TEXT.splitlines() if line.startswith("| `ranking` |"))
    assert set(re.findall(r"`([a-z0-9_]+)`", line)) - {"ranking"} == set(results["ranking"])
