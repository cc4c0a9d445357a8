"""Plug-ins on maps of three spatial axes: against loops over voxels, told by attach, or refused."""

import itertools
import math
from functools import partial

import pytest
import torch
from lively import lively
from torch import nn

from dsnet_med.errors import InputError
from dsnet_med.networks import attach, check_plugin, plugins
from dsnet_med.networks.axes import made_for
from dsnet_med.networks.layers import group_norm

CLASSES = {name: getattr(plugins, name) for name in plugins.__all__}
ASKING = ("CBAM", "CrissCross", "PointwiseConv", "PooledDSM", "Squeezed")  # take spatial_dims
SHAPE = (2, 3, 3)  # depth, height, width


def voxels(shape):
    return itertools.product(*map(range, shape))


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def hard_sigmoid(value):
    return min(max((value + 3) / 6, 0.0), 1.0)


def linear(layer, vector):
    bias = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    return [
        sum(w * v for w, v in zip(row, vector, strict=True)) + b
        for row, b in zip(layer.weight.tolist(), bias, strict=True)
    ]


def convolved(conv, x, place):
    """What a convolution with `same` padding gives at one voxel of x (C, D, H, W), a number per channel."""
    out = [0.0] * conv.out_channels if conv.bias is None else conv.bias.tolist()
    reach = [size // 2 for size in conv.kernel_size]
    for step in voxels(conv.kernel_size):
        at = [p + s - r for p, s, r in zip(place, step, reach, strict=True)]
        if all(0 <= a < n for a, n in zip(at, x.shape[1:], strict=True)):
            for o in range(conv.out_channels):
                for c in range(len(x)):
                    out[o] += conv.weight[(o, c, *step)].item() * x[(c, *at)].item()
    return out


def test_criss_cross_attends_along_three_axes():
    torch.manual_seed(0)
    plugin = lively(plugins.CrissCross(8, spatial_dims=3))
    nn.init.constant_(plugin.gamma, 0.7)
    x = torch.randn(1, 8, *SHAPE, dtype=torch.float64)
    query, key, value = (layer(x)[0].detach() for layer in (plugin.query, plugin.key, plugin.value))
    expected = torch.empty_like(x)
    for place in voxels(SHAPE):
        line = {place}
        for axis in range(3):
            line |= {(*place[:axis], i, *place[axis + 1 :]) for i in range(SHAPE[axis])}
        assert len(line) == sum(SHAPE) - 2
        weights = {at: math.exp(sum((query[:, *place] * key[:, *at]).tolist())) for at in line}
        total = sum(weights.values())
        mean = sum(weight / total * value[:, *at] for at, weight in weights.items())
        expected[0, :, *place] = x[0, :, *place] + 0.7 * mean
    torch.testing.assert_close(plugin(x), expected)


def test_three_rounds_of_criss_cross_reach_everything():
    torch.manual_seed(0)
    for recurrence, reached in ((1, sum(SHAPE) - 2), (3, math.prod(SHAPE))):
        plugin = lively(plugins.CrissCross(8, recurrence, spatial_dims=3))
        nn.init.constant_(plugin.gamma, 0.7)
        x = torch.randn(1, 8, *SHAPE, dtype=torch.float64, requires_grad=True)
        plugin(x)[0, :, 1, 1, 2].sum().backward()
        assert (x.grad.abs().sum(1) > 0).sum() == reached


def test_cbam_gates_channels_and_then_voxels():
    torch.manual_seed(1)
    plugin = lively(plugins.CBAM(4, ratio=2, kernel_size=3, spatial_dims=3))
    x = torch.randn(1, 4, *SHAPE, dtype=torch.float64)
    gated = x[0].clone()
    pooled = [[row.mean().item() for row in x[0]], [row.max().item() for row in x[0]]]
    logits = [linear(plugin.expand, [max(h, 0) for h in linear(plugin.reduce, each)]) for each in pooled]
    for channel in range(4):
        gated[channel] *= sigmoid(logits[0][channel] + logits[1][channel])
    summary = torch.stack([gated.amax(0), gated.mean(0)])
    conv, norm = plugin.spatial
    expected = torch.empty_like(gated)
    for place in voxels(SHAPE):
        (found,) = convolved(conv, summary, place)
        scale = norm.weight.item() / math.sqrt(norm.running_var.item() + norm.eps)
        gate = sigmoid((found - norm.running_mean.item()) * scale + norm.bias.item())
        expected[:, *place] = gated[:, *place] * gate
    torch.testing.assert_close(plugin(x)[0], expected)


def test_pooled_dsm_adds_one_vector_to_every_voxel():
    torch.manual_seed(2)
    plugin = lively(plugins.PooledDSM(4, ratio=2, spatial_dims=3))
    x = torch.randn(1, 4, *SHAPE, dtype=torch.float64)
    places = list(voxels(SHAPE))
    means = [row.mean().item() for row in x[0]]
    channel = [
        hard_sigmoid(v) for v in linear(plugin.expand, [max(h, 0) for h in linear(plugin.reduce, means)])
    ]
    summary = x[0].mean(0, keepdim=True)
    spatial = {place: hard_sigmoid(convolved(plugin.spatial, summary, place)[0]) for place in places}
    paths = plugin.mix.weights(
        torch.tensor([channel], dtype=torch.float64),
        torch.tensor([[list(spatial.values())]], dtype=torch.float64),
    )[0].tolist()  # the selective kernel sees pooled values alone, in any number of axes
    values = {p: [max(v, 0) for v in linear(plugin.value, x[0, :, *p].tolist())] for p in places}
    context = []
    for c in range(4):
        attended = {
            p: math.exp(paths[0][c] * channel[c] * s + paths[1][c] * (channel[c] + s))
            for p, s in spatial.items()
        }
        total = sum(attended.values())
        context.append(sum(w / total * values[p][c] for p, w in attended.items()))
    added = plugin.transform(torch.tensor([context], dtype=torch.float64))[0]
    expected = x[0] + added[:, None, None, None]
    torch.testing.assert_close(plugin(x)[0], expected, rtol=1e-6, atol=1e-6)


def test_squeezed_convolves_voxels():
    torch.manual_seed(3)
    plugin = plugins.Squeezed(4, plugin=plugins.Identity, ratio=2, norm=nn.BatchNorm3d, spatial_dims=3)
    x = torch.randn(1, 4, *SHAPE, dtype=torch.float64)
    plugin = lively(plugin)

    def layer(part, maps):
        norm, out = part.norm, torch.empty(part.conv.out_channels, *SHAPE, dtype=torch.float64)
        for place in voxels(SHAPE):
            out[:, *place] = torch.tensor(convolved(part.conv, maps, place), dtype=torch.float64)
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shape = (-1, 1, 1, 1)
        return torch.relu((out - norm.running_mean.view(shape)) * scale.view(shape) + norm.bias.view(shape))

    expected = layer(plugin.align, layer(plugin.squeeze, x[0]))
    torch.testing.assert_close(plugin(x)[0], expected)


def test_squeezed_tells_the_plugin_inside():
    plugin = plugins.Squeezed(8, spatial_dims=3)
    assert isinstance(plugin.inner.spatial, nn.Conv3d) and isinstance(plugin.align.conv, nn.Conv3d)


SETS = (  # whose voxels are a set: what they give does not depend on how these are laid out
    *("DSM", "ECA", "PSA", "SE", "ChannelAttention", "ConstantGate", "Encoding", "ExternalAttention"),
    *("GlobalContext", "Hamburger", "PointwiseConv", "PositionAttention", "RandomGate", "UniformDSM"),
)


@pytest.mark.parametrize("name", SETS)
def test_voxels_are_a_set_of_pixels(name):
    torch.manual_seed(4)
    plugin = lively(CLASSES[name](8))
    x = torch.randn(2, 8, *SHAPE, dtype=torch.float64)
    image = x.reshape(2, 8, SHAPE[0] * SHAPE[1], SHAPE[2])
    torch.testing.assert_close(plugin(x), plugin(image).reshape(x.shape))


def test_every_plugin_is_in_one_of_these_tests():
    assert {*SETS, *ASKING, "Identity", "FrequencyChannel"} == set(CLASSES)


@pytest.mark.parametrize("name", ["CBAM", "CrissCross", "PooledDSM", "Squeezed"])
def test_made_for_volumes_they_keep_the_contract(name):
    silent = ["key.bias"] if name == "CrissCross" else []
    check_plugin(partial(CLASSES[name], spatial_dims=3), without_gradient=silent)


def tiny(dims):
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
    return nn.Sequential(conv(1, 8, 3, padding=1), conv(8, 2, 1))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", sorted(set(CLASSES) - {"FrequencyChannel"}))
def test_attach_tells_the_axes(name, dims):
    network = attach(tiny(dims), CLASSES[name], at="0", example=torch.zeros(1, 1, *[10, 11, 12][:dims]))
    assert getattr(network[0].plugin, "spatial_dims", dims) == dims
    assert network.eval()(torch.randn(1, 1, *[6] * dims)).shape == (1, 2, *[6] * dims)


def test_frequencies_of_images_are_refused_in_volumes():
    with pytest.raises(
        InputError, match="its frequencies were ranked on images: SE and ECA take volumes"
    ) as caught:
        attach(tiny(3), plugins.FrequencyChannel, at="0")
    assert "\n" not in str(caught.value)


def test_what_was_said_before_counts():
    said = partial(plugins.CBAM, spatial_dims=2)
    assert made_for(said, 8, 3).spatial_dims == 2
    assert made_for(partial(plugins.CBAM, ratio=2), 8, 3).spatial_dims == 3
    with pytest.raises(InputError, match="make it with spatial_dims=3"):
        attach(tiny(3), said, at="0")


def test_the_placebo_counts_the_plugin_made_for_volumes():
    factory = partial(plugins.PointwiseConv, parameters=partial(plugins.Squeezed, norm=group_norm))
    (flat, solid) = (sum(p.numel() for p in made_for(factory, 16, dims).parameters()) for dims in (2, 3))
    counted = [sum(p.numel() for p in plugins.Squeezed(16, spatial_dims=dims).parameters()) for dims in (2, 3)]
    assert abs(flat - counted[0]) <= 16 and abs(solid - counted[1]) <= 16 and solid > 2 * flat


def test_a_strangers_plugin_may_ask_too():
    class Mine(nn.Module):
        def __init__(self, channels, *, spatial_dims=2):
            super().__init__()
            self.spatial_dims = spatial_dims

        def forward(self, x):
            return x

    assert attach(tiny(3), Mine, at="0")[0].plugin.spatial_dims == 3
    assert attach(tiny(3), partial(Mine, spatial_dims=2), at="0")[0].plugin.spatial_dims == 2
