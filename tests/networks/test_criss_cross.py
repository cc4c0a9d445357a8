"""Criss-cross attention: the reference's vectors, the formulas, and what a pixel can reach."""

import pytest
import torch
from agreement import check_close_gradients, check_formats, check_free_batch, lively
from golden import check_attention, load
from hypothesis import given, settings
from hypothesis import strategies as st
from textbook.criss_cross import TextbookCrissCross
from torch import nn

from dsnet_med.errors import InputError
from dsnet_med.networks.plugins import CrissCross


def test_is_the_reference(vectors):
    golden = vectors("criss_cross")
    module = load(CrissCross(golden.meta["ctor"]["in_channels"]), golden.state())
    check_attention(module, golden, silent="key_conv.bias")


def pair(channels, recurrence):
    """The textbook module with weights that matter, and ours with the same, in float64."""
    textbook = lively(TextbookCrissCross(channels, recurrence))
    return textbook.double(), load(CrissCross(channels, recurrence), textbook.state_dict()).double()


@settings(max_examples=30)
@given(
    channels=st.integers(1, 17),
    recurrence=st.integers(1, 3),
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    seed=st.integers(0, 2**16),
)
def test_equals_the_formulas_in_float64(*, channels, recurrence, batch, size, seed):
    torch.manual_seed(seed)
    textbook, lean = pair(channels, recurrence)
    x = torch.randn(batch, channels, *size, dtype=torch.float64)
    check_close_gradients(lean, textbook, x, tolerances=[(1e-9, 1e-9), (1e-8, 1e-8), (1e-7, 1e-7)])


@pytest.mark.parametrize(("recurrence", "reached"), [(1, 5 + 7 - 1), (2, 5 * 7)])
def test_reaches_the_cross_and_then_everything(recurrence, reached):
    torch.manual_seed(0)
    _, module = pair(8, recurrence)
    x = torch.randn(1, 8, 5, 7, dtype=torch.float64, requires_grad=True)
    module(x)[0, :, 2, 3].sum().backward()
    assert (x.grad.abs().sum(1) > 0).sum() == reached


def test_starts_as_the_identity():
    x = torch.randn(1, 8, 5, 7)
    assert torch.equal(CrissCross(8, recurrence=2)(x), x)


@pytest.mark.parametrize("spatial", [(11,), (4, 3, 5)])
def test_other_than_two_axes_are_refused(spatial):
    with pytest.raises(InputError, match="and 2 spatial axes: make it with spatial_dims="):
        CrissCross(8)(torch.randn(1, 8, *spatial))


@pytest.mark.parametrize("size", [(1, 1), (9, 5)])
def test_formats_and_types(size):
    torch.manual_seed(0)
    module, x = CrissCross(32, recurrence=2).eval(), torch.randn(1, 32, *size)
    nn.init.constant_(module.gamma, 0.7)
    check_formats(module, x)


def test_exports_with_a_free_batch():
    torch.manual_seed(0)
    module, x = pair(8, 2)[1].float().eval(), torch.randn(3, 8, 6, 5)
    check_free_batch(module, x)
