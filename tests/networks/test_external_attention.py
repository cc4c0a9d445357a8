"""External attention: the reference's vectors and the formulas, in both layouts."""

import warnings

import pytest
import torch
from golden import Golden, by_reference_name, load
from hypothesis import given, settings
from hypothesis import strategies as st
from test_golden import check_module
from textbook.external_attention import TextbookExternalAttention

from dsnet_med.networks.plugins import ExternalAttention


def test_is_the_reference(shared):
    golden = Golden(shared / "golden", "external_attention")
    module = load(ExternalAttention(golden.meta["ctor"]["dim"], reference_layout=True), golden.state())
    assert sum(p.numel() for p in module.parameters()) == golden.meta["params"]
    check_module(module, golden)


def gradients(module, x, weight):
    x = x.clone().requires_grad_()
    output = module(x)
    (output * weight).sum().backward()
    return output.detach(), x.grad, {name: value.grad for name, value in module.named_parameters()}


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
    textbook = TextbookExternalAttention(channels, memory, reference_layout)
    with torch.no_grad():
        for parameter in textbook.parameters():
            parameter.copy_(torch.randn_like(parameter))
    lean = load(ExternalAttention(channels, memory, reference_layout), textbook.state_dict()).double()
    x = torch.randn(batch, channels, *size, dtype=torch.float64)
    weight = torch.randn_like(x)
    expected, expected_x, expected_parameters = gradients(textbook.double(), x, weight)
    output, output_x, parameters = gradients(lean, x, weight)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(output_x, expected_x, rtol=1e-9, atol=1e-10)
    parameters = by_reference_name(lean, parameters)
    for name, value in expected_parameters.items():
        torch.testing.assert_close(parameters[name], value, rtol=1e-8, atol=1e-9, msg=name)


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
    expected = module(x)
    assert expected.shape == x.shape
    torch.testing.assert_close(expected.flatten(2), module(x.flatten(2)))
    if len(spatial) == 2:
        torch.testing.assert_close(module(x.to(memory_format=torch.channels_last)), expected)
    low = module.bfloat16()(x.bfloat16())
    assert (low.float() - expected).abs().max() / expected.abs().max() < 5e-2


@pytest.mark.parametrize("reference_layout", [False, True])
def test_exports_with_a_free_batch(reference_layout):
    torch.manual_seed(0)
    module, x = ExternalAttention(8, reference_layout=reference_layout).eval(), torch.randn(3, 8, 6, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(x), module(x))
