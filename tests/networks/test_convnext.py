"""ConvNeXt: its block, stochastic depth, and pretrained weights from a file."""

import pickle

import pytest
import timm
import torch
from golden import check_close
from safetensors.torch import save_file
from timm.layers import DropPath

from dsnet_med.errors import InputError
from dsnet_med.networks.backbones import convnext

SHALLOW = {"width": 0.125, "layers": [1, 1, 2, 1]}
PARTS = {"conv_dw": "depthwise_conv", "mlp.fc1": "pointwise_conv1", "mlp.fc2": "pointwise_conv2"}


def theirs(name):
    part, _, kind = name.rpartition(".")
    return f"{PARTS.get(part, part)}.{kind}" if part else name


def test_a_block_is_the_reference(vectors):
    golden = vectors("convnext_block")
    block = convnext("convnext_base", width=0.125, layers=[1, 1, 1, 1]).eval().features.stages_0.blocks[0]
    assert block.norm.eps == 1e-6
    block.load_state_dict({name: golden[f"param/{theirs(name)}"] for name in block.state_dict()})
    x = golden["in/0"].requires_grad_()
    output = block(x)
    check_close(output, golden["out_eval/0"])
    (output * golden["gradw/0"]).sum().backward()
    check_close(x.grad, golden["grad_in/0"])
    checked = golden.group("grad_param")
    assert len(checked) == len(list(block.parameters())) == 9
    for name, parameter in block.named_parameters():
        check_close(parameter.grad, checked[theirs(name)])


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (32, 32), (33, 127)])
def test_levels_have_the_sizes_that_are_announced(size):
    backbone = convnext(in_channels=1, **SHALLOW)
    levels = backbone(torch.randn(2, 1, *size))
    assert [level.shape[1] for level in levels] == backbone.feature_info.channels() == [16, 32, 64, 128]
    assert backbone.feature_info.reduction() == [4, 8, 16, 32]
    for level, reduction in zip(levels, backbone.feature_info.reduction(), strict=True):
        assert level.shape[2:] == (size[0] // reduction, size[1] // reduction)


def test_every_level_leaves_through_a_layer_norm():
    backbone = convnext(**SHALLOW)
    for level in backbone(5 + 3 * torch.randn(2, 3, 64, 64)):
        torch.testing.assert_close(level.mean(1), torch.zeros(level[:, 0].shape), atol=1e-5, rtol=0)
        torch.testing.assert_close(level.var(1, correction=0), torch.ones(level[:, 0].shape), atol=1e-2, rtol=0)
    norms = backbone.norms
    assert [norm.eps for norm in norms] == 4 * [1e-6]  # too small a difference for float32 to show


def test_stochastic_depth_grows_linearly_and_layer_scales_start_as_asked():
    backbone = convnext(drop_path=0.4, layer_scale=0.5, **SHALLOW)
    rates = [module.drop_prob for module in backbone.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])  # the first of the five blocks is always kept
    scales = [value for name, value in backbone.named_parameters() if name.endswith("gamma")]
    assert len(scales) == 5
    assert all((scale == 0.5).all() for scale in scales)


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(3)
    return timm.create_model("convnext_tiny").state_dict()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_pretrained_from_a_file(tmp_path, weights, suffix):
    file = tmp_path / f"weights{suffix}"
    save_file(weights, file) if suffix == ".safetensors" else torch.save(weights, file)
    colour = convnext("convnext_tiny", pretrained=str(file)).eval()
    grey = convnext("convnext_tiny", in_channels=1, pretrained=file).eval()
    plain = timm.create_model("convnext_tiny", features_only=True).state_dict()
    ours = {name.replace("stages.", "stages_", 1).replace("stem.", "stem_", 1): name for name in weights}
    for name in plain:
        torch.testing.assert_close(colour.features.state_dict()[name], weights[ours[name]], rtol=0, atol=0)
    image = torch.randn(1, 1, 64, 64)
    for one, three in zip(grey(image), colour(image.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(one, three, rtol=1e-4, atol=1e-4)


def test_a_file_that_does_not_fit_is_refused(tmp_path, weights):
    lacking = {name: value for name, value in weights.items() if "stages.2.blocks.1.gamma" not in name}
    torch.save(lacking, tmp_path / "lacking.pth")
    with pytest.raises(
        InputError, match=r"1 entries are missing, such as stages_2\.blocks\.1\.gamma$"
    ):  # which timm would start at random
        convnext("convnext_tiny", pretrained=tmp_path / "lacking.pth")
    torch.save(weights, tmp_path / "tiny.pth")
    with pytest.raises(InputError, match=r"does not hold weights of timm's convnext_base: [^\n]*$"):
        convnext("convnext_base", pretrained=tmp_path / "tiny.pth")
    with pytest.raises(InputError, match="no file of pretrained weights at"):
        convnext("convnext_tiny", pretrained=tmp_path / "none.pth")


def test_weights_of_another_shape_of_network_are_refused():
    with pytest.raises(InputError, match="fit width 1"):
        convnext(width=0.5, pretrained=True)
    with pytest.raises(InputError, match="fit width 1"):
        convnext(layers=[1, 1, 1, 1], pretrained=True)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(InputError, match="unknown ConvNeXt 'convnext_bass': did you mean 'convnext_base'"):
        convnext("convnext_bass")


def test_pickles():
    backbone = convnext(**SHALLOW).eval()
    x = torch.randn(1, 3, 32, 32)
    for ours, again in zip(backbone(x), pickle.loads(pickle.dumps(backbone))(x), strict=True):
        assert torch.equal(ours, again)
