"""`attach` in networks of several libraries: names, channels, copies, export, errors that say what to do."""

import copy
import io
import pickle

import pytest
import timm
import torch
from monai.networks.nets import DynUNet, SegResNet, SwinUNETR, UNet
from torch import nn
from torchvision.models import SwinTransformer
from torchvision.models.segmentation import fcn_resnet50

from dsnet_med import build_network
from dsnet_med.errors import InputError
from dsnet_med.networks import attach
from dsnet_med.networks.attaching import plugins_of
from dsnet_med.networks.plugins import DSM, SE, Encoding, Hamburger, Squeezed
from dsnet_med.networks.rezero import ReZero


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


class NoChannels(nn.Module):
    def __init__(self):
        super().__init__()


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


def convnext():
    return timm.create_model(
        "convnext_tiny", num_classes=2, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), ls_init_value=1.0
    )


def swin():
    return SwinTransformer([4, 4], 12, [1, 2], [2, 2], [4, 4], num_classes=2)


def dynunet(dims, pool):
    return DynUNet(dims, 1, 2, (3, 3, 3), (1, 2, pool), (2, pool), filters=(4, 8, 16))


def swin_unetr(dims):
    return SwinUNETR(1, 2, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), feature_size=12, spatial_dims=dims)


# How to build it, where to put plug-ins, the shape of an image, how many plug-ins that makes.
HOSTS = {
    "timm resnet": (
        lambda: timm.create_model("resnet18", num_classes=2),
        "layer[34].*.act1",
        (1, 3, 64, 64),
        4,
    ),
    "timm convnext": (convnext, "stages.?.blocks.?.conv_dw", (1, 3, 64, 64), 4),
    "torchvision": (
        lambda: fcn_resnet50(weights=None, weights_backbone=None, num_classes=2),
        "backbone.layer4.*.bn2",
        (1, 3, 64, 64),
        3,
    ),
    "MONAI UNet 2-D": (lambda: UNet(2, 1, 2, (4, 8, 16), (2, 2)), "*.adn.A", (1, 1, 32, 32), 4),
    "MONAI UNet 3-D": (lambda: UNet(3, 1, 2, (4, 8, 16), (2, 2)), "*.adn.A", (1, 1, 16, 16, 16), 4),
    "MONAI SegResNet 2-D": (lambda: SegResNet(2, 8, 1, 2), "down_layers.?.*.conv2", (1, 1, 32, 32), 9),
    "MONAI SegResNet 3-D": (lambda: SegResNet(3, 8, 1, 2), "down_layers.?.*.conv2", (1, 1, 16, 16, 16), 9),
    "MONAI DynUNet 2-D": (lambda: dynunet(2, 2), "*.norm2", (1, 1, 32, 32), 5),
    "MONAI DynUNet 3-D": (lambda: dynunet(3, (2, 2, 1)), "*.norm2", (1, 1, 16, 16, 16), 5),
    "MONAI SwinUNETR 2-D": (lambda: swin_unetr(2), "encoder?.layer.norm2", (1, 1, 64, 64), 4),
    "MONAI SwinUNETR 3-D": (lambda: swin_unetr(3), "encoder?.layer.norm2", (1, 1, 32, 64, 32), 4),
}
# The same where the network keeps (B, *spatial, C).
CHANNELS_LAST = {
    "timm convnext": (convnext, "stages.?.blocks.?.norm", (1, 3, 64, 64), 4),
    "timm swin": (
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=12, depths=(1, 1, 1, 1)
        ),
        "layers.?.blocks.?",
        (1, 3, 64, 64),
        4,
    ),
    "torchvision swin": (swin, "features.?.?.mlp", (1, 3, 64, 64), 3),
    "torchvision swin, a sequence": (swin, "features.[13]", (1, 3, 64, 64), 2),
    "MONAI SwinUNETR 2-D": (lambda: swin_unetr(2), "swinViT.layers?.0.blocks.?.mlp", (1, 1, 64, 64), 4),
    "MONAI SwinUNETR 3-D": (lambda: swin_unetr(3), "swinViT.layers?.0.blocks.?.mlp", (1, 1, 32, 64, 32), 4),
}


