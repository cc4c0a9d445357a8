"""Resampling against SciPy's zoom and scikit-image's resize, worked by hand, and there and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import resize

from dsnet_med.errors import InputError
from dsnet_med.resampling import (
    Linear,
    nearest,
    new_shape,
    onto,
    resampled,
    resampled_labels,
    separate_axis,
)

_LENGTHS = st.tuples(*[st.integers(2, 24)] * 3)


def _spacings(have, wanted):
    return (1.0, 1.0, 1.0), tuple(n / m for n, m in zip(have, wanted, strict=True))


def test_the_new_shape_keeps_the_length():
    assert new_shape((148, 512, 512), (3.0, 0.8, 0.8), (1.5, 1.0, 1.0)) == (296, 410, 410)
    assert new_shape((2, 3, 4), (1.0, 1.0, 1.0), (100.0, 1.0, 2.0)) == (1, 3, 2)


def test_elongated_voxels_have_an_axis_of_their_own():
    assert separate_axis((5.0, 1.0, 1.0), (1.0, 1.0, 1.0)) == 0
    assert separate_axis((1.0, 1.0, 1.0), (1.0, 1.0, 4.0)) == 2
    assert separate_axis((3.0, 1.0, 1.0), (1.0, 1.0, 1.0)) is None  # three times is not yet more
    assert separate_axis((0.24, 1.25, 1.25), (1.0, 1.0, 1.0)) is None  # two axes are the coarsest


@settings(max_examples=30, deadline=None)
@given(_LENGTHS, _LENGTHS, st.integers(0, 99))
def test_images_are_as_scikit_image_resizes_them(have, wanted, seed):
    spacing, coarser = _spacings(have, wanted)
    if separate_axis(spacing, coarser) is not None:
        return
    image = np.random.default_rng(seed).normal(size=(2, *have)).astype(np.float32)
    found = resampled(image, spacing, coarser)
    for channel, got in zip(image, found, strict=True):
        expected = resize(channel.astype(float), wanted, 3, mode="edge", anti_aliasing=False, clip=True)
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_slices_of_elongated_voxels_are_taken_as_they_are():
    image = np.random.default_rng(0).normal(size=(1, 4, 20, 16)).astype(np.float32)
    found = resampled(image, (5.0, 1.0, 1.0), (2.5, 0.8, 2.0))[0]
    assert found.shape == (8, 25, 8)
    np.testing.assert_array_equal(found[0::2], found[1::2])
    for plane, got in zip(image[0], found[::2], strict=True):
        spline = ndimage.zoom(plane.astype(float), (1.25, 0.5), order=3, mode="nearest", grid_mode=True)
        np.testing.assert_allclose(got, np.clip(spline, image.min(), image.max()), atol=1e-4)


def test_what_has_the_spacing_already_is_not_copied():
    image, labels = np.zeros((1, 2, 3, 4), np.float32), np.zeros((2, 3, 4), np.uint8)
    assert resampled(image, (1.0, 2.0, 2.0), (1.0, 2.0, 2.0)) is image
    assert resampled_labels(labels, (1.0, 2.0, 2.0), (1.0, 2.0, 2.0)) is labels


def test_no_channel_leaves_its_range():
    image = np.zeros((2, 8, 8, 8), np.float32)
    image[0, 4:], image[1, :, 3:] = 1, 50
    found = resampled(image, (1.0, 1.0, 1.0), (0.7, 0.7, 0.7))
    assert found[0].min() == 0 and found[0].max() == 1 and found[1].min() == 0 and found[1].max() == 50


def test_nearest_and_linear_by_hand():
    assert nearest(2, 4).tolist() == [0, 0, 1, 1] and nearest(5, 2).tolist() == [1, 3]
    line = Linear.of(2, 4)  # centres at -0.25, 0.25, 0.75 and 1.25 of voxels at 0 and 1
    assert line.low.tolist() == [0, 0, 0, 0] and line.high.tolist() == [1, 1, 1, 1]
    assert line.share.tolist() == [0, 0.25, 0.75, 1]
    assert Linear.of(1, 3).high.tolist() == [0, 0, 0]


def _by_argmax(labels, wanted, axis):
    """Every label's mask by itself, and the label that is largest: the smaller one where two are."""
    ids = np.unique(labels)
    masks = []
    for label in ids:
        mask = (labels == label).astype(float)
        if axis is not None:
            mask = mask.take(nearest(mask.shape[axis], wanted[axis]), axis)
        zoom = [m / n for m, n in zip(wanted, mask.shape, strict=True)]
        masks.append(ndimage.zoom(mask, zoom, order=1, mode="nearest", grid_mode=True))
    scores = np.stack(masks)
    order = np.sort(scores, axis=0)
    clear = order[-1] - order[-2] > 1e-5 if len(ids) > 1 else np.ones(wanted, bool)
    return ids[scores.argmax(0)], clear


