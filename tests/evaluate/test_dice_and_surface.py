"""Dice and surface distances against medpy, MONAI and values worked by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import from_matvec
from random_masks import border, grids, masks, surface_distances
from scipy.spatial import ConvexHull

from dsnet_med.errors import InputError
from dsnet_med.evaluate import assd, dice, hd95, nsd
from dsnet_med.evaluate.voxel_spacing import VoxelSpacing
from dsnet_med.volumes import Grid

EMPTY = np.zeros((4, 5), bool)
DOT = EMPTY.copy()
DOT[1, 2] = True


@given(masks())
@settings(max_examples=150, deadline=None)
def test_equals_medpy(case):
    from medpy.metric import binary

    reference, prediction, spacing = case
    arguments = prediction.astype(bool), reference.astype(bool), spacing
    assert hd95(reference, prediction, spacing) == pytest.approx(binary.hd95(*arguments), abs=1e-6)
    assert assd(reference, prediction, spacing) == pytest.approx(binary.assd(*arguments), abs=1e-6)
    assert dice(reference, prediction) == pytest.approx(binary.dc(*arguments[:2]), abs=1e-12)


@given(masks())
@settings(max_examples=60, deadline=None)
def test_rule_max_equals_monai(case):
    import torch
    from monai.metrics import compute_hausdorff_distance

    reference, prediction, spacing = case
    tensors = [torch.from_numpy(mask.astype(np.float32)[None, None]) for mask in (prediction, reference)]
    theirs = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=list(spacing))
    assert hd95(reference, prediction, spacing, rule="max") == pytest.approx(float(theirs), rel=1e-5)


@given(masks(), st.floats(0, 6))
@settings(max_examples=60, deadline=None)
def test_nsd_equals_its_definition_by_brute_force(case, tolerance):
    reference, prediction, spacing = case
    points = [np.argwhere(border(mask.astype(bool))) * spacing for mask in (reference, prediction)]
    between = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    nearest = np.concatenate([between.min(axis=1), between.min(axis=0)])
    near_the_edge = np.abs(nearest - tolerance).min() < 1e-8 + 2e-6 * tolerance
    if not near_the_edge:
        assert nsd(reference, prediction, spacing, tolerance) == pytest.approx((nearest <= tolerance).mean())


@given(masks())
@settings(max_examples=60, deadline=None)
def test_symmetric_zero_for_itself_and_scaling_with_the_spacing(case):
    reference, prediction, spacing = case
    for rule in ("pooled", "max"):
        forth = hd95(reference, prediction, spacing, rule)
        assert hd95(prediction, reference, spacing, rule) == pytest.approx(forth, abs=1e-9)
        doubled = tuple(2 * size for size in spacing)
        assert hd95(reference, prediction, doubled, rule) == pytest.approx(2 * forth, abs=1e-9)
        assert hd95(reference, reference, spacing, rule) == 0
    assert nsd(reference, reference, spacing, 0) == 1


def test_worked_by_hand():
    # docs/metrics.md, example 1: a 3x3 square and the same square one column on; rows 1 mm, columns 2 mm apart.
    reference, prediction = np.zeros((5, 5), bool), np.zeros((5, 5), bool)
    reference[1:4, 0:3] = prediction[1:4, 1:4] = True
    # Either border has 8 voxels: 4 lie on the other border, 1 lies 1 mm from it and 3 lie 2 mm from it.
    assert dice(reference, prediction) == 2 * 6 / (9 + 9)
    assert hd95(reference, prediction, (1, 2)) == hd95(reference, prediction, (1, 2), "max") == 2
    assert assd(reference, prediction, (1, 2)) == (2 * 1 + 6 * 2) / 16
    assert nsd(reference, prediction, (1, 2), tolerance_mm=1) == 10 / 16


def test_an_island_worked_by_hand():
    # docs/metrics.md, example 2: the square, and one voxel more in the prediction, sqrt(5) mm from it.
    reference = np.zeros((5, 5), bool)
    reference[1:4, 0:3] = True
    prediction = reference.copy()
    prediction[0, 4] = True
    # 17 distances, 16 of them 0: the 95th percentile lies 0.2 of the way to the last; of the 9 alone, 0.6.
    assert hd95(reference, prediction, (1, 1)) == pytest.approx(0.2 * math.sqrt(5))
    assert hd95(reference, prediction, (1, 1), "max") == pytest.approx(0.6 * math.sqrt(5))


def test_border_voxels_and_surface_elements_worked_by_hand():
    # docs/metrics.md, example 3: a 3x3 square and its middle voxel, where DeepMind's definition is another.
    import surface_distance

    square, middle = np.zeros((5, 5), bool), np.zeros((5, 5), bool)
    square[1:4, 1:4] = middle[2, 2] = True
    assert nsd(square, middle, (1, 1), tolerance_mm=1) == (4 + 1) / (8 + 1)
    half = math.sqrt(1 / 2)
    theirs = surface_distance.compute_surface_distances(square, middle, (1.0, 1.0))
    found = surface_distance.compute_surface_dice_at_tolerance(theirs, 1.0)
    assert found == pytest.approx((8 + 4 * half) / (8 + 4 * half + 4 * half))


@given(masks(), st.sampled_from((0.5, 1.0, 2.5)))
@settings(max_examples=60, deadline=None)
def test_nsd_equals_monai_surface_dice_of_voxels(case, tolerance):
    import torch
    from monai.metrics import compute_surface_dice

    reference, prediction, spacing = case
    tensors = [torch.from_numpy(mask.astype(np.float32)[None, None]) for mask in (prediction, reference)]
    theirs = compute_surface_dice(*tensors, [tolerance], include_background=True, spacing=list(spacing))
    points = [np.argwhere(border(mask.astype(bool))) * spacing for mask in (reference, prediction)]
    between = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    nearest = np.concatenate([between.min(axis=1), between.min(axis=0)])
    if np.abs(nearest - tolerance).min() > 1e-4:  # MONAI's distances are single precision
        assert nsd(reference, prediction, spacing, tolerance) == pytest.approx(float(theirs), abs=1e-6)


@given(masks(ndim=3), st.floats(0.1, 3))
@settings(max_examples=60, deadline=None)
def test_nsd_agrees_with_deepmind_where_the_definitions_do(case, tolerance):
    import surface_distance

    reference, prediction, spacing = case[0].astype(bool), case[1].astype(bool), case[2]

    def theirs(a, b, at):
        return surface_distance.compute_surface_dice_at_tolerance(
            surface_distance.compute_surface_distances(a, b, spacing), at
        )

    assert nsd(reference, reference, spacing, tolerance) == theirs(reference, reference, tolerance) == 1
    longest = float(np.linalg.norm(np.multiply(reference.shape, spacing))) + 1
    assert nsd(reference, prediction, spacing, longest) == theirs(reference, prediction, longest) == 1
    # Two copies, further apart than the tolerance and a voxel on either side: none within.
    gap = math.ceil((tolerance + 2 * spacing[0]) / spacing[0]) + 1
    apart = np.zeros((2 * len(reference) + gap, *reference.shape[1:]), bool)
    first, last = apart.copy(), apart.copy()
    first[: len(reference)], last[-len(reference) :] = reference, reference
    assert nsd(first, last, spacing, tolerance) == theirs(first, last, tolerance) == 0


def test_a_surface_exactly_at_the_tolerance_is_within_it():
    reference, prediction = np.zeros((1, 9), bool), np.zeros((1, 9), bool)
    reference[0, 1] = prediction[0, 4] = True
    assert 3 * 0.1 > 0.3
    assert nsd(reference, prediction, (1, 0.1), tolerance_mm=0.3) == 1
    assert nsd(reference, prediction, (1, 0.1), tolerance_mm=0.2999) == 0


@pytest.mark.parametrize("degrees", range(0, 90, 5))
def test_a_turned_grid_keeps_its_nsd(degrees):
    # Single precision, as NIfTI's headers: columns of 1 mm become 1.00000002 mm long.
    reference, prediction = np.zeros((2, 6, 6), bool)
    reference[1:5, 1:4] = prediction[1:5, 2:5] = True
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = np.array([[cos, -sin], [sin, cos]], np.float32)
    assert nsd(reference, prediction, turned, 1.0) == nsd(reference, prediction, (1, 1), 1.0) == 1


@pytest.mark.parametrize(
    ("reference", "prediction", "overlap", "distance", "near"),
    [(EMPTY, EMPTY, math.nan, math.nan, math.nan), (DOT, EMPTY, 0, math.inf, 0), (EMPTY, DOT, 0, math.inf, 0)],
)
def test_empty_masks(reference, prediction, overlap, distance, near):
    assert dice(reference, prediction) == pytest.approx(overlap, nan_ok=True)
    assert hd95(reference, prediction, (1, 1)) == pytest.approx(distance, nan_ok=True)
    assert assd(reference, prediction, (1, 1)) == pytest.approx(distance, nan_ok=True)
    assert nsd(reference, prediction, (1, 1)) == pytest.approx(near, nan_ok=True)


# The grid: a stack taken with the gantry tilted by 30 degrees, 5 mm from slice to slice.
TILTED = np.array([[-1, 0, 0], [0, 1, 5 * math.sin(math.radians(30))], [0, 0, 5 * math.cos(math.radians(30))]])


def test_a_tilted_stack_worked_by_hand():
    # A slice on and two rows back is 2.5 - 2 mm off, 4.33 mm up: sqrt(0.25 + 18.75). The step itself is 5 mm.
    points = np.zeros((2, 3, 9, 4), bool)
    points[0, 1, 5, 1] = points[1, 1, 3, 2] = True
    assert hd95(*points, TILTED) == assd(*points, TILTED) == pytest.approx(math.sqrt(19))
    assert (nsd(*points, TILTED, 4.35), nsd(*points, TILTED, 4.36)) == (0, 1)
    plates = np.zeros((2, 40, 60, 20), bool)
    plates[0, 10:30, 10:50, 8] = plates[1, 10:30, 10:50, 9] = True
    # Plates 4.33 mm apart and shifted by 2.5 mm: 2 of 40 rows lie 1.5 and 2.5 mm beyond the other's edge.
    assert hd95(*plates, TILTED) == pytest.approx(4.370, abs=5e-4)
    assert nsd(*plates, TILTED, 4.5) == 0.95
    assert hd95(*plates, np.linalg.norm(TILTED, axis=0)) == 5


@given(st.data(), st.floats(0, 6))
@settings(max_examples=150)
def test_any_grid_by_brute_force(data, tolerance):
    reference, prediction, _ = data.draw(masks())
    steps = data.draw(grids(reference.ndim))
    a, b = surface_distances(reference, prediction, steps)
    both = np.concatenate([a, b])
    # Axes almost at right angles are taken for such: a hundred-thousandth of the distance.
    near = {"rel": 1.1e-5, "abs": 1e-9}
    assert hd95(reference, prediction, steps) == pytest.approx(np.percentile(both, 95), **near)
    largest = max(np.percentile(a, 95), np.percentile(b, 95))
    assert hd95(reference, prediction, steps, "max") == pytest.approx(largest, **near)
    assert assd(reference, prediction, steps) == pytest.approx(both.mean(), **near)
    if np.abs(both - tolerance).min() > 1.1e-5 * tolerance + 1e-8:
        assert nsd(reference, prediction, steps, tolerance) == pytest.approx((both <= tolerance).mean())


@given(masks(), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_a_grid_at_right_angles_needs_only_its_spacing(case, seed):
    reference, prediction, spacing = case
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spacing),) * 2))
    turned = (turn * spacing).astype(np.float32).astype(np.float64)  # as NIfTI rounds it
    assert VoxelSpacing.of(turned, len(spacing)).sizes == tuple(np.sqrt((turned**2).sum(axis=0)))
    for measure in (hd95, assd, nsd):
        plain = measure(reference, prediction, spacing)
        assert measure(reference, prediction, np.diag(spacing)) == plain  # to the last bit
        assert measure(reference, prediction, turned) == pytest.approx(plain, rel=1e-6)


@given(grids(3), st.tuples(*(st.integers(1, 9) for _ in range(3))))
@settings(max_examples=60)
def test_the_volume_of_any_grid_is_that_of_its_hull(steps, shape):
    voxel = Grid(Path("any.nii"), shape, from_matvec(steps, (-3, 20, 7)), None).voxel_mm3
    outer_corners = np.array(list(np.ndindex(2, 2, 2))) * shape @ steps.T
    assert voxel * math.prod(shape) == pytest.approx(ConvexHull(outer_corners).volume)


@pytest.mark.parametrize("angle", [1e-6, 1e-4])
def test_rounded_directions_cost_neither_time_nor_digits(angle):
    steps = np.array([[1.0, 0, 0], [0, 1, 3 * angle], [0, 0, 3]])
    assert (VoxelSpacing.of(steps, 3).sizes is not None) == (angle < 1e-5)
    points = np.zeros((2, 2, 200, 100), bool)
    points[0, 0, 0, 0] = points[1, 1, 199, 99] = True
    place = np.linalg.norm(steps @ (1, 199, 99))
    assert hd95(*points, steps) == pytest.approx(place, rel=1e-6 if angle < 1e-5 else 1e-12)


def test_a_dense_crop_takes_the_distance_transform_and_agrees():
    from medpy.metric import binary

    rng = np.random.default_rng(0)
    reference, prediction = rng.random((2, 12, 13, 14)) < 0.6
    spacing = (2.5, 0.7, 0.9)
    assert hd95(reference, prediction, spacing) == pytest.approx(
        binary.hd95(prediction, reference, spacing), abs=1e-9
    )


@pytest.mark.parametrize(
    "bad",
    [
        *((1,), (1, 1, 1), (0, 1), (-1, 1), (math.nan, 1), (math.inf, 1), "ab", "12", 1, None),
        *(np.eye(3), np.eye(2)[:1], [[1, 0], [1]], [[1, 2], [2, 4]], [[1, 0], [0, 0]], [[1, math.nan], [0, 1]]),
        [[1e200, 0], [0, 1]],
    ],
)
def test_bad_spacing(bad):
    with pytest.raises(InputError, match="spacing_mm"):
        hd95(DOT, DOT, bad)


@pytest.mark.parametrize(
    ("reference", "prediction", "words"),
    [
        (DOT, DOT.T, "shape"),
        (DOT[0], DOT[0], "2-D or 3-D"),
        (DOT[None, None], DOT[None, None], "2-D or 3-D"),
        (DOT[:0], DOT[:0], "at least one voxel"),
        (DOT.astype(float), DOT, "wanted integers"),
        (DOT, DOT.astype(object), "wanted integers"),
        (DOT * 3, DOT, "0 and 1"),
        (DOT, -DOT.astype(np.int8), "0 or more"),
    ],
)
def test_bad_masks(reference, prediction, words):
    for measure in (dice, lambda a, b: hd95(a, b, (1,) * a.ndim)):
        with pytest.raises(InputError, match=words):
            measure(reference, prediction)


def test_unknown_rule_and_tolerance():
    with pytest.raises(InputError, match="did you mean 'pooled'"):
        hd95(DOT, DOT, (1, 1), rule="poled")
    with pytest.raises(InputError, match="tolerance"):
        nsd(DOT, DOT, (1, 1), tolerance_mm=-1)