@pytest.mark.parametrize("host", HOSTS)
def test_applies_everywhere_and_keeps_the_names(host):
    check_host(*HOSTS[host], example=None)


@pytest.mark.parametrize("host", CHANNELS_LAST)
def test_gets_the_channels_of_maps_that_have_them_last(host):
    build, at, shape, count = CHANNELS_LAST[host]
    example = torch.zeros(shape) if host == "timm swin" else None  # which takes its own size only
    network = check_host(build, at, shape, count, example)
    plugins = [module for module in network.modules() if isinstance(module, Scale)]
    assert len({len(plugin.factor) for plugin in plugins}) > 1  # as many channels as the stage has


def check_host(build, at, shape, count, example):
    torch.manual_seed(0)
    network = build().eval()
    names, x = set(network.state_dict()), torch.randn(shape)
    modes = {name: module.training for name, module in network.named_modules()}
    plain = first(network(x))
    attach(network, lambda channels: Scale(channels, 1.0), at=at, example=example)
    torch.testing.assert_close(first(network(x)), plain)
    added = set(network.state_dict()) - names
    assert names <= set(network.state_dict())
    assert all(".plugin." in f".{name}" and name.endswith(".factor") for name in added)
    assert sum(isinstance(module, Scale) for module in network.modules()) == count
    assert {name: module.training for name, module in network.named_modules() if name in modes} == modes
    first(network(x)).square().sum().backward()
    for name in added:
        assert network.get_parameter(name).grad is not None, f"{name} takes no part"
    return network


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


def test_channels_last_is_moved_to_the_front_and_back():
    network, x = convnext().eval(), torch.randn(2, 3, 32, 64)
    seen = []
    network.stages[2].blocks[0].norm.register_forward_hook(lambda _m, _i, output: seen.append(output.clone()))
    attach(network, Weighted, at="stages.2.blocks.0.norm")
    network.stages[2].blocks[0].norm.register_forward_hook(lambda _m, _i, output: seen.append(output))
    seen.clear()
    network(x)
    before, after = seen
    assert before.shape == after.shape == (2, 2, 4, 24)
    torch.testing.assert_close(after, before * torch.arange(24.0))


class Weighted(Scale):
    """x times 0, 1, 2, ... by channel."""

    def __init__(self, channels):
        super().__init__(channels)
        self.factor.data = torch.arange(float(channels))


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (1, 8, 8, 8), (1, 1, 16), (1, 2, 6, 6, 6)])
def test_an_example_may_have_equal_sizes(shape):
    """Where its scale does not tell the channels, a longer one does."""
    conv = [nn.Conv1d, nn.Conv2d, nn.Conv3d][len(shape) - 3]
    network = attach(nn.Sequential(conv(shape[1], 8, 1)), Scale, at="0", example=torch.zeros(shape))
    assert network[0].plugin.factor.shape == (8,)


class ChannelsLast(nn.Module):
    def forward(self, x):
        return x.movedim(1, -1).contiguous()


class Pixels(nn.Module):
    def forward(self, x):
        return x.view(len(x), -1)


@pytest.mark.parametrize("conv", [nn.Conv1d(1, 8, 1), nn.Conv3d(1, 8, 1, stride=(1, 2, 4))])
def test_channels_last_that_only_a_longer_example_tells(conv):
    network = attach(nn.Sequential(conv, ChannelsLast()), Scale, at="1")
    assert network[1].plugin.factor.shape == (8,)


class Contiguous(Scale):
    def forward(self, x):
        return super().forward(x).contiguous()


def test_a_host_may_view_what_the_plugin_gives():
    network = nn.Sequential(nn.Conv2d(1, 8, 1), ChannelsLast(), Pixels()).eval()
    attach(network, Contiguous, at="1")
    assert network(torch.randn(2, 1, 5, 6)).shape == (2, 240)


