"""Masks of sheared grids on orthogonal ones: where every voxel goes, by physical positions."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from dsnet_med.evaluate.pairing import listed_files
from dsnet_med.geometry import is_sheared
from dsnet_med.inference.outputs import Outputs
from dsnet_med.inference.regrid import regridded
from dsnet_med.inference.segment import segment_cases
from dsnet_med.inference.sources import find_sources
from dsnet_med.volumes import Grid, write_labels


def tilted(degrees: float, step: float = 5.0) -> np.ndarray:
    """Slices that lean towards y, 0.7 x 0.7 mm."""
    affine = np.diag([-0.7, -0.7, step, 1.0])
    affine[:3, 2] = 0, step * np.sin(np.radians(degrees)), step * np.cos(np.radians(degrees))
    affine[:3, 3] = 3, -8, 11
    return affine


def test_by_hand() -> None:
    """Each slice is one voxel further along y: the grid grows by that, and nothing else changes."""
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:3, 2] = 0, 1, 2
    ids = np.arange(1, 2 * 3 * 3 + 1, dtype=np.uint8).reshape(2, 3, 3)
    found, placed = regridded(ids, affine)
    assert found.shape == (2, 5, 3)
    np.testing.assert_allclose(placed, np.diag([1.0, 1.0, 2.0, 1.0]), atol=1e-12)
    for k in range(3):
        np.testing.assert_array_equal(found[:, k : k + 3, k], ids[:, :, k])
    assert np.count_nonzero(found) == ids.size


@given(
    seed=st.integers(0, 2**32 - 1),
    shear=st.tuples(*[st.floats(-1.5, 1.5)] * 3),
    sizes=st.tuples(*[st.floats(0.4, 6)] * 3),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
)
@settings(max_examples=60, deadline=None)
def test_every_voxel_is_that_of_its_place(seed, shear, sizes, flips) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    upper = np.eye(3)
    upper[0, 1], upper[0, 2], upper[1, 2] = shear
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(np.multiply(sizes, flips)) @ upper
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    ids = rng.integers(1, 5, (4, 5, 3)).astype(np.uint8)
    found, placed = regridded(ids, affine)
    assert not is_sheared(found.shape, placed)
    np.testing.assert_allclose(np.linalg.norm(placed[:3, 0]), sizes[0])
    assert np.linalg.det(placed[:3, :3]) == pytest.approx(np.linalg.det(affine[:3, :3]))
    at = (
        np.linalg.inv(affine)
        @ placed
        @ np.vstack([np.indices(found.shape).reshape(3, -1), np.ones(found.size)])
    )
    inside = ((at[:3] > -0.499) & (at[:3] < np.array(ids.shape)[:, None] - 0.501)).all(axis=0)
    sure = (np.abs(at[:3] - np.rint(at[:3])) < 0.49).all(axis=0)
    i, j, k = np.rint(at[:3]).astype(int)
    use = inside & sure
    np.testing.assert_array_equal(found.ravel()[use], ids[i[use], j[use], k[use]])
    outside = ((at[:3] < -0.51) | (at[:3] > np.array(ids.shape)[:, None] - 0.49)).any(axis=0)
    assert not found.ravel()[outside].any()
    # the grid covers every voxel, and a smaller one would not
    corners = (
        np.linalg.inv(placed) @ affine @ np.vstack([np.indices(ids.shape).reshape(3, -1), np.ones(ids.size)])
    )
    assert (corners[:3].min(axis=1) > -1e-5).all()
    assert (corners[:3].min(axis=1) < 1).all()
    assert (np.array(found.shape) - 1 - corners[:3].max(axis=1) < 1).all()


def test_a_straight_grid_stays() -> None:
    ids = np.random.default_rng(0).integers(0, 5, (5, 6, 7)).astype(np.uint16)
    affine = np.diag([-0.8, 0.9, -3, 1.0])
    found, placed = regridded(ids, affine)
    np.testing.assert_array_equal(found, ids)
    np.testing.assert_allclose(placed, affine, atol=1e-12)


@pytest.mark.parametrize(("degrees", "noted"), [(0.0, False), (0.05, False), (15.0, True)])
def test_itk_opens_what_regrid_writes(degrees, noted, tmp_path) -> None:  # type: ignore[no-untyped-def]
    voxels, _ = tiny.volume()
    nib.save(nib.Nifti1Image(voxels, tilted(degrees)), tmp_path / "a.nii.gz")
    [done] = segment_cases(
        tiny.predictor(), find_sources([tmp_path / "a.nii.gz"]), tmp_path / "m", Outputs(regrid=True)
    )
    assert done.error is None
    assert any("--regrid" in note and "ITK programs" in note for note in done.notes) == noted
    mask, moved = (nib.load(tmp_path / "m" / f"a{form}.nii.gz") for form in ("", ".regridded"))
    np.testing.assert_allclose(mask.affine, tilted(degrees), atol=1e-5)
    ids = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "m" / "a.regridded.nii.gz"))
    np.testing.assert_array_equal(ids.T, np.asarray(moved.dataobj))
    assert ids.size >= np.asarray(mask.dataobj).size
    if noted:
        write_labels(
            tmp_path / "plain.nii", np.asarray(mask.dataobj), Grid(tmp_path, mask.shape, mask.affine, None)
        )
        with pytest.raises(RuntimeError, match="orthonormal"):
            sitk.ReadImage(tmp_path / "plain.nii")
    again = list(
        segment_cases(
            tiny.predictor(), find_sources([tmp_path / "a.nii.gz"]), tmp_path / "m", Outputs(regrid=True)
        )
    )
    assert again[0].kept


def test_evaluate_passes_over_the_second_form(tmp_path: Path) -> None:
    voxels, _ = tiny.volume()
    nib.save(nib.Nifti1Image(voxels, tilted(15)), tmp_path / "a.nii.gz")
    sources = find_sources([tmp_path / "a.nii.gz"])
    list(segment_cases(tiny.predictor(), sources, tmp_path / "m", Outputs(regrid=True)))
    assert [path.name for path in listed_files(tmp_path / "m")] == ["a.nii.gz"]
