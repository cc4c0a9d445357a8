"""report.html of `explain`: every number is there, what is missing is said, nothing is cut off or loaded."""

import io
import re

import numpy as np
import pytest
from explain_examples import content_of, files_of, without_values
from page_parser import read_page
from PIL import Image

from dsnet_med.evaluate.pages import interval, number
from dsnet_med.explain import drawings
from dsnet_med.explain.pictures import map_picture
from dsnet_med.explain.report import explain_html, share

SCREENS = {"laptop": (1366, 768, "light"), "phone": (390, 844, "dark")}
FOUR = ("plain_fcn/seed-0", "fcn+Identity@layer4.*.act2/" + 60 * "x", "fcn_se/seed-0", "fcn_dsm/seed-0")
PICTURE = map_picture(np.zeros((4, 5)), np.eye(4, 5), (1, 1))


def page_of(content, missing=()):
    return explain_html(content, {name: PICTURE for name in files_of(content) if name not in missing})


def words_of(page):
    """The text of a page; fails where its tags do not nest, or it has an address of something outside."""
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r"base64,[\w+/=]+", "", page))
    parser = read_page(page)
    for address in parser.addresses:
        assert re.match(r"#|data:image/png;base64,|(explain\.json|scores\.csv|where\.csv)$", address)
        assert not address.startswith("#") or f' id="{address[1:]}"' in page
    return " ".join("".join(parser.words).split())


@pytest.fixture(scope="module")
def four():
    return content_of(FOUR, plugins=6, labels=("aorta", "gallbladder", "left_kidney", "liver", "pancreas"))


def test_every_number_of_the_interventions_is_there(four):
    words = words_of(page_of(four))
    for run in four["runs"]:
        for each in run["interventions"]:
            found = each["mean"]["dice"]
            assert number(found["difference"], 4, "+") in words
            assert interval(found["ci95"], 4, "+") in words
            if each["plugin"] == "all":
                for own in each["labels"].values():
                    assert number(own["dice"]["difference"], 4, "+") in words
                    assert number(own["hd95_mm"]["difference"], 2, "+") in words
                    assert f"{own['agreement']['mean']:.4f}" in words
    for pair in four["between"]:
        assert number(pair["mean"]["dice"]["difference"], 4, "+") in words
        assert f"{pair['second']} − {pair['first']}" in words
    for run in FOUR:
        assert f"A constant keeps 81 % of what {run} adds." in words or run.startswith("plain")
    assert "It has no plug-in" in words
    assert "times the even weight" in words
    assert "Other seeds: intervals are over cases" in words
    assert "None" not in words
    assert not re.search(r"\bnan\b", words)


def test_the_pictures_are_in_the_page(four):
    assert (
        len(re.findall(r"src=\"data:image/png;base64,[\w+/=]+\"", page_of(four))) == len(files_of(four)) == 14
    )


def test_a_picture_that_is_not_there_is_said_to_be(four):
    assert "pictures/01-0.png is not there" in words_of(page_of(four, missing=("pictures/01-0.png",)))


@pytest.mark.parametrize(
    "options",
    [
        {"reference": False},
        {"cases": 1, "labels": ("one",)},
        {"plugins": 0},
        {"plugins": 1, "spatial_dims": 3, "pictures": 0},
        {"plugins": 36},
        {"runs": FOUR, "reference": False},
        {"runs": ("plain",)},
    ],
    ids=str,
)
def test_parts_that_are_not_there(options):
    content = content_of(**options)
    words = words_of(page_of(content))
    assert "None" not in words
    reference = options.get("reference", True)
    assert ("without a reference" in words) != reference
    assert ("Dice with the unchanged mask" in words) or not content["runs"][-1]["plugins"]
    assert ("1152 windows" in words) == (options.get("spatial_dims") == 3)
    if options.get("cases") == 1:
        assert "no interval" in words
    if options.get("plugins") == 36:
        assert "32 more plug-ins" in words


def test_a_page_where_every_value_is_missing(four):
    content = without_values(four)
    words = words_of(page_of(content))
    assert "None" not in words
    for run in content["runs"]:
        run |= {"scores": None, "where": None, "attribution": None, "pictures": [], "interventions": []}
    content |= {"between": [], "leaves_out": []}
    assert "None" not in words_of(page_of(content))