@pytest.mark.parametrize("at", ["layer4.*.bn1", "layer4.*.bn2", "layer4.*.bn3", "layer4.*.act3", "layer4"])
@pytest.mark.parametrize("plugin", [Encoding, Hamburger, Squeezed, DSM])
def test_a_host_may_overwrite_what_the_plugin_gives(plugin, at):
    """By an in-place ReLU or sum, though a ReLU at the plug-in's end needs its result for the gradient."""
    torch.manual_seed(0)
    network = timm.create_model("resnet26", num_classes=2, channels=(4, 8, 16, 32), stem_width=4)
    attach(network, plugin, at=at)
    network(torch.randn(2, 3, 64, 64)).sum().backward()
    added = {name: value for name, value in network.named_parameters() if ".plugin." in name}
    assert added and all(value.grad is not None for value in added.values())


def test_results_are_copied_only_where_the_host_overwrites_them():
    network = timm.create_model("resnet26", num_classes=2, channels=(4, 8, 16, 32), stem_width=4)
    attach(network, Scale, at="layer4.*.bn1")
    attach(network, Scale, at="layer4.*.act1")
    block = network.layer4[0]
    assert len(block.bn1.plugin._forward_hooks) == 1  # its map goes into an in-place ReLU
    assert not block.act1.plugin._forward_hooks


def test_strides_that_differ_between_axes():
    network = nn.Sequential(nn.Conv3d(1, 16, 3, stride=(1, 2, 4), padding=1))
    assert attach(network, Scale, at="0")[0].plugin.factor.shape == (16,)


def test_starts_as_the_identity_and_learns():
    torch.manual_seed(0)
    network, x = convnext().eval(), torch.randn(1, 3, 64, 96)
    plain = network(x)
    attach(network, Scale, at="stages.?.blocks.?.norm", identity_at_start=True)
    assert torch.equal(network(x), plain)
    alphas = {name: value for name, value in network.named_parameters() if name.endswith("plugin.alpha")}
    factors = {name: value for name, value in network.named_parameters() if name.endswith(".factor")}
    assert len(alphas) == len(factors) == 4
    optimizer = torch.optim.SGD([*alphas.values(), *factors.values()], lr=0.1)
    network(x).square().sum().backward()
    assert all(alpha.grad != 0 for alpha in alphas.values())
    assert not any(factor.grad.any() for factor in factors.values())
    optimizer.step()
    assert not torch.allclose(network(x), plain)
    network(x).square().sum().backward()
    assert all(factor.grad.any() for factor in factors.values())


def test_traces():
    network, x = small(), torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(torch.jit.trace(network, x)(x), network(x))


def test_onnx(tmp_path):
    import onnxruntime

    torch.manual_seed(0)
    last = attach(convnext(), DSM, at="stages.?.blocks.?.norm", identity_at_start=True)
    for name, value in last.named_parameters():
        if name.endswith("alpha"):
            value.data.fill_(0.5)
    network, x = last.eval(), torch.randn(2, 3, 32, 64)
    torch.onnx.export(network, (x,), str(tmp_path / "network.onnx"), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "network.onnx"))
    output = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(output), network(x), rtol=1e-4, atol=1e-5)


class Rectified(nn.Module):
    """A host with an inner sequence; `tied` runs its first convolution twice."""

    def __init__(self, tied=False):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.act = nn.Conv2d(2, 2, 1), nn.ReLU()
        self.body = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Sigmoid())
        self.tied, self.alias = tied, self.act

    def forward(self, x):
        x = self.act(self.conv(x))
        return self.body(self.conv(x) if self.tied else x)


@pytest.fixture
def nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


WRAPPED = {
    "wrapped": lambda network: torch.compile(network, backend="eager"),
    "in place": lambda network: network.compile(backend="eager") or network,
}


@pytest.mark.parametrize("at", ["act", "body", "body.0"])
@pytest.mark.parametrize("how", WRAPPED)
def test_takes_effect_after_a_compiled_network_has_run(how, at, nothing_compiled):
    x = torch.randn(1, 2, 64, 96)  # the size of the example, which must not be compiled
    network = Rectified().eval()
    compiled = WRAPPED[how](network)
    with torch.no_grad():
        plain = compiled(x)
        for times in (1, 2):
            attach(compiled, lambda channels: Scale(channels, 0.5), at=at)
            wanted = copy.deepcopy(network).forward(x)
            torch.testing.assert_close(compiled(x), wanted)
            assert not torch.allclose(wanted, plain), times


