"""Masks lie in their input's own grid, whatever its orientation, form and batch size."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy.spatial.transform import Rotation
from torch import nn
from torch.nn.functional import interpolate

import dsnet_med
from dsnet_med.errors import InputError
from dsnet_med.geometry import SliceOrder
from dsnet_med.inference import Predictor
from dsnet_med.inference.hardware import choose_device, choose_precision
from dsnet_med.inference.images import as_volume


def _stored_as(codes: str, voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    change = ornt_transform(nib.io_orientation(affine), axcodes2ornt(tuple(codes)))
    stored = nib.apply_orientation(voxels, change)
    return stored, affine @ inv_ornt_aff(change, voxels.shape), change


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "RPI", "PIR", "SAL", "AIL"])
@pytest.mark.parametrize("slice_axis", ["superior", "coarsest"])
def test_one_anatomy_one_mask_in_every_orientation(codes: str, slice_axis: str) -> None:
    voxels, affine = tiny.volume()
    predictor = tiny.predictor(slice_axis=slice_axis)
    wanted = predictor.predict(voxels, affine).voxels
    assert len(np.unique(wanted)) >= 3
    stored, stored_affine, change = _stored_as(codes, voxels, affine)
    assert nib.aff2axcodes(stored_affine) == tuple(codes)
    np.testing.assert_array_equal(
        predictor.predict(stored, stored_affine), nib.apply_orientation(wanted, change)
    )


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=3, max_size=3), st.sampled_from(["LPS", "RAS", "SAL"]))
def test_oblique_grids(angles: list[float], codes: str) -> None:
    voxels, affine = tiny.volume()
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    predictor = tiny.predictor()
    stored, stored_affine, change = _stored_as(codes, voxels, affine)
    oblique = predictor.predict(stored, turn @ stored_affine)
    np.testing.assert_array_equal(
        oblique, nib.apply_orientation(predictor.predict(voxels, affine).voxels, change)
    )


def _plainly(predictor: Predictor, voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The mask by MONAI's function or torch's, and an argmax over the logits of the whole volume."""
    order = SliceOrder.of(affine, predictor.slice_axis)
    slices = order.to_slices(voxels)
    one = predictor.models[0]
    image = torch.from_numpy(np.ascontiguousarray(one.intensities[0].fit(slices).apply(slices)))[:, None]
    with torch.inference_mode():
        if one.fit == "window":
            logits = sliding_window_inference(image, one.size, 1, one.network, 0.5, "gaussian", 0.125)
        else:
            small = interpolate(image, one.size, mode="bilinear", align_corners=False)
            logits = interpolate(one.network(small), image.shape[2:], mode="bilinear", align_corners=False)
    return order.to_volume(logits.argmax(1).numpy().astype(np.uint16))


@pytest.mark.parametrize("fit", ["resize", "window"])
def test_the_same_as_whole_logits_and_an_argmax(fit: str) -> None:
    voxels, affine = tiny.volume()
    predictor = tiny.predictor(tiny.model(fit=fit))
    assert (predictor.predict(voxels, affine).voxels == _plainly(predictor, voxels, affine)).mean() >= 0.9999


@pytest.mark.parametrize("batch_size", [1, 5, 64])
@pytest.mark.parametrize("mirror", [False, True])
def test_the_batch_size_does_not_matter(batch_size: int, mirror: bool) -> None:
    voxels, affine = tiny.volume()
    got = tiny.predictor(batch_size=batch_size, mirror=mirror).predict(voxels, affine)
    assert (got.voxels == tiny.predictor(mirror=mirror).predict(voxels, affine).voxels).mean() >= 0.9999


def test_mirror_average_is_equivariant() -> None:
    voxels, affine = tiny.volume()
    predictor = tiny.predictor(mirror=True)
    mirrored = predictor.predict(voxels[::-1], affine).voxels
    assert (mirrored == predictor.predict(voxels, affine).voxels[::-1]).mean() > 0.999


def test_an_ensemble_averages_probabilities() -> None:
    voxels, affine = tiny.volume()
    single = [tiny.predictor(tiny.model(seed)).predict(voxels, affine, probabilities=True) for seed in (3, 4)]
    both = tiny.predictor(tiny.model(3), tiny.model(4)).predict(voxels, affine, probabilities=True)
    assert both.probabilities is not None
    wanted = np.mean([np.asarray(one.probabilities, np.float64) for one in single], axis=0)
    np.testing.assert_allclose(both.probabilities, wanted, atol=2e-3)
    clear = np.sort(wanted, axis=0)[-1] - np.sort(wanted, axis=0)[-2] > 0.01
    np.testing.assert_array_equal(both.voxels[clear], wanted.argmax(0)[clear])
    assert (single[0].voxels != both.voxels).any()


