"""The reports in a real browser, on a laptop and a phone: nothing loaded, nothing cut off, tables that sort."""

import base64
import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from dsnet_med.evaluate.comparison import compare
from dsnet_med.evaluate.pairing import find_images, pair_folders
from dsnet_med.evaluate.results import write_comparison, write_results
from dsnet_med.evaluate.score_folders import evaluate_pairs
from dsnet_med.evaluate.summary import summarise

NAMES = {1: "liver", 2: "left kidney", 3: "spleen", 4: "a <rather long> name"}
SCREENS = {"laptop": (1366, 768), "phone": (390, 844)}


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, Path]:
    """A report of eleven cases, one of them damaged, with images, and a comparison of two predictions."""
    folder = tmp_path_factory.mktemp("reports")
    rng = np.random.default_rng(0)
    for number in range(11):
        reference = np.zeros((40, 36, 6), np.uint8)
        for label in NAMES:
            x, y = rng.integers(1, 10), 8 * label - 5
            reference[x : x + 14, y : y + 6, 1:4] = label
        predictions = {"near": np.roll(reference, 1, axis=0), "far": np.roll(reference, 2 + number % 3, axis=0)}
        if number == 4:
            predictions["far"] = np.where(reference == 2, 0, reference)
        image = rng.normal(60, 12, reference.shape) + 20 * reference
        arrays = predictions | {"reference": reference, "images": image}
        for role, voxels in arrays.items():
            (folder / role).mkdir(exist_ok=True)
            dtype = np.float32 if role == "images" else np.uint8
            volume = nib.Nifti1Image(voxels.astype(dtype), np.diag((1, 1, 3, 1)))
            nib.save(volume, folder / role / f"case{number:02d}.nii.gz")
    (folder / "far" / "case10.nii.gz").write_bytes(b"damaged")
    scored = {}
    for name in ("near", "far"):
        pairs, missing, failures, *_ = pair_folders(folder / name, folder / "reference")
        scored[name] = list(evaluate_pairs(pairs, NAMES, protocols=("strict", "monai")))
        summary = summarise(
            scored[name], NAMES, ("strict", "monai"), missing=missing, failures=failures, rule="ignore"
        )
        run = {"method": "fcn", "seed": 0}
        images = find_images(folder / "images", [pair.case for pair in pairs])
        write_results(
            folder / f"out-{name}",
            scored[name],
            summary,
            NAMES,
            images=images,
            run=run,
            overlays=4 * (name == "far"),
        )
    compared = compare(scored, NAMES, ("strict", "monai"))
    images = find_images(folder / "images", [score.case for score in scored["far"]])
    write_comparison(folder / "both", compared, {"far": "../out-far/report.html"}, scored, NAMES, images=images)
    return {
        name: folder / place / "report.html" for name, place in (("report", "out-far"), ("comparison", "both"))
    }


@pytest.fixture(params=SCREENS)
def opened(request, browser, reports):
    """Opens a report; fails when it asks the network for anything or its script has an error."""
    width, height = SCREENS[request.param]
    context = browser.new_context(viewport={"width": width, "height": height}, device_scale_factor=1)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text))
    page.on(
        "request", lambda asked: None if asked.url.startswith(("file:", "data:")) else wrong.append(asked.url)
    )

    def open_report(name: str):
        page.goto(reports[name].as_uri())
        return page

    yield open_report
    assert wrong == []
    context.close()


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_it_fits_the_screen(opened, name):
    page = opened(name)
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # What is wider than the screen lies in a box of its own that scrolls.
    beyond = page.evaluate(
        """width => [...document.querySelectorAll("main *")]
            .filter(item => !item.closest(".wide") && item.getBoundingClientRect().right > width + 1)
            .map(item => item.outerHTML.slice(0, 80))""",
        width,
    )
    assert beyond == []
    # At first glance, without scrolling: what it is, and the numbers that matter.
    for selector in ("h1", ".cards .card b"):
        box = page.locator(selector).first.bounding_box()
        assert box["y"] + box["height"] < page.viewport_size["height"] / 2
    sizes = page.evaluate(
        "[...document.querySelectorAll('td, p, li')].map(item => parseFloat(getComputedStyle(item).fontSize))"
    )
    assert min(sizes) >= 11


