"""Raw label values and the classes that a recipe makes of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError
from dsnet_med.prepare.recipe import Recipe

_CHUNK = 1 << 17
_SHOWN = 8


def value_counts(voxels: NDArray[Any]) -> dict[int, int]:
    """How often each value occurs in a label map of any shape, uint8 or uint16."""
    counts = np.zeros(np.iinfo(voxels.dtype).max + 1, np.int64)
    flat = voxels.ravel(order="K")
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        if chunk.any():
            counts += np.bincount(chunk, minlength=counts.size)
        else:  # most of a scan; bincount is twenty times slower than any
            counts[0] += chunk.size
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def class_counts(recipe: Recipe, counts: dict[int, int]) -> dict[str, int]:
    """How many voxels each class has, from the counts of the raw values. Raises InputError for stray values."""
    strays = [value for value in counts if value not in recipe.label_map]
    if strays:
        raise InputError(
            f"label values {_listed(strays, counts)} are none of recipe '{recipe.id}'; "
            "correct the file, or name them in the recipe's label_map"
        )
    voxels = dict.fromkeys(recipe.classes, 0)
    for value, count in counts.items():
        voxels[recipe.classes[recipe.label_map[value]]] += count
    return voxels


def class_table(recipe: Recipe, dtype: np.dtype[Any]) -> NDArray[np.uint8]:
    """The class id of every value that a raw label map of this type can hold: `table[raw]` is the class map."""
    table = np.zeros(np.iinfo(dtype).max + 1, np.uint8)
    for value, class_id in recipe.label_map.items():
        if value < table.size:
            table[value] = class_id
    return table


def checked_counts(recipe: Recipe, path: Path, voxels: NDArray[Any]) -> dict[str, int]:
    """The voxels of each class in the raw label map of `path`. Raises InputError for strays and empty maps."""
    try:
        counts = class_counts(recipe, value_counts(voxels))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if counts[recipe.classes[0]] == voxels.size and not recipe.allow_empty:
        raise InputError(
            f"{path}: the label map is all background; correct it, exclude the case, "
            "or keep such cases with 'allow_empty: true' in the recipe"
        )
    return counts


def _listed(values: Iterable[int], counts: dict[int, int]) -> str:
    """`281 (3 voxels), 300 (1 voxel) and 4 more`."""
    every = sorted(values)
    shown = [f"{v} ({counts[v]} voxel{'s' if counts[v] > 1 else ''})" for v in every[:_SHOWN]]
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(shown) + more
