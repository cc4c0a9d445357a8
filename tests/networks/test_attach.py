"""`attach` in networks of several libraries: names, channels, copies, export, errors that say what to do."""

import copy
import io
import pickle

import pytest
import timm
import torch
from monai.networks.nets import SegResNet, UNet
from torch import nn
from torchvision.models.segmentation import fcn_resnet50

from dsnet_med.errors import InputError
from dsnet_med.networks import attach
from dsnet_med.networks.plugins import DSM


class Scale(nn.Module):
    """x times a learned factor per channel."""

    def __init__(self, channels, factor=2.0):
        super().__init__()
        self.factor = nn.Parameter(torch.full((channels,), factor))

    def forward(self, x):
        return x * self.factor.view(-1, *[1] * (x.ndim - 2))


class Changes(nn.Module):
    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return x[:, :1]


class Two(nn.Module):
    """A host with one of each kind of part."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.twice = nn.ReLU()
        self.unused = nn.Conv2d(4, 4, 1)
        self.both = Both()
        self.parts = nn.ModuleList([nn.Conv2d(4, 6, 1)])
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x, _ = self.both(self.twice(self.body(x)))
        return self.head(self.twice(self.parts[0](x)).mean((2, 3)))


class Both(nn.Module):
    def forward(self, x):
        return x, x


HOSTS = {
    "timm": (lambda: timm.create_model("resnet18", num_classes=2), "layer[34].*.act1", (1, 3, 64, 64), 4),
    "torchvision": (
        lambda: fcn_resnet50(weights=None, weights_backbone=None, num_classes=2),
        "backbone.layer4.*.bn2",
        (1, 3, 64, 64),
        3,
    ),
    "MONAI UNet 2-D": (lambda: UNet(2, 1, 2, (4, 8, 16), (2, 2)), "*.adn.A", (1, 1, 32, 32), None),
    "MONAI UNet 3-D": (lambda: UNet(3, 1, 2, (4, 8, 16), (2, 2)), "*.adn.A", (1, 1, 16, 16, 16), None),
    "MONAI SegResNet": (lambda: SegResNet(3, 8, 1, 2), "down_layers.?.*.conv2", (1, 1, 16, 16, 16), None),
}


@pytest.mark.parametrize("host", HOSTS)
def test_applies_everywhere_and_keeps_the_names(host):
    build, at, shape, count = HOSTS[host]
    network = build().eval()
    names, x = set(network.state_dict()), torch.randn(shape)
    modes = {name: module.training for name, module in network.named_modules()}
    plain = first(network(x))
    attach(network, lambda channels: Scale(channels, 1.0), at=at)
    assert torch.equal(first(network(x)), plain)
    added = set(network.state_dict()) - names
    assert names <= set(network.state_dict())
    assert added and all(name.endswith(".plugin.factor") for name in added)
    assert count is None or len(added) == count
    assert {name: module.training for name, module in network.named_modules() if name in modes} == modes
    first(network(x)).sum().backward()
    for name in added:
        assert network.get_parameter(name).grad is not None, f"{name} takes no part"


def first(output):
    return output["out"] if isinstance(output, dict) else output


def small():
    torch.manual_seed(0)
    return attach(
        Two(), lambda channels: DSM(channels, bias=True), at="body.0", example=torch.zeros(1, 1, 8, 8)
    ).eval()


def test_a_sequence_gets_it_at_its_end_once():
    network = Two().eval()
    x = torch.randn(2, 1, 8, 8)
    body = network.body(x)
    attach(network, Scale, at="body")
    assert torch.equal(network.body(x), 2 * body)
    assert "body.plugin.factor" in network.state_dict()


def test_second_plugin_follows_the_first():
    network, x = Two().eval(), torch.randn(2, 1, 8, 8)
    plain = network.body[0](x)
    attach(network, Scale, at="body.0")
    attach(network, lambda channels: Scale(channels, 3.0), at="body.0")
    torch.testing.assert_close(network.body[0](x), 6 * plain)
    assert network.body[0].plugin2.factor[0] == 3


def test_tracing_leaves_the_host_alone():
    network = Two()
    network.body[1].eval()
    modes = [module.training for module in network.modules()]
    attach(network, Scale, at="parts.0")
    assert [m.training for m in network.modules() if not isinstance(m, Scale)] == modes
    assert len(network.parts[0]._forward_hooks) == 1 and not network.body[0]._forward_hooks


def test_copies_are_independent():
    network, x = small(), torch.randn(2, 1, 8, 8)
    twin = copy.deepcopy(network)
    before = network(x)
    with torch.no_grad():
        for parameter in twin.body[0].plugin.parameters():
            parameter.fill_(3.0)
    assert torch.equal(network(x), before)
    assert not torch.allclose(twin(x), before)


def test_pickles_and_state_dicts_round_trip():
    network, x = small(), torch.randn(2, 1, 8, 8)
    assert torch.equal(pickle.loads(pickle.dumps(network))(x), network(x))
    stream = io.BytesIO()
    torch.save(network.state_dict(), stream)
    stream.seek(0)
    other = attach(Two(), lambda channels: DSM(channels, bias=True), at="body.0").eval()
    other.load_state_dict(torch.load(stream, weights_only=True), strict=True)
    assert torch.equal(other(x), network(x))


def test_exports():
    network, x = small(), torch.randn(2, 1, 8, 8)
    exported = torch.export.export(network, (x,))
    torch.testing.assert_close(exported.module()(x), network(x))
    assert any("plugin" in name for name in exported.state_dict)


def test_example_and_type_follow_the_network():
    network = attach(Two().double(), Scale, at="body.0")
    assert network.body[0].plugin.factor.dtype == torch.float64
    with torch.device("meta"):
        network = attach(Two(), Scale, at="body.0")
    assert network.body[0].plugin.factor.is_meta


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("bodi.0", "no submodule is named 'bodi.0': the network has, for example, body.0"),
        ("layer9.*", "no submodule is named"),
        ("both", "gives a tuple, and a plug-in takes one tensor"),
        ("head", "shape \\(1, 2\\), and a plug-in takes feature maps of 4 axes"),
        ("unused", "'unused' does not run"),
        ("twice", "runs several times, with 4 and 6 channels"),
        ("parts", "a ModuleList that runs its children itself"),
    ],
)
def test_errors_name_the_place_and_the_way_out(at, message):
    with pytest.raises(InputError, match=message):
        attach(Two(), Scale, at=at)


def test_a_plugin_that_changes_the_shape_is_refused():
    with pytest.raises(InputError, match="must keep the shape"):
        attach(Two(), Changes, at="body.0")


def test_a_network_without_convolutions_needs_an_example():
    network = nn.Sequential(nn.Identity())
    with pytest.raises(InputError, match="pass example"):
        attach(network, Scale, at="0")
    attach(network, Scale, at="0", example=torch.zeros(1, 5, 4, 4))
    assert network[0].plugin.factor.shape == (5,)
