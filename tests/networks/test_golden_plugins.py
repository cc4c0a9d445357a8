"""The vector files of the plug-ins that sit in a backbone: outputs, gradients, statistics, parameters."""

from functools import partial
from importlib import import_module

import pytest
import torch
from agreement import MAPS, check_agreement
from golden import check_module, load
from hypothesis import given, settings
from hypothesis import strategies as st

from dsnet_med.networks import plugins

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
def test_plugin_gives_the_reference_values(vectors, name):
    golden = vectors(name)
    module = load(FILES[name](golden["in/0"].shape[1]), golden.state())
    assert sum(p.numel() for p in module.parameters()) == golden.meta["params"]
    assert check_module(module, golden) == len(list(module.parameters()))


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


@pytest.mark.parametrize(("name", "options"), CASES)
@given(
    shape=MAPS,
    channels=st.sampled_from([1, 2, 5, 16, 24]),
    training=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_equals_the_textbook_form(name, options, shape, channels, training):
    batch, height, width, seed = shape
    torch.manual_seed(seed)
    plugin = getattr(plugins, name)
    textbook = getattr(import_module(f"textbook.{plugin.__module__.rpartition('.')[2]}"), f"Textbook{name}")
    forms = (form(channels, **options) for form in (plugin, textbook))
    silent = ["conv_mask.bias"] if name == "GlobalContext" and "pooling" not in options else []
    check_agreement(*forms, (batch, channels, height, width), training, silent)
