"""One scan on three grids."""

from pathlib import Path

import nibabel
import numpy as np

GRIDS = ("axial", "oblique", "flipped")


def write_volumes(folder: Path) -> dict[str, Path]:
    """A scan of blocks and noise as an axial, an oblique and a flipped (sagittal) file, by these names."""
    folder.mkdir()
    random = np.random.default_rng(0)
    voxels = random.integers(-200, 0, (40, 44, 6)).astype(np.int16)
    for number in range(8):
        x, y, z = random.integers(0, (28, 32, 3))
        voxels[x : x + 12, y : y + 12, z : z + 3] += np.int16(60 * number)
    axial = np.array([[-1.7, 0, 0, 60], [0, 1.7, 0, -80], [0, 0, 5, -20], [0, 0, 0, 1.0]])
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    tilt = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(voxels, axial)
    wanted = nibabel.orientations.axcodes2ornt(("S", "P", "R"))
    way = nibabel.orientations.ornt_transform(nibabel.io_orientation(axial), wanted)
    images = (image, nibabel.Nifti1Image(voxels, turn @ tilt @ axial), image.as_reoriented(way))
    paths = {name: folder / f"{name}.nii.gz" for name in GRIDS}
    for path, each in zip(paths.values(), images, strict=True):
        nibabel.save(each, path)
    return paths
