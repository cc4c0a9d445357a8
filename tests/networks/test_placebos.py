"""Placebos: what they compute, what they count, and how near UniformDSM is to DSM."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dsnet_med.networks.plugins import DSM, ConstantGate, Identity, PointwiseConv, RandomGate, UniformDSM

SIZES = [(7,), (5, 3), (2, 3, 4)]


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("sizes", SIZES)
def test_identity_is_nothing(sizes):
    x = torch.randn(2, 3, *sizes)
    assert torch.equal(Identity(3)(x), x)
    assert not Identity(3).state_dict()


@pytest.mark.parametrize("sizes", SIZES)
def test_random_gate_scales_each_channel_by_a_fixed_number(sizes):
    gate = RandomGate(5)
    x = torch.randn(3, 5, *sizes)
    for channel in range(5):
        torch.testing.assert_close(gate(x)[:, channel], x[:, channel] * gate.gate[channel])
    assert ((gate.gate > 0) & (gate.gate < 1)).all() and len(gate.gate.unique()) == 5
    assert not list(gate.parameters()) and list(gate.state_dict()) == ["gate"]


def test_random_gate_has_the_statistics_of_a_sigmoid_of_normal_numbers():
    logits = RandomGate(20000).gate.logit()
    assert abs(logits.mean()) < 0.03 and abs(logits.std() - 1) < 0.03


def test_random_gate_is_its_seed_s():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = RandomGate(6, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(RandomGate(6, seed=3).gate, first.gate)
    other = RandomGate(6, seed=4)
    assert not torch.equal(other.gate, first.gate)
    other.load_state_dict(first.state_dict())
    assert torch.equal(other.gate, first.gate)
    assert torch.equal(RandomGate(6).gate, RandomGate(6, seed=0).gate)


@pytest.mark.parametrize("sizes", SIZES)
def test_constant_gate_halves_at_first_and_learns_one_number_per_channel(sizes):
    gate, x = ConstantGate(4), torch.randn(2, 4, *sizes)
    torch.testing.assert_close(gate(x), x / 2)
    assert parameters(gate) == 4
    gate.logit.data = torch.tensor([0.0, 1.0, -1.0, 30.0])
    factors = [0.5, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1)), 1.0]
    for channel, factor in enumerate(factors):
        torch.testing.assert_close(gate(x)[:, channel], x[:, channel] * factor)


@pytest.mark.parametrize("convolution", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_pointwise_conv_is_two_convolutions_around_a_relu(convolution):
    torch.manual_seed(0)
    plugin = PointwiseConv(6, parameters=100)
    reduce, expand = (convolution(*pair, 1, bias=False) for pair in [(6, 8), (8, 6)])
    for ours, theirs in [(plugin.reduce, reduce), (plugin.expand, expand)]:
        theirs.weight.data = ours.weight.detach().reshape(theirs.weight.shape)
    x = torch.randn(2, 6, *SIZES[len(reduce.kernel_size) - 1])
    torch.testing.assert_close(plugin(x), x + expand(reduce(x).relu()))


def test_pointwise_conv_has_the_parameters_of_dsm():
    assert parameters(DSM(512)) == 1181184
    assert parameters(PointwiseConv(512)) == 1024 * 1154  # 1153.5 hidden channels would be exact
    biased = PointwiseConv(512, parameters=partial(DSM, ratio=16, bias=True))
    assert abs(parameters(biased) - parameters(DSM(512, ratio=16, bias=True))) <= 512


@given(channels=st.integers(1, 64), wanted=st.integers(0, 20000))
def test_pointwise_conv_is_as_near_as_its_form_allows(channels, wanted):
    with torch.device("meta"):
        count = parameters(PointwiseConv(channels, wanted))
    possible = (2 * channels * hidden for hidden in range(1, wanted // (2 * channels) + 3))
    assert abs(count - wanted) == min(abs(each - wanted) for each in possible)


def same_weights(dsm):
    """UniformDSM with the value projection of `dsm`."""
    bias = dsm.fusion.value.bias is not None
    uniform = UniformDSM(dsm.fusion.value.in_features, bias=bias).to(dsm.fusion.value.weight.dtype)
    uniform.value.load_state_dict(dsm.fusion.value.state_dict())
    return uniform.eval()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_uniform_dsm_adds_the_mean_of_the_projected_map(bias, sizes):
    torch.manual_seed(0)
    plugin, x = UniformDSM(4, bias=bias), torch.randn(2, 4, *sizes)
    mean = torch.stack([plugin.value(pixel).relu() for pixel in x.flatten(2).unbind(2)]).mean(0)
    torch.testing.assert_close(plugin(x), x + mean.reshape(2, 4, *[1] * len(sizes)))
    assert parameters(plugin) == 16 + 4 * bias


@given(
    channels=st.integers(1, 8),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 2**16),
)
def test_what_dsm_adds_is_within_e_of_what_uniform_dsm_adds(channels, size, scale, seed):
    """Whatever its weights: logits between 0 and 1 leave each weight within e of 1 / N."""
    torch.manual_seed(seed)
    dsm = DSM(channels, bias=True).double().eval()
    for parameter in dsm.parameters():
        parameter.data = scale * torch.randn_like(parameter)
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    with torch.no_grad():
        ours, theirs = same_weights(dsm)(x) - x, dsm(x) - x
    slack = 1e-12 * (1 + x.abs().max() + theirs.abs().max())
    assert (theirs <= math.e * ours + slack).all() and (theirs >= ours / math.e - slack).all()


def test_an_untrained_dsm_is_nearly_uniform():
    torch.manual_seed(0)
    dsm = DSM(64, bias=True).double().eval()
    x = torch.randn(2, 64, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        ours, theirs = same_weights(dsm)(x) - x, dsm(x) - x
    ratio = theirs / ours
    assert ratio.min() > 0.94 and ratio.max() < 1.06
    assert ratio.max() - ratio.min() > 1e-3
