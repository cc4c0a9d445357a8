"""Volumes of several channels through 2-D and 3-D networks at their spacing, masks on the input's grid."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tiny
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from dsnet_med.errors import InputError
from dsnet_med.geometry import SliceOrder
from dsnet_med.inference import Predictor
from dsnet_med.inference.outputs import Outputs
from dsnet_med.inference.segment import segment_cases
from dsnet_med.inference.slice_model import SliceModel
from dsnet_med.inference.sources import find_sources
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.regions import parse
from dsnet_med.volumes import Volume

WINDOW = Intensity.from_dict({"window": [0, 1]})
REGIONS = parse({"whole": {"of": [1, 2, 3], "value": 2}, "core": {"of": [1, 3], "value": 1}, "inner": [3]})
CHANNELS = ("t1", "flair")


def _convolution(dims: int, channels: int, outputs: int, seed: int = 3) -> nn.Module:
    """Kernels without symmetry: a volume that arrives mirrored or turned would give another mask."""
    torch.manual_seed(seed)
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    layers = [conv(channels, 6, 3, padding=1), nn.ReLU(), conv(6, outputs, 3, padding=1)]
    return nn.Sequential(*layers).eval().requires_grad_(False)


def _predictor(*networks: nn.Module, size: tuple[int, ...] = (8, 16, 16), channels: int = 2, **changes: Any):
    networks = networks or (_convolution(len(size), channels, 4),)
    models = [SliceModel(network, size, "window", (WINDOW,) * channels, channels) for network in networks]
    return tiny.predictor(*models, channel_names=CHANNELS[:channels], **changes)


def _image(shape=(22, 18, 14), channels=2, seed=0) -> tuple[list[np.ndarray], np.ndarray]:
    noise = np.random.default_rng(seed).normal(size=(channels, *shape)).cumsum(axis=1).cumsum(axis=2)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    return list(noise.astype(np.float32)), np.diag((-0.9, 0.8, 2.0, 1.0))


def _slices(image, affine) -> tuple[SliceOrder, torch.Tensor]:
    order = SliceOrder.of(affine)
    return order, torch.from_numpy(np.stack([order.to_slices(each) for each in image]))


@pytest.mark.parametrize("channels", [1, 2])
def test_a_3d_network_gives_monais_windows_and_the_largest(channels):
    image, affine = _image(channels=channels)
    predictor = _predictor(channels=channels)
    order, volume = _slices(image, affine)
    network = predictor.models[0].network
    logits = sliding_window_inference(volume[None], (8, 16, 16), 1, network, 0.5, "gaussian", 0.125)
    expected = order.to_volume(torch.as_tensor(logits)[0].argmax(0).numpy())
    mask = predictor.predict(image if channels > 1 else image[0], affine, probabilities=True)
    assert (mask.voxels == expected).mean() >= 0.9999 and len(np.unique(expected)) >= 3
    probabilities = torch.as_tensor(logits)[0].softmax(0).numpy()
    found = np.stack([order.to_slices(each) for each in mask.probabilities])
    np.testing.assert_allclose(found, probabilities, atol=2e-3)


def test_a_2d_network_sees_all_channels():
    image, affine = _image()
    order, volume = _slices(image, affine)
    predictor = _predictor(size=(18, 22))
    expected = predictor.models[0].network(volume.transpose(0, 1)).argmax(1).numpy()
    np.testing.assert_array_equal(predictor.predict(image, affine), order.to_volume(expected))
    swapped = predictor.predict(image[::-1], affine)
    assert (np.asarray(swapped) != order.to_volume(expected)).any()


@pytest.mark.parametrize("size", [(18, 22), (8, 16, 16)])
def test_regions_are_decided_each_and_written_in_order(size):
    image, affine = _image()
    order, volume = _slices(image, affine)
    predictor = _predictor(_convolution(len(size), 2, 3), size=size, regions=REGIONS)
    mask = predictor.predict(image, affine, probabilities=True)
    network = predictor.models[0].network
    if len(size) == 2:
        logits = network(volume.transpose(0, 1)).transpose(0, 1)
    else:
        logits = torch.as_tensor(sliding_window_inference(volume[None], size, 1, network, 0.5, "gaussian"))[0]
    expected = np.zeros(volume.shape[1:], np.uint8)
    for value, logit in zip((2, 1, 3), logits, strict=True):
        expected[logit.numpy() > 0] = value
    assert (mask.voxels == order.to_volume(expected)).mean() >= 0.9999
    assert mask.output_names == ("whole", "core", "inner") and len(mask.probabilities) == 3
    np.testing.assert_allclose(order.to_slices(mask.probabilities[1]), logits[1].sigmoid(), atol=2e-3)


class _Mean(nn.Module):
    """Class 1 where the image is brighter than a half: a network that needs no training."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = images[:, :1] - 0.5
        return torch.cat([-bright, bright], 1)


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def _ellipsoid(shape, affine, radii=(42.0, 30.0, 36.0)) -> np.ndarray:
    """How deep every voxel lies in an ellipsoid in the middle of the volume: a half on its surface."""
    places = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    depth = 1 - np.linalg.norm((places - middle) / radii, axis=-1)
    return np.clip(0.5 + 3 * depth, 0, 1).astype(np.float32)


