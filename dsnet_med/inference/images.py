"""Images of whatever form a caller has them in, as volumes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError, shown
from dsnet_med.inference.channels import load_channels, on_one_grid, only_source, split_series, wrong_count
from dsnet_med.inference.sources import find_sources, load
from dsnet_med.volumes import Volume, checked_affine, of_image, one_of
from dsnet_med.volumes_nifti import part_of

_GIVEN = Path("image")  # the name in errors of what came without a file


def as_volume(
    image: Any, affine: NDArray[np.float64] | None, volume_index: int | None, series: str | None
) -> Volume:
    """The volume of a path, a nibabel or SimpleITK image, or an array (X, Y, Z) with an affine.

    Raises InputError.
    """
    from_file = isinstance(image, str | Path)
    if affine is not None and (from_file or hasattr(image, "affine") or hasattr(image, "GetDirection")):
        kind = "path" if from_file else type(image).__name__
        raise InputError(f"got an affine for an image that has its own ({kind}); leave it out")
    if series is not None and not from_file:
        raise InputError(f"got series {shown(series)}, which picks among DICOM series; give a path")
    if from_file:
        sources = find_sources([Path(image)])
        if len(sources) != 1:
            raise InputError(f"{image}: holds {len(sources)} volumes, wanted one; give one of them")
        return load(sources[0], volume_index, series)
    if isinstance(image, nib.nifti1.Nifti1Pair):
        return of_image(_GIVEN, image, volume_index)
    if hasattr(image, "GetDirection"):
        from dsnet_med.volumes_itk import converted  # noqa: PLC0415 -- SimpleITK takes long to load

        return _of_array(*converted(_GIVEN, image, volume_index))
    affine = getattr(image, "affine", None) if affine is None else affine
    if affine is None:
        raise InputError(
            f"got a {type(image).__name__}; wanted a path, a nibabel or SimpleITK image, or an array "
            "and its affine"
        )
    voxels = image.dataobj if isinstance(image, nib.spatialimages.SpatialImage) else image
    volume = _of_array(np.asanyarray(voxels), np.asarray(affine, np.float64), volume_index)
    if isinstance(image, nib.analyze.AnalyzeImage):
        return volume.noted("Analyze 7.5 does not tell left from right: they are a guess")
    return volume


def as_channels(
    image: Any,
    affine: NDArray[np.float64] | None,
    names: Sequence[str],
    volume_index: int | None,
    series: str | None,
    *,
    resample: bool = False,
) -> tuple[Volume, ...]:
    """The volumes of the channels called `names`, on one grid, see `load_channels`.

    One channel is what `as_volume` takes. Several are a list of what that takes, in their order, one 4-D image,
    or an array (C, X, Y, Z). Raises InputError.
    """
    if len(names) == 1:
        only = image[0] if isinstance(image, list | tuple) and len(image) == 1 else image
        return (as_volume(only, affine, volume_index, series),)
    if isinstance(image, list | tuple):
        if len(image) != len(names):
            raise InputError(wrong_count(_GIVEN, len(image), names))
        each = split_series(series, names)
        volumes = [as_volume(part, affine, volume_index, one) for part, one in zip(image, each, strict=True)]
        return on_one_grid(volumes, names, resample=resample)
    if volume_index is not None:
        raise InputError(f"got volume_index {volume_index} for an image of {len(names)} channels; leave it out")
    if isinstance(image, str | Path):
        return load_channels(only_source(Path(image), names), names, None, series, resample=resample)
    if isinstance(image, np.ndarray) or not (hasattr(image, "shape") or hasattr(image, "GetDirection")):
        array = np.asanyarray(image)
        if array.ndim != 4 or len(array) != len(names):
            raise InputError(
                f"got an array of shape {array.shape}, wanted ({len(names)}, X, Y, Z), channels "
                f"{', '.join(names)}"
            )
        return tuple(as_volume(part, affine, None, None) for part in array)
    return tuple(as_volume(image, affine, index, None) for index in range(len(names)))


def _of_array(voxels: NDArray[Any], affine: NDArray[np.float64], volume_index: int | None = None) -> Volume:
    if volume_index is not None and voxels.ndim >= 3:
        one_of(_GIVEN, voxels.shape, volume_index)
        voxels = part_of(voxels, voxels.shape, volume_index)
    if voxels.ndim != 3 or 0 in voxels.shape:
        raise InputError(f"got an array of shape {voxels.shape}, wanted one volume (X, Y, Z)")
    if voxels.dtype.kind not in "iuf" or not np.isfinite(voxels).all():
        raise InputError(f"got an array of {voxels.dtype}, wanted finite real numbers")
    if affine.shape != (4, 4):
        raise InputError(f"got an affine of shape {affine.shape}, wanted (4, 4)")
    x, y, z = voxels.shape
    return Volume(_GIVEN, (x, y, z), checked_affine(_GIVEN, affine), None, voxels)
