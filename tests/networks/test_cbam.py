"""CBAM: the formulas with every option, the gradients of its poolings, and one to three axes."""

import pytest
import torch
from agreement import MAPS, check_agreement, check_any_axes, lively
from hypothesis import given, settings
from hypothesis import strategies as st
from textbook.cbam import TextbookCBAM

from dsnet_med.errors import InputError
from dsnet_med.networks.plugins import CBAM

POOLS = ("avg", "max", "lp", "lse")


@settings(max_examples=30)
@given(
    shape=MAPS,
    channels=st.integers(1, 20),
    ratio=st.sampled_from([1, 2, 16]),
    pools=st.lists(st.sampled_from(POOLS), min_size=1, max_size=4, unique=True),
    kernel_size=st.sampled_from([1, 3, 7]),
    spatial=st.booleans(),
    training=st.booleans(),
)
def test_equals_the_formulas(*, shape, channels, ratio, pools, kernel_size, spatial, training):
    batch, height, width, seed = shape
    torch.manual_seed(seed)
    forms = (kind(channels, ratio, kernel_size, spatial, pools=tuple(pools)) for kind in (CBAM, TextbookCBAM))
    check_agreement(*forms, (batch, channels, height, width), training)


def embedded(module, dims, kernel_size=7):
    """`module`, two-dimensional, as one of `dims` axes: its kernel in the middle of random ones, or cut."""
    other = CBAM(8, spatial_dims=dims).eval()
    state = module.state_dict()
    weight = torch.randn_like(other.spatial[0].weight)
    if dims == 3:
        weight[:, :, kernel_size // 2] = state["spatial.0.weight"]
    else:
        weight = state["spatial.0.weight"][:, :, kernel_size // 2]
    other.load_state_dict(state | {"spatial.0.weight": weight})
    return other


@pytest.mark.parametrize("dims", [1, 3])
def test_flat_maps_of_other_dimensions(dims):
    torch.manual_seed(0)
    module = lively(CBAM(8)).eval()
    x = torch.randn(2, 8, 1, 9) if dims == 1 else torch.randn(2, 8, 6, 9)
    found = embedded(module, dims)(x.squeeze(2) if dims == 1 else x.unsqueeze(2))
    torch.testing.assert_close(found.reshape(x.shape), module(x))


def test_any_number_of_axes_without_the_spatial_gate():
    torch.manual_seed(0)
    check_any_axes(CBAM(24, spatial=False), 24)


def test_equal_maxima_share_no_gradient():
    module = CBAM(2, spatial=False, pools=("max",))
    x = torch.zeros(1, 2, 3, 3, requires_grad=True)
    module._channel_gate(x.flatten(2)).sum().backward()
    assert (x.grad != 0).sum((2, 3)).max() <= 1


def test_gradients_of_an_empty_map_are_finite():
    x = torch.zeros(1, 4, 3, 3, requires_grad=True)
    CBAM(4, pools=POOLS)(x).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("spatial", [(11,), (4, 3, 5)])
def test_other_axes_are_refused_with_the_way_out(spatial):
    with pytest.raises(InputError, match=f"spatial_dims={len(spatial)}, or spatial=False"):
        CBAM(8)(torch.randn(1, 8, *spatial))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pools": ("avg", "median")}, "median"),
        ({"pools": ()}, r"pools=\(\) and wants"),
        ({"pools": "avg"}, "pools='avg' and wants"),
        ({"kernel_size": 4}, "kernel_size=4 and wants an odd number"),
        ({"spatial_dims": 4}, "spatial_dims=4 and wants 1, 2 or 3"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        CBAM(8, **options)
