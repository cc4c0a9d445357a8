"""A synthetic upper abdomen: solids in body millimetres (x right, y anterior, z superior; origin mid-body).

Sizes are a normal adult's, with the smallest structures somewhat enlarged so that coarse grids still hold
them. Intensities are Hounsfield units of a portal-venous CT. Labels are those of the BTCV challenge.
"""

import numpy as np

from dsnet_med.phantoms.scan import Generator, Pose, Waves
from dsnet_med.phantoms.shapes import (
    Field,
    Shape,
    Tissue,
    above,
    ellipsoid,
    grown,
    inside,
    moved,
    outside,
    tube,
    union,
)

AIR_HU = -1000.0
LENGTH_MM = 230.0

_SPLEEN, _RIGHT_KIDNEY, _LEFT_KIDNEY, _GALLBLADDER, _ESOPHAGUS, _LIVER, _STOMACH = range(1, 8)
_AORTA, _VENA_CAVA, _PORTAL_VEIN, _PANCREAS, _RIGHT_ADRENAL, _LEFT_ADRENAL = range(8, 14)
_ENDLESS = np.inf


def draw_pose(rng: Generator) -> Pose:
    """One patient: size within about 6 %, turned by some degrees, shifted, and smoothly deformed."""
    tilt = np.radians(rng.normal(0, 2.5, 3).clip(-5, 5))
    turn = np.eye(3) + np.cross(np.eye(3), tilt)
    scale = rng.uniform(0.94, 1.05) * rng.uniform(0.97, 1.03, 3)
    warp = tuple(Waves.draw(rng, rms, 110, 320) for rms in (2.5, 2.5, 3.0))
    return Pose(turn * scale, rng.normal(0, 4, 3).clip(-8, 8), (warp[0], warp[1], warp[2]))


def draw_tissues(rng: Generator) -> list[Tissue]:
    """One patient's tissues in painting order: a later one covers an earlier one."""
    body = ellipsoid((0, 0, 0), (158, 106, _ENDLESS))
    fat_mm, muscle_mm = rng.uniform(7, 16), rng.uniform(8, 12)
    cavity = grown(body, -fat_mm - muscle_mm)
    wall = [
        Tissue(body, rng.normal(-105, 4)),
        Tissue(grown(body, -fat_mm), rng.normal(52, 4)),
        Tissue(cavity, rng.normal(-95, 5)),
    ]
    return [*wall, *_chest(rng, cavity), *_skeleton(rng, cavity), *_bowel(rng), *_organs(rng, cavity)]


def _chest(rng: Generator, cavity: Shape) -> list[Tissue]:
    dome_mm = rng.uniform(82, 94)

    def below_diaphragm(points: Field) -> Field:
        x, y, z = points
        depth: Field = np.float32(dome_mm) - np.float32(0.006) * ((np.abs(x) - 62) ** 2 + y**2) - z
        return depth

    top = Shape(below_diaphragm, cavity.low, cavity.high)
    mediastinum = ellipsoid((0, -20, 0), (30, 70, _ENDLESS))
    lungs = outside(inside(top, cavity), mediastinum)
    heart = ellipsoid((-18, 32, 122), (50, 42, 34))
    return [Tissue(lungs, rng.normal(-840, 15)), Tissue(heart, rng.normal(130, 10))]


def _skeleton(rng: Generator, cavity: Shape) -> list[Tissue]:
    vertebra = ellipsoid((0, -58, 0), (21, 18, _ENDLESS))
    process = union(ellipsoid((0, -92, 0), (5, 14, _ENDLESS)), ellipsoid((0, -79, 0), (30, 6, _ENDLESS)))
    psoas = [tube([(side * 32, -58, -10), (side * 42, -50, -150)], (6, 22)) for side in (1, -1)]
    bone = rng.normal(420, 20)
    return [
        Tissue(union(*psoas), rng.normal(58, 4)),
        Tissue(_ribs(rng, cavity), bone + 60),
        Tissue(process, bone + 80),
        Tissue(vertebra, bone + 180),
        Tissue(grown(vertebra, -2.5), bone),
        Tissue(ellipsoid((0, -79, 0), (9, 8, _ENDLESS)), 35),
    ]


def _ribs(rng: Generator, cavity: Shape) -> Shape:
    """Rods that run in the wall from the spine down to the front, one every 25 mm."""
    every_mm, start = 25.0, rng.uniform(0, 25)

    def distance(points: Field) -> Field:
        height = points[2] + np.float32(0.35) * points[1] + np.float32(start)
        height = np.abs(height - every_mm * np.round(height / every_mm))
        rod = np.hypot(cavity.distance(points) - 5, height) - np.float32(5)
        below = np.float32(-25) - points[2]
        front = points[1] - np.float32(70)
        part: Field = np.maximum(rod, np.maximum(below, front))
        return part

    return Shape(distance, cavity.low - 12, cavity.high + 12)


def _bowel(rng: Generator) -> list[Tissue]:
    """Loops of gut low in the cavity, one or two of them with gas; painted first, so that organs cover them."""
    loops = []
    for _ in range(9):
        middle = rng.uniform((-95, 5, -120), (95, 60, -62))
        radii = rng.uniform(12, 22, 3)
        loops.append(Tissue(ellipsoid(middle, radii, rng.uniform(0, 90, 3)), rng.normal(50, 6)))
    middle = rng.uniform((-90, 35, -115), (90, 60, -75))
    return [*loops, Tissue(ellipsoid(middle, (16, 11, 14)), -850.0)]