def test_probabilities_are_those_of_the_mask() -> None:
    voxels, affine = tiny.volume()
    mask = tiny.predictor().predict(voxels, affine, probabilities=True)
    assert mask.probabilities is not None
    assert mask.probabilities.shape == (4, *voxels.shape)
    np.testing.assert_allclose(mask.probabilities.astype(np.float64).sum(0), 1, atol=4e-3)
    assert (mask.probabilities.argmax(0) == mask.voxels).mean() > 0.999
    np.testing.assert_array_equal(mask.voxels, tiny.predictor().predict(voxels, affine).voxels)


def test_every_form_of_an_image_gives_the_same_mask(tmp_path: Path) -> None:
    voxels, affine = tiny.volume()
    predictor = tiny.predictor()
    wanted = predictor.predict(voxels, affine)
    image = nib.Nifti1Image(voxels, affine)
    nib.save(image, tmp_path / "a.nii.gz")
    itk = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    sitk.WriteImage(itk, str(tmp_path / "a.nrrd"))
    sitk.WriteImage(itk, str(tmp_path / "a.mha"))
    for form in (image, itk, tmp_path / "a.nii.gz", str(tmp_path / "a.nrrd"), tmp_path / "a.mha"):
        mask = predictor.predict(form)
        np.testing.assert_array_equal(mask, wanted)
        np.testing.assert_allclose(mask.affine, affine, atol=1e-5)
    assert wanted.shape == voxels.shape
    assert np.unique(wanted).tolist() == np.unique(wanted.voxels).tolist()


def test_a_mask_is_saved_on_its_grid(tmp_path: Path) -> None:
    voxels, affine = tiny.volume()
    mask = tiny.predictor().predict(voxels, affine)
    mask.save(tmp_path / "mask.nii.gz")
    saved = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(saved.dataobj), mask.voxels)
    np.testing.assert_allclose(saved.affine, affine, atol=1e-5)
    assert saved.get_data_dtype() == np.uint8


@pytest.mark.parametrize("name", ["m.nrrd", "m.mha", "m.dcm", "m", "m.hdr", "m.nii.bz2"])
def test_a_mask_is_saved_under_a_name_of_nifti_alone(name: str, tmp_path: Path) -> None:
    mask = tiny.predictor().predict(*tiny.volume())
    with pytest.raises(InputError, match=r"m.*written as NIfTI; give it a name that ends in .nii or .nii.gz"):
        mask.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_mask_replaces_nobody_s_file_unasked(tmp_path: Path) -> None:
    (image,) = tiny.write_images(tmp_path, "a")
    content = image.read_bytes()
    mask = tiny.predictor().predict(image)
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    (tmp_path / "folder.nii").mkdir()
    for name in (image.name, "link.nii.gz", "folder.nii"):
        with pytest.raises(InputError, match=r"is there already; choose another name, or .* overwrite=True"):
            mask.save(tmp_path / name)
    assert image.read_bytes() == content
    assert (tmp_path / "link.nii.gz").is_symlink()
    for _ in range(2):  # its own file may be made again
        mask.save(str(tmp_path / "mask.nii.gz"))
    mask.save(image, overwrite=True)
    assert image.read_bytes() == (tmp_path / "mask.nii.gz").read_bytes()
    with pytest.raises(InputError, match="cannot write"):
        mask.save(tmp_path / "folder.nii", overwrite=True)


def test_more_classes_than_a_byte_holds() -> None:
    voxels, affine = tiny.volume()
    names = tuple(f"class{k}" for k in range(300))
    predictor = tiny.predictor(tiny.model(net=tiny.network(classes=300)), class_names=names)
    mask = predictor.predict(voxels, affine)
    assert mask.voxels.dtype == np.uint16
    assert mask.voxels.max() > 255
    np.testing.assert_array_equal(mask.voxels, _plainly(predictor, voxels, affine))


