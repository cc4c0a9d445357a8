"""report.html and forest.svg of a trial: every number is there, what is missing is said."""

import math
import re
from xml.etree import ElementTree

import pytest
from page_parser import read_page
from trial_examples import ARMS, results_of, rows_of, without_values

from dsnet_med.evaluate import charts
from dsnet_med.evaluate.charts import Scale, forest, forest_svg
from dsnet_med.evaluate.trial_report import _orders, _ranks, _single_runs, _worst_cases, trial_html

SCREENS = {"laptop": (1366, 768, "light"), "phone": (390, 844, "dark")}


def curves_of(arms, seeds=3):
    return {
        arm: {
            str(seed): [(step * 250, 0.8 * (1 - math.exp(-step / 6)) + seed / 100) for step in range(1, 41)]
            for seed in range(seeds)
        }
        for arm in arms
    }


@pytest.fixture(scope="module")
def trial():
    """Ten arms, one far off, one with a long name, three placebos: (results, rows)."""
    rows = rows_of()
    return results_of(rows), rows


@pytest.fixture(scope="module")
def page(trial):
    commands = ["dsnet-med compare --methods fcn,fcn_dsm --seeds 0,1,2 --data stores/small --out trial"]
    return trial_html(*trial, curves=curves_of(ARMS), run={"data": "stores/small"}, commands=commands)


def small(arms=("fcn", "fcn_dsm"), **shape):
    chosen = {arm: ARMS[arm] for arm in arms}
    rows = rows_of(chosen, **shape)
    return results_of(rows, chosen), rows


def test_places_on_an_axis():
    scale = Scale(-0.02, 0.02)
    assert [scale.at(value) for value in (-0.02, 0, 0.02, 1.0)] == [3, 50, 97, 97]
    assert [scale.beyond(value) for value in (-0.021, -0.02, 0.02, 0.021)] == [-1, 0, 0, 1]
    assert scale.ticks() == pytest.approx([-0.02, -0.01, 0, 0.01, 0.02])
    assert Scale.around([5.0]) == Scale(4.5, 5.5)
    assert Scale.around([]) == Scale(-1, 1)
    assert Scale.of_most([1, 2, 3, 4, 100]) == Scale(1, 4)
    assert [charts.compact(value) for value in (33_245_000, 1500, 0.5128, 0)] == ["33.2M", "1.5k", "0.513", "0"]


def contrast(arm, difference, ci95, verdict, seeds):
    return {"arm": arm, "difference": difference, "ci95": ci95, "verdict": verdict, "seed_differences": seeds}


def by_hand(measure="dice"):
    """Two arms whose axis runs from -0.02 to 0.06, and one far off."""
    contrasts = [
        contrast("near", 0.0, [-0.02, 0.02], "undecided", {"0": 0.01, "1": -0.01}),
        contrast("good", 0.04, [0.02, 0.06], "better", {"0": 0.04, "1": None}),
        contrast("lost", -0.7, [-0.9, -0.5], "worse", {"0": -0.7, "1": -0.7}),
        contrast("void", None, None, "no verdict", {}),
    ]
    arms = {name: {"placebo": False} for name in ("base", "near", "good", "lost", "void")}
    primary = {"measure": measure, "protocol": "strict"}
    return {"margin": 0.01, "baseline": "base", "primary": primary, "arms": arms, "contrasts": contrasts}


