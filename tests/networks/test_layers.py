"""Sums, projections and choices of pixels: values and gradients in either memory format, and how those lie."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsnet_med.networks.layers import pixels_at, project, weighted_sums

LAYOUTS = ["channels first", "channels last"]
SIZES = {"batch": st.integers(1, 3), "channels": st.integers(1, 6), "pixels": st.integers(1, 7)}


def laid_out(pixels, layout):
    return pixels.mT.contiguous().mT if layout == "channels last" else pixels.contiguous()


def plain_sums(pixels, weights):
    return torch.einsum("bcn,bkn->bkc", pixels, weights)


def plain_channel_sums(pixels, weights):
    return torch.einsum("bcn,bkc->bkn", pixels, weights)


def plain_projection(pixels, weights):
    return torch.einsum("bcn,kc->bkn", pixels, weights[0])


# Ours, the plain form, and which axis of the map the weights go along.
FORMS = {
    "sums": (weighted_sums, plain_sums, 2),
    "channel sums": (lambda pixels, weights: weighted_sums(pixels.mT, weights), plain_channel_sums, 1),
    "projection": (lambda pixels, weights: project(pixels, weights[0]), plain_projection, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
@given(**SIZES, count=st.integers(1, 4), seed=st.integers(0, 2**16))
def test_values_and_gradients(*, form, layout, batch, channels, pixels, count, seed):
    ours, plain, axis = FORMS[form]
    torch.manual_seed(seed)
    x = laid_out(torch.randn(batch, channels, pixels, dtype=torch.float64), layout).requires_grad_()
    weights = torch.randn(batch, count, x.shape[axis], dtype=torch.float64, requires_grad=True)
    found, expected = ours(x, weights), plain(x, weights)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(found, (x, weights), gradient),
        torch.autograd.grad(expected, (x, weights), gradient),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(**SIZES, count=st.integers(1, 4), seed=st.integers(0, 2**16))
def test_chosen_pixels(*, layout, batch, channels, pixels, count, seed):
    torch.manual_seed(seed)
    x = laid_out(torch.randn(batch, channels, pixels), layout).requires_grad_()
    index = torch.randint(pixels, (batch, count))
    found = pixels_at(x, index)
    assert found.shape == (batch, channels, count)
    gradient = torch.zeros_like(x)
    for image in range(batch):
        for place, pixel in enumerate(index[image]):
            torch.testing.assert_close(found[image, :, place], x[image, :, pixel])
            gradient[image, :, pixel] += 1
    torch.testing.assert_close(torch.autograd.grad(found.sum(), x)[0], gradient)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", [*FORMS, "chosen pixels"])
def test_the_gradient_lies_as_the_map_does(form, layout):
    """Else it would be copied when gradients are added up."""
    x = laid_out(torch.randn(2, 5, 7), layout).requires_grad_()
    if form == "chosen pixels":
        output = pixels_at(x, torch.tensor([[1, 6], [0, 0]]))
    else:
        ours, _, axis = FORMS[form]
        output = ours(x, torch.randn(2, 3, x.shape[axis]))
    assert torch.autograd.grad(output.sum(), x)[0].stride() == x.stride()


def test_gradients_under_autocast_have_the_types_of_their_tensors():
    x, weights = torch.randn(2, 4, 6, requires_grad=True), torch.rand(2, 3, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        sums = weighted_sums(x, weights)
    assert sums.dtype == torch.bfloat16
    sums.sum().backward()
    assert x.grad.dtype == weights.grad.dtype == torch.float32
    torch.testing.assert_close(x.grad, weights.sum(1, keepdim=True).expand_as(x), rtol=0.02, atol=0.02)
