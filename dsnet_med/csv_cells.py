"""Texts in CSV files that no spreadsheet takes for a formula, and that read back as they were.

One that begins with = + - @, a tab or a line end gets an apostrophe before it, which spreadsheets do not run;
so does one that begins so behind apostrophes of its own. Numbers stay numbers.
"""

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
    return "".join(f"{','.join(map(_field, row))}\n" for row in rows)


def _field(cell: object) -> str:
    text = "" if cell is None else str(shielded(cell))
    if any(letter in text for letter in ',"\r\n'):  # Python's writer leaves \r alone, which its reader refuses
        return '"{}"'.format(text.replace('"', '""'))
    return text
