"""The published augmentation: the reference's slices, the same draws, and what any slice keeps."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from scipy.ndimage import map_coordinates

from dsnet_med import resources
from dsnet_med.engine.augmentation import Change, RandRotFlipd, changed, rotated
from dsnet_med.errors import InputError


@pytest.fixture(scope="module")
def vectors(golden):
    with np.load(golden / "random_rot_flip.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def pair(vectors, prefix=""):
    """Image (3, H, W) and label (1, H, W)."""
    image, label = (torch.from_numpy(vectors[f"{prefix}{name}"]) for name in ("img", "seg"))
    return {"image": image.movedim(-1, 0), "label": label[None]}


def check(ours, theirs):
    torch.testing.assert_close(ours["image"], theirs["image"], rtol=0, atol=1e-5)  # values up to 4
    torch.testing.assert_close(ours["label"], theirs["label"], rtol=0, atol=0)


# ---------------------------------------------------------------- the reference


@pytest.mark.parametrize("angle", [-20.0, -7.3, 13.7, 20.0])
def test_rotations(vectors, angle):
    ours = {key: changed(value, Change(degrees=angle)) for key, value in pair(vectors).items()}
    check(ours, pair(vectors, f"rotate_{angle}_"))


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("axis", range(2))
def test_quarter_turns_and_mirrors(vectors, turns, axis):
    ours = {key: changed(value, Change(None, turns, axis)) for key, value in pair(vectors).items()}
    check(ours, pair(vectors, f"rotflip_{turns}_{axis}_"))


@pytest.mark.parametrize("seed", range(8))
def test_one_seed_draws_the_same(vectors, seed):
    transform = RandRotFlipd(label_mode="bilinear").set_random_state(seed)
    check(transform(pair(vectors)), pair(vectors, f"seed{seed}_"))
    kind = json.loads(str(vectors["meta"]))["kinds"][seed].partition(": ")[2]
    degrees, turns, axis = transform.change
    said = "identity" if axis is None else f"rot90 k={turns}, flip axis={axis}"
    assert kind == (said if degrees is None else f"rotate {degrees:.4f}")


@pytest.mark.parametrize("seed", range(8))
def test_labels_that_come_as_floats_are_whole_afterwards(vectors, seed):
    item = pair(vectors)
    item["label"] = item["label"].float()
    label = RandRotFlipd(label_mode="bilinear").set_random_state(seed)(item)["label"]
    torch.testing.assert_close(label.to(torch.uint8), pair(vectors, f"seed{seed}_")["label"], rtol=0, atol=0)
    assert torch.equal(label, label.round())


def test_a_second_slice_is_drawn_as_the_reference_draws_it(vectors):
    transform, random = RandRotFlipd().set_random_state(3), np.random.RandomState(3)
    for _ in range(50):
        transform(pair(vectors))
        degrees = random.uniform(-20, 20) if random.random() < 0.5 else None
        if random.random() < 0.5 and degrees is None:
            expected = Change(None, random.randint(0, 4), random.randint(0, 2))
        else:
            expected = Change(degrees)
        assert transform.change == expected


def test_labels_keep_their_classes_unless_asked(vectors):
    for seed in (1, 2, 5, 7):
        ours, theirs = (
            RandRotFlipd(label_mode=mode).set_random_state(seed)(pair(vectors))["label"]
            for mode in ("nearest", "bilinear")
        )
        assert set(ours.unique().tolist()) <= {0, 1, 5, 8}
        assert set(theirs.unique().tolist()) > {0, 1, 5, 8}
        assert ours.dtype == torch.uint8


# ---------------------------------------------------------------- any slice


sizes = st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12))


def places(height, width, degrees):
    """Where every output pixel lies in the input, (2, H, W): rows, columns."""
    angle = np.deg2rad(degrees)
    rows, columns = np.mgrid[:height, :width].astype(float)
    rows, columns = rows - (height - 1) / 2, columns - (width - 1) / 2
    down = np.cos(angle) * rows - np.sin(angle) * columns + (height - 1) / 2
    across = np.sin(angle) * rows + np.cos(angle) * columns + (width - 1) / 2
    return np.stack([down, across])


@settings(max_examples=60)
@given(sizes, st.floats(-180, 180), st.integers(0, 99))
def test_rotation_is_scipy_s(size, degrees, seed):
    maps = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    where = places(*size[1:], degrees)
    padded, shifted = np.pad(maps.numpy(), ((0, 0), (2, 2), (2, 2))), where + 2
    expected = [map_coordinates(each, shifted, order=1, mode="constant") for each in padded.astype(float)]
    torch.testing.assert_close(
        rotated(maps, degrees).double(), torch.from_numpy(np.stack(expected)), rtol=0, atol=1e-4
    )


@settings(max_examples=60)
@given(sizes, st.integers(0, 999))
def test_shape_type_and_classes_are_kept(size, seed):
    random = torch.Generator().manual_seed(seed)
    image = torch.randn(size, generator=random)
    label = torch.randint(0, 9, (1, *size[1:]), generator=random, dtype=torch.uint8)
    transform = RandRotFlipd().set_random_state(seed)
    result = transform({"image": image, "label": label, "case": "x"})
    assert result["case"] == "x"
    assert (result["image"].shape, result["image"].dtype) == (image.shape, image.dtype)
    assert (result["label"].shape, result["label"].dtype) == (label.shape, label.dtype)
    assert set(result["label"].unique().tolist()) <= {0, *label.unique().tolist()}
    if transform.change.degrees is None:
        assert sorted(result["image"].flatten().tolist()) == sorted(image.flatten().tolist())


def test_image_and_label_move_together():
    label = torch.zeros(1, 64, 48, dtype=torch.uint8)
    label[:, 20:40, 10:30] = 3
    transform = RandRotFlipd().set_random_state(0)
    for _ in range(30):
        result = transform({"image": label.float(), "label": label})
        assert (((result["image"] > 1.5) != (result["label"] == 3)).float().mean()) < 0.02


def test_as_often_as_published():
    transform = RandRotFlipd().set_random_state(0)
    kinds = []
    for _ in range(4000):
        transform.randomize()
        kinds.append((transform.change.degrees is not None, transform.change.mirrored_axis is not None))
    shares = [
        np.mean([kind == each for kind in kinds]) for each in ((True, False), (False, True), (False, False))
    ]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.03)


def test_metadata_that_is_no_longer_true_is_dropped():
    item = {key: MetaTensor(torch.ones(1, 8, 8)) for key in ("image", "label")}
    result = RandRotFlipd()(item)
    assert all(type(value) is torch.Tensor for value in result.values())


def test_refuses_what_it_cannot_do():
    with pytest.raises(InputError, match="did you mean 'nearest'"):
        RandRotFlipd(label_mode="neerest")
    with pytest.raises(InputError, match=r"shape \(8, 8\), wanted \(C, H, W\)"):
        RandRotFlipd()({"image": torch.ones(8, 8), "label": torch.ones(8, 8)})


def test_the_configuration_augments_as_published():
    parser = ConfigParser()
    parser.read_config(str(resources.configs() / "train.yaml"))
    transform = parser.get_parsed_content("train#augmentation")
    assert (transform.rotate_prob, transform.flip_prob, transform.degree) == (0.5, 0.5, 20.0)
    assert transform.modes == ["bilinear", "nearest"]
