"""MSCAN: its block against the formulas, gradients, stochastic depth, and published weights from a file."""

import pickle

import pytest
import torch
from golden import by_reference_name, check_close, load
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lively import lively, normalised
from safetensors.torch import save_file
from timm.layers import DropPath
from torch.nn import functional as F

from dsnet_med.errors import InputError
from dsnet_med.networks.backbones import mscan
from dsnet_med.networks.backbones.mscans import Block

SHALLOW = {"width": 0.125, "layers": [1, 1, 2, 1]}


def test_gradients_of_a_block(vectors):
    golden = vectors("mscan_block")
    block = load(Block(16, 4), golden.state())
    tokens = golden["in/0"].requires_grad_()  # (B, H W, C), row-major
    output = block(tokens.mT.unflatten(2, (8, 6))).flatten(2).mT
    (output * golden["gradw/0"]).sum().backward()
    check_close(tokens.grad, golden["grad_in/0"])
    ours = by_reference_name(block, {name: value.grad for name, value in block.named_parameters()})
    expected = golden.group("grad_param")
    assert ours.keys() == expected.keys()
    assert len(ours) == 32
    for name, value in expected.items():
        check_close(ours[name], value, rtol=2e-4)


def textbook_block(x, state):
    """The block as its formulas read, on the reference's `state`, in eval."""

    def conv(name, value):
        kernel = state[f"{name}.weight"]
        groups = len(kernel) if kernel.shape[1] == 1 else 1
        return F.conv2d(value, kernel, state[f"{name}.bias"], padding="same", groups=groups)

    def gated(value):
        unit = "attn.spatial_gating_unit"
        local = conv(f"{unit}.conv0", value)
        strips = [conv(f"{unit}.conv{i}_2", conv(f"{unit}.conv{i}_1", local)) for i in range(3)]
        return conv(f"{unit}.conv3", local + sum(strips)) * value

    normed = normalised(state, "norm1", x)
    attended = conv("attn.proj_2", gated(F.gelu(conv("attn.proj_1", normed)))) + normed
    x = x + state["layer_scale_1"][:, None, None] * attended
    changed = conv("mlp.fc2", F.gelu(conv("mlp.dwconv", conv("mlp.fc1", normalised(state, "norm2", x)))))
    return x + state["layer_scale_2"][:, None, None] * changed


@settings(max_examples=20)
@example(batch=2, channels=3, ratio=2, height=9, width=26, seed=0)
@given(
    batch=st.integers(1, 2),
    channels=st.integers(2, 7),
    ratio=st.integers(1, 4),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_a_block_is_its_formulas(batch, channels, ratio, height, width, seed):
    torch.manual_seed(seed)
    block = lively(Block(channels, ratio))
    x = torch.randn(batch, channels, height, width, dtype=torch.float64)
    expected = textbook_block(x, by_reference_name(block, block.state_dict()))
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (32, 32), (1, 3)])
@pytest.mark.parametrize("in_channels", [1, 3, 4])
def test_levels_have_the_sizes_that_are_announced(size, in_channels):
    backbone = mscan(in_channels=in_channels, **SHALLOW).eval()
    levels = backbone(torch.randn(2, in_channels, *size))
    assert [level.shape[1] for level in levels] == backbone.feature_info.channels() == [8, 16, 40, 64]
    assert backbone.feature_info.reduction() == [4, 8, 16, 32]
    for level, reduction in zip(levels, backbone.feature_info.reduction(), strict=True):
        assert level.shape[2:] == (-(-size[0] // reduction), -(-size[1] // reduction))


def test_every_level_leaves_through_a_layer_norm():
    backbone = mscan(**SHALLOW)
    for level in backbone(5 + 3 * torch.randn(2, 3, 64, 64)):
        torch.testing.assert_close(level.mean(1), torch.zeros(level[:, 0].shape), atol=1e-5, rtol=0)
        torch.testing.assert_close(level.var(1, correction=0), torch.ones(level[:, 0].shape), atol=1e-2, rtol=0)
    norms = [stage.norm for stage in backbone.stages]
    assert [norm.eps for norm in norms] == 4 * [1e-5]  # too small a difference for float32 to show


def test_stochastic_depth_grows_linearly():
    rates = [
        module.drop_prob for module in mscan(drop_path=0.4, **SHALLOW).modules() if isinstance(module, DropPath)
    ]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])  # the first of the five blocks is always kept


