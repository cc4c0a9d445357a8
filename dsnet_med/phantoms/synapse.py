"""A synthetic data set in the raw layout of Synapse (BTCV): abdominal CT with 13 labelled organs.

Solids lie in body millimetres (x right, y anterior, z superior; origin mid-body). Sizes are a normal adult's,
with the smallest structures somewhat enlarged so that coarse grids still hold them. Intensities are Hounsfield
units of a portal-venous CT. Labels are those of the BTCV challenge.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from dsnet_med.phantoms import scanner
from dsnet_med.phantoms.scanner import Affine, Generator, Pose, Size, Tissue, Waves
from dsnet_med.phantoms.solids import Field, Solid, above, ellipsoid, tube, union

_AIR_HU = -1000.0
_WIDTH_MM, _DEPTH_MM, _LENGTH_MM = 360.0, 270.0, 230.0
_SMALLEST = (32, 32, 8)
_SPLEEN, _RIGHT_KIDNEY, _LEFT_KIDNEY, _GALLBLADDER, _ESOPHAGUS, _LIVER, _STOMACH = range(1, 8)
_AORTA, _VENA_CAVA, _PORTAL_VEIN, _PANCREAS, _RIGHT_ADRENAL, _LEFT_ADRENAL = range(8, 14)
_ENDLESS = np.inf

# Painted in this order: label, solid, deviation of its place in mm, mean and deviation of its HU.
_GLANDS = (
    (_GALLBLADDER, ellipsoid((57, 48, -40), (20, 22, 28), (25, 10, 0)), 3.5, 6, 3),
    (
        _PANCREAS,
        tube([(31, 16, -30), (20, 24, -12), (-6, 24, -4), (-34, 14, 2), (-66, -6, 12)], (18, 15, 14, 15, 12)),
        *(3.5, 88, 4),
    ),
    (_RIGHT_ADRENAL, ellipsoid((33, -40, 30), (8, 12, 18)), 2, 72, 4),
    (_LEFT_ADRENAL, ellipsoid((-34, -36, 32), (8, 12, 18)), 2, 72, 4),
)
_SPLENIC_VEIN = tube([(-74, -22, 22), (-36, -8, 8), (10, 6, 0)], (7.5, 8, 8.5))
_MAIN_PORTAL_VEIN = tube([(10, 6, -22), (10, 6, 0), (34, 8, 22), (48, 8, 28)], (8.5, 9, 9, 8))
_TUBES = (
    (_ESOPHAGUS, tube([(2, 0, 150), (-4, 2, 92), (-24, 6, 62)], (10, 10, 9)), 2, 60, 4),
    (
        _VENA_CAVA,
        tube([(25, -22, -150), (23, -18, 0), (24, -8, 70), (20, 0, 100)], (12.5, 13, 13, 12)),
        *(1.5, 150, 6),
    ),
    (_PORTAL_VEIN, union(_SPLENIC_VEIN, _MAIN_PORTAL_VEIN), 1.5, 172, 6),
    (_AORTA, tube([(-14, -26, 150), (-9, -24, 0), (-6, -22, -150)], (15, 14, 13.5)), 1.5, 250, 12),
)


def make_synapse(
    out: Path, *, cases: int, seed: int, size: Size = (96, 96, 24), oblique: bool = False
) -> Iterator[str]:
    """Write `cases` CT volumes of `size` (H, W, D) voxels with their label maps under `out`.

    Files are RawData/Training/img/imgNNNN.nii.gz and .../label/labelNNNN.nii.gz, with case ids of the published
    split in its ratio of training to test cases. A case depends on `seed` and its id alone, so that more cases
    or another size show the same patients. `oblique` turns the sampling grid by some degrees, not the patient.
    Yields each case id when its two files are whole. Raises InputError.
    """
    folder = out / "RawData" / "Training"
    for case in scanner.chosen_cases("synapse", cases, size, _SMALLEST):
        rng = np.random.default_rng([seed, int(case)])
        pose, tissues = _draw_pose(rng), _draw_tissues(rng)
        affine = _draw_grid(rng, size, oblique)
        image, labels = scanner.render(tissues, pose, affine, size, _AIR_HU)
        # Where the scanner's origin lies is arbitrary; the body's is drawn once the body is rendered.
        affine[:3, 3] += rng.uniform((-15, -180, -600), (15, -120, -100))
        scanner.add_ct_noise(rng, image, white_hu=9.0, grain_hu=7.0)
        hounsfield = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
        scanner.write_volume(folder / "img" / f"img{case}.nii.gz", hounsfield, affine)
        scanner.write_volume(folder / "label" / f"label{case}.nii.gz", labels, affine)
        yield case


def _draw_pose(rng: Generator) -> Pose:
    """One patient: size within about 6 %, turned by some degrees, shifted, and smoothly deformed."""
    tilt = np.radians(rng.normal(0, 2.5, 3).clip(-5, 5))
    turn = np.eye(3) + np.cross(np.eye(3), tilt)
    scale = rng.uniform(0.94, 1.05) * rng.uniform(0.97, 1.03, 3)
    warp = [Waves.draw(rng, rms, 110, 320) for rms in (2.5, 2.5, 3.0)]
    return Pose(turn * scale, rng.normal(0, 4, 3).clip(-8, 8), warp)


def _draw_grid(rng: Generator, size: Size, oblique: bool) -> Affine:
    """A grid about the body's origin that runs to the left, anterior and superior (LAS), as in BTCV's files."""
    height, width, depth = size
    in_plane = max(_WIDTH_MM / width, _DEPTH_MM / height) * rng.uniform(0.98, 1.02)
    between = _LENGTH_MM / depth * rng.uniform(0.96, 1.04)
    turn = Rotation.from_euler("xyz", rng.uniform(5, 9, 3) * rng.choice((-1, 1), 3), degrees=True)
    axes = np.diag((-in_plane, in_plane, between))
    return scanner.centred(turn.as_matrix() @ axes if oblique else axes, size)


def _draw_tissues(rng: Generator) -> list[Tissue]:
    """One patient's tissues in painting order: a later one covers an earlier one."""
    body = ellipsoid((0, 0, 0), (158, 106, _ENDLESS))
    fat_mm, muscle_mm = rng.uniform(7, 16), rng.uniform(8, 12)
    cavity = body.grown(-fat_mm - muscle_mm)
    wall = [
        Tissue(body, rng.normal(-105, 4)),
        Tissue(body.grown(-fat_mm), rng.normal(52, 4)),
        Tissue(cavity, rng.normal(-95, 5)),
    ]
    return [*wall, *_chest(rng, cavity), *_skeleton(rng, cavity), *_bowel(rng), *_organs(rng, cavity)]


