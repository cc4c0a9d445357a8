"""The reference's normalisation and resizing of slices, beside ours."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import Resized
from torch.nn import functional as F

from dsnet_med.engine.transforms import ZScoreSliced, fit_to


@pytest.fixture(scope="module")
def vectors(golden):
    with np.load(golden / "normalize_resize.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def channels_first(image):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))


def normalised(image, **options):
    return ZScoreSliced(**options)({"image": image, "case": "x"})["image"]


def close(ours, theirs, atol=1e-6):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


# ---------------------------------------------------------------- normalising


def test_a_colour_slice(vectors):
    rgb = channels_first(vectors["img_bgr_u8"][..., ::-1])
    close(normalised(rgb, mirrored_statistics=True), channels_first(vectors["normalized"]), atol=2e-6)
    assert (normalised(rgb) - channels_first(vectors["normalized"])).abs().max() > 0.1


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_grey_slice(vectors, mirrored):
    grey, expected = (channels_first(vectors[key]) for key in ("grey_u8", "grey_normalized"))
    close(normalised(grey, mirrored_statistics=mirrored), expected)
    close(normalised(grey[:1]), expected[:1])  # one channel, as ours are


@settings(max_examples=50)
@given(st.floats(-1e6, 1e6, width=32), st.integers(1, 3), st.sampled_from([torch.float32, torch.float64]))
def test_a_constant_slice_becomes_zero(value, channels, dtype):
    result = normalised(torch.full((channels, 13, 7), value, dtype=dtype))
    assert torch.equal(result, torch.zeros(channels, 13, 7))


def test_a_constant_channel_among_others_is_finite():
    image = torch.stack([torch.arange(12.0).reshape(3, 4), torch.full((3, 4), 5.0)])
    for mirrored in (False, True):
        result = normalised(image, mirrored_statistics=mirrored)
        assert result.isfinite().all()
        assert result.min() == 0


@given(st.floats(0.01, 100), st.floats(-100, 100), st.integers(0, 99))
def test_scale_and_offset_of_the_scanner_do_not_matter(scale, offset, seed):
    image = torch.randn(1, 6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    result = normalised(image)
    close(normalised(scale * image + offset), result, atol=1e-5)
    assert result.min() == 0
    assert result.double().std(correction=0) == pytest.approx(1, abs=1e-6)


# ---------------------------------------------------------------- resizing


def test_bilinear_is_the_reference_s(vectors):
    image, expected = (channels_first(vectors[key]) for key in ("grey_normalized", "grey_resized_16x16"))
    item = {"image": image, "label": torch.zeros(1, *image.shape[1:], dtype=torch.uint8)}
    close(fit_to([16, 16])(item)["image"], expected, atol=1e-5)


def test_nearest_is_pytorch_s_old_one_in_the_reference_and_centred_in_ours(vectors):
    label, expected = (torch.from_numpy(vectors[key])[None] for key in ("seg", "seg_nearest_w24_h20"))
    by_mode = {
        mode: F.interpolate(label[None].float(), size=(20, 24), mode=mode)[0].to(torch.uint8)
        for mode in ("nearest", "nearest-exact")
    }
    assert torch.equal(by_mode["nearest"], expected)
    assert not torch.equal(by_mode["nearest-exact"], expected)
    ours = fit_to([20, 24])({"image": torch.zeros(1, 16, 16), "label": label})["label"]
    assert torch.equal(ours, by_mode["nearest-exact"])


@pytest.mark.parametrize("size", [(32, 32), (20, 24), (9, 50)])
def test_our_labels_stay_on_their_image(size):
    """The border of a mask lies where the resized image crosses one half."""
    mask = torch.zeros(1, 16, 16)
    mask[:, 5:11, 4:9] = 1
    fitted = fit_to(list(size))({"image": mask, "label": mask.to(torch.uint8)})
    inside = fitted["image"] > 0.5
    clear = (fitted["image"] - 0.5).abs() > 1e-3
    label = fitted["label"]
    assert clear.any()
    assert torch.equal(inside[clear], label[clear] == 1)


def test_resizing_is_monai_s_and_skipped_where_there_is_nothing_to_do():
    random = torch.Generator().manual_seed(0)
    item = {
        "image": torch.randn(1, 33, 20, generator=random),
        "label": torch.randint(0, 9, (1, 33, 20), generator=random, dtype=torch.uint8),
    }
    theirs = Resized(("image", "label"), (24, 48), mode=("bilinear", "nearest-exact"))(item)
    ours = fit_to([24, 48])({**item, "case": "x"})
    close(ours["image"], theirs["image"].as_tensor())
    assert torch.equal(ours["label"].float(), theirs["label"].as_tensor())
    assert (ours["label"].dtype, ours["case"]) == (torch.uint8, "x")
    same = fit_to([33, 20])(item)
    assert same["image"].data_ptr() == item["image"].data_ptr()
    assert same["label"].data_ptr() == item["label"].data_ptr()
