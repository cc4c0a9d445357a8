"""Make the pictures of the gallery anew: python docs/pictures/make.py TRIAL/runs/ARM/seed-N, a run of a trial.

Reports are photographed by Chromium at 1366x768 (Playwright), every picture is scaled down and stored as WebP.
Pictures of `explain` are made from its own folder: --explained DIR.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
WIDTH, QUALITY, LARGEST = 1024, 80, 80_000  # pixels, WebP's, bytes


def main() -> None:
    """All pictures that the folders given have something for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--trial", type=Path, default=HERE.parent / "results" / "hippocampus")
    parser.add_argument("--explained", type=Path)
    options = parser.parse_args()
    run = options.run.resolve()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as scratch:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        photograph(page, options.trial / "report.html", "compare")
        photograph(page, options.trial / "report.html", "compare-differences", "Differences from")
        photograph(page, run / "scores" / "report.html", "evaluate")
        photograph(page, run / "scores" / "report.html", "evaluate-worst", "Worst cases")
        if options.explained:
            photograph(page, options.explained / "report.html", "explain")
        browser.close()
        stored(Image.open(run / "curves.png"), "train")
        stored(preview(run, run.parents[2] / "cases", Path(scratch)), "infer")


def photograph(page: Page, file: Path, name: str, heading: str = "") -> None:
    """What a window shows of a report: its top, or from the first heading that begins with `heading`."""
    page.goto(file.resolve().as_uri())
    if heading:
        page.locator("h2", has_text=heading).first.evaluate("element => element.scrollIntoView()")
    page.wait_for_timeout(500)
    stored(Image.open(io.BytesIO(page.screenshot())), name)


def preview(run: Path, cases: Path, scratch: Path) -> Image.Image:
    """The contact sheet that `infer --preview` writes of the first case."""
    image = min((cases / "images").glob("*.nii.gz"))
    command = [
        str(Path(sys.executable).with_name("dsnet-med")),
        "infer",
        "--model",
        str(run),
        str(image),
        "--out",
        str(scratch / "masks"),
        "--preview",
    ]
    subprocess.run(command, check=True)
    return Image.open(next((scratch / "masks").glob("*.png")))


def stored(picture: Image.Image, name: str) -> None:
    """`picture` scaled to at most WIDTH, small enough to be in a repository."""
    picture = picture.convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize(
            (WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS
        )
    quality = QUALITY
    while True:
        packed = io.BytesIO()
        picture.save(packed, "WEBP", quality=quality, method=6)
        if packed.tell() <= LARGEST or quality <= 20:
            break
        quality -= 10
    (HERE / f"{name}.webp").write_bytes(packed.getvalue())


if __name__ == "__main__":
    main()