def test_names_are_escaped():
    hostile = '<b>run</b> & "co"\''
    content = content_of((hostile, "b"), labels=("<i>liver</i>", "x"))
    for run in content["runs"]:
        run["plugins"] = {f"<u>{name}": plugin | {"class": "<s>"} for name, plugin in run["plugins"].items()}
        run["attribution"] |= {"note": "<em>note", "layer": "<em>"}
        run["pictures"] = [each | {"gate": "<em>gate", "caption": "<em>"} for each in run["pictures"]]
    content |= {
        "command": ["<em>"],
        "cases": ["<em>"],
        "leaves_out": ["<em>"],
        "failed": [{"case": "<em>", "reason": "<em>"}],
    }
    page = page_of(content)
    assert not re.search(r"<b>run|<i>liver|<u>|<s>|<em>", page)
    words_of(page)


def test_a_forest_worked_by_hand():
    rows = [
        {"group": "a", "difference": -0.02, "ci95": [-0.04, 0.0]},
        {"group": "a", "difference": 0.06, "ci95": None},
    ]
    rows.append({"group": "b", "difference": None, "ci95": None})
    drawn = drawings.effects_forest(rows, 0.0, "loses", "gains")
    (a, (first, second)), (b, (nothing,)) = drawn["groups"]
    assert (a, b) == ("a", "b")
    # 94 per cent of the width are 0.1 Dice, from -0.04 at 3 per cent on.
    assert (drawn["zero"], first["bar"], first["mean"], second["mean"]) == (40.6, [3.0, 40.6], 21.8, 97.0)
    assert (second["bar"], nothing["mean"], nothing["bar"]) == ([], None, [])
    assert drawings.effects_forest(rows[2:], 0.0, "", "") is None
    shifted = drawings.effects_forest([{"group": "", "difference": -0.1, "ci95": None}], 1.0, "", "")
    assert shifted["ticks"][-1]["words"] == "1"  # the same mask


def test_a_profile_worked_by_hand():
    drawn = drawings.profile(
        "gate_channel", {"kind": "channel", "profile": [0.0, 0.5, 1.0], "profile_sd": [0.0, 0.0, 0.0]}
    )
    # An axis from 0 to 1 with a little room at either end: the middle channel is in the middle.
    assert re.fullmatch(r"M0 (\d+\.\d)L50 50\.0L100 (\d+\.\d)", drawn["line"])
    assert drawn["neutral"] == float(drawn["line"].split()[-1])
    assert drawings.profile("gate", {"kind": "place", "profile": None}) is None
    assert drawings.profile("gate", {"kind": "channel", "profile": [70.0, 80.0]})["neutral"] is None
    assert drawings.profile("attention", {"kind": "attention", "profile": [0.25, 0.25]}) is None
    assert drawings.profile("other", {"kind": "other", "profile": [0.0, 1.0]})["neutral"] is None
    assert drawings.profile("added", {"kind": "channel", "profile": [0.5, 1.0]})["neutral"] == 98.1
    assert drawings.profile("gate", {"kind": "channel", "profile": [1.0], "profile_sd": None})["count"] == 1


def test_sizes_lie_on_a_logarithmic_axis_where_they_differ_much():
    drawn = drawings.size_scatter([[1.0, -0.1, "a", "x"], [10.0, 0.0, "b", "x"], [100.0, 0.1, "c", "x"]])
    left, middle, right = (dot["x"] for dot in drawn["dots"])
    assert middle - left == pytest.approx(right - middle, abs=0.02)
    assert (middle, "10") in drawn["x_ticks"]
    assert drawn["dots"][1]["y"] == drawn["zero"]
    narrow = drawings.size_scatter([[1.0, -0.1, "a", "x"], [2.0, 0.0, "b", "x"], [3.0, 0.1, "c", "x"]])
    assert narrow["dots"][1]["x"] == pytest.approx(
        (narrow["dots"][0]["x"] + narrow["dots"][2]["x"]) / 2, abs=0.02
    )
    many = drawings.size_scatter([[float(at + 1), 0.0, "a", "x"] for at in range(2000)])
    assert len(many["dots"]) + many["dropped"] == 2000
    assert len(many["dots"]) <= 800
    assert drawings.size_scatter([]) is None


