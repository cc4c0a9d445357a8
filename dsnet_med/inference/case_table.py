"""A CSV file as input: a case in each row, with a file for each channel."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsnet_med.csv_cells import unshielded
from dsnet_med.errors import InputError, cannot_read, first_of, one_line
from dsnet_med.files import read_text

CSV = ".csv"
_CASE = "case"


@dataclass(frozen=True)
class Row:
    """A case and its files, in the order of the channels."""

    case: str
    files: tuple[Path, ...]


def read_table(path: Path, channels: Sequence[str]) -> list[Row]:
    """The rows of a table with the columns `case` and `image_<channel>`, of one channel `image`.

    Files are looked for beside the table. Raises InputError, which names the table, for one without these
    columns or rows, and for cells that are empty.
    """
    columns = [f"image_{name}" for name in channels] if len(channels) > 1 else ["image"]
    try:
        reader = csv.DictReader(io.StringIO(read_text(path).removeprefix("\ufeff"), newline=""), strict=True)
        rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise cannot_read(path, error, f"is no table of cases ({one_line(error)})") from error
    head = list(reader.fieldnames or ())
    if missing := [name for name in (_CASE, *columns) if name not in head]:
        raise InputError(
            f"{path}: has no column {first_of(missing)}, wanted {', '.join((_CASE, *columns))}; it has "
            f"{first_of(head) or 'none'}"
        )
    if not rows:
        raise InputError(f"{path}: names no case")
    return [_row(path, number, row, columns) for number, row in enumerate(rows, start=2)]


def _row(path: Path, line: int, row: dict[str, str | None], columns: Sequence[str]) -> Row:
    cells = {name: unshielded(row[name] or "").strip() for name in (_CASE, *columns)}
    if empty := [name for name, cell in cells.items() if not cell]:
        raise InputError(f"{path}, line {line}: {first_of(empty)} is empty; wanted a name and a file for each")
    case = cells[_CASE]
    if "/" in case or "\\" in case or not case.isprintable() or case.startswith("."):
        raise InputError(f"{path}, line {line}: got the case {case!r}, wanted a name that a file can have")
    return Row(case, tuple(path.parent / cells[name] for name in columns))
