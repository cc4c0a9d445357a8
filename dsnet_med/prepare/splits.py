"""Which subject trains, validates or tests: a list in a CSV file, or a seeded rule; folds to cross-validate.

Splits are always by subject, never by case or slice, so that two scans of one patient cannot meet across
training and test.
"""

import csv
import hashlib
import io
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from dsnet_med.errors import InputError, cannot_read, one_line, unknown
from dsnet_med.files import read_text
from dsnet_med.find import case_name

SPLITS = ("train", "val", "test", "extra")


@dataclass(frozen=True)
class SeededSplit:
    """Fractions of the subjects for `val` and `test`; the others train."""

    seed: int
    val: float
    test: float


@dataclass(frozen=True)
class FoldedSplit:
    """A fraction of the subjects for `test`; the others make `folds` folds, of which the first validates."""

    folds: int
    seed: int
    test: float


def read_splits(path: Path) -> dict[str, str]:
    """The split of each subject, from a CSV file with the header `subject,split`. Raises InputError."""
    splits: dict[str, str] = {}
    for row in read_table(path, ("subject", "split")):
        subject, split = row["subject"], row["split"]
        if split not in SPLITS:
            raise InputError(f"{path}: subject '{subject}': {unknown('split', split, SPLITS)}")
        if subject in splits:
            raise InputError(
                f"{path}: subject '{subject}' is listed twice ({splits[subject]} and {split}); keep one line"
            )
        splits[subject] = split
    return splits


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV file whose header is `columns`, cells stripped of blanks. Raises InputError."""
    try:
        lines = io.StringIO(read_text(path), newline="")
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines) if any(row)]
    except (OSError, ValueError, MemoryError, csv.Error) as error:
        raise cannot_read(path, error, f"cannot be read as a CSV file ({one_line(error)})") from error
    if not rows or tuple(rows[0]) != columns:
        got = ",".join(rows[0]) if rows else "an empty file"
        raise InputError(f"{path}: its first line is '{got}', wanted '{','.join(columns)}'")
    for row in rows[1:]:
        if len(row) != len(columns) or not row[0]:
            raise InputError(
                f"{path}: line '{','.join(row)}' has not the {len(columns)} cells {','.join(columns)}"
            )
    return [dict(zip(columns, row, strict=True)) for row in rows[1:]]


def assign(splits: Mapping[str, str] | SeededSplit | FoldedSplit, subjects: Collection[str]) -> dict[str, str]:
    """The split of each of `subjects`. A subject that a list does not name is `extra`: never trained on."""
    if isinstance(splits, SeededSplit):
        return _draw(splits, subjects)
    if isinstance(splits, FoldedSplit):
        drawn = _draw(SeededSplit(splits.seed, 0.0, splits.test), subjects)
        learned_from = [subject for subject, split in drawn.items() if split == "train"]
        if len(learned_from) < splits.folds:
            return drawn  # which `fold_subjects` refuses; few cases of a source can still be examined
        return drawn | dict.fromkeys(fold_subjects(learned_from, splits.folds, splits.seed)[0], "val")
    return {subject: splits.get(subject, "extra") for subject in subjects}


def meant(name: str, subjects: Iterable[str]) -> str | None:
    """The one of `subjects` that a list most likely means by `name`, which is none of them: `c03` by `c3`.

    Numbers must be the same, zeros in front apart, and the words around them alike: 0003 never stands for 0008.
    """
    words, numbers = _parts(name)
    for subject in subjects:
        others, theirs = _parts(subject)
        alike = SequenceMatcher(None, words, others).ratio() >= (0.6 if numbers else 0.75)
        if numbers == theirs and (alike or (numbers and not (words and others))):
            return subject
        if theirs and others and theirs == numbers[: len(theirs)] and words.startswith(others):
            return subject  # for a case of it
    return None


def _parts(name: str) -> tuple[str, list[int]]:
    """The letters of a name and its numbers, without the ending of a file."""
    stem = re.sub(r"_0000$", "", case_name(Path(name)) if "." in name else name).lower()
    return re.sub(r"[\W\d_]+", "", stem), [int(number) for number in re.findall(r"\d+", stem)]


def fold_subjects(
    subjects: Collection[str], count: int, seed: int | None = None
) -> tuple[tuple[str, ...], ...]:
    """`count` folds of the subjects to learn from, by a hash of their names, seeded or not, each sorted.

    Raises InputError where a fold would be empty.
    """
    names = set(subjects)
    if not 2 <= count <= len(names):
        raise InputError(
            f"got {count} folds of {len(names)} subjects to learn from, wanted 2 to {len(names)}"
            if len(names) > 1
            else f"got {count} folds of {len(names)} subjects to learn from; folds need two at least"
        )
    ranked = _ranked(names, seed)
    return tuple(tuple(sorted(ranked[fold::count])) for fold in range(count))


def _ranked(subjects: Collection[str], seed: int | None) -> list[str]:
    start = "" if seed is None else f"{seed}:"
    return sorted(set(subjects), key=lambda name: hashlib.sha256(f"{start}{name}".encode()).digest())


def _draw(rule: SeededSplit, subjects: Collection[str]) -> dict[str, str]:
    """Subjects in the order of a seeded hash of their names: the first ones test, the next ones validate.

    The order of the others does not change when a subject is added, so few subjects change sides.
    """
    ranked = _ranked(subjects, rule.seed)
    test = _share(rule.test, len(ranked))
    val = min(_share(rule.val, len(ranked)), max(0, len(ranked) - 1 - test))
    names = ["test"] * test + ["val"] * val + ["train"] * (len(ranked) - test - val)
    return dict(zip(ranked, names, strict=True))


def _share(fraction: float, subjects: int) -> int:
    """How many of `subjects` a fraction is: of three or more, at least one, and two are left for the others."""
    if fraction == 0 or subjects < 3:
        return 0
    return min(max(1, round(fraction * subjects)), subjects - 2)
