"""Label maps for the scoring benchmarks: eight organs of real sizes, and a prediction that errs."""

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

LabelMap = NDArray[np.uint8]

SIZE = (512, 512, 148)
SPACING_MM = (0.76, 0.76, 3.0)
# Centre in shares of the volume and radii in mm, about as large as in an adult.
ORGANS = {
    "aorta": ((0.50, 0.62, 0.50), (11, 11, 190)),
    "gallbladder": ((0.34, 0.40, 0.45), (16, 14, 28)),
    "left kidney": ((0.68, 0.64, 0.40), (27, 30, 52)),
    "right kidney": ((0.32, 0.64, 0.38), (27, 30, 52)),
    "liver": ((0.32, 0.45, 0.62), (88, 72, 70)),
    "pancreas": ((0.53, 0.50, 0.48), (60, 15, 18)),
    "spleen": ((0.76, 0.60, 0.62), (34, 45, 48)),
    "stomach": ((0.64, 0.38, 0.60), (42, 52, 50)),
}
LABELS = dict(enumerate(ORGANS, start=1))
_ISLAND_MM = (6.0, 5.0, 7.0)


def make_pair(seed: int = 0, size: tuple[int, int, int] = SIZE) -> tuple[LabelMap, LabelMap]:
    """A reference and a prediction (X, Y, Z) in Fortran order, as files hold them.

    Surfaces are lumpy, the prediction's errs by some millimetres in places, and every organ of it has islands
    far away; the gallbladder's make up more than 5 % of its surface.
    """
    rng = np.random.default_rng(seed)
    reference, prediction = (np.zeros(size, np.uint8, order="F") for _ in range(2))
    for label, (centre, radii) in enumerate(ORGANS.values(), start=1):
        box, distance = _organ(rng, centre, radii, size)
        error = _lumps(rng, distance.shape, 1.6)
        _draw(reference, box, distance < 0, label)
        _draw(prediction, box, distance + error < 0, label)
        for _ in range(2 if label != 2 else 6):
            _island(rng, prediction, label)
    return reference, prediction


def save(path: Path, voxels: LabelMap) -> None:
    """Write a NIfTI file with the benchmark's spacing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag((*SPACING_MM, 1.0))), path)


def make_folders(folder: Path, cases: int, size: tuple[int, int, int] = SIZE) -> tuple[Path, Path]:
    """`cases` pairs as .nii.gz; returns the folders of predictions and references."""
    for case in range(cases):
        reference, prediction = make_pair(case, size)
        save(folder / "reference" / f"case{case:02d}.nii.gz", reference)
        save(folder / "prediction" / f"case{case:02d}.nii.gz", prediction)
    return folder / "prediction", folder / "reference"


def size_of(text: str) -> tuple[int, int, int]:
    """Voxels from 512x512x148."""
    x, y, z = (int(part) for part in text.split("x"))
    return x, y, z


def _organ(rng, centre, radii, size):  # type: ignore[no-untyped-def]
    """The box around an organ and a rough signed distance in mm inside it."""
    middle = np.array([c * n * s for c, n, s in zip(centre, size, SPACING_MM, strict=True)])
    middle += rng.normal(0, 4, 3)
    scale = min(1.0, size[0] / SIZE[0]) if size != SIZE else 1.0
    reach = np.asarray(radii) * scale + 12
    spans = [
        slice(max(0, int((m - r) / s)), min(n, int((m + r) / s) + 1))
        for m, r, s, n in zip(middle, reach, SPACING_MM, size, strict=True)
    ]
    axes = np.ix_(
        *[np.arange(b.start, b.stop) * s - m for b, s, m in zip(spans, SPACING_MM, middle, strict=True)]
    )
    norm = np.sqrt(sum((axis / (r * scale)) ** 2 for axis, r in zip(axes, radii, strict=True)))
    distance = (norm - 1) * min(radii) * scale
    return tuple(spans), distance + _lumps(rng, distance.shape, 2.5)


def _lumps(rng, shape, millimetres):  # type: ignore[no-untyped-def]
    coarse = rng.normal(0, millimetres, [max(3, round(n / d)) for n, d in zip(shape, (12, 12, 4), strict=True)])
    fine = zoom(coarse, [n / c for n, c in zip(shape, coarse.shape, strict=True)], order=1)
    return fine[tuple(slice(0, n) for n in shape)]


def _draw(volume, box, mask, label):  # type: ignore[no-untyped-def]
    view = volume[box]
    view[mask & (view == 0)] = label


def _island(rng, volume, label):  # type: ignore[no-untyped-def]
    half = [max(1, round(mm / s / 2)) for mm, s in zip(_ISLAND_MM, SPACING_MM, strict=True)]
    middle = [int(rng.integers(h, n - h)) for h, n in zip(half, volume.shape, strict=True)]
    box = tuple(slice(m - h, m + h + 1) for m, h in zip(middle, half, strict=True))
    _draw(volume, box, np.ones(volume[box].shape, bool), label)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=12)
    options = parser.parse_args()
    print(*make_folders(options.folder, options.cases), sep="\n")
