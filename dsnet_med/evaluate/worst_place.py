"""Where a prediction differs most from its reference: the place that pictures of a case go through."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dsnet_med.evaluate.arrays import Mask

Place = tuple[int, int, int]
_NEIGHBOURHOOD_MM = 15.0


def worst_place(
    wrong: Mask, otherwise: NDArray[np.bool_], spacing_mm: Sequence[float], plane: int = 0
) -> Place:
    """The voxel where most of `wrong` lies, both masks (Z, Y, X); of `otherwise`, where nothing is wrong.

    That is the slice across the axis `plane` that holds most of it, and in it the voxel of `wrong` with most of
    it within 7.5 mm.
    """
    from scipy.ndimage import uniform_filter  # noqa: PLC0415 -- slow to load

    counted = wrong if wrong.any() else otherwise
    others = tuple(axis for axis in range(3) if axis != plane)
    index = int(np.argmax(np.count_nonzero(counted, axis=others)))
    cut = counted.take(index, axis=plane)
    sizes = [max(1, round(_NEIGHBOURHOOD_MM / spacing_mm[axis])) for axis in others]
    near = uniform_filter(cut.astype(np.float32), sizes, mode="constant") * cut
    found = np.unravel_index(int(np.argmax(near)), cut.shape)
    shape: tuple[int, ...] = cut.shape
    place = [int(each) for each in found] if cut.any() else [length // 2 for length in shape]
    place.insert(plane, index)
    return place[0], place[1], place[2]
