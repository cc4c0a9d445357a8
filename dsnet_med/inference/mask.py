"""What a predictor gives: a label map in the grid of its input."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError
from dsnet_med.find import FORMS
from dsnet_med.inference.slicer import write_seg_nrrd
from dsnet_med.regions import Region, region_masks
from dsnet_med.volumes import Volume, require_nifti_name, write_labels

_SAVED: set[Path] = set()  # by this process


def labels_of(class_names: Sequence[str]) -> dict[str, str]:
    """The class names by class id, as JSON files and answers hold them."""
    return {str(class_id): name for class_id, name in enumerate(class_names)}


@dataclass(frozen=True)
class Mask:
    """Class ids (X, Y, Z), uint8 or uint16, on the grid of the image `source`; works as a NumPy array.

    `class_names[i]` is the name of class i. `notes` say what is doubtful about the input or the labels.
    `probabilities` (K, X, Y, Z), float16, of `output_names`, are there when they were asked for. Of `regions`
    that overlap freely a label map holds the last one alone; `bits` (X, Y, Z) then has the i-th as bit i.
    """

    voxels: NDArray[np.unsignedinteger[Any]]
    class_names: tuple[str, ...]
    source: Volume
    notes: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    probabilities: NDArray[np.float16] | None = None
    output_names: tuple[str, ...] = ()
    regions: tuple[Region, ...] = ()
    bits: NDArray[np.uint8] | None = None

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxels to RAS+ millimetres (4, 4)."""
        return self.source.affine

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.source.shape

    def segments(self) -> tuple[NDArray[np.unsignedinteger[Any]], tuple[str, ...]]:
        """What formats that hold several segments write, and their names, that of the background first.

        The class ids (X, Y, Z); of regions (R, X, Y, Z) with number i + 1 in the i-th, which may overlap.
        """
        if not self.regions:
            return self.voxels, self.class_names
        layers = np.zeros((len(self.regions), *self.shape), np.uint8)
        for number, (layer, region) in enumerate(zip(layers, self.regions, strict=True)):
            layer[self.region(region)] = number + 1
        return layers, (self.class_names[0], *self.output_names)

    def region(self, region: Region) -> NDArray[np.bool_]:
        """Where a region is (X, Y, Z)."""
        if self.bits is None:
            (mask,) = region_masks(self.voxels, [region])
        else:
            mask = (self.bits & np.uint8(1 << self.regions.index(region))) != 0
        return np.asarray(mask, np.bool_)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.voxels, dtype=dtype) if copy else np.asarray(self.voxels, dtype=dtype)

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write a NIfTI file (.nii or .nii.gz), or a segmentation of 3D Slicer (.seg.nrrd), on its grid.

        Raises InputError for another name, and for a file that this process has not saved itself, unless that
        is to be replaced.
        """
        place = Path(path)
        if not (of_slicer := place.name.endswith(FORMS["seg.nrrd"])):
            require_nifti_name(place)
        own = place.absolute()
        if os.path.lexists(place) and not overwrite and own not in _SAVED:
            raise InputError(
                f"{place} is there already; choose another name, or replace it with overwrite=True"
            )
        if of_slicer:
            segments, names = self.segments()
            write_seg_nrrd(place, segments, self.source, names)
        else:
            write_labels(place, self.voxels, self.source)
        _SAVED.add(own)
