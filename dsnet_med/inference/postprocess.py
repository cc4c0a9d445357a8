"""Per-organ cleaning of label maps, off unless asked for: it can remove what is really there.

Pieces are connected over faces, edges and corners, in the input's own grid. MONAI's transforms do the same on
one-hot maps of the whole volume; here one organ's box at a time is looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dsnet_med.errors import InputError, unknown

_ALL = "all"
_TOUCHING = np.ones((3, 3, 3), bool)
LabelMap = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class PostProcess:
    """What to do with each organ, in this order; organs are class names, or `all`.

    `smallest_ml`: pieces of any organ below this volume become background. `keep_largest`: of these organs only
    the largest piece stays. `fill_holes`: background enclosed by one of these organs becomes that organ.
    """

    keep_largest: tuple[str, ...] = ()
    fill_holes: tuple[str, ...] = ()
    smallest_ml: float = 0.0

    def checked(self, class_names: Sequence[str]) -> "PostProcess":
        """The same with `all` written out. Raises InputError for an organ that is none of `class_names`."""
        if not 0 <= self.smallest_ml < float("inf"):
            raise InputError(f"got a smallest piece of {self.smallest_ml} ml, wanted 0 or more")
        organs = tuple(class_names[1:])
        for name in (*self.keep_largest, *self.fill_holes):
            if name not in (_ALL, *organs):
                raise unknown("organ", name, (_ALL, *organs))
        keep, fill = (
            tuple(name for name in organs if name in wanted or _ALL in wanted)
            for wanted in (self.keep_largest, self.fill_holes)
        )
        return replace(self, keep_largest=keep, fill_holes=fill)


def postprocessed(
    ids: LabelMap, options: PostProcess, class_names: Sequence[str], voxel_mm3: float
) -> LabelMap:
    """`ids` (X, Y, Z) cleaned as `options` (checked) say, in place; `voxel_mm3` is the volume of a voxel."""
    if options == PostProcess():
        return ids
    least = options.smallest_ml * 1000 / voxel_mm3  # in voxels
    boxes = ndimage.find_objects(ids, max_label=len(class_names) - 1)
    for organ, (name, box) in enumerate(zip(class_names[1:], boxes, strict=True), start=1):
        if box is None:
            continue
        part = ids[box]
        if least > 0 or name in options.keep_largest:
            pieces, count = ndimage.label(part == organ, _TOUCHING)
            sizes = np.bincount(pieces.ravel(), minlength=count + 1)
            keep = sizes >= least
            if name in options.keep_largest:
                keep &= np.arange(count + 1) == 1 + int(np.argmax(sizes[1:]))  # the first of equally large ones
            keep[0] = True
            part[~keep[pieces]] = 0
        if name in options.fill_holes:
            part[ndimage.binary_fill_holes(part == organ) & (part == 0)] = organ
    return ids
