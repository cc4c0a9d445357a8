"""Label maps: how often each raw value occurs, the classes that a recipe makes of them, where these lie."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dsnet_med.errors import InputError, first_of
from dsnet_med.prepare.recipe import Recipe
from dsnet_med.regions import IGNORED, Region, label_map, region_masks

_CHUNK = 1 << 17
_SIDE_MARGIN_MM = 15.0

Classes = NDArray[np.unsignedinteger[Any]]


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
    """How many voxels each class has, from the counts of the raw values; ignored ones are of none.

    Raises InputError for stray values.
    """
    strays = sorted(counts.keys() - recipe.label_map.keys())
    if strays:
        told = first_of(f"{v} ({counts[v]} voxel{'s' if counts[v] > 1 else ''})" for v in strays)
        raise InputError(
            f"label values {told} are none of recipe '{recipe.id}'; "
            "correct the file, or name them in the recipe's label_map"
        )
    voxels = dict.fromkeys(recipe.classes, 0)
    for value, count in counts.items():
        for class_id in _classes_of(recipe, recipe.label_map[value]):
            voxels[recipe.classes[class_id]] += count
    return voxels


def stored_counts(recipe: Recipe, stored: NDArray[np.uint8]) -> dict[str, int]:
    """How many voxels each class has in stored labels of any shape; ignored ones are of none."""
    voxels = dict.fromkeys(recipe.classes, 0)
    for code, count in value_counts(stored).items():
        for class_id in _classes_of(recipe, code):
            voxels[recipe.classes[class_id]] += count
    return voxels


def _classes_of(recipe: Recipe, code: int) -> list[int]:
    """The class ids that a stored label stands for: of structures that overlap, its bits; none of IGNORED."""
    if recipe.overlapping and code:
        return [bit + 1 for bit in range(len(recipe.masks)) if code >> bit & 1]
    return [] if code == IGNORED else [code]


def class_ids(classes: NDArray[np.uint8], structures: Sequence[Region] = ()) -> NDArray[np.uint8]:
    """Stored labels of any shape as class ids, for a look.

    What is ignored becomes background, and of `structures` that overlap the last one shows.
    """
    if structures:
        return label_map(region_masks(classes, structures), structures).astype(np.uint8)
    return np.where(classes == IGNORED, np.uint8(0), classes) if (classes == IGNORED).any() else classes


def class_table(recipe: Recipe, dtype: np.dtype[Any]) -> NDArray[np.uint8]:
    """The class id of every value that a raw label map of this type can hold: `table[raw]` is the class map."""
    table = np.zeros(np.iinfo(dtype).max + 1, np.uint8)
    for value, class_id in recipe.label_map.items():
        if value < table.size:
            table[value] = class_id
    return table


def centroids_mm(
    classes: Classes, affine: NDArray[np.float64], ids: dict[str, int]
) -> dict[str, tuple[float, ...]]:
    """The centroid (x, y, z) in RAS+ millimetres of each class of a map (X, Y, Z), of those that occur."""
    boxes = ndimage.find_objects(classes, max_label=max(ids.values(), default=0))
    centres = {}
    for name, class_id in ids.items():
        if box := boxes[class_id - 1]:
            centre = np.array(ndimage.center_of_mass(classes[box] == class_id))
            index = centre + [side.start for side in box]
            centres[name] = tuple(float(value) for value in affine[:3, :3] @ index + affine[:3, 3])
    return centres


def wrong_sides(
    classes: Classes, affine: NDArray[np.float64], left: dict[str, int], right: dict[str, int]
) -> tuple[list[tuple[str, str, float]], int]:
    """The pairs that deny that `left` classes lie left of `right` ones, and how many pairs there are.

    `classes` (X, Y, Z) is a class map, `left` and `right` give each name its class id. A pair denies it when
    its centroids, in RAS+ millimetres, lie the wrong way round by more than 15 mm, the distance that is given.
    Two sides of one organ come first, then the largest distance.
    """
    across = {name: centre[0] for name, centre in centroids_mm(classes, affine, {**left, **right}).items()}
    pairs = [(a, b, across[a] - across[b]) for a in left for b in right if a in across and b in across]
    wrong = [pair for pair in pairs if pair[2] > _SIDE_MARGIN_MM]

    def importance(pair: tuple[str, str, float]) -> tuple[bool, float]:
        return pair[0].replace("left", "") == pair[1].replace("right", ""), pair[2]

    return sorted(wrong, key=importance, reverse=True), len(pairs)
