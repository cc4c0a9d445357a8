"""The spacing that cases are resampled to, where a recipe asks for one."""

import hashlib
from collections.abc import Sequence

import numpy as np

from dsnet_med.errors import InputError
from dsnet_med.geometry import SliceOrder
from dsnet_med.prepare.cases import RawCase
from dsnet_med.prepare.recipe import Recipe
from dsnet_med.volumes import read_grid

_DECIMALS = 6


def with_grid(recipe: Recipe, cases: Sequence[RawCase]) -> Recipe:
    """`recipe` with its `grid_mm`; of `median` the median of its training cases, from their headers alone.

    A training case whose header cannot be read does not count; that it is bad its own result says. Where the
    median is another, so is the recipe's hash. Raises InputError where there is no training case to ask.
    """
    if recipe.spacing_mm != "median":
        return recipe.model_copy(update={"grid_mm": recipe.spacing_mm})
    spacings = [each for case in cases if case.split == "train" and (each := _spacing(recipe, case))]
    if not spacings:
        raise InputError("spacing_mm: got median, and no training case has a header to read; give millimetres")
    median = [round(float(length), _DECIMALS) for length in np.median(np.array(spacings), axis=0)]
    grid_mm = (median[0], median[1], median[2])
    digest = hashlib.sha256(f"{recipe.hash}{grid_mm}".encode()).hexdigest()
    return recipe.model_copy(update={"grid_mm": grid_mm, "hash": digest})


def _spacing(recipe: Recipe, case: RawCase) -> tuple[float, float, float] | None:
    """The spacing of a case's slices, rows and columns; None of one that cannot be read."""
    if case.problem:
        return None
    together = len(recipe.channels) > 1 and len(case.images) == 1
    try:
        affine = read_grid(case.image, 0 if together else None).affine
    except InputError:
        return None
    return SliceOrder.of(affine, recipe.slice_axis).spacing_mm(affine)