def _chest(rng: Generator, cavity: Solid) -> list[Tissue]:
    dome_mm = rng.uniform(82, 94)

    def below_diaphragm(points: Field) -> Field:
        x, y, z = points
        depth: Field = np.float32(dome_mm) - np.float32(0.006) * ((np.abs(x) - 62) ** 2 + y**2) - z
        return depth

    mediastinum = ellipsoid((0, -20, 0), (30, 70, _ENDLESS))
    lungs = (Solid(below_diaphragm, cavity.low, cavity.high) & cavity) - mediastinum
    heart = ellipsoid((-18, 32, 122), (50, 42, 34))
    return [Tissue(lungs, rng.normal(-840, 15)), Tissue(heart, rng.normal(130, 10))]


def _skeleton(rng: Generator, cavity: Solid) -> list[Tissue]:
    vertebra = ellipsoid((0, -58, 0), (21, 18, _ENDLESS))
    process = union(ellipsoid((0, -92, 0), (5, 14, _ENDLESS)), ellipsoid((0, -79, 0), (30, 6, _ENDLESS)))
    psoas = [tube([(side * 32, -58, -10), (side * 42, -50, -150)], (6, 22)) for side in (1, -1)]
    bone = rng.normal(420, 20)
    return [
        Tissue(union(*psoas), rng.normal(58, 4)),
        Tissue(_ribs(rng, cavity), bone + 60),
        Tissue(process, bone + 80),
        Tissue(vertebra, bone + 180),
        Tissue(vertebra.grown(-2.5), bone),
        Tissue(ellipsoid((0, -79, 0), (9, 8, _ENDLESS)), 35),
    ]


