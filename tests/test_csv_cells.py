"""Texts in tables: no formulas, and they read back as they were."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsnet_med.csv_cells import csv_text, shielded, unshielded


@given(st.text() | st.from_regex(r"'*[=+@\t-].*"))
def test_every_text_reads_back(text: str) -> None:
    stored = str(shielded(text))
    assert unshielded(stored) == text
    assert stored[:1] not in tuple("=+-@\t\r\n")
    ((cell, number),) = csv.reader(io.StringIO(csv_text([[text, -1.5]]), newline=""))
    assert (unshielded(cell), number) == (text, "-1.5")


@pytest.mark.parametrize("cell", ["=HYPERLINK(1)", "+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\uff1d1"])
def test_formulas_get_an_apostrophe(cell: str) -> None:
    assert shielded(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["liver", "", "it's", "'quoted'", "c-3", -3, -0.5, None])
def test_all_else_stays(cell: object) -> None:
    assert shielded(cell) == cell