def test_a_forest_plot_worked_by_hand():
    drawn = forest(by_hand())
    good, near, lost, void = drawn["rows"]
    assert [row["arm"] for row in drawn["rows"]] == ["good", "near", "lost", "void"]  # best first
    # 94 per cent of the width are 0.08 Dice, from -0.02 at 3 per cent on.
    assert (drawn["zero"], drawn["margin"]["x"], drawn["margin"]["width"]) == (26.5, 14.75, 23.5)
    assert (good["bar"], good["mean"], good["arrows"]) == ([50, 97], 73.5, [])
    assert [dot["x"] for dot in good["dots"]] == [73.5]
    assert [dot["x"] for dot in near["dots"]] == [38.25, 14.75]
    # What lies beyond the axis is an arrow at its end: interval and mean together, and each of two seeds.
    assert (lost["bar"], lost["mean"], lost["dots"]) == ([], None, [])
    assert [(arrow["x"], arrow["turn"], arrow["y"]) for arrow in lost["arrows"]] == [
        (3, 180, 13),
        *[(3, 180, 28)] * 2,
    ]
    assert (void["bar"], void["mean"], void["dots"], void["arrows"]) == ([], None, [], [])
    assert (drawn["left"], drawn["right"]) == ("base better", "arm better")


def test_no_difference_at_all_and_no_margin():
    results = by_hand() | {"margin": 0.0}
    results["contrasts"] = [contrast("near", 0.0, [0.0, 0.0], "undecided", {"0": 0.0})]
    drawn = forest(results)
    assert (drawn["zero"], drawn["margin"]["width"], drawn["rows"][0]["mean"]) == (50, 0, 50)
    assert ">0.0000<" in forest_svg(results)
    results["contrasts"].append(contrast("good", 0.3, [0.2, 0.4], "better", {}))
    assert not forest(results)["clipped"]  # of two arms neither is the odd one


def test_of_distances_the_smaller_is_better():
    drawn = forest(by_hand("hd95_mm"))
    assert [row["arm"] for row in drawn["rows"]] == ["lost", "near", "good", "void"]
    assert (drawn["left"], drawn["right"]) == ("arm better", "base better")
    runs = {"seed_differences": {"0": -1.0, "1": 2.0, "2": -1.0, "3": 1.0}}
    runs["single_run_wilcoxon_p_by_seed"] = {"0": 0.01, "1": 0.01, "2": 0.01, "3": 0.5}
    told = _single_runs(runs, higher=False)
    assert (told["significant"], told["better"]) == (3, 2)


def test_the_forest_plot_as_a_file(trial):
    results, _ = trial
    root = ElementTree.fromstring(forest_svg(results))
    assert root.tag.endswith("}svg")
    text = " ".join(root.itertext())
    for each in results["contrasts"]:
        assert f"{each['difference']:+.4f}" in text
        assert f"{charts.SYMBOLS[each['verdict']]} {each['verdict']}" in text
    circles = [item for item in root.iter() if item.tag.endswith("circle")]
    assert len(circles) == 3 * (len(results["contrasts"]) - 1)  # all seeds but those of the arm far off
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", forest_svg(results))
    assert root[2].tag.endswith("rect")
    assert root[2].get("fill") == "#ffffff"


def test_the_page_is_one_offline_file_with_every_number(trial, page):
    results, _ = trial
    assert not re.search(r"https?:|//|@import|url\(", page)
    parser = read_page(page)
    assert parser.addresses  # links within the page, each to a part that is there
    assert all(f' id="{address.removeprefix("#")}"' in page for address in parser.addresses)
    assert all(address.startswith("#") for address in parser.addresses)
    words = " ".join(" ".join(parser.words).split())
    for name, arm in results["arms"].items():
        assert name.partition("@")[0] in words.replace(" ", "") or name in words
        assert f"{arm['mean']:.3f}" in words
    for each in results["contrasts"]:
        assert each["words"] in words
        assert f"{each['difference']:+.4f}" in words
    for wanted in ("seeds instead of 3", "the best of its placebos", "stores/small", results["trial"], "±0.01"):
        assert wanted in words, wanted
    assert page.index("What came out") < page.index("Differences from fcn") < page.index("Organ by organ")
    assert "None" not in words
    assert "nan" not in words


