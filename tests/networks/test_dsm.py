"""DSM's lean form against its formulas, over shapes, types and memory formats."""

import copy

import pytest
import torch
from agreement import gradients
from golden import by_reference_name, load
from hypothesis import given, settings
from hypothesis import strategies as st
from textbook.dsm import TextbookDSM

from dsnet_med.errors import InputError
from dsnet_med.networks.plugins import DSM

FUSIONS = ["dsa", "dam", "sq", "pr", "sq_plain", "pr_plain", "channel", "spatial"]


def pair(channels, ratio, bias, fusion, *, train):
    """The textbook module with lively weights, and ours with the same."""
    textbook = TextbookDSM(channels, ratio, bias, fusion)
    with torch.no_grad():
        for parameter in textbook.parameters():
            parameter.copy_(torch.randn_like(parameter))
    lean = load(DSM(channels, ratio=ratio, bias=bias, fusion=fusion), textbook.state_dict())
    return textbook.double().train(train), lean.double().train(train)


@settings(max_examples=40)
@given(
    fusion=st.sampled_from(FUSIONS),
    channels=st.integers(1, 9),
    ratio=st.sampled_from([1, 2, 4, 16]),
    bias=st.booleans(),
    train=st.booleans(),
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    seed=st.integers(0, 2**16),
)
def test_equals_the_formulas_in_float64(*, fusion, channels, ratio, bias, train, batch, size, layout, seed):
    torch.manual_seed(seed)
    textbook, lean = pair(channels, ratio, bias, fusion, train=train)
    x = torch.randn(batch + train, channels, *size, dtype=torch.float64)  # a batch of one only in eval
    x, weight = x.contiguous(memory_format=layout), torch.randn_like(x)
    expected, expected_x, expected_parameters = gradients(textbook, x, weight)
    output, output_x, parameters = gradients(lean, x, weight)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(output_x, expected_x, rtol=1e-9, atol=1e-10)
    parameters = by_reference_name(lean, parameters)
    for name, value in expected_parameters.items():
        torch.testing.assert_close(parameters[name].reshape(value.shape), value, rtol=1e-8, atol=1e-9, msg=name)
    statistics = by_reference_name(lean, dict(lean.named_buffers()))
    for name, value in textbook.named_buffers():
        torch.testing.assert_close(statistics[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 3e-2)])
def test_low_precision_stays_near_float64(fusion, dtype, tolerance):
    torch.manual_seed(0)
    module = DSM(64, bias=True, fusion=fusion).double().eval()
    x = torch.randn(2, 64, 17, 13, dtype=torch.float64)
    expected = module(x)
    output = copy.deepcopy(module).to(dtype)(x.to(dtype)).double()
    assert (output - expected).abs().max() / expected.abs().max() < tolerance


@pytest.mark.parametrize("fusion", FUSIONS)
def test_channels_last_stays_channels_last(fusion):
    torch.manual_seed(0)
    module, x = DSM(32, fusion=fusion).eval(), torch.randn(2, 32, 9, 5)
    output = module(x.to(memory_format=torch.channels_last))
    assert output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, module(x))


@pytest.mark.parametrize("spatial", [(11,), (5, 3), (4, 3, 5)])
def test_takes_any_number_of_spatial_axes(spatial):
    torch.manual_seed(0)
    module, x = DSM(8).eval(), torch.randn(2, 8, *spatial)
    output = module(x)
    assert output.shape == x.shape
    torch.testing.assert_close(output.flatten(2), module(x.flatten(2)))


def test_batch_of_one_in_training_says_what_to_do():
    module, x = DSM(8), torch.randn(1, 8, 4, 4)
    with pytest.raises(InputError, match=r'batch of at least 2, or norm="group"'):
        module(x)
    assert module.eval()(x).shape == x.shape
    assert DSM(8, norm="group")(x).shape == x.shape
    assert DSM(8, fusion="sq")(x).shape == x.shape  # no selective kernel, no batch norm


def test_group_norm_learns_from_one_image():
    torch.manual_seed(0)
    module, x = DSM(8, norm="group"), torch.randn(1, 8, 4, 4)
    module(x).square().sum().backward()
    assert all(
        value.grad.abs().sum() > 0 for name, value in module.named_parameters() if "query.bias" not in name
    )


@pytest.mark.parametrize("argument", [{"fusion": "dsn"}, {"norm": "bath"}])
def test_unknown_names_get_a_suggestion(argument):
    with pytest.raises(InputError, match="did you mean"):
        DSM(8, **argument)


def test_initialisation_is_the_reference():
    torch.manual_seed(0)
    module = DSM(512, bias=True)
    for branch in (module.channel, module.spatial):
        for layer in (branch.query, branch.value):
            assert layer.bias.abs().max() == 0
        assert branch.value.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)  # Kaiming, fan in
    bound = 512**-0.5  # PyTorch's default: uniform
    assert 0.95 * bound < module.fusion.value.weight.abs().max() <= bound


def test_keeps_no_map_of_rank_one():
    """Autograd keeps the input, the value and its attention of size (B, C, N); the textbook keeps more."""
    torch.manual_seed(0)
    x = torch.randn(2, 32, 16, 16, requires_grad=True)
    assert kept_maps(DSM(32, bias=True), x) < 0.55 * kept_maps(TextbookDSM(32, bias=True), x)


def kept_maps(module, x):
    storages = {}

    def note(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = module(x)
    del output
    return sum(storages.values())