def test_pictures_are_there_and_worst_cases_come_first(opened):
    page = opened("report")
    widths = page.evaluate(
        "[...document.querySelectorAll('figure :is(img, canvas)')].map(item => item.naturalWidth ?? item.width)"
    )
    assert len(widths) == 4 * 5 + 4 * 3  # four cases, and the worst case of each of four organs
    assert min(widths) > 20
    table = page.locator("table.sortable").last.locator("tbody tr")
    first = table.first.locator("td").first.inner_text().split()[0]
    assert page.locator("article.case h3").first.inner_text() == first
    dice = [float(text) for text in table.locator("td:nth-child(2)").all_inner_texts()]
    assert dice == sorted(dice)
    text = page.locator("main").inner_text()
    for words in ("a <rather long> name", "case10", "not a readable NIfTI", "missed", "Protocols"):
        assert words in text


SORTED = """table => [...table.querySelectorAll("thead th")].flatMap((head, place) => [0, 1].map(() => {
    head.querySelector("button").click();
    const values = [...table.tBodies[0].rows].map(row => row.cells[place].dataset.v);
    return [head.getAttribute("aria-sort"), values, table.querySelectorAll("th[aria-sort]").length];
}))"""


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_every_column_sorts_both_ways(opened, name):
    page = opened(name)
    tables = page.locator("table.sortable")
    assert tables.count() >= 4
    for table in tables.all():
        found = table.evaluate(SORTED)
        assert [direction for direction, *_ in found] == ["ascending", "descending"] * (len(found) // 2)
        for direction, values, marked in found:
            assert marked == 1
            assert len(values) >= 4
            known = [value for value in values if value != ""]
            assert values == known + [""] * (len(values) - len(known))  # what has no value comes last
            try:
                keys = [float(value) for value in known]
            except ValueError:
                keys = [value.casefold() for value in known]
            assert keys == sorted(keys, reverse=direction == "descending")


def test_dark_screens_are_dark(browser, reports):
    page = browser.new_page(color_scheme="dark")
    page.goto(reports["report"].as_uri())
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")) < 64
    page.close()


def pictured(page, selector):
    """What the images and canvases of a viewer show, each (H, W, 3)."""
    found = page.locator(selector).evaluate_all("items => items.map(item => item.src || item.toDataURL())")
    contents = [io.BytesIO(base64.b64decode(address.split(",")[1])) for address in found]
    return [np.asarray(Image.open(content).convert("RGB"), int) for content in contents]


def coloured(picture):
    return picture.max(axis=2) - picture.min(axis=2) > 40


@pytest.mark.parametrize("name", ["report", pytest.param("comparison", marks=pytest.mark.slow)])
def test_all_slices_can_be_scrolled_through(browser, reports, name):
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.add_init_script("window.IntersectionObserver = class { observe() {} };")
    page.goto(reports[name].as_uri())
    first = "article.case:nth-child(1 of article.case) :is(img, canvas)"
    still = pictured(page, first)[: {"report": 5, "comparison": 9}[name]]
    page.close()
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.goto(reports[name].as_uri())
    viewer = page.locator(".viewer").first
    viewer.scroll_into_view_if_needed()
    page.wait_for_selector(".viewer[data-open] canvas")
    live = pictured(page, first)[: len(still)]
    assert len(still) == {"report": 5, "comparison": 9}[name]
    # The script paints what the pictures show, on every plane.
    for a, b in zip(still, live, strict=True):
        assert a.shape == b.shape
        assert (coloured(a) == coloured(b)).mean() > 0.99
        assert np.abs(a - b)[coloured(a) & coloured(b)].mean() < 12
    case = page.locator("article.case h3").first.inner_text()
    labels = np.asarray(nib.load(reports[name].parents[1] / "reference" / f"{case}.nii.gz").dataobj)
    axial = viewer.locator("input[data-plane='0']")
    assert axial.get_attribute("max") == "5"
    for index in range(6):
        axial.fill(str(index))
        page.wait_for_function(
            "words => document.querySelector('.viewer output').textContent === words",
            arg=f"slice {index + 1} of 6",
        )
        shown = coloured(pictured(page, first)[0])[12:-12, 12:-12]
        assert shown.any() == labels[..., index].any(), index
    axial.fill("2")
    viewer.locator("input[type=checkbox]").uncheck()
    assert coloured(pictured(page, first)[0]).mean() < 0.01  # the ticks
    canvas = viewer.locator("canvas").first
    canvas.click(position={"x": 30, "y": 200})
    canvas.press("ArrowUp")
    page.wait_for_function("document.querySelector('.viewer output').textContent === 'slice 4 of 6'")
    page.close()


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_it_prints_on_a4(browser, reports, name):
    page = browser.new_page(viewport={"width": 1032, "height": 703}, color_scheme="dark")
    page.goto(reports[name].as_uri())
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1032
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".sliders").first.is_hidden()
    tall = page.evaluate("[...document.querySelectorAll('article.case')].map(item => item.offsetHeight)")
    assert max(tall) < 703  # none is cut by the end of a page
    page.close()
