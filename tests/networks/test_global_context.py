"""The global context block: the formulas with every option, how it starts, what is refused."""

import pytest
import torch
from agreement import MAPS, check_agreement, check_any_axes
from hypothesis import given, settings
from hypothesis import strategies as st
from textbook.global_context import TextbookGlobalContext

from dsnet_med.errors import InputError
from dsnet_med.networks.plugins import GlobalContext

FUSIONS = [("channel_add",), ("channel_mul",), ("channel_mul", "channel_add")]


@settings(max_examples=30)
@given(
    shape=MAPS,
    channels=st.integers(1, 20),
    ratio=st.sampled_from([1 / 16, 0.25, 1.0]),
    pooling=st.sampled_from(["att", "avg"]),
    fusions=st.sampled_from(FUSIONS),
)
def test_equals_the_formulas(*, shape, channels, ratio, pooling, fusions):
    batch, height, width, seed = shape
    torch.manual_seed(seed)
    forms = (kind(channels, ratio, pooling, fusions) for kind in (GlobalContext, TextbookGlobalContext))
    invariant = ("conv_mask.bias",) if pooling == "att" else ()  # it shifts all logits of the softmax alike
    check_agreement(*forms, (batch, channels, height, width), without_gradient=invariant)


@pytest.mark.parametrize(("fusions", "factor"), zip(FUSIONS, (1, 0.5, 0.5), strict=True))
def test_starts_as_the_identity_or_half_of_it(fusions, factor):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 5, 3)
    assert torch.equal(GlobalContext(8, fusions=fusions)(x), factor * x)


def test_mask_starts_as_the_published_code():
    torch.manual_seed(0)
    mask = GlobalContext(4096).mask
    assert mask.weight.std().item() == pytest.approx((2 / 4096) ** 0.5, rel=0.05)
    assert mask.bias.item() == 0


@pytest.mark.parametrize(
    ("channels", "ratio", "width"), [(512, 0.25, 128), (1, 0.25, 1), (7, 0.25, 1), (8, 2, 16)]
)
def test_width_of_the_transform(channels, ratio, width):
    assert GlobalContext(channels, ratio).add[0].out_features == width


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "max"),
        ({"fusions": ("channel_sub",)}, "channel_sub"),
        ({"fusions": ()}, r"fusions=\(\) and wants names"),
        ({"fusions": "channel_add"}, "fusions='channel_add' and wants names"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        GlobalContext(8, **options)


@pytest.mark.parametrize("pooling", ["att", "avg"])
def test_any_number_of_axes(pooling):
    torch.manual_seed(0)
    check_any_axes(GlobalContext(24, pooling=pooling, fusions=FUSIONS[2]), 24)
