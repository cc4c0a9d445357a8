"""The first command that a newcomer types."""

import json
from pathlib import Path

import pytest

from dsnet_med.cli.quickstart import quickstart
from dsnet_med.errors import InputError


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "mine.nii.gz").write_bytes(b"precious")
    with pytest.raises(InputError, match="holds other files"):
        quickstart(tmp_path)
    assert (tmp_path / "raw" / "mine.nii.gz").read_bytes() == b"precious"
    assert not (tmp_path / "quickstart.txt").exists()


@pytest.mark.slow
def test_the_whole_path_scores_well_and_runs_again(tmp_path: Path) -> None:
    for _ in range(2):
        quickstart(tmp_path / "out")
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert summary["mean"]["dice"] >= 0.80
        assert len(summary["labels"]) == 8
        assert summary["missed"] == 0
        page = (tmp_path / "out" / "report.html").read_text()
        assert "http://" not in page
        assert "https://" not in page
