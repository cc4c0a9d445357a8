"""What lies in docs/results still follows from its tables, and its page says what was asked and found."""

import json
from pathlib import Path

import pytest

from dsnet_med.cli.analysing import verify_trial
from dsnet_med.cli.scoring import verify_explained
from dsnet_med.evaluate.charts import forest_svg

ROOT = Path(__file__).parents[2] / "docs" / "results"
FOLDERS = sorted(folder for folder in ROOT.iterdir() if folder.is_dir())
COMPARED = [folder for folder in FOLDERS if (folder / "results.json").is_file()]
EXPLAINED = [folder for folder in FOLDERS if (folder / "explain.json").is_file()]
MOST_BYTES = 4_000_000  # of all of them: every clone carries them


def _name(folder: Path) -> str:
    return folder.name


def test_there_are_some_of_both_kinds_and_no_others() -> None:
    assert COMPARED
    assert EXPLAINED
    assert sorted([*COMPARED, *EXPLAINED]) == FOLDERS


def test_they_stay_small() -> None:
    assert sum(file.stat().st_size for file in ROOT.rglob("*") if file.is_file()) < MOST_BYTES


@pytest.mark.parametrize("folder", FOLDERS, ids=_name)
def test_a_result_has_its_page_and_its_report(folder: Path) -> None:
    page = (folder / "index.md").read_text(encoding="utf-8")
    assert all(
        part in page for part in ("**Asked.**", "**Found.**", "## What was done", "## What it leaves out")
    )
    assert "dsnet-med verify" in page
    assert {"report.html", "scores.csv"} <= {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("folder", COMPARED, ids=_name)
def test_a_published_comparison_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify_trial(folder)
    assert "holds" in capsys.readouterr().out
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert (folder / "forest.svg").read_text(encoding="utf-8") == forest_svg(content)


@pytest.mark.parametrize("folder", COMPARED, ids=_name)
def test_a_page_says_every_difference_as_the_results_have_it(folder: Path) -> None:
    page = (folder / "index.md").read_text(encoding="utf-8")
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for contrast in content["contrasts"]:
        low, high = contrast["ci95"] or (0, 0)  # none of a single seed
        if low != high:
            assert f"{low:+.4f} to {high:+.4f}" in page, contrast["arm"]


@pytest.mark.parametrize("folder", EXPLAINED, ids=_name)
def test_a_published_explanation_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify_explained(folder)
    assert "holds" in capsys.readouterr().out
