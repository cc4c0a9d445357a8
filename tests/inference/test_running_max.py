"""Class ids one class at a time are those of an argmax over all."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from dsnet_med.inference.running_max import by_class, class_ids, resized_in_turn
from dsnet_med.inference.windows import padded_to


@given(
    st.integers(1, 3), st.integers(1, 6), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(0, 99)
)
def test_the_ids_of_an_argmax(batch: int, classes: int, size: tuple[int, int], seed: int) -> None:
    logits = torch.randn(batch, classes, *size, generator=torch.Generator().manual_seed(seed))
    enlarged = F.interpolate(
        F.interpolate(logits, (12, 10), mode="bilinear"), (17, 7), mode="bilinear", align_corners=False
    )
    for form in (class_ids, by_class):
        assert torch.equal(form(logits, [(12, 10), (17, 7)]).long(), enlarged.argmax(1))
        assert torch.equal(form(logits).long(), logits.argmax(1))
    assert torch.equal(resized_in_turn(logits, [(12, 10), (17, 7)]), enlarged)


def test_the_first_of_equal_logits_wins() -> None:
    logits = torch.tensor([1.0, 2.0, 2.0, 0.0]).reshape(1, 4, 1, 1)
    for form in (class_ids, by_class):
        assert form(logits).item() == 1
        assert form(torch.zeros(1, 5, 2, 2)).tolist() == [[[0, 0], [0, 0]]]
        same = torch.randn(1, 1, 9, 11, generator=torch.Generator().manual_seed(0)).expand(1, 5, 9, 11)
        assert not form(same, [(30, 40)]).any()


@pytest.mark.parametrize(("classes", "wanted"), [(256, torch.uint8), (257, torch.int16)])
def test_the_type_holds_every_class(classes: int, wanted: torch.dtype) -> None:
    logits = torch.arange(classes, dtype=torch.float32).reshape(1, classes, 1, 1)
    ids = class_ids(logits)
    assert ids.dtype == wanted
    assert ids.item() == classes - 1


def test_padding_keeps_the_image_where_it_says() -> None:
    image = torch.rand(2, 1, 5, 8)
    padded, (rows, columns) = padded_to(image, (9, 6))
    assert padded.shape == (2, 1, 9, 8)
    assert torch.equal(padded[..., rows, columns], image)
    assert padded.sum() == pytest.approx(float(image.sum()), rel=1e-6)


@pytest.mark.parametrize("size", [(512, 512), (96, 130), (64, 64), (33, 70), (1, 1)])
def test_both_forms_agree_with_an_argmax_at_real_sizes(size: tuple[int, int]) -> None:
    logits = torch.randn(2, 9, 64, 64, generator=torch.Generator().manual_seed(1))
    wanted = F.interpolate(logits, size, mode="bilinear").argmax(1)
    for layout in (torch.contiguous_format, torch.channels_last):
        for form in (class_ids, by_class):
            ids = form(logits.contiguous(memory_format=layout), [size])
            assert (ids == wanted).float().mean() >= 0.99999


def test_more_classes_than_a_byte_by_both() -> None:
    logits = torch.randn(1, 300, 3, 4, generator=torch.Generator().manual_seed(2))
    assert class_ids(logits, [(9, 8)]).max() > 255
    assert torch.equal(class_ids(logits, [(9, 8)]), by_class(logits, [(9, 8)]))