def test_layers_start_as_published():
    torch.manual_seed(0)
    block = Block(64, 8)
    assert (block.scale1 == 0.01).all()
    assert (block.scale2 == 0.01).all()
    for name, fan_out in {"attention.project_in": 64, "attention.gate.strips.2.0": 21, "mlp.0": 512}.items():
        conv = block.get_submodule(name)
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        assert not conv.bias.any()


def test_narrow_networks_stand_and_pickle():
    backbone = mscan(width=0.001, layers=[1, 1, 1, 1]).eval()
    x = torch.randn(2, 3, 32, 32)
    again = pickle.loads(pickle.dumps(backbone))
    assert [tuple(level.shape) for level in backbone(x)] == [(2, 1, side, side) for side in (8, 4, 2, 1)]
    assert all(torch.equal(ours, other) for ours, other in zip(backbone(x), again(x), strict=True))


def published(network):
    """The weights of `network` as MMSegmentation names them, with a classifier."""
    state = by_reference_name(network, network.state_dict())
    return {**state, "head.weight": torch.zeros(10, 64), "head.bias": torch.zeros(10)}


def as_segnext(state):
    return {name.replace("mlp.dwconv.", "mlp.dwconv.dwconv."): value for name, value in state.items()}


@pytest.fixture
def source():
    torch.manual_seed(1)
    return mscan(**SHALLOW).eval()


@pytest.mark.parametrize("names", [dict, as_segnext])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_reads_published_weights(tmp_path, source, names, suffix):
    file, state = tmp_path / f"mscan{suffix}", names(published(source))
    save_file(state, file) if suffix == ".safetensors" else torch.save({"state_dict": state}, file)
    again = mscan(pretrained=str(file), **SHALLOW)
    assert again.state_dict().keys() == source.state_dict().keys()
    for name, value in source.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_the_first_convolution_is_fitted_to_the_channels(tmp_path, source):
    torch.save(published(source), tmp_path / "mscan.pth")
    image = torch.randn(1, 1, 64, 64)
    expected = source(image.expand(-1, 3, -1, -1))
    for channels in (1, 3, 6):  # repeated channels weigh less
        fitted = mscan(in_channels=channels, pretrained=tmp_path / "mscan.pth", **SHALLOW).eval()
        for ours, level in zip(fitted(image.expand(-1, channels, -1, -1)), expected, strict=True):
            torch.testing.assert_close(ours, level, rtol=1e-4, atol=1e-4)


def test_files_that_cannot_be_used_are_explained_in_one_line(tmp_path, source):
    file = tmp_path / "mscan.pth"
    with pytest.raises(InputError, match=r"no checkpoint at [^\n]*none.pth"):
        mscan(pretrained=tmp_path / "none.pth")
    torch.save(published(source), file)
    with pytest.raises(InputError, match=r"does not hold this MSCAN's weights: [^\n]*size mismatch[^\n]*$"):
        mscan(width=0.25, layers=[1, 1, 2, 1], pretrained=file)
    with pytest.raises(InputError, match=r"does not hold this MSCAN's weights: [^\n]*missing from[^\n]*$"):
        mscan(width=0.125, layers=[1, 1, 3, 1], pretrained=file)
    torch.save({"fc.weight": torch.zeros(2)}, file)
    with pytest.raises(InputError, match=r"does not hold this MSCAN's weights: [^\n]*unknown to[^\n]*$"):
        mscan(pretrained=file, **SHALLOW)
    file.write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot be read"):
        mscan(pretrained=file)


def test_weights_that_nobody_hosts_and_names_that_nobody_knows():
    with pytest.raises(InputError, match="no library hosts"):
        mscan(pretrained=True)
    with pytest.raises(InputError, match="unknown MSCAN 'mscan_bass': did you mean 'mscan_base'"):
        mscan("mscan_bass")
