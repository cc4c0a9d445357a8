"""Slice order: exact round trips, and the same anatomy in the same slices however it is stored."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dsnet_med.geometry import (
    SliceOrder,
    corner_distance,
    corner_voxels,
    cut_across,
    is_sheared,
    right_angled,
    same_grid,
    spacing_mm,
)

STORAGE = [(axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]  # all 48
angles = st.floats(-180, 180)
spacings = st.floats(0.3, 8)


def anatomy(shape=(4, 5, 6), spacing=(1.5, 2.0, 5.0)):
    """A volume whose voxels all differ, stored RAS, with its affine."""
    voxels = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-31.0, 17.0, 250.0)
    return voxels, affine


def restored(voxels, affine, axes, signs):
    """The same anatomy with its array axes exchanged and reversed, and the affine that keeps it in place."""
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for new, (old, sign) in enumerate(zip(axes, signs, strict=True)):
        step[old, new] = sign
        step[old, 3] = 0 if sign > 0 else voxels.shape[old] - 1
    flips = tuple(slice(None, None, sign) for sign in signs)
    return np.transpose(voxels, axes)[flips], affine @ step


def positions(order, shape, affine):
    """The place in RAS+ millimetres of every slice voxel (D, H, W, 3), from the affine alone."""
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    place = np.einsum("ij,jxyz->ixyz", affine[:3, :3], indices) + affine[:3, 3, None, None, None]
    return np.stack([order.to_slices(component) for component in place], axis=-1)


def test_a_hand_worked_case():
    # Stored LPS with the z axis first: index 0 runs to superior, 1 to the left, 2 to posterior.
    affine = np.array([[0, -2.0, 0, 0], [0, 0, -1.0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
    order = SliceOrder.of(affine)
    assert order == SliceOrder((0, 2, 1), (False, False, False))
    assert order.spacing_mm(affine) == (3.0, 1.0, 2.0)
    # The same patient stored RAS: every slice index but k runs against its axis.
    assert SliceOrder.of(np.diag([2.0, 1, 3, 1])) == SliceOrder((2, 1, 0), (False, True, True))


@pytest.mark.parametrize("slice_axis", ["superior", "coarsest"])
@pytest.mark.parametrize("spacing", [(1.5, 2.0, 5.0), (1.5, 5.0, 2.0), (5.0, 1.5, 2.0), (2.0, 2.0, 2.0)])
def test_one_anatomy_gives_one_stack_of_slices_in_all_48_storage_orders(spacing, slice_axis):
    voxels, affine = anatomy(spacing=spacing)
    order = SliceOrder.of(affine, slice_axis)
    wanted, wanted_place = order.to_slices(voxels), positions(order, voxels.shape, affine)
    for axes, signs in STORAGE:
        other, other_affine = restored(voxels, affine, axes, signs)
        found = SliceOrder.of(other_affine, slice_axis)
        np.testing.assert_array_equal(found.to_slices(other), wanted)
        np.testing.assert_allclose(positions(found, other.shape, other_affine), wanted_place, atol=1e-9)
        assert found.spacing_mm(other_affine) == pytest.approx(order.spacing_mm(affine))


@given(
    rotation=st.tuples(angles, angles, angles),
    spacing=st.tuples(spacings, spacings, spacings),
    storage=st.sampled_from(STORAGE),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    slice_axis=st.sampled_from(["superior", "coarsest"]),
)
def test_the_way_back_is_exact_for_any_grid(rotation, spacing, storage, shape, slice_axis):
    voxels, affine = anatomy(shape, spacing)
    affine[:3, :3] = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix() @ affine[:3, :3]
    volume, grid = restored(voxels, affine, *storage)
    order = SliceOrder.of(grid, slice_axis)
    slices = order.to_slices(volume)
    np.testing.assert_array_equal(order.to_volume(slices), volume)
    assert sorted(order.axes) == [0, 1, 2]
    assert np.shares_memory(slices, volume)
    place = positions(order, volume.shape, grid)
    for axis, step in enumerate(order.spacing_mm(grid)):
        if slices.shape[axis] > 1:
            gaps = np.linalg.norm(np.diff(place, axis=axis), axis=-1)
            np.testing.assert_allclose(gaps, step, rtol=1e-6)


@given(rotation=st.tuples(angles, angles, angles), storage=st.sampled_from(STORAGE))
def test_slices_run_to_superior_rows_to_posterior_columns_to_the_left(rotation, storage):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix()
    voxels, grid = restored(np.zeros((2, 2, 2)), affine, *storage)
    place = positions(SliceOrder.of(grid), voxels.shape, grid)
    along = place[1, 0, 0] - place[0, 0, 0], place[0, 1, 0] - place[0, 0, 0], place[0, 0, 1] - place[0, 0, 0]
    # An axis may be all but perpendicular to the one it stands for, never opposite to it.
    assert along[0][2] > -1e-9
    assert along[1][1] < 1e-9
    assert along[2][0] < 1e-9


@pytest.mark.parametrize("rotation", [(0, 0, 0), (12, -17, 9), (-25, 5, 20)])
def test_superior_slices_are_those_of_simpleitk(tmp_path, rotation):
    """ITK's own reorientation to LPS gives the same array: z to superior, y to posterior, x to the left."""
    voxels, affine = anatomy()
    affine[:3, :3] = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix() @ affine[:3, :3]
    for axes, signs in STORAGE:
        volume, grid = restored(voxels, affine, axes, signs)
        nib.save(nib.Nifti1Image(volume, grid), tmp_path / "volume.nii")
        oriented = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "volume.nii")), "LPS")
        order = SliceOrder.of(grid)
        np.testing.assert_array_equal(order.to_slices(volume), sitk.GetArrayFromImage(oriented))
        assert order.spacing_mm(grid) == pytest.approx(oriented.GetSpacing()[::-1], rel=1e-5)
        # One voxel off every axis' start, its place by ITK (LPS millimetres) and by us (RAS).
        by_itk = np.array(oriented.TransformIndexToPhysicalPoint((3, 2, 1))) * (-1, -1, 1)
        np.testing.assert_allclose(positions(order, volume.shape, grid)[1, 2, 3], by_itk, atol=1e-3)


