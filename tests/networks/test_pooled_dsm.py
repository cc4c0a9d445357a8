"""DSM with pooled branches, alone and squeezed: the reference's vectors, the formulas, axes, errors."""

from functools import partial

import pytest
import torch
from agreement import MAPS, check_agreement, kept_values
from golden import check_module, load
from hypothesis import given, settings
from hypothesis import strategies as st
from textbook.pooled_dsm import TextbookPooledDSM
from torch import nn

from dsnet_med.errors import InputError
from dsnet_med.networks.layers import group_norm
from dsnet_med.networks.plugins import DSM, PooledDSM, Squeezed

FILES = {
    "dsa_v7": PooledDSM,
    "dsa_v13": partial(PooledDSM, value=False),
    "dsa_v14": partial(Squeezed, norm=partial(group_norm, groups=4)),
}


@pytest.mark.parametrize("name", FILES)
def test_gives_the_reference_values(vectors, name):
    golden = vectors(name)
    module = load(FILES[name](golden["in/0"].shape[1]), golden.state())
    assert sum(p.numel() for p in module.parameters()) == golden.meta["params"]
    assert check_module(module, golden) == len(golden.group("grad_param")) > 10


def test_the_published_size_has_the_published_parameters():
    assert sum(p.numel() for p in Squeezed(512).parameters()) == 1_296_690


@settings(max_examples=30)
@given(
    shape=MAPS,
    channels=st.integers(1, 12),
    ratio=st.sampled_from([1, 2, 16]),
    value=st.booleans(),
    training=st.booleans(),
)
def test_equals_the_formulas(*, shape, channels, ratio, value, training):
    batch, height, width, seed = shape
    torch.manual_seed(seed)
    forms = (form(channels, ratio, value) for form in (PooledDSM, TextbookPooledDSM))
    check_agreement(*forms, (batch, channels, height, width), training)


@pytest.mark.parametrize("spatial", [(30,), (2, 3, 5)])
def test_takes_other_numbers_of_axes(spatial):
    plugin = PooledDSM(8, spatial_dims=len(spatial)).eval()
    x = torch.randn(2, 8, *spatial)
    assert plugin(x).shape == x.shape
    with pytest.raises(InputError, match=rf"make it with spatial_dims={len(spatial)}$"):
        PooledDSM(8)(x)


def test_keeps_no_map_of_rank_one():
    torch.manual_seed(0)
    x = torch.randn(2, 32, 32, 32, requires_grad=True)
    assert kept_values(PooledDSM(32), x) < 0.55 * kept_values(TextbookPooledDSM(32), x)


def test_squeezed_takes_any_plugin():
    torch.manual_seed(0)
    module, x = Squeezed(16, plugin=DSM, ratio=2), torch.randn(2, 16, 5, 6)
    assert isinstance(module.inner, DSM) and module.squeeze.conv.out_channels == 8
    assert module(x).shape == x.shape
    assert isinstance(Squeezed(16, norm=nn.BatchNorm2d).align.norm, nn.BatchNorm2d)
    with pytest.raises(InputError, match=r"Squeezed got a map of shape \(2, 16, 30\)"):
        module(x.flatten(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims=4 and wants 1, 2 or 3"),
        ({"norm": "bacth"}, "did you mean 'batch'"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(InputError, match=message):
        PooledDSM(8, **options)


def test_a_batch_of_one_in_training_says_what_to_do():
    with pytest.raises(InputError, match="batch of at least 2"):
        PooledDSM(8)(torch.randn(1, 8, 4, 4))
    assert PooledDSM(8, norm="group")(torch.randn(1, 8, 4, 4)).shape == (1, 8, 4, 4)
