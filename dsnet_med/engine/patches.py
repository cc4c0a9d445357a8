"""Patches of volumes for 3-D networks: how large, and where a random one is read.

As in nnU-Net, https://www.nature.com/articles/s41592-020-01008-z: cases are drawn alike, a share of the patches
surely holds a foreground voxel, of a label drawn alike among those that the case has, and no patch reaches
further beyond a volume than it must: where it is larger, the volume is in its middle, 0 and background around.
"""

from collections.abc import Hashable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable, Transform

from dsnet_med.engine.data import open_store
from dsnet_med.errors import InputError
from dsnet_med.prepare.store import Store


def strides_of(stride: Any) -> tuple[int, int, int]:
    """(slice, row, column) of a stride that a row says as one number or three. Raises InputError."""
    three = [stride] * 3 if type(stride) is int else stride
    if not isinstance(three, list) or len(three) != 3 or not all(type(n) is int and n > 0 for n in three):
        raise InputError(f"got stride={stride}, wanted one number or three, such as 16 or [4, 16, 16]")
    return three[0], three[1], three[2]


def patch_size(store: str, cases: Sequence[str], largest: Sequence[int], stride: Any) -> list[int]:
    """The patch [D, H, W] to train on: the median training case, rounded up to the stride.

    Where that has more voxels than `largest`, the axis that is cut least so far is cut, stride by stride.
    """
    strides, shapes = strides_of(stride), _shapes(store, cases)
    median = np.median(shapes, axis=0)
    size = [int(-(-length // step) * step) for length, step in zip(median, strides, strict=True)]
    while prod(size) > prod(largest):
        cut = [axis for axis in range(3) if size[axis] > strides[axis]]
        if not cut:
            break
        axis = max(cut, key=lambda axis: size[axis] / median[axis])
        size[axis] -= strides[axis]
    return size


def checked_patch(size: Any, store: str, cases: Sequence[str], stride: Any) -> list[int]:
    """[slices, rows, columns] that a user has written; one number stands for a cube.

    Raises InputError for another form, for sides that are no multiples of the stride, and for a patch that is
    larger than every training case is once that is padded to the stride: the rest of it would always be empty.
    """
    three = [size] * 3 if type(size) is int else size
    if not isinstance(three, list) or len(three) != 3 or not all(type(n) is int and n > 0 for n in three):
        raise InputError(f"got size={size}, wanted slices, rows and columns, such as size=[64, 96, 96]")
    strides = strides_of(stride)
    if any(length % step for length, step in zip(three, strides, strict=True)):
        raise InputError(f"got size={three}, wanted multiples of {list(strides)}, the stride of the network")
    most = _shapes(store, cases).max(axis=0)
    padded = [int(-(-length // step) * step) for length, step in zip(most, strides, strict=True)]
    if any(length > room for length, room in zip(three, padded, strict=True)):
        raise InputError(
            f"got size={three}, a patch larger than the volumes: no training case has more than {padded} "
            "voxels (slices, rows, columns; padded to the network's stride); choose a smaller size"
        )
    return three


def check_oversample(oversample: Any) -> float:
    """The share of patches that surely hold foreground. Raises InputError."""
    if isinstance(oversample, Mapping):
        raise InputError(f"got oversample={oversample}, and 3-D patches have one share: a number from 0 to 1")
    if oversample in (None, "none"):
        return 0.0
    if type(oversample) not in (int, float) or not 0 <= oversample <= 1:
        raise InputError(f"got oversample={oversample}, wanted a number from 0 to 1")
    return float(oversample)


class ReadPatches(Randomizable, Transform):
    """A random patch of the case that an item names: image (C, *size) and label (1, *size).

    `draw` is a number by which the patch may be augmented.

    Which patch it is depends on the transform's random numbers alone; `oversample` is the share of patches that
    surely hold foreground, where the case has any. Images are float32, normalised; labels uint8 as stored.
    """

    def __init__(self, store: str, size: Sequence[int], oversample: float = 0.33) -> None:
        self.store, self.size = store, (int(size[0]), int(size[1]), int(size[2]))
        self.oversample = check_oversample(oversample)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        store, case = open_store(self.store), data["case"]
        surely = self.R.random() < self.oversample
        voxel = store.foreground(case, self.R, foreground_codes(store)) if surely else None
        start = self._start(store.cases[case].shape, voxel)
        image, labels = store.read_patch(case, start, self.size)
        draw = int(self.R.randint(2**31 - 1))
        return {
            **data,
            "image": torch.from_numpy(image),
            "label": torch.from_numpy(labels)[None],
            "draw": draw,
        }

    def _start(self, shape: Sequence[int], voxel: Sequence[int] | None) -> tuple[int, int, int]:
        """The patch's first voxel, which lies outside where the volume is smaller."""
        start = []
        for axis, (length, side) in enumerate(zip(shape, self.size, strict=True)):
            if length <= side:
                start.append(-((side - length) // 2))
            elif voxel is None:
                start.append(int(self.R.randint(length - side + 1)))
            else:
                start.append(min(max(voxel[axis] - side // 2, 0), length - side))
        return start[0], start[1], start[2]


def foreground_codes(store: Store) -> list[int]:
    """The stored label values that are something: of the regions, or every class but background."""
    if store.regions:
        return sorted({code for region in store.regions for code in region.codes})
    return list(range(1, len(store.classes)))


def in_plane(store: str, cases: Sequence[str], size: Sequence[int]) -> bool:
    """Whether patches are turned about the slice axis alone: where slices are 3 times as thick as pixels are
    wide, or the patch is 3 times as wide as it is thick, as nnU-Net has it."""
    spacings = np.array([open_store(store).cases[case].spacing_mm for case in cases])
    thick, *sides = np.median(spacings, axis=0)
    return bool(thick > 3 * min(sides) or max(size) > 3 * size[0])


def _shapes(store: str, cases: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([open_store(store).cases[case].shape for case in cases])
