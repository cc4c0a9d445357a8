"""A synthetic data set in the raw layout of ACDC: short-axis cardiac MR at end-diastole and end-systole.

Solids lie in short-axis millimetres: x points from the left ventricle to the right one (the patient's right and
front), y to the upper edge of a short-axis picture (front, left and up), z along the long axis from apex to
base. Intensities are arbitrary units of a balanced steady-state cine MR: blood and fat are bright, muscle is
grey, lung is dark.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from dsnet_med.files import write_text
from dsnet_med.phantoms import scanner
from dsnet_med.phantoms.scanner import Affine, Generator, Pose, Size, Tissue, Waves
from dsnet_med.phantoms.solids import Solid, above, ellipsoid, tube

_RIGHT_VENTRICLE, _MYOCARDIUM, _LEFT_VENTRICLE = 1, 2, 3
_SMALLEST = (32, 32, 5)
_ACROSS_MM, _LENGTH_MM, _BASE_MM, _ENDLESS = 170.0, 92.0, 40.0, np.inf
# The heart's x, y and z axes (right, up and base of a short-axis picture) in the patient's RAS+ directions.
_SHORT_AXIS = Rotation.align_vectors(
    [(0.77, 0.60, -0.20), (-0.27, 0.60, 0.75), (0.57, -0.53, 0.63)], np.eye(3)
)[0]
# Group of the ACDC challenge: inner radius and wall of the left ventricle at end-diastole in mm, the share
# by which the inner radius falls until end-systole, and the right ventricle's reach beyond the wall in mm.
_GROUPS = {
    "NOR": (23.0, 9.0, 0.34, 30.0),
    "DCM": (30.0, 8.0, 0.10, 30.0),
    "HCM": (20.0, 14.0, 0.42, 28.0),
    "MINF": (26.0, 8.5, 0.15, 30.0),
    "RV": (22.0, 9.0, 0.28, 39.0),
}
_SIGNALS = {"air": 4, "lung": 22, "muscle": 95, "fat": 330, "liver": 120, "blood": 255, "heart": 88}


@dataclass(frozen=True)
class _Heart:
    """One patient's heart at end-diastole, and how far it contracts."""

    cavity_mm: float
    wall_mm: float
    shortening: float
    right_mm: float
    right_turn_degrees: float


def make_acdc(
    out: Path, *, cases: int, seed: int, size: Size = (128, 128, 10), oblique: bool = False
) -> Iterator[str]:
    """Write `cases` patients, each with two MR volumes of `size` (H, W, D) voxels and label maps, under `out`.

    Files are training/patientNNN/{Info.cfg, patientNNN_frameMM.nii.gz, patientNNN_frameMM_gt.nii.gz}, with
    patients of the published split in its proportions. Slices run from apex to base. As in ACDC's files, the
    affine is the identity of LPS with spacing, whatever way the heart lay; with `oblique` it is a short-axis
    stack's true one. A patient depends on `seed` and its name alone. Yields each patient's name when all of its
    files are whole. Raises InputError.
    """
    for patient in scanner.chosen_cases("acdc", cases, size, _SMALLEST):
        number = int(patient.removeprefix("patient"))
        group = list(_GROUPS)[number % len(_GROUPS)]
        _write_patient(out / "training" / patient, np.random.default_rng([seed, number]), group, size, oblique)
        yield patient


def _write_patient(folder: Path, rng: Generator, group: str, size: Size, oblique: bool) -> None:
    heart, pose = _draw_heart(rng, group), _draw_pose(rng)
    signal = {name: value * rng.uniform(0.95, 1.05) for name, value in _SIGNALS.items()}
    grid, bias = _draw_grid(rng, size), Waves.draw(rng, 0.18, 250, 600, 6)
    turn = _SHORT_AXIS * Rotation.from_euler("xyz", rng.uniform(-6, 6, 3), degrees=True)
    affine = grid.copy()
    if oblique:
        affine[:3] = turn.as_matrix() @ grid[:3]
    systole, gain = int(rng.integers(8, 15)), rng.uniform(0.5, 2.0)
    write_text(folder / "Info.cfg", _draw_info(rng, group, systole))
    for frame, contraction in ((1, 0.0), (systole, 1.0)):
        tissues = _tissues(heart, contraction, signal)
        image, labels = scanner.render(tissues, pose, grid, size, signal["air"])
        image *= np.exp(bias.on(grid, (0, 0, 0), image.shape))
        image *= rng.normal(1, 0.03, (len(image), 1, 1)).astype(np.float32)  # breath-holds differ
        image = scanner.rician(rng, image, 9.0)
        name = f"{folder.name}_frame{frame:02d}"
        scanner.write_volume(folder / f"{name}.nii.gz", np.rint(image * gain).astype(np.int16), affine)
        scanner.write_volume(folder / f"{name}_gt.nii.gz", labels, affine)


