"""A prediction on another grid: an error that names both files, or brought over, as asked."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from dsnet_med.errors import InputError
from dsnet_med.evaluate.pairing import pair_folders
from dsnet_med.evaluate.resample import onto_grid
from dsnet_med.evaluate.score_folders import evaluate_pairs
from dsnet_med.evaluate.summary import summarise
from dsnet_med.volumes import Volume, read_labels

NAMES = {1: "organ", 2: "speck"}
AFFINE = np.array([[1.0, 0, 0, -7], [0, 1.5, 0, 4], [0, 0, 3.0, 11], [0, 0, 0, 1]])


def write(path, voxels, affine):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.uint8), affine), path)
    return path


@pytest.fixture
def reference(tmp_path):
    voxels = np.zeros((12, 10, 6), np.uint8)
    voxels[2:7, 3:8, 1:4], voxels[10, 2, 4] = 1, 2
    return read_labels(write(tmp_path / "reference.nii.gz", voxels, AFFINE))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "PIL", "ASL"])
def test_another_axis_order_comes_back_voxel_for_voxel(tmp_path, reference, codes):
    turn = ornt_transform(io_orientation(AFFINE), axcodes2ornt(codes))
    reference.voxels[...] = np.random.default_rng(0).integers(1, 9, reference.shape)  # up to every face
    voxels = apply_orientation(reference.voxels, turn)
    affine = AFFINE @ inv_ornt_aff(turn, reference.shape)
    other = read_labels(write(tmp_path / "other.nii.gz", voxels, affine))
    back, words = onto_grid(other, reference)
    assert np.array_equal(back.voxels, reference.voxels)
    assert np.array_equal(back.affine, reference.affine)
    assert words.startswith("resampled from")


def test_every_voxel_doubled_comes_back(tmp_path, reference):
    fine = np.repeat(np.repeat(reference.voxels, 2, axis=0), 3, axis=2)
    scale = np.diag((0.5, 1, 1 / 3, 1))
    scale[:3, 3] = -0.25, 0, -1 / 3
    other = read_labels(write(tmp_path / "fine.nii.gz", fine, AFFINE @ scale))
    back, words = onto_grid(other, reference)
    assert np.array_equal(back.voxels, reference.voxels)
    assert words == (
        "resampled from 24 x 10 x 18 voxels of 0.5 x 1.5 x 1 mm in RAS to 12 x 10 x 6 voxels of 1 x 1.5 x 3 mm "
        "in RAS, first voxels 1.03 mm and middles 0 mm apart"
    )


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_nearest_by_brute_force(seed):
    """Any two grids, with the label up to every face of the volume."""
    rng = np.random.default_rng(seed)
    grids = []
    for _ in range(2):
        turn = Rotation.from_rotvec(rng.normal(0, 0.4, 3)).as_matrix() if seed % 2 else np.eye(3)
        affine = np.eye(4)
        affine[:3, :3] = turn * rng.choice([0.5, 1.0, 2.0, 3.0], 3) * rng.choice([-1, 1], 3)
        shape = rng.integers(1, 7, 3)
        # About one middle, so that the volumes meet; half of them with faces that coincide.
        affine[:3, 3] = -affine[:3, :3] @ (shape - 1) / 2 + (0 if seed % 3 else rng.normal(0, 0.3, 3))
        grids.append((shape, affine))
    (shape, affine), (like_shape, like_affine) = grids
    voxels = rng.integers(1, 9, shape).astype(np.uint8)
    path = Path("x.nii")
    volume = Volume(path, tuple(shape), affine, None, voxels)
    like = Volume(path, tuple(like_shape), like_affine, None, np.zeros(like_shape, np.uint8))
    wanted, known = np.zeros(like_shape, np.uint8), np.ones(like_shape, bool)
    for index in np.ndindex(*like_shape):
        place = np.linalg.solve(affine, like_affine @ [*index, 1])[:3]
        candidates = {tuple(np.floor(place + 0.5 + shift).astype(int)) for shift in (-1e-6, 1e-6)}
        within = [all(0 <= n < size for n, size in zip(c, shape, strict=True)) for c in candidates]
        known[index] = np.abs(np.modf(place + 0.5)[0]).min() > 1e-5 or all(within)
        if np.abs(np.mod(place + 0.5, 1) - 0.5).max() > 0.5 - 1e-5:  # between two voxels: either is nearest
            known[index] = False
        elif within[0]:
            wanted[index] = voxels[next(iter(candidates))]
    if not wanted.any():
        return
    found = onto_grid(volume, like, drop_outside=True)[0].voxels
    assert np.array_equal(found[known], wanted[known])


def test_one_thick_slice_and_the_outer_half_voxels_are_kept(tmp_path):
    # 4 mm wide at 2 mm, and the same 4 mm at 1 mm: every fine voxel lies in a coarse one.
    coarse = read_labels(write(tmp_path / "coarse.nii.gz", np.ones((2, 2, 1)), np.diag((2.0, 2, 5, 1))))
    affine = np.diag((1.0, 1, 1, 1))
    affine[:3, 3] = -0.5, -0.5, -2
    fine = read_labels(write(tmp_path / "fine.nii.gz", np.zeros((4, 4, 5)), affine))
    assert onto_grid(coarse, fine)[0].voxels.all()


def test_outside_is_background_and_nowhere_is_an_error(tmp_path, reference):
    moved = AFFINE.copy()
    moved[0, 3] += 6
    other = read_labels(write(tmp_path / "moved.nii.gz", np.ones((12, 10, 6)), moved))
    with pytest.raises(InputError, match="360 of its 720 labelled voxels lie outside") as refused:
        onto_grid(other, reference)
    assert "first voxels 6 mm and middles 6 mm apart" in str(refused.value)
    back, words = onto_grid(other, reference, drop_outside=True)
    assert "360 of its 720 labelled voxels" in words
    assert (back.voxels[:6] == 0).all()
    assert (back.voxels[6:] == 1).all()
    moved[0, 3] += 500
    far = read_labels(write(tmp_path / "far.nii.gz", np.ones((12, 10, 6)), moved))
    with pytest.raises(InputError, match=r"far\.nii\.gz and .*reference\.nii\.gz lie in different places"):
        onto_grid(far, reference)


def test_through_folders_it_has_to_be_asked_for_and_is_said(tmp_path, reference):
    coarse = AFFINE @ np.diag((1, 1, 2, 1))
    write(tmp_path / "r" / "case.nii.gz", reference.voxels, AFFINE)
    write(tmp_path / "p" / "case.nii.gz", reference.voxels[:, :, ::2], coarse)
    pairs = pair_folders(tmp_path / "p", tmp_path / "r")[0]
    (refused,) = evaluate_pairs(pairs, NAMES)
    assert "--resample" in refused.error
    assert str(tmp_path / "p" / "case.nii.gz") in refused.error
    assert str(tmp_path / "r" / "case.nii.gz") in refused.error
    (score,) = evaluate_pairs(pairs, NAMES, resample=True)
    assert score.error is None
    assert 0.5 < score.records()[0].dice < 1
    assert summarise([score], NAMES)["resampled"] == {"case": score.resampled}
    itself = pair_folders(tmp_path / "r", tmp_path / "r")[0]
    (same,) = evaluate_pairs(itself, NAMES, resample=True)
    assert same.resampled == ""
