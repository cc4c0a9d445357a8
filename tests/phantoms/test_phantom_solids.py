"""Solids against hand-worked distances and volumes, and the painter against brute force."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dsnet_med.phantoms.scanner import Pose, Tissue, Waves, render, rician
from dsnet_med.phantoms.solids import Solid, above, ellipsoid, tube, union

SILENT = Waves(np.zeros((1, 3)), np.zeros(1, complex))
UPRIGHT = Pose(np.eye(3), np.zeros(3), (SILENT, SILENT, SILENT))


def points(*triples: tuple[float, float, float]) -> np.ndarray:
    return np.array(triples, np.float32).T[:, None, None]


def test_a_ball_has_its_exact_distance() -> None:
    ball = ellipsoid((1, 2, 3), (5, 5, 5))
    at = points((1, 2, 10), (6, 2, 3), (1, -2, 3), (1, 2, 3))
    np.testing.assert_allclose(ball.distance(at)[0, 0], [2, 0, -1, -5], atol=1e-5)


def test_an_ellipsoid_is_zero_on_its_turned_surface() -> None:
    radii, turn = np.array([10.0, 20.0, 30.0]), (20.0, -35.0, 50.0)
    rng = np.random.default_rng(0)
    unit = rng.standard_normal((200, 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    surface = Rotation.from_euler("xyz", turn, degrees=True).apply(unit * radii)
    surface += (4, -5, 6)
    np.testing.assert_allclose(
        ellipsoid((4, -5, 6), radii, turn).distance(points(*surface))[0, 0], 0, atol=1e-4
    )


def test_an_endless_axis_makes_a_cylinder() -> None:
    rod = ellipsoid((0, 0, 0), (5, 5, np.inf))
    np.testing.assert_allclose(rod.distance(points((8, 0, -400), (0, 3, 900)))[0, 0], [3, -2], atol=1e-5)


def test_a_tube_is_as_wide_as_its_radii() -> None:
    bent = tube([(0, 0, 0), (10, 0, 0), (10, 10, 0)], (2, 4, 4))
    at = points((5, 0, 7), (10, 5, 6), (-3, 0, 0), (10, 13, 0))
    np.testing.assert_allclose(bent.distance(at)[0, 0], [7 - 3, 6 - 4, 3 - 2, 3 - 4], atol=1e-5)


def test_solids_combine() -> None:
    near, far = ellipsoid((0, 0, 0), (5, 5, 5)), ellipsoid((20, 0, 0), (5, 5, 5))
    at = points((2, 0, 0), (20, 0, 0), (10, 0, 0))
    np.testing.assert_allclose(union(near, far).distance(at)[0, 0], [-3, -5, 5], atol=1e-5)
    np.testing.assert_allclose(union(near, far, blend_mm=8).distance(at)[0, 0][2], 5 - 8 / 4, atol=1e-5)
    np.testing.assert_allclose((near & above((1, 0, 0), 1)).distance(at)[0, 0][0], -1, atol=1e-5)
    np.testing.assert_allclose((near - near.grown(-1)).distance(at)[0, 0][0], 2, atol=1e-5)
    np.testing.assert_allclose(near.moved((20, 0, 0), 2.0).distance(at)[0, 0][1:], [-10, 0], atol=1e-5)


def grid(spacing: tuple[float, float, float], shape: tuple[int, int, int], turn: Rotation) -> np.ndarray:
    """An affine (i, j, k) -> mm centred on the origin; `shape` is (D, H, W)."""
    affine = np.eye(4)
    affine[:3, :3] = turn.as_matrix() @ np.diag(spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2)
    return affine


@settings(max_examples=25, deadline=None)
@given(
    radius=st.floats(9, 24),
    spacing=st.tuples(st.floats(1, 3), st.floats(1, 3), st.floats(1, 8)),
    degrees=st.tuples(*[st.floats(-40, 40)] * 3),
)
@example(radius=9.0, spacing=(1.0, 3.0, 3.0), degrees=(0.0, 0.0, 0.0))
def test_partial_volume_keeps_a_balls_volume(
    radius: float, spacing: tuple[float, float, float], degrees: tuple[float, float, float]
) -> None:
    shape = tuple(int(2 * radius / size * 2) + 9 for size in reversed(spacing))
    affine = grid(spacing, shape, Rotation.from_euler("xyz", degrees, degrees=True))
    ball = Tissue(ellipsoid((1, 0, -1), (radius, radius, radius)), 1.0, 7)
    image, labels = render([ball], UPRIGHT, affine, (*shape[1:], shape[0]), 0.0)
    true = 4 / 3 * np.pi * radius**3
    voxel = float(np.prod(spacing))
    # Over a box of edges e, sum(e^2) / (12 r^2) of the volume lies between a ball and the flat surface that the
    # painter takes it for, on average; a lattice that meets it in few places may see three times that.
    curved = sum((edge / radius) ** 2 for edge in spacing) / 4
    assert image.sum() * voxel == pytest.approx(true, rel=0.01 + curved)
    assert set(np.unique(labels)) <= {0, 7}
    np.testing.assert_array_equal(labels == 7, image > 0.5)


def test_the_painter_looks_everywhere_it_must() -> None:
    affine = grid((1.0, 1.0, 4.0), (9, 120, 150), Rotation.identity())
    everything = ellipsoid((-30, 22, 3), (31, 8, 9), (10, 20, 40))
    boundless = Solid(everything.distance, np.full(3, -np.inf), np.full(3, np.inf))
    cut = [
        render([Tissue(solid, 50.0, 3)], UPRIGHT, affine, (120, 150, 9), -10.0)
        for solid in (everything, boundless)
    ]
    np.testing.assert_array_equal(cut[0][0], cut[1][0])
    np.testing.assert_array_equal(cut[0][1], cut[1][1])
    assert (cut[0][1] == 3).any()


def test_slabs_leave_no_seam() -> None:
    affine = grid((2.0, 2.0, 5.0), (12, 40, 44), Rotation.from_euler("x", 8, degrees=True))
    rng = np.random.default_rng(1)
    warp = tuple(Waves.draw(rng, 3.0, 60, 200) for _ in range(3))
    pose = Pose(np.eye(3) * 1.1, np.array([2.0, 0.0, 1.0]), warp)
    solids = [
        Tissue(ellipsoid((0, 0, 0), (30, 25, 22)), 100.0, 1),
        Tissue(ellipsoid((9, 0, 0), (9, 9, 9)), 5.0, 2),
    ]
    whole = render(solids, pose, affine, (40, 44, 12), 0.0)
    sliced = render(solids, pose, affine, (40, 44, 12), 0.0, slab_voxels=40 * 44 * 3)
    np.testing.assert_allclose(whole[0], sliced[0], atol=1e-2)
    np.testing.assert_array_equal(whole[1], sliced[1])


def test_waves_are_the_sum_of_plane_waves_on_an_oblique_grid() -> None:
    rng = np.random.default_rng(2)
    waves = Waves.draw(rng, 4.0, 50, 300)
    affine = grid((1.0, 2.0, 5.0), (6, 7, 8), Rotation.from_euler("xyz", (10, 20, 30), degrees=True))
    k, j, i = np.meshgrid(*(np.arange(n) for n in (6, 7, 8)), indexing="ij")
    place = np.stack([i, j, k], -1) @ affine[:3, :3].T + affine[:3, 3]
    wanted = (waves.weights * np.exp(1j * place @ waves.vectors.T)).real.sum(-1)
    np.testing.assert_allclose(waves.on(affine, (0, 0, 0), (6, 7, 8)), wanted, atol=1e-4)
    part = waves.on(affine, (2, 1, 3), (3, 2, 4))
    np.testing.assert_allclose(part, wanted[2:5, 1:3, 3:7], atol=1e-4)


def test_waves_have_the_root_mean_square_asked_for() -> None:
    wide = np.diag([40.0, 40.0, 40.0, 1.0])
    fields = [
        Waves.draw(np.random.default_rng(n), 2.5, 60, 90).on(wide, (0, 0, 0), (20, 20, 20)) for n in range(6)
    ]
    assert np.sqrt(np.mean(np.square(fields))) == pytest.approx(2.5, rel=0.1)


def test_rician_noise_has_its_known_moments() -> None:
    rng = np.random.default_rng(3)
    dark = rician(rng, np.zeros((40, 60, 60), np.float32), 9.0)
    assert dark.mean() == pytest.approx(9 * np.sqrt(np.pi / 2), rel=0.01)
    bright = rician(rng, np.full((40, 60, 60), 500, np.float32), 9.0)
    assert bright.std() == pytest.approx(9, rel=0.02)