def test_bars_and_lines_worked_by_hand():
    bins = [{"from": 0.0, "to": 2.0, "changed_share": 0.2, "null_share": 0.05}]
    bins.append({"from": 2.0, "to": None, "changed_share": None, "null_share": 0.4})
    near, far = drawings.border_bars(bins)
    assert (near["words"], near["width"], near["null_at"]) == ("0 to 2 mm", 50, 12.5)
    assert (far["words"], far["width"], far["null_at"]) == ("over 2 mm", None, 100)
    bins = [
        {"from": low, "to": high, "error_share": error, "fixed_share": 0.1, "null_error_share": None}
        | {"null_fixed_share": 0.0}
        for low, high, error in ((0.0, 0.5, 0.4), (0.5, 1.0, None))
    ]
    lines = drawings.calibration_lines(bins)["lines"]
    assert [point["y"] for point in lines["fixed_share"]] == [112.5] * 2
    assert [point["y"] for point in lines["error_share"]] == [0.0]
    assert lines["null_error_share"] == []
    empty = [dict.fromkeys(each) | {"from": 0.0, "to": 1.0} for each in bins]
    assert drawings.calibration_lines(empty) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (0.0, "0.00 %"),
        (1.0, "100 %"),
        (0.123, "12 %"),
        (0.0123, "1.2 %"),
        (0.00123, "0.12 %"),
        (1e-6, "< 0.01 %"),
    ],
)
def test_shares_have_two_digits_that_count(value, words):
    assert share(value) == words


def opened(browser, page, tmp_path, width, height, scheme="light"):
    tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on(
        "request", lambda asked: None if asked.url.startswith(("file:", "data:")) else wrong.append(asked.url)
    )
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    tab.goto((tmp_path / "report.html").as_uri())
    return tab, wrong


BEYOND = """width => [...document.querySelectorAll("main *")]
    .filter(item => !item.closest(".wide") && item.getBoundingClientRect().right > width + 1)
    .map(item => item.outerHTML.slice(0, 80))"""
OPEN = "document.querySelectorAll('details').forEach(each => { each.open = true; })"


@pytest.mark.parametrize("screen", SCREENS)
def test_in_a_browser(browser, four, tmp_path, screen):
    width, height, scheme = SCREENS[screen]
    tab, wrong = opened(browser, page_of(four), tmp_path, width, height, scheme)
    first = tab.locator(".cards .card b").first.bounding_box()
    assert first["y"] + first["height"] < height / 2
    tab.evaluate(OPEN)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(BEYOND, width) == []
    sizes = tab.evaluate(
        """[...document.querySelectorAll("td, p, li, small, svg text")]
            .map(item => parseFloat(getComputedStyle(item).fontSize))"""
    )
    assert min(sizes) >= 11
    assert (
        min(tab.evaluate("[...document.querySelectorAll('.forest .marks')].map(item => item.clientWidth)"))
        > 250
    )
    assert min(tab.evaluate("[...document.images].map(item => item.naturalWidth)")) > 300
    colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", colour)[:3])) < 64) == (scheme == "dark")
    assert wrong == []
    tab.close()


def test_it_prints_on_a4_with_what_is_folded_and_nothing_cut(browser, four, tmp_path):
    tab, _ = opened(browser, page_of(four), tmp_path, 1032, 703, "dark")
    tab.emulate_media(media="print")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1032
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    hidden = """[...document.querySelectorAll('details svg, details table')]
        .filter(item => !item.getClientRects().length).length"""
    assert tab.evaluate(hidden) == 0
    tall = tab.evaluate(
        "[...document.querySelectorAll('figure, .plugin, .row, tr')].map(item => item.offsetHeight || 0)"
    )
    assert max(tall) < 703  # none of them is longer than a page, and they are not broken
    pages = len(re.findall(rb"/Type\s*/Page\b", tab.pdf(prefer_css_page_size=True)))
    tab.evaluate("document.querySelectorAll('details').forEach(each => { each.remove(); })")
    assert pages > 1.5 * len(re.findall(rb"/Type\s*/Page\b", tab.pdf(prefer_css_page_size=True)))
    tab.close()


def test_pictures_are_pngs():
    assert Image.open(io.BytesIO(PICTURE)).format == "PNG"
