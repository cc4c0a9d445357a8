"""Compressed DICOM files, damaged at random: every one is a volume or one line, and nothing else is hurt."""

from pathlib import Path

import pytest
from dicom_damage import SYNTAXES, damaged_series, fuzz_dicom, judged


@pytest.mark.filterwarnings("ignore")  # pydicom's own, of damaged headers
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_damaged_file_is_a_volume_or_one_line(
    syntax: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcomes = [judged(one) for one in damaged_series(syntax, 12, 1, tmp_path)]
    assert set(outcomes) <= {"noticed", "harmless", "silent"}, outcomes
    assert "noticed" in outcomes
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_damaged_files_through_the_commands(syntax: str) -> None:
    found = fuzz_dicom(syntax, 500, seed=2)
    assert found["tried"] == 500
    assert (found["raw"], found["lost"], found["died"]) == (0, 0, 0), found
