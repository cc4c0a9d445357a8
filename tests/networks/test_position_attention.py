"""Position attention: the reference's vectors, the formula, and no map of pixel pairs."""

import pytest
import torch
from agreement import check_close_gradients, check_free_batch, check_shapes_and_formats, kept_values, lively
from golden import check_attention, load
from hypothesis import given, settings
from hypothesis import strategies as st
from textbook.position_attention import TextbookPositionAttention
from torch import nn

from dsnet_med.networks.plugins import PositionAttention, position_attention


def test_is_the_reference(vectors):
    golden = vectors("pam")
    ctor = golden.meta["ctor"]
    module = load(PositionAttention(ctor["in_channels"], hidden=ctor["channels"]), golden.state())
    check_attention(module, golden, silent="key_project.bias")


@settings(max_examples=30)
@given(
    channels=st.integers(1, 9),
    hidden=st.one_of(st.none(), st.integers(1, 9)),
    queries=st.integers(1, 50),
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    seed=st.integers(0, 2**16),
)
def test_equals_the_formula_in_float64(*, channels, hidden, queries, batch, size, seed):
    torch.manual_seed(seed)
    textbook = lively(TextbookPositionAttention(channels, hidden), 0.7).double()
    lean = load(PositionAttention(channels, hidden), textbook.state_dict()).double()
    x = torch.randn(batch, channels, *size, dtype=torch.float64)
    tolerances = [(1e-10, 1e-10), (1e-9, 1e-9), (1e-8, 1e-8)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(position_attention, "_QUERIES", queries)
        check_close_gradients(lean, textbook, x, tolerances=tolerances)


def test_fused_and_sliced_attention_agree():
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 30, dtype=torch.float64), torch.randn(2, 4, 30, dtype=torch.float64)
    value = torch.randn(2, 9, 30, dtype=torch.float64)
    fused = position_attention._attend_fused(query, key, value)
    torch.testing.assert_close(fused, position_attention._attend_in_slices(query, key, value))


def test_keeps_no_map_of_pixel_pairs():
    """What autograd keeps grows with the pixels, not with their pairs."""
    torch.manual_seed(0)
    kept = {pixels: kept_values(PositionAttention(8), torch.randn(1, 8, 1, pixels)) for pixels in (500, 1000)}
    assert kept[1000] < 2.2 * kept[500]
    textbook = kept_values(TextbookPositionAttention(8), torch.randn(1, 8, 1, 1000))
    assert textbook > 1000 * 1000 > 10 * kept[1000]


def test_starts_as_the_identity():
    x = torch.randn(1, 8, 5, 7)
    assert torch.equal(PositionAttention(8)(x), x)


@pytest.mark.parametrize("spatial", [(11,), (5, 3), (4, 3, 5), (1, 1)])
def test_shapes_formats_and_types(spatial):
    torch.manual_seed(0)
    module, x = PositionAttention(8).eval(), torch.randn(1, 8, *spatial)
    nn.init.constant_(module.gamma, 0.7)
    check_shapes_and_formats(module, x)


def test_exports_with_a_free_batch():
    torch.manual_seed(0)
    module, x = PositionAttention(8).eval(), torch.randn(3, 8, 30, 20)
    nn.init.constant_(module.gamma, 0.7)
    check_free_batch(module, x)