def _organs(rng: Generator, cavity: Shape) -> list[Tissue]:
    (right_kidney, right_bed), (left_kidney, left_bed) = _kidney(rng, +1), _kidney(rng, -1)
    fat_around = union(right_bed, left_bed)
    behind = ellipsoid((4, -78, 0), (46, 56, _ENDLESS))
    liver = outside(outside(inside(_liver(rng), grown(cavity, -1)), fat_around), behind)
    spleen = ellipsoid((-106, -30, 32), (27, 40, 46), (8, 12, 0))
    spleen = outside(inside(_varied(rng, spleen), grown(cavity, -1)), fat_around)
    soft = [
        Tissue(liver, rng.normal(110, 5), _LIVER),
        *_stomach(rng),
        Tissue(spleen, rng.normal(128, 5), _SPLEEN),
        Tissue(_varied(rng, _gallbladder()), rng.normal(6, 3), _GALLBLADDER),
        Tissue(_varied(rng, _pancreas()), rng.normal(88, 4), _PANCREAS),
        Tissue(_varied(rng, ellipsoid((33, -40, 30), (8, 12, 18)), 2), rng.normal(72, 4), _RIGHT_ADRENAL),
        Tissue(_varied(rng, ellipsoid((-34, -36, 32), (8, 12, 18)), 2), rng.normal(72, 4), _LEFT_ADRENAL),
    ]
    cortex = rng.normal(182, 6)
    kidneys = [Tissue(right_kidney, cortex, _RIGHT_KIDNEY), Tissue(left_kidney, cortex, _LEFT_KIDNEY)]
    return [*soft, *kidneys, *_vessels(rng)]


def _varied(rng: Generator, shape: Shape, shift_mm: float = 3.5) -> Shape:
    return moved(shape, rng.normal(0, shift_mm, 3).clip(-2 * shift_mm, 2 * shift_mm), rng.uniform(0.92, 1.08))


def _liver(rng: Generator) -> Shape:
    right = ellipsoid((70, 0, 14), (66, 72, 70), (0, -8, 0))
    left = ellipsoid((4, 46, 38), (64, 30, 30), (0, 10, 0))
    return _varied(rng, union(right, left, blend_mm=25), 3)


def _kidney(rng: Generator, side: int) -> tuple[Shape, Shape]:
    """A bean whose dent faces the spine, and its bed of fat; the left one (side -1) lies higher."""
    x, z = side * 64, -34 if side > 0 else -20
    bean = ellipsoid((x, -42, z), (27, 26, 52), (10, side * 8, 0))
    pelvis = ellipsoid((x - side * 26, -36, z), (15, 12, 15))
    shift, scale = rng.normal(0, 3, 3).clip(-6, 6), rng.uniform(0.92, 1.08)
    return moved(outside(bean, pelvis), shift, scale), grown(moved(bean, shift, scale), 4)


def _gallbladder() -> Shape:
    return ellipsoid((57, 48, -40), (20, 22, 28), (25, 10, 0))


def _stomach(rng: Generator) -> list[Tissue]:
    fundus = ellipsoid((-58, 4, 58), (37, 36, 34))
    body = ellipsoid((-54, 40, 18), (33, 28, 46), (15, 0, 0))
    antrum = tube([(-46, 50, -14), (-14, 58, -26), (16, 52, -22)], (22, 19, 13))
    whole = _varied(rng, union(fundus, body, antrum, blend_mm=22))
    lumen = grown(whole, -4)
    tissues = [Tissue(whole, rng.normal(58, 4), _STOMACH), Tissue(lumen, rng.normal(32, 5), _STOMACH)]
    if rng.random() < 0.7:
        # The patient lies on the back: gas collects in front, above a level surface.
        gas = inside(lumen, above((0, 1, 0), float(rng.uniform(45, 60))))
        tissues.append(Tissue(gas, -880.0, _STOMACH))
    return tissues


def _pancreas() -> Shape:
    return tube([(31, 16, -30), (20, 24, -12), (-6, 24, -4), (-34, 14, 2), (-66, -6, 12)], (18, 15, 14, 15, 12))


def _vessels(rng: Generator) -> list[Tissue]:
    esophagus = tube([(2, 0, 150), (-4, 2, 92), (-24, 6, 62)], (10, 10, 9))
    aorta = tube([(-14, -26, 150), (-9, -24, 0), (-6, -22, -150)], (15, 14, 13.5))
    cava = tube([(25, -22, -150), (23, -18, 0), (24, -8, 70), (20, 0, 100)], (12.5, 13, 13, 12))
    splenic = tube([(-74, -22, 22), (-36, -8, 8), (10, 6, 0)], (7.5, 8, 8.5))
    portal = tube([(10, 6, -22), (10, 6, 0), (34, 8, 22), (48, 8, 28)], (8.5, 9, 9, 8))
    return [
        Tissue(_varied(rng, esophagus, 2), rng.normal(60, 4), _ESOPHAGUS),
        Tissue(_varied(rng, cava, 1.5), rng.normal(150, 6), _VENA_CAVA),
        Tissue(_varied(rng, union(splenic, portal), 1.5), rng.normal(172, 6), _PORTAL_VEIN),
        Tissue(_varied(rng, aorta, 1.5), rng.normal(250, 12), _AORTA),
    ]
