"""External attention: the reference's vectors and the formulas, in both layouts."""

import pytest
import torch
from agreement import check_close_gradients, check_free_batch, check_shapes_and_formats, lively
from golden import check_module, load
from hypothesis import given, settings
from hypothesis import strategies as st
from textbook.external_attention import TextbookExternalAttention

from dsnet_med.networks.plugins import ExternalAttention


def test_is_the_reference(vectors):
    golden = vectors("external_attention")
    module = load(ExternalAttention(golden.meta["ctor"]["dim"], reference_layout=True), golden.state())
    assert sum(p.numel() for p in module.parameters()) == golden.meta["params"]
    assert check_module(module, golden) > 3


@settings(max_examples=30)
@given(
    channels=st.integers(1, 9),
    memory=st.integers(1, 9),
    reference_layout=st.booleans(),
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    seed=st.integers(0, 2**16),
)
def test_equals_the_formulas_in_float64(*, channels, memory, reference_layout, batch, size, seed):
    torch.manual_seed(seed)
    textbook = lively(TextbookExternalAttention(channels, memory, reference_layout), 1).double()
    lean = load(ExternalAttention(channels, memory, reference_layout), textbook.state_dict()).double()
    x = torch.randn(batch, channels, *size, dtype=torch.float64)
    tolerances = [(1e-10, 1e-10), (1e-9, 1e-10), (1e-8, 1e-9)]
    check_close_gradients(lean, textbook, x, tolerances=tolerances)


def test_memories_start_equal_and_are_not_tied():
    module = ExternalAttention(8)
    assert torch.equal(module.values.weight, module.keys.weight.T)
    assert module.values.weight.untyped_storage().data_ptr() != module.keys.weight.untyped_storage().data_ptr()


def test_only_the_default_attends_over_pixels():
    """Shuffled pixels give shuffled results, unless the map is read as the published code does."""
    torch.manual_seed(0)
    x, order = torch.randn(2, 8, 1, 30), torch.randperm(30)
    for reference_layout in (False, True):
        module = ExternalAttention(8, reference_layout=reference_layout)
        equal = torch.allclose(module(x[..., order]), module(x)[..., order], atol=1e-5)
        assert equal is not reference_layout


@pytest.mark.parametrize("reference_layout", [False, True])
@pytest.mark.parametrize("spatial", [(11,), (5, 3), (4, 3, 5), (1, 1)])
def test_shapes_formats_and_types(spatial, reference_layout):
    torch.manual_seed(0)
    module, x = ExternalAttention(8, reference_layout=reference_layout).eval(), torch.randn(1, 8, *spatial)
    check_shapes_and_formats(module, x)


@pytest.mark.parametrize("reference_layout", [False, True])
def test_exports_with_a_free_batch(reference_layout):
    torch.manual_seed(0)
    module, x = ExternalAttention(8, reference_layout=reference_layout).eval(), torch.randn(3, 8, 6, 5)
    check_free_batch(module, x)