def _oblique(affine: np.ndarray) -> np.ndarray:
    c, s = np.cos(0.3), np.sin(0.3)
    turned = np.array([[c, -s, 0, 5], [s, c, 0, -7], [0, 0, 1, 3], [0, 0, 0, 1.0]])
    return turned @ affine


GRIDS = {
    "as it is": ((96, 80, 48), np.diag((1.2, 1.1, 2.0, 1.0)), (1.5, 1.5, 1.5)),
    "finer": ((64, 50, 40), np.diag((1.8, 1.8, 2.5, 1.0)), (1.2, 1.2, 1.2)),
    "flipped": ((96, 80, 48), np.diag((-1.2, -1.1, -2.0, 1.0)), (1.5, 1.5, 1.5)),
    "oblique": ((96, 80, 48), _oblique(np.diag((1.2, -1.1, 2.0, 1.0))), (1.5, 1.4, 1.6)),
    "axes exchanged": ((48, 96, 80), np.diag((2.0, 1.2, 1.1, 1.0))[:, [1, 2, 0, 3]], (1.5, 1.5, 1.5)),
    "thick slices": ((100, 90, 20), np.diag((1.0, 1.0, 5.0, 1.0)), (5.0, 1.4, 1.4)),
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("size", [(40, 64, 64), (64, 64)], ids=["3d", "2d"])
def test_a_shape_comes_back_to_the_voxel(name, size):
    shape, affine, spacing = GRIDS[name]
    image = _ellipsoid(shape, affine)
    predictor = _predictor(
        _Mean(), size=size, channels=1, spacing_mm=spacing, class_names=("background", "a"), batch_size=None
    )
    mask = np.asarray(predictor.predict(image, affine)).astype(bool)
    assert mask.shape == shape
    assert _dice(mask, image > 0.5) >= 0.999


def test_at_its_own_spacing_nothing_is_resampled(monkeypatch):
    image, affine = _image()
    for size in ((18, 22), (8, 16, 16)):
        plain = _predictor(size=size).predict(image, affine)
        same = _predictor(size=size, spacing_mm=(2.0, 0.8, 0.9)).predict(image, affine)
        np.testing.assert_array_equal(plain, same)


@pytest.mark.parametrize("spacing", [None, (2.6, 1.0, 1.0)])
def test_mirrors_make_a_symmetric_network_of_any(spacing):
    image, affine = _image(shape=(20, 18, 16))
    predictor = _predictor(mirror=True, spacing_mm=spacing)
    mask = np.asarray(predictor.predict(image, affine))
    for axis in range(3):
        flipped = predictor.predict([np.flip(each, axis) for each in image], affine)
        assert (np.flip(flipped, axis) == mask).mean() > 0.999


@pytest.mark.parametrize("size", [(18, 22), (8, 16, 16)])
@pytest.mark.parametrize("mirror", [False, True])
def test_an_ensemble_is_the_mean_of_probabilities(size, mirror):
    image, affine = _image()
    networks = [_convolution(len(size), 2, 4, seed) for seed in (3, 4)]
    options = {"size": size, "spacing_mm": (2.2, 1.0, 1.0), "mirror": mirror}
    parts = [_predictor(one, **options).predict(image, affine, probabilities=True) for one in networks]
    whole = _predictor(*networks, **options).predict(image, affine, probabilities=True)
    mean = sum(part.probabilities.astype(np.float32) for part in parts) / 2
    np.testing.assert_allclose(whole.probabilities, mean, atol=0.02 if not mirror else 2e-3)
    assert (whole.voxels == mean.argmax(0)).mean() > 0.99


def test_progress_is_told_once():
    image, affine = _image()
    for size, spacing in (((18, 22), None), ((18, 22), (2.5, 1.0, 1.0)), ((8, 16, 16), (2.5, 1.0, 1.0))):
        told: list[float] = []
        networks = [_convolution(len(size), 2, 4, seed) for seed in (1, 2)]
        predictor = _predictor(*networks, size=size, spacing_mm=spacing)
        volumes = [Volume(Path("x"), each.shape, affine, None, each) for each in image]
        predictor.segment(volumes, progress=told.append)
        assert np.isclose(sum(told), 1) and len(told) > 3


def test_batches_are_halved_for_good():
    class Hungry(nn.Module):
        inner = _convolution(3, 2, 4)

        def forward(self, images):
            if len(images) > 1:
                raise MemoryError
            return self.inner(images)

    image, affine = _image()
    predictor = _predictor(Hungry(), batch_size=4)
    mask = predictor.predict(image, affine)
    assert mask.notices == (
        "out of memory with 4 windows at a time; going on with 2",
        "out of memory with 2 windows at a time; going on with 1",
    )
    assert predictor.batch_size == 1
    assert (np.asarray(mask) == np.asarray(_predictor().predict(image, affine))).mean() > 0.9999


def test_forms_of_one_image(tmp_path):
    image, affine = _image()
    predictor = _predictor()
    wanted = np.asarray(predictor.predict(image, affine))
    images = [nib.Nifti1Image(each, affine) for each in image]
    for number, each in enumerate(images):
        nib.save(each, tmp_path / f"a_{number:04d}.nii.gz")
    nib.save(nib.Nifti1Image(np.stack(image, -1), affine), tmp_path / "four.nii.gz")
    paths = sorted(tmp_path.glob("a_*"))
    for form in (images, paths, tmp_path / "four.nii.gz", nib.load(tmp_path / "four.nii.gz")):
        np.testing.assert_array_equal(predictor.predict(form), wanted)
    np.testing.assert_array_equal(predictor.predict(np.stack(image), affine), wanted)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda v, a: (v[:1], a), "image: is of one image, wanted 2, one for each channel: t1, flair"),
        (lambda v, a: (v[0], a), r"shape \(22, 18, 14\), wanted \(2, X, Y, Z\), channels t1, flair"),
        (lambda v, a: (np.stack([*v, v[0]]), a), r"wanted \(2, X, Y, Z\)"),
        (lambda v, a: ([v[0], v[1][1:]], a), "channel flair has the shape"),
        (lambda v, a: (np.stack(v), None), "an array and its affine"),
    ],
)
def test_other_numbers_of_channels_are_refused(form, message):
    with pytest.raises(InputError, match=message):
        _predictor().predict(*form(*_image()))