def test_nothing_is_told_by_colour_alone(trial):
    results, _ = trial
    assert len(set(charts.SYMBOLS.values())) == len(charts.SYMBOLS)
    styles = re.findall(r"class=\"(\w+)\"", trial_html(*trial, curves=curves_of(ARMS)))
    assert {"bar", "mean", "seed", "arrow", "margin", "thick", "thin", "dashed"} <= set(styles)
    panel = charts.cost_panels(results)[0]
    assert sorted(dot["number"] for dot in panel["dots"]) == list(range(1, len(ARMS) + 1))


@pytest.mark.parametrize("shape", [{"seeds": 1, "cases": 2, "organs": ("one",)}, {"seeds": 3, "cases": 1}])
def test_small_trials(shape):
    results, rows = small(**shape)
    words = " ".join(read_page(trial_html(results, rows)).words)
    assert "Does it help? fcn_dsm against fcn" in words
    assert "–  no verdict" in words
    assert results["contrasts"][0]["reason"] in words
    ElementTree.fromstring(forest_svg(results))


def test_one_arm_alone():
    results, rows = small(("fcn",))
    words = " ".join(read_page(trial_html(results, rows)).words)
    assert "nothing to compare it with" in words
    assert "Differences from" not in words


def test_a_page_where_every_value_is_missing(trial):
    results = without_values(trial[0])
    parser = read_page(trial_html(results, []))
    assert "None" not in " ".join(parser.words)
    ElementTree.fromstring(forest_svg(results))


def test_names_are_escaped():
    name = "<b>arm</b> & co"
    arms = {"fcn": ARMS["fcn"], name: ARMS["fcn_dsm"]}
    rows = rows_of(arms, organs=("<i>liver</i>",))
    page = trial_html(results_of(rows, arms), rows, run={"<u>": "<s>"}, commands=["a <file>"])
    assert not re.search(r"<b>arm|<i>liver|<u>|<s>|<file>", page)
    read_page(page)
    assert name in " ".join(ElementTree.fromstring(forest_svg(results_of(rows, arms))).itertext())


def test_the_worst_cases_worked_by_hand():
    def row(arm, seed, case, organ, dice):
        return {"method": arm, "seed": seed, "case": case, "label": organ, "dice": dice}

    rows = [
        row("a", 0, "x", "liver", 0.8), row("a", 0, "x", "spleen", 0.4), row("a", 1, "x", "liver", 0.9),
        row("a", 1, "x", "spleen", None), row("b", 0, "x", "liver", 0.5), row("b", 0, "x", "spleen", None),
        row("a", 0, "y", "liver", 0.6), row("b", 0, "y", "liver", float("nan")), row("b", 1, "y", "liver", ""),
    ]  # fmt: skip
    results = {"primary": {"measure": "dice", "protocol": "strict"}, "arms": {"a": {}, "b": {}}}
    y, x = _worst_cases(results, rows)["cases"]
    # Of case x arm a has (0.8 + 0.4) / 2 = 0.6 and 0.9, so 0.75; arm b 0.5; both together 0.625.
    assert x["means"] == pytest.approx({"a": 0.75, "b": 0.5})
    assert (x["case"], x["mean"], x["organ"], x["organs"]) == ("x", pytest.approx(0.625), "spleen", 2)
    assert y["means"] == pytest.approx({"a": 0.6, "b": math.nan}, nan_ok=True)
    assert (y["case"], y["mean"], y["organ"], y["organs"]) == ("y", pytest.approx(0.6), "liver", 1)


