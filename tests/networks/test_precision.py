"""Plug-ins, heads and rows in half precision: finite, and near what single precision gives."""

from functools import partial

import pytest
import torch

import dsnet_med
from dsnet_med.methods import published_ids
from dsnet_med.networks import heads, plugins

PLUGINS = {
    "PSA, sequential": partial(plugins.PSA, mode="sequential"),
    "ExternalAttention as published": partial(plugins.ExternalAttention, reference_layout=True),
    "PooledDSM, value": partial(plugins.PooledDSM, value=False),
} | {name: getattr(plugins, name) for name in plugins.__all__}
HEADS = {name: getattr(heads, name) for name in ("DANetHead", "EncHead", "FCNHead", "UPerHead")} | {
    "MultiScaleHead": partial(heads.MultiScaleHead, plugin=plugins.DSM),
    "light_ham_head": partial(heads.light_ham_head, plugin=plugins.Hamburger),
}
CHANNELS = (8, 16, 32, 64)
TYPES = {
    torch.float16: 0.05,
    torch.bfloat16: 0.1,
}  # and how far a result may be off: 3 and 2 digits, and a softmax


def single_and_half(module, inputs, dtype):
    """What a module in training gives in single precision and under autocast, from the same random numbers."""
    state = {name: value.clone() for name, value in module.state_dict().items()}
    results = []
    for enabled in (False, True):
        module.load_state_dict(state)
        torch.manual_seed(2)
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            output = module(inputs if enabled or not torch.is_tensor(inputs) else inputs.float())
        results.append(output if isinstance(output, tuple) else (output,))
    return zip(*results, strict=True)


def moved(module):
    """`module` with parameters off their initial values, so that what starts at zero takes part."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(
                0.3 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5 if parameter.ndim else 1
            )
    return module.train()


@pytest.mark.parametrize("name", PLUGINS)
def test_plugins_at_large_activations(name):
    for dtype, tolerance in TYPES.items():
        torch.manual_seed(0)
        plugin, x = moved(PLUGINS[name](32)), 100 * torch.randn(2, 32, 48, 48).relu()
        x = x.to(dtype).requires_grad_()
        for single, half in single_and_half(plugin, x, dtype):
            assert half.isfinite().all()
            assert (half - single).norm() <= tolerance * single.norm()
            half.float().mean().backward()
        assert all(each.grad is None or each.grad.isfinite().all() for each in (x, *plugin.parameters()))


@pytest.mark.parametrize("name", HEADS)
def test_heads_at_large_activations(name):
    for dtype, tolerance in TYPES.items():
        torch.manual_seed(0)
        head = moved(HEADS[name](CHANNELS, 3, channels=64, dropout=0.0))
        levels = [(100 * torch.randn(2, c, 256 // c, 256 // c).relu()).to(dtype).float() for c in CHANNELS]
        for single, half in single_and_half(head, levels, dtype):
            assert half.isfinite().all()
            assert (half - single).norm() <= tolerance * single.norm()


@pytest.mark.parametrize("method", published_ids())
def test_a_step_of_every_row_in_float16(method):
    torch.manual_seed(0)
    network = dsnet_med.build_network(method, in_channels=1, num_classes=3, width=0.0625)
    with torch.autocast("cpu", dtype=torch.float16):
        outputs = network(10 * torch.randn(2, 1, 64, 64))
    sum(each.float().mean() for each in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()
    assert all(each.grad is None or each.grad.isfinite().all() for each in network.parameters())
