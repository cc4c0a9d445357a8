"""Criss-cross attention: the reference's vectors, the formulas, and what a pixel can reach."""

import warnings

import pytest
import torch
from golden import Golden, by_reference_name, check_close, load
from hypothesis import given, settings
from hypothesis import strategies as st
from textbook.criss_cross import TextbookCrissCross
from torch import nn

from dsnet_med.errors import InputError
from dsnet_med.networks.plugins import CrissCross


def test_is_the_reference(shared):
    golden = Golden(shared / "golden", "criss_cross")
    module = load(CrissCross(golden.meta["ctor"]["in_channels"]), golden.state())
    assert sum(p.numel() for p in module.parameters()) == golden.meta["params"]
    x = golden["in/0"].requires_grad_()
    output = module(x)
    check_close(output, golden["out_eval/0"])
    check_close(module.train()(x), golden["out_train/0"])
    (output * golden["gradw/0"]).sum().backward()
    check_close(x.grad, golden["grad_in/0"])
    ours = by_reference_name(module, {name: value.grad for name, value in module.named_parameters()})
    theirs = golden.group("grad_param")
    assert ours["key_conv.bias"].abs().max() < 1e-4  # zero by the softmax's invariance: rounding is left
    assert theirs.pop("key_conv.bias").abs().max() < 1e-4
    assert len(theirs) == 6
    for name, value in theirs.items():
        check_close(ours[name], value, rtol=2e-5)


def lively(channels, recurrence):
    """The textbook module with weights that matter, and ours with the same, in float64."""
    textbook = TextbookCrissCross(channels, recurrence)
    with torch.no_grad():
        for parameter in textbook.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return textbook.double(), load(CrissCross(channels, recurrence), textbook.state_dict()).double()


def gradients(module, x, weight):
    x = x.clone().requires_grad_()
    output = module(x)
    (output * weight).sum().backward()
    return output.detach(), x.grad, {name: value.grad for name, value in module.named_parameters()}


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
    textbook, lean = lively(channels, recurrence)
    x = torch.randn(batch, channels, *size, dtype=torch.float64)
    weight = torch.randn_like(x)
    expected, expected_x, expected_parameters = gradients(textbook, x, weight)
    output, output_x, parameters = gradients(lean, x, weight)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(output_x, expected_x, rtol=1e-8, atol=1e-8)
    parameters = by_reference_name(lean, parameters)
    for name, value in expected_parameters.items():
        torch.testing.assert_close(parameters[name], value, rtol=1e-7, atol=1e-7, msg=name)


@pytest.mark.parametrize(("recurrence", "reached"), [(1, 5 + 7 - 1), (2, 5 * 7)])
def test_reaches_the_cross_and_then_everything(recurrence, reached):
    torch.manual_seed(0)
    _, module = lively(8, recurrence)
    x = torch.randn(1, 8, 5, 7, dtype=torch.float64, requires_grad=True)
    module(x)[0, :, 2, 3].sum().backward()
    assert (x.grad.abs().sum(1) > 0).sum() == reached


def test_starts_as_the_identity():
    x = torch.randn(1, 8, 5, 7)
    assert torch.equal(CrissCross(8, recurrence=2)(x), x)


@pytest.mark.parametrize("spatial", [(11,), (4, 3, 5)])
def test_other_than_two_axes_are_refused(spatial):
    with pytest.raises(InputError, match="2-D maps"):
        CrissCross(8)(torch.randn(1, 8, *spatial))


@pytest.mark.parametrize("size", [(1, 1), (9, 5)])
def test_formats_and_types(size):
    torch.manual_seed(0)
    module, x = CrissCross(32, recurrence=2).eval(), torch.randn(1, 32, *size)
    nn.init.constant_(module.gamma, 0.7)
    expected = module(x)
    torch.testing.assert_close(module(x.to(memory_format=torch.channels_last)), expected)
    low = module.bfloat16()(x.bfloat16())
    assert (low.float() - expected).abs().max() / expected.abs().max() < 5e-2


def test_exports_with_a_free_batch():
    torch.manual_seed(0)
    module, x = lively(8, 2)[1].float().eval(), torch.randn(3, 8, 6, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(x), module(x))