def test_score_against_cost_worked_by_hand():
    means = {"cheap": 0.70, "even": 0.72, "dear": 0.74, "lost": 0.10, "unknown": 0.8}
    costs = {"cheap": 10, "even": 20, "dear": 30, "lost": 20}
    arms = {arm: {"mean": mean, "cost": {"macs": costs.get(arm)}} for arm, mean in means.items()}
    results = {"arms": arms, "pareto": {"macs": ["cheap", "dear"]}}
    (panel,) = charts.cost_panels(results)
    cheap, even, dear, lost = panel["dots"]
    # The axes are longer at either end: by 6 per cent of 20, and by 12 per cent of 0.04.
    assert (cheap["x"], even["x"], dear["x"]) == (pytest.approx(3 + 94 * 1.2 / 22.4, abs=0.01), 50, 91.96)
    assert (even["y"], lost["y"]) == (100, 200)
    assert dear["y"] == pytest.approx(200 * 0.0048 / 0.0496, abs=0.1)
    assert [dot["front"] for dot in panel["dots"]] == [True, False, True, False]
    assert [dot["number"] for dot in panel["dots"]] == [1, 2, 3, 4]
    assert (even["arrow"], lost["arrow"], panel["clipped"]) == (None, {"turn": 90}, True)
    assert panel["front"] == [
        (cheap["x"], cheap["y"], dear["x"], cheap["y"]),
        (dear["x"], cheap["y"], dear["x"], dear["y"]),
    ]


def test_places_in_a_ranking():
    order = {"dice strict": [["a", "b"], ["c"]], "hd95_voxels transunet": [["c"], ["b"], ["a"]]}
    results = {
        "ranking": {"order": order, "ranks": {"a": [0.5, 0.5, 0], "b": [0.5, 0.25, 0.25], "c": [0, 0.25, 0.75]}}
    }
    first, second = _orders(results)
    assert (first["places"], second["places"]) == ({"a": 1, "b": 1, "c": 3}, {"c": 1, "b": 2, "a": 3})
    assert second["title"] == "HD95 (transunet), voxels"
    assert [(row["arm"], row["mean"]) for row in _ranks(results)] == [("a", 1.5), ("b", 1.75), ("c", 2.75)]


def test_curves_lie_on_common_axes():
    curves = {
        "base": {"0": [(100, 0.2), (200, 0.5)]},
        "arm": {"0": [(100, 0.3), (200, 0.7)], "1": [(200, 0.9)]},
    }
    drawn = charts.curve_panels(curves, "base")
    base, arm = drawn["panels"]
    assert (base["baseline"], arm["baseline"]) == ("", base["mean"])
    assert arm["last"] == pytest.approx(
        0.8
    )  # the mean of 0.7 and 0.9, at the one iteration that both seeds have
    assert charts.curve_panels({"base": {"0": [(1, float("nan"))]}, "arm": {}}, "base") == {}


@pytest.mark.parametrize("screen", SCREENS)
def test_in_a_browser(browser, page, tmp_path, screen):
    width, height, scheme = SCREENS[screen]
    opened = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("request", lambda asked: None if asked.url.startswith("file:") else wrong.append(asked.url))
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    opened.goto((tmp_path / "report.html").as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    beyond = opened.evaluate(
        """width => [...document.querySelectorAll("main *")]
            .filter(item => !item.closest(".wide") && item.getBoundingClientRect().right > width + 1)
            .map(item => item.outerHTML.slice(0, 80))""",
        width,
    )
    assert beyond == []
    first = opened.locator(".cards .card b").first.bounding_box()
    assert first["y"] + first["height"] < height / 2
    sizes = opened.evaluate(
        """[...document.querySelectorAll("td, p, li, small, svg text")]
            .map(item => parseFloat(getComputedStyle(item).fontSize))"""
    )
    assert min(sizes) >= 11
    marks = opened.evaluate("[...document.querySelectorAll('.forest .marks')].map(item => item.clientWidth)")
    assert min(marks) > 250
    tables = opened.locator("table.sortable").all()
    assert len(tables) >= 6
    for table in tables[:3]:  # by keyboard alone
        button = table.locator("thead button").nth(1)
        button.focus()
        for direction in ("ascending", "descending"):
            opened.keyboard.press("Enter")
            assert table.locator("thead th").nth(1).get_attribute("aria-sort") == direction
            cells = table.locator("tbody tr td:nth-child(2)").evaluate_all(
                "all => all.map(one => +one.dataset.v)"
            )
            assert cells == sorted(cells, reverse=direction == "descending")
    assert wrong == []
    opened.close()
