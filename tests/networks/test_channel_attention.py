"""Channel attention: the reference's vectors and the formula."""

import pytest
import torch
from agreement import check_free_batch, check_shapes_and_formats
from golden import check_close, load
from hypothesis import given, settings
from hypothesis import strategies as st
from textbook.channel_attention import TextbookChannelAttention
from torch import nn

from dsnet_med.networks.plugins import ChannelAttention


def test_is_the_reference(vectors):
    golden = vectors("cam")
    x = golden["in/0"].requires_grad_()
    module = load(ChannelAttention(x.shape[1]), golden.state())
    assert sum(p.numel() for p in module.parameters()) == golden.meta["params"]
    output = module(x)
    check_close(output, golden["out_eval/0"])
    check_close(module.train()(x), golden["out_train/0"])
    with torch.no_grad():
        check_close(module(x), golden["out_eval/0"])
    (output * golden["gradw/0"]).sum().backward()
    check_close(x.grad, golden["grad_in/0"])
    check_close(module.gamma.grad, golden["grad_param/gamma.scale"])


@settings(max_examples=30)
@given(
    channels=st.integers(1, 9),
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    spread=st.sampled_from([0.1, 1.0, 10.0]),
    seed=st.integers(0, 2**16),
)
def test_equals_the_formula_in_float64(*, channels, batch, size, spread, seed):
    torch.manual_seed(seed)
    textbook = TextbookChannelAttention(channels)
    nn.init.constant_(textbook.gamma.scale, 0.7)
    lean = load(ChannelAttention(channels), textbook.state_dict()).double()
    x = spread * torch.randn(batch, channels, *size, dtype=torch.float64)
    weight = torch.randn_like(x)
    results = []
    for module in (textbook.double(), lean):
        given_x = x.clone().requires_grad_()
        output = module(given_x)
        (output * weight).sum().backward()
        results.append([output, given_x.grad, next(module.parameters()).grad])
    for expected, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8)


def test_second_derivatives_are_right():
    torch.manual_seed(0)
    module = ChannelAttention(3).double()
    nn.init.constant_(module.gamma, 0.7)
    x = 0.5 * torch.randn(2, 3, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(module, x.requires_grad_())


def test_learns_under_autocast():
    torch.manual_seed(0)
    module, x = ChannelAttention(8), (0.3 * torch.randn(2, 8, 6, 5)).requires_grad_()
    nn.init.constant_(module.gamma, 0.7)
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = module(x).float()
        gradients.append(torch.autograd.grad(output.square().sum(), x)[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=2e-2 * gradients[0].abs().max().item())


def test_starts_as_the_identity():
    x = torch.randn(1, 8, 5, 7)
    assert torch.equal(ChannelAttention(8)(x), x)


@pytest.mark.parametrize("spatial", [(11,), (5, 3), (4, 3, 5), (1, 1)])
def test_shapes_formats_and_types(spatial):
    torch.manual_seed(0)
    module, x = ChannelAttention(8).eval(), 0.3 * torch.randn(1, 8, *spatial)
    nn.init.constant_(module.gamma, 0.7)
    check_shapes_and_formats(module, x)


def test_exports_with_a_free_batch():
    torch.manual_seed(0)
    module, x = ChannelAttention(8).eval(), 0.3 * torch.randn(3, 8, 6, 5)
    nn.init.constant_(module.gamma, 0.7)
    check_free_batch(module, x)
