"""Masks lie in their input's own grid, whatever its orientation."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy.spatial.transform import Rotation
from torch import nn

from dsnet_med.engine.inferers import SliceFitInferer
from dsnet_med.engine.predict import Predictor, choose_device, find_inputs, segment_files
from dsnet_med.errors import InputError
from dsnet_med.prepare.intensity import Intensity


def _predictor(slice_axis: str = "superior", batch_size: int = 4, mirror: bool = False) -> Predictor:
    # A kernel without symmetry: a slice that arrives mirrored or turned would give another mask.
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 4, 5, padding=2)).eval()
    return Predictor(
        network=network,
        inferer=SliceFitInferer((32, 32), "resize"),
        intensity=Intensity.from_dict({"zscore": [0.5, 99.5]}),
        slice_axis=slice_axis,  # type: ignore[arg-type]
        class_names=("background", "a", "b", "c"),
        device=torch.device("cpu"),
        batch_size=batch_size,
        mirror=mirror,
    )


def _volume() -> tuple[np.ndarray, np.ndarray]:
    """Smooth noise (28, 22, 12) and a RAS affine with three different spacings."""
    noise = np.random.default_rng(1).normal(size=(28, 22, 12)).astype(np.float32)
    return np.cumsum(noise, axis=0), np.array([[0.8, 0, 0, -9], [0, 0.9, 0, 4], [0, 0, 3.0, 7], [0, 0, 0, 1.0]])


def _stored_as(codes: str, voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    change = ornt_transform(nib.io_orientation(affine), axcodes2ornt(tuple(codes)))
    stored = nib.apply_orientation(voxels, change)
    return stored, affine @ inv_ornt_aff(change, voxels.shape), change


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "RPI", "PIR", "SAL", "AIL"])
@pytest.mark.parametrize("slice_axis", ["superior", "coarsest"])
def test_one_anatomy_one_mask_in_every_orientation(codes: str, slice_axis: str) -> None:
    voxels, affine = _volume()
    predictor = _predictor(slice_axis)
    wanted = predictor.predict(voxels, affine)
    assert len(np.unique(wanted)) >= 3
    stored, stored_affine, change = _stored_as(codes, voxels, affine)
    assert nib.aff2axcodes(stored_affine) == tuple(codes)
    np.testing.assert_array_equal(
        predictor.predict(stored, stored_affine), nib.apply_orientation(wanted, change)
    )


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=3, max_size=3), st.sampled_from(["LPS", "RAS", "SAL"]))
def test_oblique_grids(angles: list[float], codes: str) -> None:
    voxels, affine = _volume()
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    predictor = _predictor()
    stored, stored_affine, change = _stored_as(codes, voxels, affine)
    oblique = predictor.predict(stored, turn @ stored_affine)
    np.testing.assert_array_equal(oblique, nib.apply_orientation(predictor.predict(voxels, affine), change))


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_batch_size_does_not_matter(batch_size: int) -> None:
    voxels, affine = _volume()
    agreement = _predictor(batch_size=batch_size).predict(voxels, affine) == _predictor().predict(
        voxels, affine
    )
    assert agreement.mean() >= 0.9999


def test_mirror_average_is_equivariant() -> None:
    voxels, affine = _volume()
    predictor = _predictor(mirror=True)
    mirrored = predictor.predict(voxels[::-1], affine)
    assert (mirrored == predictor.predict(voxels, affine)[::-1]).mean() > 0.999


def test_files_keep_their_grid(tmp_path: Path) -> None:
    voxels, affine = _volume()
    affine[:3, :3] = Rotation.from_euler("xyz", [11, -7, 5], degrees=True).as_matrix() @ affine[:3, :3]
    image = nib.Nifti1Image((voxels * 10).astype(np.int16), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 2)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "a.nii.gz")
    results = list(segment_files(_predictor(), [tmp_path / "a.nii.gz"], tmp_path / "out"))
    assert [result.error for result in results] == [None]
    mask = nib.load(tmp_path / "out" / "a.nii.gz")
    assert mask.shape == image.shape
    np.testing.assert_array_equal(mask.affine, nib.load(tmp_path / "a.nii.gz").affine)
    for field in ("sform_code", "qform_code", "pixdim", "xyzt_units"):
        np.testing.assert_array_equal(mask.header[field], nib.load(tmp_path / "a.nii.gz").header[field])
    assert mask.get_data_dtype() == np.uint8


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    voxels, affine = _volume()
    for name in ("a", "c"):
        nib.save(nib.Nifti1Image(voxels, affine), tmp_path / f"{name}.nii.gz")
    (tmp_path / "b.nii.gz").write_text("not a volume")
    results = {r.case: r.error for r in segment_files(_predictor(), find_inputs([tmp_path]), tmp_path / "out")}
    assert results["a"] is None
    assert results["c"] is None
    assert "b.nii.gz" in str(results["b"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "c.nii.gz", "labels.json"]


def test_inputs_are_never_overwritten(tmp_path: Path) -> None:
    voxels, affine = _volume()
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="overwritten"):
        list(segment_files(_predictor(), [tmp_path / "a.nii.gz"], tmp_path))


def test_inputs_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        find_inputs([tmp_path / "x.nii"])
    with pytest.raises(InputError, match=r"holds no \.nii"):
        find_inputs([tmp_path])
    (tmp_path / "a.nii").touch()
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(InputError, match="two inputs are called 'a'"):
        find_inputs([tmp_path])


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(InputError, match="did you mean 'cuda'"):
        choose_device("cud")


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        Predictor.from_run(tmp_path)
