"""Tables of scores: one row per arm, seed, fold, case and label; read, checked and written.

A score that is blank, None or NaN is one that is not counted. What cannot be meant (a row given twice, text
where a number is wanted, Dice in per cent) is an error that names the row: a table that is read otherwise than
it was meant gives wrong answers in silence.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, isnan
from pathlib import Path
from typing import Any

from dsnet_med.csv_cells import csv_text, unshielded
from dsnet_med.errors import InputError, cannot_read, first_of, one_line, shown
from dsnet_med.evaluate.measures import MEASURES, Measure
from dsnet_med.files import read_text, write_text

BESIDE = ("reference_voxels", "prediction_voxels", "note")  # what else cases.csv of `evaluate` has
KEYS = ("method", "seed", "fold", "case", "label", "name")
_NEEDED = ("method", "seed", "case", "label")
_WHOLE = re.compile(r"(-?\d+)\.0*")  # a whole number that passed through a table of floats
_ROUNDING = 1e-6

Row = dict[str, Any]


def read_scores(path: Path) -> list[Row]:
    """The rows of a CSV file of scores, checked by `checked`.

    Commas, semicolons or tabs may separate the cells. Raises InputError, with the line, for what is no such
    table.
    """
    try:
        text = read_text(path)
        lines = text.splitlines()
        delimiter = max(",;\t", key=lines[0].count) if lines else ","
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = [name.strip().lower() for name in next(reader, [])]
        _require_header(path, header)
        rows, places = [], []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, the header names {len(header)} "
                    "columns; is a comma in a number or a name? quote it"
                )
            rows.append({name: unshielded(cell) for name, cell in zip(header, cells, strict=True)})
            places.append(f"{path}, line {reader.line_num}")
    except InputError:
        raise
    except csv.Error as error:
        raise InputError(f"{path}: no table of comma-separated values ({one_line(error)})") from error
    except (OSError, ValueError) as error:
        raise cannot_read(path, error, f"cannot be read as text ({one_line(error)})") from error
    if not rows:
        raise InputError(
            f"{path}: holds no scores, only a header; wanted a row per method, seed, case and label"
        )
    return checked(rows, places)


def write_scores(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as `read_scores` reads them; what is not counted stays blank. Raises InputError."""
    write_text(path, scores_csv(rows))


def scores_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """The content of scores.csv."""
    every = list(rows)
    columns = (*KEYS, *(key for key in (*MEASURES, *BESIDE) if any(key in row for row in every)))
    return csv_text([columns, *([_cell(row.get(column)) for column in columns] for row in every)])


def checked(rows: Iterable[Mapping[str, Any]], places: Sequence[str] | None = None) -> list[Row]:
    """The rows with names as text and scores as numbers (None: not counted); other keys stay as they are.

    `places` say where each row is from, for errors. Raises InputError for a row without method, seed, case or
    label, one given twice, and a score that cannot be one.
    """
    result: list[Row] = []
    seen: dict[tuple[str, ...], str] = {}
    for number, row in enumerate(rows):
        place = places[number] if places is not None else f"row {number + 1}"
        try:
            one = {str(name): value for name, value in row.items()}
        except AttributeError:
            raise InputError(f"{place} is {shown(row)}, wanted a mapping of columns to values") from None
        one |= {name: _text(one.get(name)) for name in KEYS}
        for name in _NEEDED:
            if not one[name]:
                raise InputError(
                    f"{place}: '{name}' is blank or missing; wanted {', '.join(_NEEDED)} in each row"
                )
        for name, measure in MEASURES.items():
            if name in one:
                one[name] = _score(one[name], measure, place)
        key = tuple(one[name] for name in KEYS[:-1])
        if key in seen:
            what = ", ".join(f"{name} {one[name]}" for name in KEYS[:-1] if one[name])
            raise InputError(
                f"{place}: {what} was given before, in {seen[key]}; keep one, or tell runs apart by their seed"
            )
        seen[key] = place
        result.append(one)
    return result


def unused_columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns that say nothing here."""
    found = dict.fromkeys(name for row in rows for name in row)
    return [name for name in found if name not in MEASURES and name not in (*KEYS, *BESIDE)]


def natural(text: str) -> list[Any]:
    """A key that sorts `case10` behind `case9`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def _require_header(path: Path, header: Sequence[str]) -> None:
    if lacking := [name for name in _NEEDED if name not in header]:
        raise InputError(
            f"{path}: no column {first_of(lacking)}; wanted a first line such as method,seed,case,label,dice, "
            f"got {shown(','.join(header))}"
        )
    if twice := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
        raise InputError(f"{path}: the column {shown(twice[0])} is there twice; keep one")
    if not any(name in MEASURES for name in header):
        raise InputError(
            f"{path}: no column of scores; wanted one of {first_of(list(MEASURES)[:5])}, got {first_of(header)}"
        )


def _text(value: object) -> str:
    if value is None or (isinstance(value, float) and isnan(value)):
        return ""
    text = str(value).strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _score(value: object, measure: Measure, place: str) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if type(value) is float and 0 <= value <= (measure.most or 0):  # nearly all are
        return value
    wanted = f"{place}: {measure.key} is {shown(value)}, wanted"
    try:
        if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
            raise ValueError
        number = float(value)  # type: ignore[arg-type]  # NumPy's numbers, and text
    except (TypeError, ValueError, OverflowError):
        hint = " (with a point, not a comma)" if isinstance(value, str) and "," in value else ""
        raise InputError(f"{wanted} a number{hint}, or nothing where it is not counted") from None
    if isnan(number):
        return None
    wanted = f"{place}: {measure.key} is {number:g}, wanted"
    if not isfinite(number):
        raise InputError(
            f"{wanted} a finite number: the volume's diagonal for a missed organ, blank where it is not counted"
        )
    if number < 0:
        raise InputError(f"{wanted} no negative number")
    if measure.most is not None and number > measure.most + _ROUNDING:
        raise InputError(f"{wanted} 0 to {measure.most:g}; divide per cent by 100")
    return number


def _cell(value: object) -> object:
    return "" if value is None or (isinstance(value, float) and isnan(value)) else value
