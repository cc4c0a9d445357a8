"""A synthetic heart in short-axis coordinates, in millimetres, at end-diastole and end-systole.

x points from the left ventricle to the right one (the patient's right and front), y to the upper edge of a
short-axis picture (front, left and up), z along the long axis from apex to base. Intensities are arbitrary
units of a balanced steady-state cine MR: blood and fat are bright, muscle is grey, lung is dark.
"""

from dataclasses import dataclass

import numpy as np

from dsnet_med.phantoms.scan import Generator, Pose, Waves
from dsnet_med.phantoms.shapes import Shape, Tissue, above, ellipsoid, grown, inside, outside, tube

LENGTH_MM = 92.0
_RIGHT_VENTRICLE, _MYOCARDIUM, _LEFT_VENTRICLE = 1, 2, 3
_BASE_MM, _ENDLESS = 40.0, np.inf

# Group of the ACDC challenge: inner radius and wall of the left ventricle at end-diastole in mm, the share
# by which the inner radius falls until end-systole, and the right ventricle's reach beyond the wall in mm.
_GROUPS = {
    "NOR": (23.0, 9.0, 0.34, 30.0),
    "DCM": (30.0, 8.0, 0.10, 30.0),
    "HCM": (20.0, 14.0, 0.42, 28.0),
    "MINF": (26.0, 8.5, 0.15, 30.0),
    "RV": (22.0, 9.0, 0.28, 39.0),
}
GROUPS = tuple(_GROUPS)


@dataclass(frozen=True)
class Heart:
    """One patient's heart at end-diastole, and how far it contracts."""

    cavity_mm: float
    wall_mm: float
    shortening: float
    right_mm: float
    right_turn_degrees: float


def draw_heart(rng: Generator, group: str) -> Heart:
    """A heart of the challenge's `group`, with some 5 % of variation."""
    cavity, wall, shortening, right = (value * rng.uniform(0.95, 1.05) for value in _GROUPS[group])
    return Heart(cavity, wall, shortening, right, rng.uniform(-12, 12))


def draw_pose(rng: Generator) -> Pose:
    """Where the heart lies in the field of view, and the deformation of the whole chest."""
    shift = rng.uniform((-8, -8, -3), (8, 8, 3))
    warp = tuple(Waves.draw(rng, rms, 90, 250) for rms in (1.6, 1.6, 1.0))
    return Pose(np.eye(3) * rng.uniform(0.95, 1.05), shift, (warp[0], warp[1], warp[2]))


def draw_signals(rng: Generator) -> dict[str, float]:
    """The signal of each tissue, in one unit per patient."""
    typical = {"air": 4, "lung": 22, "muscle": 95, "fat": 330, "liver": 120, "blood": 255, "heart": 88}
    return {name: value * rng.uniform(0.95, 1.05) for name, value in typical.items()}


def tissues_of(heart: Heart, contraction: float, signal: dict[str, float]) -> list[Tissue]:
    """The chest with the heart at `contraction` 0 (end-diastole) to 1 (end-systole), in painting order."""
    cavity, epicardium, right = _ventricles(heart, contraction)
    return [
        *_chest(signal),
        Tissue(grown(ellipsoid((12, 0, 5), (68, 52, 62)), 2), signal["fat"] * 0.5),
        # The right ventricle's own wall is too thin to be labelled.
        Tissue(outside(grown(right, 3), epicardium), signal["heart"]),
        Tissue(right, signal["blood"], _RIGHT_VENTRICLE),
        Tissue(epicardium, signal["heart"], _MYOCARDIUM),
        Tissue(cavity, signal["blood"], _LEFT_VENTRICLE),
        *_papillary_muscles(heart, contraction, signal),
    ]


def _ventricles(heart: Heart, contraction: float) -> tuple[Shape, Shape, Shape]:
    """The left cavity, all within the epicardium, and the right cavity: a crescent around the septum."""
    radius = heart.cavity_mm * (1 - heart.shortening * contraction)
    # The wall keeps its volume when it contracts: its cross-section (outer^2 - inner^2) stays.
    outer = float(np.sqrt((heart.cavity_mm + heart.wall_mm) ** 2 - heart.cavity_mm**2 + radius**2))
    long_axis = 84.0 * (1 - 0.10 * contraction)
    below_base = above((0, 0, -1), -_BASE_MM)
    middle = (0, 0, _BASE_MM - 6)
    cavity = inside(ellipsoid(middle, (radius, radius, long_axis - 10)), below_base)
    epicardium = inside(ellipsoid(middle, (outer, outer, long_axis)), below_base)
    reach = heart.right_mm * (1 - 0.25 * contraction)
    turn = (0, 0, heart.right_turn_degrees)
    ball = ellipsoid((outer * 0.45, 2, _BASE_MM - 4), (outer * 0.55 + reach, outer * 1.05 + 5, 66), turn)
    septum_side = above((1, 0, 0), -outer * 0.1)
    right = outside(inside(inside(ball, below_base), septum_side), grown(epicardium, 0.5))
    return cavity, epicardium, right


def _papillary_muscles(heart: Heart, contraction: float, signal: dict[str, float]) -> list[Tissue]:
    """Two thin muscles in the left cavity, which experts count as cavity."""
    radius = heart.cavity_mm * (1 - heart.shortening * contraction) * 0.62
    places = ((-0.75, 0.65), (-0.35, -0.9))
    muscles = [
        tube([(radius * x, radius * y, -8), (radius * x, radius * y, 16)], (2.6, 2.0)) for x, y in places
    ]
    return [Tissue(muscle, signal["heart"] * 1.3, _LEFT_VENTRICLE) for muscle in muscles]


def _chest(signal: dict[str, float]) -> list[Tissue]:
    body = ellipsoid((-10, -45, 0), (165, 120, _ENDLESS))
    lungs = [
        ellipsoid((-92, -40, 10), (58, 72, 150)),
        ellipsoid((82, -62, 30), (52, 60, 150)),
    ]
    return [
        Tissue(body, signal["fat"]),
        Tissue(grown(body, -13), signal["muscle"]),
        *(Tissue(lung, signal["lung"]) for lung in lungs),
        Tissue(ellipsoid((58, -62, -72), (75, 60, 48)), signal["liver"]),
        Tissue(tube([(-42, -105, -150), (-40, -100, 150)], (11, 11)), signal["blood"] * 0.95),
        Tissue(tube([(5, -128, -150), (5, -128, 150)], (17, 17)), signal["muscle"] * 1.25),
    ]