@settings(max_examples=40, deadline=None)
@given(_LENGTHS, _LENGTHS, st.integers(2, 5), st.integers(0, 99))
def test_labels_are_the_argmax_of_every_labels_mask(have, wanted, count, seed):
    labels = np.random.default_rng(seed).choice([0, 1, 2, 7, 255][:count], have).astype(np.uint8)
    spacing, other = _spacings(have, wanted)
    found = resampled_labels(labels, spacing, other, wanted)
    expected, clear = _by_argmax(labels, wanted, separate_axis(spacing, other))
    np.testing.assert_array_equal(found[clear], expected[clear])
    assert np.isin(found, np.unique(labels)).all() and found.dtype == np.uint8


def test_of_two_labels_that_are_equal_the_smaller_is_taken():
    labels = np.array([[[3, 1], [3, 1]]], np.uint8)
    assert resampled_labels(labels, (1.0, 1.0, 1.0), (1.0, 1.0, 2.0), (1, 2, 1)).ravel().tolist() == [1, 1]


def test_what_is_ignored_stays_so():
    labels = np.zeros((6, 12, 12), np.uint8)
    labels[2:5, 3:9, 3:9] = 255
    found = resampled_labels(labels, (3.0, 1.0, 1.0), (1.0, 1.5, 0.5))
    assert set(np.unique(found)) == {0, 255}
    share = (found == 255).mean() / (labels == 255).mean()
    assert 0.9 < share < 1.1


def test_slabs_do_not_show(monkeypatch):
    labels = np.random.default_rng(3).integers(0, 4, (9, 10, 11)).astype(np.uint8)
    whole = resampled_labels(labels, (2.0, 1.0, 1.0), (1.0, 1.0, 1.3))
    monkeypatch.setattr("dsnet_med.resampling._SLAB", 1)
    np.testing.assert_array_equal(resampled_labels(labels, (2.0, 1.0, 1.0), (1.0, 1.0, 1.3)), whole)


# ---------------------------------------------------------------- other grids


def _affine(*sizes, turn=0.0, at=(0.0, 0.0, 0.0)):
    affine = np.diag((*sizes, 1.0))
    c, s = np.cos(turn), np.sin(turn)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3]
    affine[:3, 3] = at
    return affine


def test_a_ramp_is_the_same_ramp_on_another_grid():
    first, second = _affine(1, 1, 2), _affine(1.5, 1.2, 1.0, turn=0.3, at=(8, 2, 3))
    ramp = np.array([0.5, -0.25, 1.0])
    places = np.moveaxis(np.indices((24, 22, 12)), 0, -1) @ first[:3, :3].T + first[:3, 3]
    found = onto((places @ ramp).astype(np.float32), first, (8, 9, 10), second)
    wanted = (np.moveaxis(np.indices((8, 9, 10)), 0, -1) @ second[:3, :3].T + second[:3, 3]) @ ramp
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_what_lies_outside_is_as_dark_as_the_image():
    image = np.full((4, 4, 4), 7, np.int16)
    image[0, 0, 0] = -5
    found = onto(image, _affine(1, 1, 1), (8, 4, 4), _affine(1, 1, 1, at=(0.0, 0.0, 0.0)))
    assert found[5, 2, 2] == -5 and found[2, 2, 2] == 7 and found.dtype == np.float32


def test_one_grid_is_left_alone_and_one_elsewhere_refused():
    image = np.ones((3, 3, 3), np.int16)
    assert onto(image, _affine(1, 1, 1), (3, 3, 3), _affine(1, 1, 1)) is image
    with pytest.raises(InputError, match="elsewhere"):
        onto(image, _affine(1, 1, 1), (3, 3, 3), _affine(1, 1, 1, at=(50.0, 0.0, 0.0)))
