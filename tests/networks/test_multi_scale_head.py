"""Multi-scale head: against its formulas, any plug-in, its norms, and its names in the reference."""

from functools import partial

import pytest
import torch
from golden import by_reference_name
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lively import lively, normalised, pyramid
from torch import nn
from torch.nn import functional as F

from dsnet_med.errors import InputError
from dsnet_med.networks.heads import MultiScaleHead, light_ham_head
from dsnet_med.networks.plugins import DSM, SE, Hamburger

CHANNELS = [3, 4, 5, 6]


class Flip(nn.Module):
    """A plug-in that is easily told from none, without parameters."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, x):
        assert x.shape[1] == self.channels
        return x.flip(1)


def textbook_head(features, state, levels):
    """The head as its formulas read with `Flip`, on the reference's `state`, in eval."""

    def layer(name, x):
        projected = torch.einsum("oi,bihw->bohw", state[f"{name}.conv.weight"][..., 0, 0], x)
        return F.relu(normalised(state, f"{name}.bn", projected))

    size = features[levels[0]].shape[2:]
    joined = torch.cat([F.interpolate(features[i], size, mode="bilinear") for i in levels], 1)
    hidden = layer("align", layer("squeeze", joined).flip(1))
    return F.conv2d(hidden, state["conv_seg.weight"], state["conv_seg.bias"])


@settings(max_examples=20)
@example(batch=2, height=17, width=12, levels=(3, 0, 1, 2), seed=0)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 25),
    width=st.integers(1, 25),
    levels=st.sampled_from([(1, 2, 3), (0, 3), (2,), (3, 0, 1, 2)]),
    seed=st.integers(0, 99),
)
def test_is_its_formulas(batch, height, width, levels, seed):
    torch.manual_seed(seed)
    head = lively(MultiScaleHead(CHANNELS, 2, plugin=Flip, channels=4, levels=levels))
    features = pyramid(CHANNELS, batch, height, width)
    expected = textbook_head(features, by_reference_name(head, head.state_dict()), levels)
    assert expected.shape[2:] == features[levels[0]].shape[2:]
    torch.testing.assert_close(head(features), expected, rtol=1e-10, atol=1e-10)


PLUGINS = {
    "none": nn.Identity,
    "se": SE,
    "dsm": partial(DSM, ratio=2),
    "dsm_group": partial(DSM, norm="group"),
    "hamburger": partial(Hamburger, rank=4),
}


@pytest.mark.parametrize("name", PLUGINS)
def test_takes_any_plugin(name):
    head = MultiScaleHead(CHANNELS, 2, plugin=PLUGINS[name], width=1 / 64).double()
    head(pyramid(CHANNELS, 2, 17, 12)).square().sum().backward()
    dead = [key for key, value in head.named_parameters() if value.grad is None or not value.grad.any()]
    assert dead == []
    assert head.squeeze.conv.out_channels == 8


def test_a_batch_of_one_trains_where_the_plugin_does():
    features = pyramid(CHANNELS, 1, 16, 16)
    with pytest.raises(InputError, match="DSM got a batch of one"):
        MultiScaleHead(CHANNELS, 2, plugin=DSM, channels=8).double()(features)
    head = MultiScaleHead(CHANNELS, 2, plugin=PLUGINS["dsm_group"], channels=8).double()
    assert head(features).shape == (1, 2, 8, 8)


def test_the_light_hamburger_head_has_group_norms_throughout():
    head = light_ham_head(CHANNELS, 2, plugin=partial(Hamburger, rank=4), channels=64, groups=16)
    norms = [module for module in head.modules() if isinstance(module, nn.GroupNorm | nn.BatchNorm2d)]
    assert [(type(norm), norm.num_groups) for norm in norms] == 3 * [(nn.GroupNorm, 16)]
    narrow = light_ham_head(CHANNELS, 2, plugin=partial(Hamburger, rank=4), channels=512, width=0.01, groups=32)
    assert narrow.double()(pyramid(CHANNELS, 1, 8, 8)).shape == (1, 2, 4, 4)  # trains with a batch of one too


def test_names_in_the_reference():
    dsm = MultiScaleHead(CHANNELS, 2, plugin=DSM, channels=8)
    ham = light_ham_head(CHANNELS, 2, plugin=partial(Hamburger, rank=4), channels=8)
    for head, inside in ((dsm, "dsn_block."), (ham, "hamburger.ham_in.")):
        names = by_reference_name(head, head.state_dict())
        assert {name.partition(".")[0] for name in names} == {
            "squeeze", "align", "conv_seg", inside.partition(".")[0],
        }  # fmt: skip
        assert any(name.startswith(inside) for name in names)