def _draw_heart(rng: Generator, group: str) -> _Heart:
    """A heart of the challenge's `group`, with some 5 % of variation."""
    cavity, wall, shortening, right = (value * rng.uniform(0.95, 1.05) for value in _GROUPS[group])
    return _Heart(cavity, wall, shortening, right, rng.uniform(-12, 12))


def _draw_pose(rng: Generator) -> Pose:
    """Where the heart lies in the field of view, and the deformation of the whole chest."""
    shift = rng.uniform((-8, -8, -3), (8, 8, 3))
    warp = [Waves.draw(rng, rms, 90, 250) for rms in (1.6, 1.6, 1.0)]
    return Pose(np.eye(3) * rng.uniform(0.95, 1.05), shift, warp)


def _draw_grid(rng: Generator, size: Size) -> Affine:
    """From (i, j, k) to heart mm, centred: i runs away from the right ventricle, j down, k to the base."""
    in_plane = max(rng.uniform(1.4, 1.7), _ACROSS_MM / min(size[:2]))
    between = max(rng.uniform(8, 10), _LENGTH_MM / size[2])
    return scanner.centred(np.diag((-in_plane, -in_plane, between)), size)


def _draw_info(rng: Generator, group: str, systole: int) -> str:
    height, weight = rng.integers(155, 195), rng.integers(52, 108)
    frames = int(rng.integers(systole + 8, 36))
    lines = ["ED: 1", f"ES: {systole}", f"Group: {group}", f"Height: {height}.0", f"NbFrame: {frames}"]
    return "\n".join([*lines, f"Weight: {weight}.0"]) + "\n"


def _tissues(heart: _Heart, contraction: float, signal: dict[str, float]) -> list[Tissue]:
    """The chest with the heart at `contraction` 0 (end-diastole) to 1 (end-systole), in painting order."""
    cavity, epicardium, right = _ventricles(heart, contraction)
    body = ellipsoid((-10, -45, 0), (165, 120, _ENDLESS))
    # Two thin muscles in the left cavity, which experts count as cavity.
    reach = heart.cavity_mm * (1 - heart.shortening * contraction) * 0.62
    papillary = [
        tube([(reach * x, reach * y, -8), (reach * x, reach * y, 16)], (2.6, 2.0))
        for x, y in ((-0.75, 0.65), (-0.35, -0.9))
    ]
    return [
        Tissue(body, signal["fat"]),
        Tissue(body.grown(-13), signal["muscle"]),
        Tissue(ellipsoid((-92, -40, 10), (58, 72, 150)), signal["lung"]),
        Tissue(ellipsoid((82, -62, 30), (52, 60, 150)), signal["lung"]),
        Tissue(ellipsoid((58, -62, -72), (75, 60, 48)), signal["liver"]),
        Tissue(tube([(-42, -105, -150), (-40, -100, 150)], (11, 11)), signal["blood"] * 0.95),
        Tissue(tube([(5, -128, -150), (5, -128, 150)], (17, 17)), signal["muscle"] * 1.25),
        Tissue(ellipsoid((12, 0, 5), (68, 52, 62)).grown(2), signal["fat"] * 0.5),
        # The right ventricle's own wall is too thin to be labelled.
        Tissue(right.grown(3) - epicardium, signal["heart"]),
        Tissue(right, signal["blood"], _RIGHT_VENTRICLE),
        Tissue(epicardium, signal["heart"], _MYOCARDIUM),
        Tissue(cavity, signal["blood"], _LEFT_VENTRICLE),
        *(Tissue(muscle, signal["heart"] * 1.3, _LEFT_VENTRICLE) for muscle in papillary),
    ]


def _ventricles(heart: _Heart, contraction: float) -> tuple[Solid, Solid, Solid]:
    """The left cavity, all within the epicardium, and the right cavity: a crescent around the septum."""
    radius = heart.cavity_mm * (1 - heart.shortening * contraction)
    # The wall keeps its volume when it contracts: its cross-section (outer^2 - inner^2) stays.
    outer = float(np.sqrt((heart.cavity_mm + heart.wall_mm) ** 2 - heart.cavity_mm**2 + radius**2))
    long_axis = 84.0 * (1 - 0.10 * contraction)
    below_base, middle = above((0, 0, -1), -_BASE_MM), (0, 0, _BASE_MM - 6)
    cavity = ellipsoid(middle, (radius, radius, long_axis - 10)) & below_base
    epicardium = ellipsoid(middle, (outer, outer, long_axis)) & below_base
    reach = heart.right_mm * (1 - 0.25 * contraction)
    turn = (0, 0, heart.right_turn_degrees)
    ball = ellipsoid((outer * 0.45, 2, _BASE_MM - 4), (outer * 0.55 + reach, outer * 1.05 + 5, 66), turn)
    right = (ball & below_base & above((1, 0, 0), -outer * 0.1)) - epicardium.grown(0.5)
    return cavity, epicardium, right