def test_code_compiled_for_another_network_of_the_same_class_is_not_run(nothing_compiled):
    plain = Rectified().eval()
    plugged = attach(copy.deepcopy(plain), Scale, at="act")
    x = torch.randn(1, 2, 8, 8)
    for first_one, second in ((plain, plugged), (plugged, plain)):
        torch._dynamo.reset()
        with torch.no_grad():
            torch.compile(first_one, backend="eager")(x)
            torch.testing.assert_close(torch.compile(second, backend="eager")(x), second(x))


@pytest.mark.parametrize("times", [1, 2])
def test_a_host_with_plugins_keeps_its_class_and_pickles(times):
    network = Rectified().eval()
    for _ in range(times):
        attach(network, Scale, at="act")
    x = torch.randn(1, 2, 8, 8)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert isinstance(twin.act, nn.ReLU) and repr(type(twin.act)) == repr(nn.ReLU)
        assert type(twin.act) is type(network.act) and torch.equal(twin(x), network(x))
        assert list(twin.state_dict()) == list(network.state_dict())


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda network: torch.compile(network, backend="eager")])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_wrappers_are_looked_through(wrap, prefix):
    network = Rectified().eval()
    wrapped = wrap(network)
    prefix = prefix and next(iter(wrapped.state_dict())).partition("conv")[0]
    attach(wrapped, Scale, at=f"{prefix}act")
    assert isinstance(network.act.plugin, Scale)


def test_data_parallel_copies_run_their_own_plugin():
    network = attach(Rectified(), Scale, at="act")
    replica = network.act._replicate_for_data_parallel()
    replica.plugin = Scale(2, 3.0)
    assert torch.equal(replica(torch.ones(1, 2, 1, 1)), torch.full((1, 2, 1, 1), 3.0))


def test_averaged_gradients_would_leave_plugins_out(tmp_path):
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        network = nn.parallel.DistributedDataParallel(Rectified())
        for at in ("act", "module.act"):
            with pytest.raises(InputError, match=r"wrapped in DistributedDataParallel.* before it is wrapped"):
                attach(network, Scale, at=at)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("at", ["conv", "?on?", "*.conv"])
def test_what_runs_twice_shares_its_plugin_only_when_asked(at):
    network = nn.Sequential(Rectified(tied=True)) if "." in at else Rectified(tied=True)
    with pytest.raises(InputError, match=r"conv' runs 2 times in one forward, .* or say shared=True"):
        attach(network, Scale, at=at)
    assert not any(isinstance(module, Scale) for module in network.modules())
    attach(network, Scale, at=at, shared=True)
    assert sum(isinstance(module, Scale) for module in network.modules()) == 1


@pytest.mark.parametrize("at", ["act", "alias", "a*"])
def test_a_module_of_several_names_gets_one_plugin_under_any(at):
    network = attach(Rectified(), Scale, at=at)
    assert sum(isinstance(module, Scale) for module in network.modules()) == 1
    assert network.act.plugin is network.alias.plugin


def test_plugins_are_not_named_by_a_later_pattern():
    network = attach(Rectified(), Scale, at="act*")
    attach(network, DSM, at="act*")
    names = [name for name, module in network.named_modules() if isinstance(module, Scale | DSM)]
    assert names == ["act.plugin", "act.plugin2"]


@pytest.mark.parametrize(
    "fixed", [torch.jit.script, lambda network: torch.jit.trace(network, torch.zeros(1, 2, 8, 8))]
)
def test_torchscript_is_refused_on_both_sides(fixed):
    scripted = fixed(Rectified().eval())
    with pytest.raises(InputError, match=r"'act' is TorchScript.* before torch.jit.script"):
        attach(scripted, Scale, at="act")
    with pytest.raises(InputError, match=r"'0\.act' is TorchScript"):
        attach(nn.Sequential(scripted), Scale, at="0.act")


