"""The volumes of a raw case: an image for each channel, all on one grid, and its label map."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError
from dsnet_med.geometry import same_grid
from dsnet_med.prepare.cases import RawCase
from dsnet_med.prepare.recipe import Recipe
from dsnet_med.resampling import onto
from dsnet_med.volumes import Volume, read_channels, read_image, read_labels, require_same_grid


def read_images(recipe: Recipe, case: RawCase, *, hashed: bool = False) -> tuple[Volume, ...]:
    """The image of each channel on the grid of the first one. Raises InputError.

    Images on other grids are resampled where the recipe says `resample_channels`, and refused elsewhere.
    """
    if len(recipe.channels) == 1:
        return (read_image(case.image, hashed=hashed),)
    if len(case.images) == 1:
        return read_channels(case.image, recipe.channels, hashed=hashed)
    first = read_image(case.image, hashed=hashed)
    others = [
        _on_first_grid(
            first, read_image(file, hashed=hashed), recipe.channels[0], name, recipe.resample_channels
        )
        for file, name in zip(case.images[1:], recipe.channels[1:], strict=True)
    ]
    return first, *others


def _on_first_grid(first: Volume, image: Volume, first_name: str, name: str, resample: bool) -> Volume:
    if same_grid(first.shape, first.affine, image.shape, image.affine):
        return image
    if not resample:
        differ = (
            f"shape {image.shape} differs from {first.shape}"
            if image.shape != first.shape
            else "its affine places voxels elsewhere than that"
        )
        raise InputError(
            f"{image.path}: channel '{name}': {differ} of {first.path} (channel '{first_name}'); "
            "resample it, or have 'resample_channels: true' in the recipe do that"
        )
    return on_grid_of(first, image)


def on_grid_of(first: Volume, image: Volume) -> Volume:
    """`image` resampled onto the grid of `first`. Raises InputError where they do not meet."""
    try:
        voxels = onto(image.voxels, image.affine, first.shape, first.affine)
    except InputError as error:
        raise InputError(f"{image.path}: {error}") from error
    return replace(image, shape=first.shape, affine=first.affine, header=first.header, voxels=voxels)


def read_label(recipe: Recipe, case: RawCase, *, hashed: bool = False) -> Volume | None:
    """The label map with its raw values; of mask files one map of class ids, or of bits where they overlap.

    None where the case has none. Raises InputError, for masks that share voxels too.
    """
    if not case.labels:
        return None
    if not recipe.masks:
        return read_labels(case.labels[0], hashed=hashed)
    volume: Volume | None = None
    for place, mask in enumerate(_masks(case, hashed=hashed)):
        marked = mask.voxels > 0
        if volume is None:
            volume = replace(mask, voxels=np.zeros(mask.shape, np.uint8))
        require_same_grid(volume, mask)
        if recipe.overlapping:
            volume.voxels[marked] |= 1 << place
        else:
            _require_alone(recipe, case, volume.voxels, marked, place)
            volume.voxels[marked] = place + 1
        volume = replace(
            volume,
            notes=tuple(dict.fromkeys((*volume.notes, *mask.notes))),
            unstated=tuple(dict.fromkeys((*volume.unstated, *mask.unstated))),
            digests={**volume.digests, **mask.digests},
        )
    return volume


def _masks(case: RawCase, *, hashed: bool) -> Iterator[Volume]:
    for file in case.labels:
        mask = read_labels(file, hashed=hashed)
        values = np.unique(mask.voxels)
        if len(values[values > 0]) > 1:
            told = ", ".join(map(str, values[:6]))
            raise InputError(f"{file}: holds the values {told}, wanted a mask: 0 and one other value")
        yield mask


def _require_alone(
    recipe: Recipe, case: RawCase, labels: NDArray[np.uint8], marked: NDArray[Any], place: int
) -> None:
    taken = labels[marked]
    if taken.any():
        counts = np.bincount(taken)
        other = int(np.argmax(counts[1:]))
        names = f"{recipe.masks[other]} and {recipe.masks[place]}"
        raise InputError(
            f"{case.labels[place]}: {counts[other + 1]} of its voxels are in {case.labels[other].name} too; "
            f"correct the masks of {names}, or say 'overlapping: true' in the recipe"
        )
