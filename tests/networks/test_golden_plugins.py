"""The vector files of the plug-ins that sit in a backbone: outputs, gradients, statistics, parameters."""

import copy
from functools import partial
from importlib import import_module

import pytest
import torch
from golden import Golden, check_close, check_gradients, check_running_statistics, load
from hypothesis import given, settings
from hypothesis import strategies as st

from dsnet_med.networks import from_reference, plugins

FILES = {
    "se": plugins.SE,
    "se_c256": plugins.SE,
    "eca": plugins.ECA,
    "cbam": plugins.CBAM,
    "enc_module": plugins.Encoding,
    "psa_p": plugins.PSA,
    "psa_s": partial(plugins.PSA, mode="sequential"),
    "context_block": plugins.GlobalContext,
    "fca_layer_7x7": plugins.FrequencyChannel,
    "fca_layer_14_pool": partial(plugins.FrequencyChannel, height=14, width=14),
}


@pytest.mark.parametrize("name", FILES)
def test_plugin_gives_the_reference_values(shared, name):
    golden = Golden(shared / "golden", name)
    module = load(FILES[name](golden["in/0"].shape[1]), golden.state())
    assert sum(p.numel() for p in module.parameters()) == golden.meta["params"]
    inputs = golden["in/0"].requires_grad_()
    output = module(inputs)
    check_close(output, golden["out_eval/0"])
    assert check_gradients(module, output, inputs, golden) == len(list(module.parameters()))
    with torch.no_grad():
        check_close(module.train()(inputs), golden["out_train/0"])
    check_running_statistics(module, golden)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (14, 14), (28, 14)])
def test_cosines_are_those_of_the_discrete_transform(height, width):
    plugin = plugins.FrequencyChannel(32, height, width)
    filters = plugin.cosines.flatten(1)
    gram = filters @ filters.T
    groups = torch.arange(32) // 2
    torch.testing.assert_close(gram, (groups[:, None] == groups).float(), rtol=0, atol=1e-5)


OPTIONS = {
    "SE": [{}, {"ratio": 4}],
    "ECA": [{}, {"kernel_size": 5}],
    "CBAM": [{}, {"ratio": 2}],
    "Encoding": [{}, {"num_codes": 5}],
    "PSA": [{}, {"mode": "sequential"}],
    "GlobalContext": [
        {},
        {"ratio": 0.5, "fusions": ("channel_mul",)},
        {"pooling": "avg", "fusions": ("channel_add", "channel_mul")},
    ],
    "FrequencyChannel": [{}, {"height": 14, "width": 7, "ratio": 2}],
}
CASES = [(name, options) for name, all_options in OPTIONS.items() for options in all_options]


def pair(name, channels, options):
    """Our plug-in and its textbook form with the same random weights, in float64."""
    ours = getattr(plugins, name)(channels, **options).double()
    module = import_module(f"textbook.{type(ours).__module__.rpartition('.')[2]}")
    textbook = getattr(module, f"Textbook{name}")(channels, **options).double()
    with torch.no_grad():
        for value in textbook.parameters():
            value.copy_(0.5 * torch.randn_like(value))
    ours.load_state_dict(from_reference(textbook.state_dict(), ours), strict=True)
    return ours, textbook


@pytest.mark.parametrize(("name", "options"), CASES)
@given(
    batch=st.integers(2, 3),
    channels=st.sampled_from([1, 2, 5, 16, 24]),
    sizes=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    training=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_equals_the_textbook_form(name, options, batch, channels, sizes, training, seed):
    torch.manual_seed(seed)
    ours, textbook = (module.train(training) for module in pair(name, channels, options))
    x = torch.randn(batch, channels, *sizes, dtype=torch.float64)
    results = []
    for module in (ours, textbook):
        image = copy.deepcopy(x).requires_grad_()
        output = module(image)
        output.square().sum().backward()
        results.append((output.detach(), image.grad))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-5)
