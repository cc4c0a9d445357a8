"""Position attention: the reference's vectors, the formula, and no map of pixel pairs."""

import warnings

import pytest
import torch
from golden import Golden, by_reference_name, check_close, load
from hypothesis import given, settings
from hypothesis import strategies as st
from textbook.position_attention import TextbookPositionAttention
from torch import nn

from dsnet_med.networks.plugins import PositionAttention, position_attention


def test_is_the_reference(shared):
    golden = Golden(shared / "golden", "pam")
    ctor = golden.meta["ctor"]
    module = load(PositionAttention(ctor["in_channels"], hidden=ctor["channels"]), golden.state())
    assert sum(p.numel() for p in module.parameters()) == golden.meta["params"]
    x = golden["in/0"].requires_grad_()
    output = module(x)
    check_close(output, golden["out_eval/0"])
    check_close(module.train()(x), golden["out_train/0"])
    (output * golden["gradw/0"]).sum().backward()
    check_close(x.grad, golden["grad_in/0"])
    ours = by_reference_name(module, {name: value.grad for name, value in module.named_parameters()})
    theirs = golden.group("grad_param")
    assert ours["key_project.bias"].abs().max() < 1e-4  # zero by the softmax's invariance: rounding is left
    assert theirs.pop("key_project.bias").abs().max() < 1e-4
    assert len(theirs) == 6
    for name, value in theirs.items():
        check_close(ours[name], value, rtol=2e-5)


def gradients(module, x, weight):
    x = x.clone().requires_grad_()
    output = module(x)
    (output * weight).sum().backward()
    return output.detach(), x.grad, {name: value.grad for name, value in module.named_parameters()}


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
    textbook = TextbookPositionAttention(channels, hidden)
    with torch.no_grad():
        for parameter in textbook.parameters():
            parameter.copy_(0.7 * torch.randn_like(parameter))
    lean = load(PositionAttention(channels, hidden), textbook.state_dict()).double()
    x = torch.randn(batch, channels, *size, dtype=torch.float64)
    weight = torch.randn_like(x)
    expected, expected_x, expected_parameters = gradients(textbook.double(), x, weight)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(position_attention, "_QUERIES", queries)
        output, output_x, parameters = gradients(lean, x, weight)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(output_x, expected_x, rtol=1e-9, atol=1e-9)
    parameters = by_reference_name(lean, parameters)
    for name, value in expected_parameters.items():
        torch.testing.assert_close(parameters[name].reshape(value.shape), value, rtol=1e-8, atol=1e-8, msg=name)


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


def kept_values(module, x):
    storages = {}

    def note(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = module(x)
    del output
    return sum(storages.values())


def test_starts_as_the_identity():
    x = torch.randn(1, 8, 5, 7)
    assert torch.equal(PositionAttention(8)(x), x)


@pytest.mark.parametrize("spatial", [(11,), (5, 3), (4, 3, 5), (1, 1)])
def test_shapes_formats_and_types(spatial):
    torch.manual_seed(0)
    module, x = PositionAttention(8).eval(), torch.randn(1, 8, *spatial)
    nn.init.constant_(module.gamma, 0.7)
    expected = module(x)
    assert expected.shape == x.shape
    torch.testing.assert_close(expected.flatten(2), module(x.flatten(2)))
    if len(spatial) == 2:
        torch.testing.assert_close(module(x.to(memory_format=torch.channels_last)), expected)
    low = module.bfloat16()(x.bfloat16())
    assert (low.float() - expected).abs().max() / expected.abs().max() < 5e-2


def test_exports_with_a_free_batch():
    torch.manual_seed(0)
    module, x = PositionAttention(8).eval(), torch.randn(3, 8, 30, 20)
    nn.init.constant_(module.gamma, 0.7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(x), module(x))