@pytest.mark.parametrize(
    ("spacing", "stack"),
    [((1, 1, 8), 2), ((1, 8, 1), 1), ((8, 1, 1), 0), ((1, 1.1, 1), 2), ((1.3, 1, 1), 0), ((8, 8, 1), 2)],
)
def test_coarsest_stacks_along_the_clearly_coarsest_axis_else_along_superior(spacing, stack):
    assert SliceOrder.of(np.diag([*spacing, 1.0]), "coarsest").axes[0] == stack


def test_coarsest_finds_the_short_axis_stack_of_an_oblique_heart():
    """A short-axis plane tilted by 50 degrees: the stack runs along the array's third axis wherever it is."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("zy", (40, 50), degrees=True).as_matrix() @ np.diag([1.4, 1.4, 8.0])
    order = SliceOrder.of(affine, "coarsest")
    assert order.axes[0] == 2
    assert order.spacing_mm(affine) == pytest.approx((8.0, 1.4, 1.4))


def test_real_short_axis_stacks_are_sliced_in_their_own_plane(volumes):
    for path in sorted((volumes / "cardiac_sunnybrook/nifti").glob("*.nii.gz")):
        image = nib.load(path)
        order = SliceOrder.of(image.affine, "coarsest")
        assert order.axes[0] == int(np.argmax(image.header.get_zooms()[:3])), path.name
        assert order.spacing_mm(image.affine)[0] > 2 * order.spacing_mm(image.affine)[1], path.name


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize(
    ("spacing", "words"),
    [
        ((5.0, 0.8, 0.7), "sagittal slices lie 5 mm apart and have pixels of 0.8 mm"),
        ((0.8, 3.0, 0.7), "coronal slices lie 3 mm apart"),
        ((0.8, 0.8, 5.0), None),
        ((1.5, 0.8, 1.0), None),  # cut across too, and no harm
        ((1.0, 1.0, 1.0), None),
    ],
)
def test_thick_slices_that_are_cut_across_are_noted(spacing, words, storage):
    voxels, affine = anatomy(spacing=spacing)
    _, affine = restored(voxels, affine, *storage)
    note = cut_across(affine)
    assert (note is None) if words is None else (note is not None and words in note)
    assert cut_across(affine, "coarsest") is None


def test_spacing_is_the_length_of_each_affine_column():
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("z", 30, degrees=True).as_matrix() @ np.diag([0.7, 0.9, 5.0])
    assert spacing_mm(affine) == pytest.approx((0.7, 0.9, 5.0))


def test_grids_are_the_same_within_a_hundredth_of_a_voxel_at_every_corner():
    affine, turned = np.eye(4), np.eye(4)
    turned[0, 1] = 1.005e-4  # 0.00995 mm at the far corner of 100 voxels, 0.01005 mm at that of 101
    assert same_grid((100, 100, 10), affine, (100, 100, 10), turned)
    assert not same_grid((101, 101, 10), affine, (101, 101, 10), turned)
    assert not same_grid((9, 9, 9), affine, (9, 9, 8), affine)


def test_rounding_is_measured_in_voxels_along_each_axis():
    """0.013 mm of 0.7 mm are no rounding, of 5 mm they are; nor are 0.5 micrometres of 30."""
    affine, moved = np.diag([0.7, 0.7, 5.0, 1.0]), np.diag([0.7, 0.7, 5.0, 1.0])
    moved[2, 3] = 0.013
    assert same_grid((9, 9, 9), affine, (9, 9, 9), moved)
    moved[0, 3], moved[2, 3] = 0.013, 0
    assert not same_grid((9, 9, 9), affine, (9, 9, 9), moved)
    assert same_grid((9, 9, 9), affine, (9, 9, 9), moved, tolerance_mm=0.02)
    moved[0, 3] = 1e-4
    assert same_grid((9, 9, 9), affine, (9, 9, 9), moved)
    small = np.diag([0.03, 0.03, 0.03, 1.0])
    moved = small.copy()
    moved[0, 3] = 5e-4
    assert not same_grid((9, 9, 9), small, (9, 9, 9), moved)


def test_how_far_apart_two_grids_lie():
    affine = np.diag([2.0, 1.0, 4.0, 1.0])
    mirrored = np.diag([-2.0, 1.0, 4.0, 1.0])
    assert corner_distance((11, 5, 5), affine, mirrored) == 40
    assert corner_voxels((11, 5, 5), affine, mirrored) == 20
    moved = affine.copy()
    moved[:2, 3] = 3, 4
    assert corner_distance((3, 3, 3), affine, moved) == 5
    assert corner_voxels((3, 3, 3), affine, moved) == 4


@given(rotation=st.tuples(angles, angles, angles), spacing=st.tuples(spacings, spacings, spacings))
def test_right_angles_stay_and_are_not_sheared(rotation, spacing):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 0] *= -1
    np.testing.assert_allclose(right_angled(affine), affine, atol=1e-9)
    assert not is_sheared((512, 512, 300), affine)


@pytest.mark.parametrize(
    ("degrees", "sheared"), [(0, False), (1e-4, False), (0.5, True), (-15, True), (30, True)]
)
def test_a_tilted_gantry_shears(degrees, sheared):
    lean = np.deg2rad(degrees)
    affine = np.diag([0.7, 0.7, 5.0, 1.0])
    affine[1:3, 2] = 5 * np.sin(lean), 5 * np.cos(lean)
    assert is_sheared((512, 512, 30), affine) == sheared
    square = right_angled(affine)[:3, :3] / spacing_mm(affine)
    np.testing.assert_allclose(square.T @ square, np.eye(3), atol=1e-9)
