"""A synthetic data set in the raw layout of ACDC: short-axis cardiac MR at end-diastole and end-systole."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dsnet_med.files import write_text
from dsnet_med.phantoms.heart import (
    GROUPS,
    LENGTH_MM,
    Heart,
    draw_heart,
    draw_pose,
    draw_signals,
    tissues_of,
)
from dsnet_med.phantoms.scan import (
    Affine,
    Generator,
    Pose,
    Waves,
    render,
    rician,
    slice_signal,
    write_volume,
)
from dsnet_med.phantoms.shapes import Field
from dsnet_med.phantoms.subjects import choose_subjects, require_size

_SMALLEST = (32, 32, 5)
_HEART_MM = 170.0
# The heart's x, y and z axes (right, up and base of a short-axis picture) in the patient's RAS+ directions.
_SHORT_AXIS = Rotation.align_vectors(
    [(0.77, 0.60, -0.20), (-0.27, 0.60, 0.75), (0.57, -0.53, 0.63)], np.eye(3)
)[0]


def make_acdc(
    out: Path, *, cases: int, seed: int, size: tuple[int, int, int] = (128, 128, 10), oblique: bool = False
) -> Iterator[str]:
    """Write `cases` patients, each with two MR volumes of `size` (H, W, D) voxels and label maps, under `out`.

    Files are training/patientNNN/{Info.cfg, patientNNN_frameMM.nii.gz, patientNNN_frameMM_gt.nii.gz}, with
    patients of the published split in its proportions. Slices run from apex to base. As in ACDC's files, the
    affine is the identity of LPS with spacing, whatever way the heart lay; with `oblique` it is a short-axis
    stack's true one. A patient depends on `seed` and its name alone. Yields each patient's name when all of its
    files are whole. Raises InputError.
    """
    require_size(size, _SMALLEST)
    for patient in choose_subjects("acdc", cases):
        number = int(patient.removeprefix("patient"))
        rng = np.random.default_rng([seed, number])
        _write_patient(out / "training" / patient, rng, GROUPS[number % len(GROUPS)], size, oblique)
        yield patient


@dataclass(frozen=True)
class _Exam:
    """One patient on one day: what does not change between the heart's phases."""

    heart: Heart
    pose: Pose
    signals: dict[str, float]
    bias: Waves
    grid: Affine
    shape: tuple[int, int, int]


def _write_patient(folder: Path, rng: Generator, group: str, size: tuple[int, int, int], oblique: bool) -> None:
    heart, pose, signals = draw_heart(rng, group), draw_pose(rng), draw_signals(rng)
    grid, bias = _heart_grid(rng, size), Waves.draw(rng, 0.18, 250, 600, 6)
    exam = _Exam(heart, pose, signals, bias, grid, (size[2], size[0], size[1]))
    turn = _SHORT_AXIS * Rotation.from_euler("xyz", rng.uniform(-6, 6, 3), degrees=True)
    affine = _turned(grid, turn) if oblique else grid
    systole, gain = int(rng.integers(8, 15)), rng.uniform(0.5, 2.0)
    write_text(folder / "Info.cfg", _info(rng, group, systole))
    for frame, contraction in ((1, 0.0), (systole, 1.0)):
        image, labels = _scan(rng, exam, contraction)
        name = f"{folder.name}_frame{frame:02d}"
        write_volume(folder / f"{name}.nii.gz", np.rint(image * gain).astype(np.int16), affine)
        write_volume(folder / f"{name}_gt.nii.gz", labels, affine)


def _scan(rng: Generator, exam: _Exam, contraction: float) -> tuple[Field, NDArray[np.uint8]]:
    tissues = tissues_of(exam.heart, contraction, exam.signals)
    image, labels = render(tissues, exam.pose, exam.grid, exam.shape, exam.signals["air"])
    image *= np.exp(exam.bias.on(exam.grid, (0, 0, 0), exam.shape))
    image *= slice_signal(rng, exam.shape[0])
    return rician(rng, image, 9.0), labels


def _heart_grid(rng: Generator, size: tuple[int, int, int]) -> Affine:
    """From (i, j, k) to heart mm, centred: i runs away from the right ventricle, j down, k to the base."""
    height, width, depth = size
    in_plane = max(rng.uniform(1.4, 1.7), _HEART_MM / min(height, width))
    between = max(rng.uniform(8, 10), LENGTH_MM / depth)
    axes = np.diag((-in_plane, -in_plane, between))
    grid = np.eye(4)
    grid[:3, :3] = axes
    grid[:3, 3] = -axes @ ((np.array((width, height, depth)) - 1) / 2)
    return grid


def _turned(grid: Affine, turn: Rotation) -> Affine:
    affine = grid.copy()
    affine[:3] = turn.as_matrix() @ grid[:3]
    return affine


def _info(rng: Generator, group: str, systole: int) -> str:
    height, weight = rng.integers(155, 195), rng.integers(52, 108)
    frames = int(rng.integers(systole + 8, 36))
    lines = ["ED: 1", f"ES: {systole}", f"Group: {group}", f"Height: {height}.0", f"NbFrame: {frames}"]
    return "\n".join([*lines, f"Weight: {weight}.0"]) + "\n"
