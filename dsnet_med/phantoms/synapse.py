"""A synthetic data set in the raw layout of Synapse (BTCV): abdominal CT with 13 labelled organs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from dsnet_med.phantoms.abdomen import AIR_HU, LENGTH_MM, draw_pose, draw_tissues
from dsnet_med.phantoms.scan import Affine, Generator, add_ct_noise, render, write_volume
from dsnet_med.phantoms.subjects import choose_subjects, require_size

_WIDTH_MM, _DEPTH_MM = 360.0, 270.0
_SMALLEST = (32, 32, 8)


def make_synapse(
    out: Path, *, cases: int, seed: int, size: tuple[int, int, int] = (96, 96, 24), oblique: bool = False
) -> Iterator[str]:
    """Write `cases` CT volumes of `size` (H, W, D) voxels with their label maps under `out`.

    Files are RawData/Training/img/imgNNNN.nii.gz and .../label/labelNNNN.nii.gz, with case ids of the published
    split in its ratio of training to test cases. A case depends on `seed` and its id alone, so that more cases
    or another size show the same patients. `oblique` turns the sampling grid by some degrees, not the patient.
    Yields each case id when its two files are whole. Raises InputError.
    """
    require_size(size, _SMALLEST)
    for case in choose_subjects("synapse", cases):
        _write_case(out / "RawData" / "Training", case, np.random.default_rng([seed, int(case)]), size, oblique)
        yield case


def _write_case(out: Path, case: str, rng: Generator, size: tuple[int, int, int], oblique: bool) -> None:
    height, width, depth = size
    pose, tissues = draw_pose(rng), draw_tissues(rng)
    affine = _affine(rng, size, oblique)
    # Where the scanner's origin lies is arbitrary; the body's is drawn once the body is rendered.
    image, labels = render(tissues, pose, affine, (depth, height, width), AIR_HU)
    affine[:3, 3] += rng.uniform((-15, -180, -600), (15, -120, -100))
    add_ct_noise(rng, image, white_hu=9.0, grain_hu=7.0)
    np.clip(np.rint(image, out=image), -1024, 3071, out=image)
    write_volume(out / "img" / f"img{case}.nii.gz", image.astype(np.int16), affine)
    write_volume(out / "label" / f"label{case}.nii.gz", labels, affine)


def _affine(rng: Generator, size: tuple[int, int, int], oblique: bool) -> Affine:
    """A grid about the body's origin that runs to the left, anterior and superior (LAS), as in BTCV's files."""
    height, width, depth = size
    in_plane = max(_WIDTH_MM / width, _DEPTH_MM / height) * rng.uniform(0.98, 1.02)
    between = LENGTH_MM / depth * rng.uniform(0.96, 1.04)
    turn = Rotation.from_euler("xyz", rng.uniform(5, 9, 3) * rng.choice((-1, 1), 3), degrees=True)
    axes = np.diag((-in_plane, in_plane, between))
    if oblique:
        axes = turn.as_matrix() @ axes
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = -axes @ ((np.array((width, height, depth)) - 1) / 2)
    return affine
