"""Polarized self-attention: the formulas, the arithmetic that is left, names, axes."""

import pytest
import torch
from agreement import MAPS, check_agreement, check_any_axes
from hypothesis import given, settings
from hypothesis import strategies as st
from textbook.psa import TextbookPSA
from torch.utils.flop_counter import FlopCounterMode

from dsnet_med.errors import InputError
from dsnet_med.networks.plugins import PSA

MODES = ["parallel", "sequential"]


@settings(max_examples=30)
@given(shape=MAPS, channels=st.integers(1, 20), mode=st.sampled_from(MODES))
def test_equals_the_formulas(shape, channels, mode):
    batch, height, width, seed = shape
    torch.manual_seed(seed)
    check_agreement(PSA(channels, mode), TextbookPSA(channels, mode), (batch, channels, height, width))


def arithmetic(factory, mode):
    with torch.device("meta"):
        module, x = factory(64, mode), torch.zeros(2, 64, 32, 32)
    with FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops()


@pytest.mark.parametrize(("mode", "share"), [("parallel", 0.04), ("sequential", 0.36)])
def test_projects_vectors_and_not_maps(mode, share):
    assert arithmetic(PSA, mode) < share * arithmetic(TextbookPSA, mode)


def test_parallel_spatial_gate_is_nearly_one_half():
    """A softmax over many pixels under a sigmoid, as the published code has it."""
    torch.manual_seed(0)
    gate = PSA(16).spatial_gate(torch.randn(2, 16, 4096))
    assert gate.shape == (2, 1, 4096)
    assert 0.5 <= gate.min() <= gate.max() < 0.51


def test_starts_as_the_published_code():
    torch.manual_seed(0)
    module = PSA(512)
    for layer in (module.channel_query, module.channel_value, module.spatial_query, module.spatial_value):
        assert layer.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.1)
    bound = 256**-0.5  # PyTorch's default
    assert 0.9 * bound < module.channel_expand.weight.abs().max() <= bound


def test_names_follow_the_mode():
    assert [PSA(4, mode).reference_name for mode in MODES] == ["psa_p", "psa_s"]
    with pytest.raises(InputError, match="serial"):
        PSA(4, mode="serial")


@pytest.mark.parametrize("mode", MODES)
def test_any_number_of_axes(mode):
    torch.manual_seed(0)
    check_any_axes(PSA(24, mode), 24)