class _NotANumber(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x), 4, *x.shape[2:]), float("nan"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda v, a: tiny.predictor().predict(v), "an array and its affine"),
        (lambda v, a: tiny.predictor().predict(v[..., None], a), "wanted one volume"),
        (lambda v, a: tiny.predictor().predict(v * np.nan, a), "finite"),
        (lambda v, a: tiny.predictor().predict(v, np.zeros((4, 4))), "singular"),
        (lambda v, a: tiny.predictor().predict(v, np.eye(3)), r"wanted \(4, 4\)"),
        (lambda v, a: tiny.predictor(tiny.model(net=_NotANumber())).predict(v, a), "not finite"),
        (lambda v, a: Predictor.from_run(), "got no run"),
    ],
)
def test_what_cannot_be_segmented_is_said(given, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        given(*tiny.volume())


def test_devices_and_precisions() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(InputError, match="did you mean 'cuda"):
        choose_device("cud")
    with pytest.raises(InputError, match="cuda"):
        choose_device("cuda:99")
    with pytest.raises(InputError, match="did you mean 'float32'"):
        choose_precision("float3", torch.device("cpu"))
    numbers, notice = choose_precision("bfloat16", torch.device("cpu"))
    assert (numbers == torch.bfloat16) == (notice is None)


def test_the_package_offers_it() -> None:
    assert dsnet_med.Predictor is Predictor


def test_arguments_that_do_not_apply(tmp_path: Path) -> None:
    voxels, affine = tiny.volume()
    path = tiny.write_images(tmp_path, "a")[0]
    for arguments in (
        {"image": voxels, "affine": affine, "series": "99"},
        {"image": path, "affine": affine},
        {"image": nib.load(path), "affine": affine},
        {"image": str(path), "affine": affine},
        {"image": sitk.ReadImage(str(path)), "affine": affine},
        {"image": nib.MGHImage(voxels, affine), "affine": affine},
        {"image": MetaTensor(voxels, affine=affine), "affine": affine},
        {"image": tiny.predictor().predict(voxels, affine), "affine": affine},
        {"image": np.stack([voxels, voxels], 3), "affine": affine, "volume_index": 2},
        {"image": path, "volume_index": 1},
        {"image": voxels, "affine": affine, "volume_index": 1},
        {"image": nib.load(path), "volume_index": 1},
        {"image": nib.MGHImage(voxels, affine), "volume_index": 1},
        {"image": sitk.ReadImage(str(path)), "volume_index": 1},
        {"image": nib.load(path), "series": "3"},
        {"image": sitk.ReadImage(str(path)), "series": "3"},
    ):
        with pytest.raises(InputError):
            tiny.predictor().predict(**arguments)
    both = np.stack([voxels, voxels[::-1]], 3)
    np.testing.assert_array_equal(
        tiny.predictor().predict(both, affine, volume_index=1), tiny.predictor().predict(voxels[::-1], affine)
    )
    mgh = nib.MGHImage(voxels, affine)
    np.testing.assert_array_equal(tiny.predictor().predict(mgh), tiny.predictor().predict(voxels, affine))
    np.testing.assert_array_equal(
        tiny.predictor().predict(MetaTensor(voxels, affine=affine)), tiny.predictor().predict(voxels, affine)
    )


def test_a_mask_of_one_volume_keeps_that_volume_alone(tmp_path: Path) -> None:
    voxels, affine = tiny.volume()
    many = np.stack([voxels] * 40, 3)
    nib.save(nib.Nifti1Image(many, affine), tmp_path / "a.nii.gz")
    itk = sitk.GetImageFromArray(many.T, isVector=False)
    sitk.WriteImage(itk, str(tmp_path / "a.nrrd"))
    forms = (tmp_path / "a.nii.gz", nib.load(tmp_path / "a.nii.gz"), nib.Nifti1Image(many, affine), many)
    for form in (*forms, nib.MGHImage(many, affine), tmp_path / "a.nrrd", itk):
        kept = as_volume(form, affine if form is many else None, 17, None).voxels
        np.testing.assert_array_equal(kept, voxels)
        while getattr(kept, "base", None) is not None:
            kept = kept.base
        assert memoryview(kept).nbytes <= voxels.nbytes


def test_what_an_image_in_memory_leaves_open_is_noted(tmp_path: Path) -> None:
    voxels, affine = tiny.volume()
    analyze = nib.Spm2AnalyzeImage(voxels, affine)
    assert "left from right" in " ".join(tiny.predictor().predict(analyze).notes)
    image = sitk.GetImageFromArray(voxels)
    image.SetMetaData("ITK_VoxelUnits", "um")
    with pytest.raises(InputError, match="counts in 'um', wanted millimetres"):
        tiny.predictor().predict(image)


def test_threads_may_share_one() -> None:
    predictor = tiny.predictor()
    volumes = [tiny.volume(seed) for seed in range(6)]
    wanted = [predictor.predict(*each).voxels for each in volumes]
    with ThreadPoolExecutor(6) as pool:
        for got, right in zip(pool.map(lambda each: predictor.predict(*each), volumes), wanted, strict=True):
            np.testing.assert_array_equal(got, right)


@pytest.mark.parametrize(
    ("spacing", "slice_axis", "noted"),
    [
        ((5, 0.8, 0.8), "superior", True),
        ((0.8, 5, 0.8), "superior", True),
        ((0.8, 0.8, 5), "superior", False),
        ((5, 0.8, 0.8), "coarsest", False),
    ],
)
def test_thick_slices_that_are_cut_across_are_noted(
    spacing: tuple[float, ...], slice_axis: str, noted: bool
) -> None:
    mask = tiny.predictor(slice_axis=slice_axis).predict(tiny.volume()[0], np.diag((*spacing, 1.0)))
    assert any("cuts across them" in note for note in mask.notes) == noted
