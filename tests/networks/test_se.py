"""Squeeze-and-excitation: the formulas, the widths of the published code, and how it starts."""

import pytest
import torch
from agreement import MAPS, check_agreement, check_any_axes
from hypothesis import given, settings
from hypothesis import strategies as st
from textbook.se import TextbookSE

from dsnet_med.networks.plugins import SE


@settings(max_examples=20)
@given(shape=MAPS, channels=st.integers(1, 40), ratio=st.sampled_from([1, 2, 16]))
def test_equals_the_formulas(shape, channels, ratio):
    batch, height, width, seed = shape
    torch.manual_seed(seed)
    check_agreement(SE(channels, ratio), TextbookSE(channels, ratio), (batch, channels, height, width))


@pytest.mark.parametrize(
    ("channels", "ratio", "width"),
    [
        (64, 16, 8),
        (128, 16, 8),
        (256, 16, 16),
        (512, 16, 32),
        (1, 16, 8),
        (12, 1, 16),
        (19, 1, 24),
        (18, 1, 24),
    ],
)
def test_width_is_a_multiple_of_eight(channels, ratio, width):
    assert SE(channels, ratio).reduce.out_features == width


def test_starts_as_the_published_code():
    torch.manual_seed(0)
    module = SE(1024)
    for layer in (module.reduce, module.expand):
        assert layer.bias.abs().max() == 0
        assert layer.weight.std().item() == pytest.approx((2 / layer.out_features) ** 0.5, rel=0.05)


def test_gate_is_hard():
    module = SE(4).eval()
    x = torch.rand(1, 4, 3, 3)
    torch.nn.init.zeros_(module.expand.weight)
    for bias, gate in ((-4.0, 0.0), (0.0, 0.5), (1.5, 0.75), (5.0, 1.0)):
        torch.nn.init.constant_(module.expand.bias, bias)
        torch.testing.assert_close(module(x), gate * x)


def test_any_number_of_axes():
    torch.manual_seed(0)
    check_any_axes(SE(24), 24)
