"""The trials in docs/results still follow from their scores, and their pictures from their results."""

import json
from pathlib import Path

import pytest

from dsnet_med.cli.analysing import verify_trial
from dsnet_med.evaluate.charts import forest_svg

RESULTS = sorted((Path(__file__).parents[2] / "docs" / "results").glob("*/results.json"))


def test_there_are_some() -> None:
    assert RESULTS


@pytest.mark.parametrize("results", RESULTS, ids=lambda file: file.parent.name)
def test_a_published_trial_holds(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify_trial(results.parent)
    assert "holds" in capsys.readouterr().out
    content = json.loads(results.read_text(encoding="utf-8"))
    assert (results.parent / "forest.svg").read_text(encoding="utf-8") == forest_svg(content)
