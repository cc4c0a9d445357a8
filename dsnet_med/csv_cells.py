"""Texts in CSV files that no spreadsheet takes for a formula, and that read back as they were.

One that begins with = + - @, a tab or a line end gets an apostrophe before it, which spreadsheets do not run;
so does one that begins so behind apostrophes of its own. Numbers stay numbers.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence

_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # the last four: wide forms, which run, too


def shielded(cell: object) -> object:
    """What stands for `cell` in the file."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def unshielded(text: str) -> str:
    """What a cell of a file stands for."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """The content of a CSV file of these rows."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([shielded(cell) for cell in row] for row in rows)
    return text.getvalue()