@pytest.mark.parametrize("at", ["act", "body"])
def test_scripting_says_what_to_use(at):
    network = attach(Rectified().eval(), Scale, at=at)
    with pytest.raises(InputError, match=r"torch.jit.script does not take .*: use torch.jit.trace"):
        torch.jit.script(nn.Sequential(network))
    with pytest.raises(InputError, match=r"torch.jit.script does not take this network"):
        torch.jit.script(build_network("fcn", num_classes=2, width=1 / 64))
    x = torch.randn(1, 2, 8, 8)
    torch.testing.assert_close(torch.jit.trace(network, x)(x), network(x))


def test_channels_last_exports_and_copies():
    torch.manual_seed(0)
    network, x = attach(convnext(), DSM, at="stages.?.blocks.?.norm").eval(), torch.randn(2, 3, 32, 64)
    expected = network(x)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), expected)
    torch.testing.assert_close(torch.jit.trace(network, x)(x), expected)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(x), expected)


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


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Changes, r"Changes turns the \(1, 4, 64, 96\) of 'body.0' into \(1, 1, 64, 96\): .* keep the shape"),
        (lambda channels: Both(), "Both turns .* into a tuple"),
        (nn.BatchNorm3d, r"BatchNorm3d cannot follow 'body.0', which gives \(1, 4, 64, 96\): ValueError"),
        (NoChannels, "cannot follow 'body.0', .* TypeError: .*takes 1 positional argument"),
        (nn.functional.relu, "relu cannot follow 'body.0'"),
    ],
)
def test_a_plugin_that_does_not_fit_is_refused_and_leaves_the_network_alone(plugin, message):
    network = Two()
    names = list(network.state_dict())
    with pytest.raises(InputError, match=message) as refused:
        attach(network, plugin, at="body.0")
    assert "\n" not in str(refused.value)
    assert list(network.state_dict()) == names and not network.body[0]._forward_hooks


def test_a_2d_plugin_in_a_3d_network_is_refused():
    with pytest.raises(InputError, match=r"the plug-in cannot follow .* which gives \(1, 4, 16, 32, 48\)"):
        attach(
            UNet(3, 1, 2, (4, 8), (2,)), lambda channels: nn.Conv2d(channels, channels, 1), at="model.0.adn.A"
        )


@pytest.mark.parametrize(
    ("host", "at", "message"),
    [
        (swin, "features.?.?.attn.qkv", "does not run"),
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 1), Windows()), "1", "batch of 4 for a batch of 1"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(2)), "1", "cannot be told"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.Linear(10, 2)), "0", "does not run on an example"),
        (swin, "layer4.*.act2", "no submodule is named 'layer4"),
    ],
)
def test_places_that_cannot_take_one(host, at, message):
    with pytest.raises(InputError, match=message) as refused:
        attach(host(), Scale, at=at)
    assert "\n" not in str(refused.value)


class Windows(nn.Module):
    def forward(self, x):
        return torch.cat(x.tensor_split(4, dim=2))


def test_a_network_of_another_size_takes_an_example():
    network = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=12, depths=(1, 1, 1, 1))
    with pytest.raises(InputError, match=r"pass example, a tensor that it takes"):
        attach(network, Scale, at="layers.?.blocks.?")


def test_a_network_without_convolutions_needs_an_example():
    network = nn.Sequential(nn.Identity())
    with pytest.raises(InputError, match="pass example"):
        attach(network, Scale, at="0")
    attach(network, Scale, at="0", example=torch.zeros(1, 5, 4, 4))
    assert network[0].plugin.factor.shape == (5,)


def test_the_outermost_plugins_are_found():
    host = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.ReLU(), ReZero(SE(8)))
    attach(host, Scale, at="0", example=torch.zeros(1, 1, 9, 8))
    attach(host, SE, at="1", example=torch.zeros(1, 1, 9, 8), identity_at_start=True)
    attach(host, Squeezed, at="2", example=torch.zeros(1, 1, 9, 8))
    found = {name: type(plugin) for name, plugin in plugins_of(host).items()}
    assert found == {"0.plugin": Scale, "1.plugin": ReZero, "2.plugin": Squeezed, "3": ReZero}
    assert plugins_of(torch.compile(host)).keys() == plugins_of(nn.DataParallel(host)).keys() == found.keys()
    assert list(plugins_of(host[3])) == [""]  # and not the SE in it
    assert plugins_of(nn.ReLU()) == {}
