"""scores.csv and where.csv of an explained network: written with every digit, read strictly.

A table that is read otherwise than it was written gives wrong answers in silence: a column too many, a row
given twice, a number that cannot be one is an error that names the line. A blank cell is a value that is not
counted.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any, TypeVar

from dsnet_med.csv_cells import csv_text, unshielded
from dsnet_med.errors import InputError, cannot_read, one_line, shown
from dsnet_med.explain.counts import (
    BORDER,
    BORDERS,
    COUNTED,
    INSIDE,
    OUTSIDE,
    SHUFFLED,
    STRENGTH,
    STRENGTH_BINS,
    Count,
)
from dsnet_med.explain.records import INTACT, KINDS, Score
from dsnet_med.files import read_text, write_text

SCORES, WHERE = "scores.csv", "where.csv"
_BINS = {BORDER: BORDERS, STRENGTH: STRENGTH_BINS, COUNTED: ("",)}
_ROUNDING = 1e-9  # Dice is a quotient

Row = TypeVar("Row", Score, Count)
Parse = Callable[[str], Any]


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Write scores.csv. Raises InputError where it cannot be written."""
    write_text(path, _text(_SCORE_COLUMNS, scores))


def read_scores(path: Path) -> list[Score]:
    """The rows of scores.csv; NaN: not counted. Raises InputError for what is no such table."""
    return _read(path, Score, _SCORE_COLUMNS, keys=6)


def write_where(path: Path, counts: Iterable[Count]) -> None:
    """Write where.csv. Raises InputError where it cannot be written."""
    write_text(path, _text(_COUNT_COLUMNS, counts))


def read_where(path: Path) -> list[Count]:
    """The rows of where.csv; None: not known, for want of a reference. Raises InputError."""
    counts = _read(path, Count, _COUNT_COLUMNS, keys=6)
    for count in counts:
        known = _BINS.get(count.part)
        if known is not None and count.bin not in known:
            raise InputError(
                f"{path}: {count.case} has the bin {shown(count.bin)} in {count.part}, wanted one of {known}"
            )
        changed_right = count.changed - (count.wrong_changed or 0)
        if (
            count.changed > count.voxels
            or (count.wrong or 0) > count.voxels
            or (count.wrong_changed or 0) > min(count.wrong or 0, count.changed)
            or (count.fixed or 0) > (count.wrong_changed or 0)
            or (count.broken or 0) > changed_right
        ):
            raise InputError(
                f"{path}: the counts of {count.case}, {count.part} {count.bin} contradict each other"
            )
    return counts


def _text(columns: Mapping[str, Parse], rows: Iterable[Score] | Iterable[Count]) -> str:
    return csv_text([list(columns), *([_cell(value) for value in astuple(row)] for row in rows)])


def _cell(value: object) -> object:
    return "" if value is None or (isinstance(value, float) and isnan(value)) else value


def _read(path: Path, kind: type[Row], columns: Mapping[str, Parse], keys: int) -> list[Row]:
    """The rows; no two agree in all of the first `keys` columns."""
    try:
        reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
        if (header := next(reader, [])) != list(columns):
            raise InputError(f"{path}: the first line is {shown(','.join(header))}, wanted {','.join(columns)}")
        rows: dict[tuple[str, ...], Row] = {}
        for cells in reader:
            row = _row(f"{path}, line {reader.line_num}", cells, kind, columns)
            if tuple(cells[:keys]) in rows:
                raise InputError(f"{path}, line {reader.line_num}: {', '.join(cells[:keys])} was given before")
            rows[tuple(cells[:keys])] = row
    except InputError:
        raise
    except csv.Error as error:
        raise InputError(f"{path}: no table of comma-separated values ({one_line(error)})") from error
    except (OSError, ValueError) as error:
        raise cannot_read(path, error, f"cannot be read as text ({one_line(error)})") from error
    return list(rows.values())


def _row(place: str, cells: Sequence[str], kind: type[Row], columns: Mapping[str, Parse]) -> Row:
    if len(cells) != len(columns):
        raise InputError(f"{place}: {len(cells)} cells, wanted {len(columns)}")
    values = []
    for (name, parse), cell in zip(columns.items(), cells, strict=True):
        try:
            values.append(parse(unshielded(cell)))
        except ValueError as error:
            raise InputError(f"{place}: {name} is {shown(cell)}, wanted {error}") from None
    return kind(*values)


def _one_of(*known: str) -> Parse:
    def parse(text: str) -> str:
        if text not in known:
            raise ValueError(f"one of {', '.join(known)}")
        return text

    return parse


def _name(text: str) -> str:
    if not text:
        raise ValueError("a name")
    return text


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise ValueError("a whole number of at least 0")
    return int(text)


def _unless_blank(parse: Parse, otherwise: Any) -> Parse:
    return lambda text: parse(text) if text else otherwise


def _between(low: float, high: float | None) -> Parse:
    wanted = f"a number from {low:g} to {high:g}" if high is not None else f"a number of at least {low:g}"

    def parse(text: str) -> float:
        try:
            number = float(text) if "_" not in text else nan
        except ValueError:
            number = nan
        if not isfinite(number) or number < low or (high is not None and number > high + _ROUNDING):
            raise ValueError(wanted)
        return number

    return parse


def _positive(text: str) -> float:
    if (number := _between(0, None)(text)) == 0:
        raise ValueError("a number above 0")
    return float(number)


_SHARE = _unless_blank(_between(0, 1), nan)
_AMOUNT = _unless_blank(_between(0, None), nan)
_COUNT = _unless_blank(_whole, None)
_SCORE_COLUMNS: dict[str, Parse] = {
    "run": _name,
    "plugin": str,
    "kind": _one_of(INTACT, *KINDS),
    "draw": _whole,
    "case": _name,
    "label": _name,
    "dice": _SHARE,
    "hd95_mm": _AMOUNT,
    "agreement": _SHARE,
    "changed_ml": _AMOUNT,
    "size_ml": _AMOUNT,
}
_COUNT_COLUMNS: dict[str, Parse] = {
    "run": _name,
    "network": _one_of(INTACT, SHUFFLED),
    "draw": _whole,
    "case": _name,
    "part": _one_of(INSIDE, OUTSIDE, BORDER, STRENGTH, COUNTED),
    "bin": str,
    "voxel_ml": _positive,
    "voxels": _whole,
    "changed": _whole,
    "wrong": _COUNT,
    "wrong_changed": _COUNT,
    "fixed": _COUNT,
    "broken": _COUNT,
}
