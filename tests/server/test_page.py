"""The page in a real browser, on a laptop and a phone: a volume in, its mask over it, and a file to keep."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from served import Served, serving

from dsnet_med.inference import Predictor
from dsnet_med.phantoms import make_acdc, make_synapse

SCREENS = {"laptop": (1366, 768), "phone": (390, 844)}
PATIENCE_MS = 120_000


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A CT phantom and an MR phantom."""
    folder = tmp_path_factory.mktemp("volumes")
    list(make_synapse(folder / "ct", cases=2, seed=0, size=(64, 64, 16)))
    list(make_acdc(folder / "mr", cases=2, seed=0, size=(64, 64, 8)))
    return {
        "ct": min((folder / "ct").rglob("img*.nii.gz")),
        "mr": min((folder / "mr").rglob("*frame*[0-9].nii.gz")),
    }


@pytest.fixture(scope="module")
def page_server(predictor: Predictor) -> Iterator[Served]:
    with serving(predictor, max_bytes=8 << 20) as server:
        yield server


@pytest.fixture(params=SCREENS)
def page(request: pytest.FixtureRequest, browser: Any, page_server: Served) -> Iterator[Any]:
    """The page; fails when it asks another host for anything or its script has an error."""
    width, height = SCREENS[request.param]
    context = browser.new_context(viewport={"width": width, "height": height})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("filechooser", lambda _: None)  # asked for now: a key may come before Chromium hears of it
    opened.on("console", lambda said: wrong.append(said.text) if "Security Policy" in said.text else None)
    known = (page_server.url, "blob:", "data:")
    opened.on("request", lambda asked: None if asked.url.startswith(known) else wrong.append(asked.url))
    opened.goto(page_server.url)
    opened.locator("body[data-ready]").wait_for()
    yield opened
    assert wrong == []
    context.close()


def picture(page: Any) -> np.ndarray:
    """What the canvas shows, (Y, X, RGB)."""
    return np.asarray(Image.open(BytesIO(page.locator("#canvas").screenshot())).convert("RGB"), np.int16)


def coloured(shown: np.ndarray) -> int:
    """Pixels that are neither grey, as volumes, nor the red of the cross."""
    spread = shown.max(2) - shown.min(2)
    return int(((spread > 12) & (spread < 180)).sum())


@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_a_volume_and_its_mask(
    page: Any, phantoms: dict[str, Path], kind: str, predictor: Predictor, tmp_path: Path
) -> None:
    page.set_input_files("#file", phantoms[kind])
    page.locator("#status", has_text=": done").wait_for()
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == phantoms[kind].name.replace(".nii.gz", "_mask.nii.gz")
    predictor.predict(phantoms[kind]).save(tmp_path / "wanted.nii.gz")
    assert download.value.path().read_bytes() == (tmp_path / "wanted.nii.gz").read_bytes()
    half = picture(page).shape[0] // 2, picture(page).shape[1] // 2
    page.locator("#opacity").fill("1")
    masked = picture(page)
    quarters = [masked[: half[0], : half[1]], masked[: half[0], half[1] :],
                masked[half[0] :, : half[1]], masked[half[0] :, half[1] :]]  # fmt: skip
    assert all(coloured(quarter) > 50 for quarter in quarters)  # three planes and 3-D
    page.locator("#opacity").fill("0")
    assert coloured(picture(page)) < coloured(masked) / 4
    width = page.viewport_size["width"]
    assert page.locator("body").bounding_box()["width"] <= width


def test_by_keyboard_alone(page: Any, phantoms: dict[str, Path], page_server: Served) -> None:
    def tab_to(selector: str) -> None:
        for _ in range(20):
            if page.locator(f"{selector}:focus").count():
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"no way to {selector}")

    tab_to("#file")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(phantoms["ct"])
    page.locator("#status", has_text=": done").wait_for()
    tab_to("#download")
    with page.expect_download():
        page.keyboard.press("Enter")
    tab_to("input[name=view]")
    page.keyboard.press("ArrowDown")
    assert page.locator("input[name=view]:checked").input_value() == "0"
    tab_to("#opacity")
    before = page.locator("#opacity").input_value()
    page.keyboard.press("ArrowRight")
    assert page.locator("#opacity").input_value() > before
    tab_to("#canvas")
    shown = picture(page)
    page.keyboard.press("PageUp")
    moved = picture(page)
    assert (shown != moved).any()
    page.keyboard.press("ArrowLeft")
    assert (moved != picture(page)).any()


def test_a_drop_and_a_refusal(page: Any) -> None:
    data = page.evaluate_handle(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["no volume"], "cut.nii"));
            return data;
        }"""
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    page.locator("#status.wrong", has_text="cut.nii: the upload is of no known kind").wait_for()
    assert not page.locator("#download").is_visible()


def test_the_description_is_shown_without_another_host(browser: Any, page_server: Served) -> None:
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{page_server.url}/docs")
    page.locator("text=/segment").first.wait_for()
    assert len(asked) >= 4
    assert all(url.startswith((page_server.url, "data:")) for url in asked)
    context.close()
