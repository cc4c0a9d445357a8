"""The augmentation of patches: the same bits of a draw's number, image and label alike, and what it leaves."""

import pytest
import torch

from dsnet_med.engine.augmentation_patches import RandPatches

NOTHING = {
    f"{name}_prob": 0.0
    for name in ("affine", "flip", "noise", "blur", "brightness", "contrast", "resolution", "gamma")
}


def pairs(channels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Three patches with a block of class 2, which the first channel shows."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(3, 1, 8, 16, 12, dtype=torch.uint8)
    labels[:, :, 2:6, 3:12, 2:9] = 2
    noise = torch.rand(3, channels, 8, 16, 12, generator=generator)
    return torch.cat([labels.float(), noise[:, 1:]], 1), labels


def test_a_draw_s_number_says_it_all_whatever_the_batch_and_the_process_s_own_numbers() -> None:
    images, labels = pairs()
    change = RandPatches(**dict.fromkeys(NOTHING, 0.7))
    first = change(images, labels, [5, 6, 7])
    torch.manual_seed(9)
    again = change(images, labels, [5, 6, 7])
    assert all(map(torch.equal, first, again))
    alone = RandPatches(**dict.fromkeys(NOTHING, 0.7))(images[1:2], labels[1:2], [6])
    assert torch.equal(alone[0][0], first[0][1])
    assert torch.equal(alone[1][0], first[1][1])
    assert not torch.equal(change(images, labels, [8, 9, 10])[0], first[0])


def test_image_and_label_stay_on_each_other_and_no_class_is_invented() -> None:
    images, labels = pairs()
    change = RandPatches(**{**NOTHING, "affine_prob": 1.0, "flip_prob": 0.5})
    for draw in range(0, 30, 3):
        image, label = change(images, labels, [draw, draw + 1, draw + 2])
        assert image.shape == images.shape
        assert label.dtype == torch.uint8
        assert set(label.unique().tolist()) <= {0, 2}
        assert ((image[:, :1] - label).abs() <= 2 * 7 / 8 + 1e-5).all()  # the nearest of eight weighs most
        assert not torch.equal(label, labels)


def test_in_plane_every_slice_keeps_its_content() -> None:
    images, labels = pairs()
    images += 10 * torch.arange(8).view(1, 1, 8, 1, 1)
    change = RandPatches(**{**NOTHING, "affine_prob": 1.0}, in_plane=True)
    image, label = change(images, labels, [1, 2, 3])
    assert not torch.equal(label, labels)
    assert (image.amin((1, 3, 4)) >= images.amin((1, 3, 4)) - 1e-3).all()
    assert (image.amax((1, 3, 4)) <= images.amax((1, 3, 4)) + 1e-3).all()


@pytest.mark.parametrize("axes", [[0], [1, 2], []])
def test_mirrored_along_the_axes_that_are_named(axes: list[int]) -> None:
    images, labels = pairs()
    image, label = RandPatches(**{**NOTHING, "flip_prob": 1.0}, flip_axes=axes)(images, labels, [1, 2, 3])
    assert torch.equal(image, images.flip([axis + 2 for axis in axes]))
    assert torch.equal(label, labels.flip([axis + 2 for axis in axes]))


@pytest.mark.parametrize("name", ["noise", "blur", "brightness", "contrast", "resolution", "gamma"])
def test_each_change_of_intensity_leaves_labels_and_where_things_are(name: str) -> None:
    images, labels = pairs()
    image, label = RandPatches(**{**NOTHING, f"{name}_prob": 1.0})(images, labels, [1, 2, 3])
    assert torch.equal(label, labels)
    assert image.dtype == torch.float32
    assert image.isfinite().all()
    assert not torch.equal(image, images)
    inside, outside = labels[:, 0] == 2, labels[:, 0] == 0
    assert image[:, 0][inside].mean() > image[:, 0][outside].mean() + 0.5


def test_nothing_asked_for_is_nothing_done() -> None:
    images, labels = pairs()
    image, label = RandPatches(**NOTHING)(images, labels, [1, 2, 3])
    assert torch.equal(image, images)
    assert torch.equal(label, labels)
