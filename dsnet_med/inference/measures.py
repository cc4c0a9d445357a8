"""What is in a label map: volumes in millilitres and mean intensities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Measures = dict[str, dict[str, float | int | None]]


def measures(
    ids: NDArray[np.unsignedinteger[Any]],
    voxels: NDArray[Any],
    voxel_mm3: float,
    class_names: Sequence[str],
) -> Measures:
    """For each organ: voxels, volume_ml, and mean_intensity (HU in CT; None where it was not found).

    `ids` and `voxels`, the image as read, are (X, Y, Z); `voxel_mm3` is the volume of a voxel.
    """
    boxes = ndimage.find_objects(ids, max_label=len(class_names) - 1)
    return {
        name: _of_organ(ids, voxels, box, organ, voxel_mm3)
        for organ, (name, box) in enumerate(zip(class_names[1:], boxes, strict=True), start=1)
    }


def _of_organ(
    ids: NDArray[np.unsignedinteger[Any]], voxels: NDArray[Any], box: Any, organ: int, voxel_mm3: float
) -> dict[str, float | int | None]:
    inside = ids[box] == organ if box else np.zeros(0, bool)
    count = int(np.count_nonzero(inside))
    mean = float(voxels[box][inside].mean(dtype=np.float64)) if count else None
    return {
        "voxels": count,
        "volume_ml": round(count * voxel_mm3 / 1000, 4),
        "mean_intensity": None if mean is None else round(mean, 3),
    }
