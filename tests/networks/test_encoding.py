"""Context encoding: the formulas, precision, memory, and what training needs."""

import pytest
import torch
from agreement import MAPS, check_agreement, check_any_axes, kept_values, lively
from golden import load
from hypothesis import given, settings
from hypothesis import strategies as st
from textbook.encoding import TextbookEncoding

from dsnet_med.errors import InputError
from dsnet_med.networks.plugins import Encoding


@settings(max_examples=30)
@given(
    shape=MAPS,
    channels=st.integers(2, 20),
    num_codes=st.sampled_from([1, 2, 8, 33]),
    training=st.booleans(),
)
def test_equals_the_formulas(shape, channels, num_codes, training):
    batch, height, width, seed = shape
    torch.manual_seed(seed)
    forms = Encoding(channels, num_codes), TextbookEncoding(channels, num_codes)
    check_agreement(*forms, (batch, channels, height, width), training)


def pair(channels, num_codes, spread):
    """Both forms with the same weights, codewords of the size of the pixels, and scales that keep them soft."""
    textbook = TextbookEncoding(channels, num_codes).eval()
    with torch.no_grad():
        textbook.encoding[0].codewords.mul_(2 * spread)
        textbook.encoding[0].scale.div_(channels**0.5)
    return load(Encoding(channels, num_codes), textbook.state_dict()), textbook


@pytest.mark.parametrize("spread", [0.01, 1])
def test_single_precision_is_kept(spread):
    """|x|^2 - 2 x'c + |c|^2 costs no more than a few roundings over the residuals themselves."""
    torch.manual_seed(0)
    ours, textbook = pair(256, 32, spread)
    x = torch.randn(2, 256, 12, 12)
    with torch.no_grad():
        low, theirs = ours(x), textbook(x)
        exact = ours.double()(x.double())
    error = (low - exact).abs().max()
    assert error < 1e-6 * exact.abs().max() + 3 * (theirs - exact).abs().max()


def test_autocast_keeps_the_assignment():
    """In bfloat16 the distances of these codewords would be off by more than one."""
    torch.manual_seed(0)
    ours, _ = pair(256, 16, 3)
    pixels = torch.randn(2, 256, 64).relu()
    ours.project.weight.data.copy_(torch.eye(256))  # which bfloat16 keeps exactly
    pixels = pixels.bfloat16().float()
    with torch.no_grad():
        expected = ours.encode(pixels)
        with torch.autocast("cpu", torch.bfloat16):
            found = ours.encode(pixels)
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_keeps_the_type(dtype):
    module = Encoding(8).eval().to(dtype)
    assert module(torch.randn(2, 8, 5, 3, dtype=dtype)).dtype == dtype


def test_keeps_four_maps_for_the_gradient():
    """Input, projection, its activation and the output, and less than one more in small things."""
    x = torch.randn(2, 64, 24, 24, requires_grad=True)
    assert kept_values(Encoding(64, 8), x) < 5 * x.numel()
    assert kept_values(TextbookEncoding(64, 8), x) > 12 * x.numel()  # residuals: one map per codeword


def test_starts_as_the_published_code():
    torch.manual_seed(0)
    module = Encoding(64, 32)
    bound = (32 * 64) ** -0.5
    assert 0.99 * bound < module.codewords.abs().max() <= bound
    assert -1 <= module.scale.min() < -0.9 < -0.1 < module.scale.max() <= 0
    assert module.project.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)


@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (1, 1, 4, 4)])
def test_training_needs_a_variance(shape):
    module = Encoding(shape[1])
    with pytest.raises(InputError, match="in training, where its batch norms need two pixels"):
        module(torch.randn(shape))
    assert module.eval()(torch.randn(shape)).shape == shape


@pytest.mark.parametrize("shape", [(2, 8, 1, 1), (1, 8, 1, 2), (1, 2, 2, 1), (2, 1, 3, 1)])
def test_trains_on_the_smallest_maps(shape):
    assert Encoding(shape[1])(torch.randn(shape)).isfinite().all()


def test_is_emphasis_of_its_own_encoding():
    torch.manual_seed(0)
    module, x = lively(Encoding(8)).eval(), torch.randn(2, 8, 5, 3)
    assert torch.equal(module(x), module.emphasize(x, module.encode(x)))


def test_any_number_of_axes():
    torch.manual_seed(0)
    check_any_axes(Encoding(24), 24)
