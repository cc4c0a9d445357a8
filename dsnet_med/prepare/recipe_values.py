"""What the keys of a recipe may hold: templates, raw label values, rules per channel, spacings, splits."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsnet_med.errors import InputError, shown, unknown
from dsnet_med.prepare.intensity import Intensity, is_rule
from dsnet_med.prepare.splits import FoldedSplit, SeededSplit, read_splits

_LARGEST_LABEL = 65535
_FIELD = re.compile(r"\{[^{}]*\}")
_SPLIT_KEYS = ({"seed", "val", "test"}, {"folds", "seed"}, {"folds", "seed", "test"})
_MOST_FOLDS = 100

Splits = dict[str, str] | SeededSplit | FoldedSplit


def require_template(key: str, template: str) -> None:
    """Raise InputError unless `template` is a path of layout pairs, with one {case} in it."""
    others = [name for name in _FIELD.findall(template) if name != "{case}"]
    if template.count("{case}") > 1 or "*" in template or others:
        raise InputError(
            f"{key}: got '{template}', wanted one {{case}}, no other {{field}} and no '*'; where "
            "names hold more than that, use layout 'table', whose CSV file lists every case's files"
        )
    if "{case}" not in template or not template.endswith((".nii", ".nii.gz")):
        raise InputError(f"{key}: got '{template}', wanted a path with one {{case}} that ends in .nii.gz")


def require_different(before: Sequence[str], templates: Sequence[str]) -> None:
    """Raise InputError where one of `templates` is one of those `before` it, or is there twice."""
    for place, template in enumerate(templates):
        if template in before:
            raise InputError(f"image and label are one template, '{template}'; give each its own")
        if template in templates[:place]:
            raise InputError(f"two files of a case have one template, '{template}'; give each its own")


def require_names(key: str, given: Mapping[Any, Any], wanted: Sequence[str]) -> None:
    """Raise InputError unless the keys of `given` are `wanted`, in whatever order."""
    for name in given:
        if name not in wanted:
            raise unknown(f"name in {key}", str(name), wanted)
    if missing := [name for name in wanted if name not in given]:
        raise InputError(f"{key}: has nothing for {', '.join(missing)}")


def raw_values(key: str, values: Any) -> list[int]:
    """`8`, `"9-13"` or a list of such, as integers. `key` says whose values they are. Raises InputError."""
    if isinstance(values, list):
        return [raw for value in values for raw in raw_values(key, value)]
    match = re.fullmatch(r"([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?", str(values).strip())
    if not match:
        raise InputError(f"{key} got {shown(values)}, wanted a number, a range '9-13' or a list of these")
    low, high = int(match[1]), int(match[2] or match[1])
    if not low <= high <= _LARGEST_LABEL:
        raise InputError(f"{key} got {shown(values)}, wanted rising values up to {_LARGEST_LABEL}")
    return list(range(low, high + 1))


def intensity_rules(written: Any, channels: Sequence[str]) -> Intensity | dict[str, Intensity]:
    """One rule for all channels, or one for each. Raises InputError."""
    if isinstance(written, Intensity):
        return written
    if len(channels) == 1 or is_rule(written) or not isinstance(written, Mapping):
        return Intensity.from_recipe(written)
    if len(written) == 1 and not set(written) & set(channels):  # one rule, misspelt
        return Intensity.from_recipe(written)
    require_names("intensity", written, channels)
    return {name: _of_channel(name, written[name]) for name in channels}


def _of_channel(name: str, rule: Any) -> Intensity:
    try:
        return rule if isinstance(rule, Intensity) else Intensity.from_recipe(rule)
    except InputError as error:
        raise InputError(f"{error} (of channel '{name}')") from error


def spacing(written: Any) -> str | tuple[float, float, float] | None:
    """`median`, or the mm between slices, rows and columns: one number is all three. Raises InputError."""
    if written is None or written == "median":
        return "median" if written else None
    numbers = [written] * 3 if isinstance(written, int | float) else written
    if (
        not isinstance(numbers, list | tuple)
        or len(numbers) != 3
        or not all(type(n) in (int, float) and math.isfinite(n) and n > 0 for n in numbers)
    ):
        raise InputError(
            f"spacing_mm: got {shown(written)}, wanted millimetres above 0: one number, [slice, row, column], "
            "or median"
        )
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


def split_rule(splits: Any) -> Splits:
    """A list from a CSV file, or a rule. Raises InputError."""
    if isinstance(splits, Path):
        return read_splits(splits)
    if isinstance(splits, SeededSplit | FoldedSplit):
        return splits
    if isinstance(splits, Mapping) and set(splits) in _SPLIT_KEYS:
        seed, val, test = (splits.get(name, 0) for name in ("seed", "val", "test"))
        numbers = type(seed) is int and all(type(part) in (int, float) for part in (val, test))
        if numbers and min(val, test) >= 0 and val + test < 1:
            if "folds" not in splits:
                return SeededSplit(seed, float(val), float(test))
            if type(splits["folds"]) is int and 2 <= splits["folds"] <= _MOST_FOLDS:
                return FoldedSplit(splits["folds"], seed, float(test))
            raise InputError(f"splits: got folds {shown(splits['folds'])}, wanted 2 to {_MOST_FOLDS}")
    raise InputError(
        f"splits: got {shown(splits)}, wanted a CSV file beside the recipe, or seed, val and test "
        "(fractions that leave some for training), or folds, seed and, where some test, test"
    )