def _ribs(rng: Generator, cavity: Solid) -> Solid:
    """Rods that run in the wall from the spine down to the front, one every 25 mm."""
    every_mm, start = 25.0, rng.uniform(0, 25)

    def distance(points: Field) -> Field:
        height = points[2] + np.float32(0.35) * points[1] + np.float32(start)
        height = np.abs(height - every_mm * np.round(height / every_mm))
        rod = np.hypot(cavity.distance(points) - 5, height) - np.float32(5)
        below, front = np.float32(-25) - points[2], points[1] - np.float32(70)
        part: Field = np.maximum(rod, np.maximum(below, front))
        return part

    return Solid(distance, cavity.low - 12, cavity.high + 12)


def _bowel(rng: Generator) -> list[Tissue]:
    """Loops of gut low in the cavity, one or two of them with gas; painted first, so that organs cover them."""
    loops = []
    for _ in range(9):
        middle, radii = rng.uniform((-95, 5, -120), (95, 60, -62)), rng.uniform(12, 22, 3)
        loops.append(Tissue(ellipsoid(middle, radii, rng.uniform(0, 90, 3)), rng.normal(50, 6)))
    middle = rng.uniform((-90, 35, -115), (90, 60, -75))
    return [*loops, Tissue(ellipsoid(middle, (16, 11, 14)), -850.0)]


def _organs(rng: Generator, cavity: Solid) -> list[Tissue]:
    (right_kidney, right_bed), (left_kidney, left_bed) = _kidney(rng, +1), _kidney(rng, -1)
    fat_around, within = union(right_bed, left_bed), cavity.grown(-1)
    behind = ellipsoid((4, -78, 0), (46, 56, _ENDLESS))
    right_lobe = ellipsoid((70, 0, 14), (66, 72, 70), (0, -8, 0))
    left_lobe = ellipsoid((4, 46, 38), (64, 30, 30), (0, 10, 0))
    liver = (_varied(rng, union(right_lobe, left_lobe, blend_mm=25), 3) & within) - fat_around - behind
    spleen = (_varied(rng, ellipsoid((-106, -30, 32), (27, 40, 46), (8, 12, 0))) & within) - fat_around
    tissues = [
        Tissue(liver, rng.normal(110, 5), _LIVER),
        *_stomach(rng),
        Tissue(spleen, rng.normal(128, 5), _SPLEEN),
    ]
    tissues += [
        Tissue(_varied(rng, solid, mm), rng.normal(hu, sd), name) for name, solid, mm, hu, sd in _GLANDS
    ]
    cortex = rng.normal(182, 6)
    tissues += [Tissue(right_kidney, cortex, _RIGHT_KIDNEY), Tissue(left_kidney, cortex, _LEFT_KIDNEY)]
    tissues += [Tissue(_varied(rng, solid, mm), rng.normal(hu, sd), name) for name, solid, mm, hu, sd in _TUBES]
    return tissues


def _varied(rng: Generator, solid: Solid, shift_mm: float = 3.5) -> Solid:
    return solid.moved(rng.normal(0, shift_mm, 3).clip(-2 * shift_mm, 2 * shift_mm), rng.uniform(0.92, 1.08))


def _kidney(rng: Generator, side: int) -> tuple[Solid, Solid]:
    """A bean whose dent faces the spine, and its bed of fat; the left one (side -1) lies higher."""
    x, z = side * 64, -34 if side > 0 else -20
    bean = ellipsoid((x, -42, z), (27, 26, 52), (10, side * 8, 0))
    pelvis = ellipsoid((x - side * 26, -36, z), (15, 12, 15))
    shift, scale = rng.normal(0, 3, 3).clip(-6, 6), rng.uniform(0.92, 1.08)
    return (bean - pelvis).moved(shift, scale), bean.moved(shift, scale).grown(4)


def _stomach(rng: Generator) -> list[Tissue]:
    fundus = ellipsoid((-58, 4, 58), (37, 36, 34))
    body = ellipsoid((-54, 40, 18), (33, 28, 46), (15, 0, 0))
    antrum = tube([(-46, 50, -14), (-14, 58, -26), (16, 52, -22)], (22, 19, 13))
    whole = _varied(rng, union(fundus, body, antrum, blend_mm=22))
    lumen = whole.grown(-4)
    tissues = [Tissue(whole, rng.normal(58, 4), _STOMACH), Tissue(lumen, rng.normal(32, 5), _STOMACH)]
    if rng.random() < 0.7:
        # The patient lies on the back: gas collects in front, above a level surface.
        tissues.append(Tissue(lumen & above((0, 1, 0), float(rng.uniform(45, 60))), -880.0, _STOMACH))
    return tissues