def test_notes_name_their_channel():
    image, affine = _image()
    mask = _predictor().predict([image[0], np.zeros_like(image[1])], affine)
    assert mask.notes[0].startswith("flair: the image is constant")


def test_cases_go_on_and_what_is_wrong_fails_alone(tmp_path):
    for case, seed in (("a", 0), ("b", 1), ("c", 2)):
        image, affine = _image(seed=seed)
        for number, voxels in enumerate(image):
            if (case, number) != ("b", 1):
                (tmp_path / "in").mkdir(exist_ok=True)
                nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "in" / f"{case}_{number:04d}.nii.gz")
    predictor = _predictor(spacing_mm=(2.2, 1.0, 1.0))
    outputs = Outputs(probabilities=True, statistics=True, preview=True)

    def run():
        sources = find_sources([tmp_path / "in"], channels=CHANNELS)
        return {each.case: each for each in segment_cases(predictor, sources, tmp_path / "out", outputs)}

    first = run()
    assert "case b lacks flair" in first["b"].error and first["a"].written and first["c"].written
    with np.load(tmp_path / "out" / "a.npz") as held:
        assert held["probabilities"].shape == (4, 22, 18, 14)
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    again = run()
    assert again["a"].kept and again["c"].kept
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    image, affine = _image(seed=7)
    nib.save(nib.Nifti1Image(image[1], affine), tmp_path / "in" / "a_0001.nii.gz")
    assert "of another input" in run()["a"].error


def test_models_that_differ_are_no_ensemble(tmp_path):
    from test_bundle_reader import _folder

    one, other = _folder(tmp_path / "one"), _folder(tmp_path / "other", spacing_mm=[1, 1, 1])
    with pytest.raises(InputError, match="differ in spacing_mm"):
        Predictor.from_run(one, other)
