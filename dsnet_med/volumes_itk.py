"""Reading NRRD and MetaImage volumes through SimpleITK, in the axis order and world (RAS+) of NIfTI."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from dsnet_med.errors import InputError, one_line

_LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))


def read(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The voxels (X, Y, Z) as stored and the affine (4, 4) to RAS+ millimetres. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # what matters is raised below, in one line
    try:
        image = sitk.ReadImage(str(path))
    except (RuntimeError, MemoryError) as error:
        reason = str(error).rsplit("itk::ERROR:", 1)[-1]
        raise InputError(f"{path}: not a readable volume ({one_line(reason, 160)}); export it again") from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{path}: holds {image.GetNumberOfComponentsPerPixel()} numbers per voxel, wanted one; "
            "export overlapping segments as one label map each"
        )
    if image.GetDimension() != 3:
        raise InputError(f"{path}: is {image.GetDimension()}-D {image.GetSize()}, wanted one 3-D volume")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        voxels = sitk.GetArrayFromImage(image).T
    if voxels.dtype.kind not in "iuf":
        raise InputError(f"{path}: holds {voxels.dtype}, wanted one number per voxel")
    return voxels, _affine(image)


def _affine(image: Any) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return _LPS_TO_RAS @ affine
