"""Any encoder of timm's under our heads: layouts, sizes, names, weights."""

import pytest
import timm
import torch
from torch import nn

from dsnet_med.errors import InputError
from dsnet_med.methods import build_network, method_row
from dsnet_med.networks import Segmenter
from dsnet_med.networks.backbones import timm_encoder
from dsnet_med.networks.heads import FCNHead, UNetHead

ROWS = ("timm_fcn", "timm_upernet", "timm_unet")
HEADS = {"timm_fcn": {"channels": 8}, "timm_upernet": {"channels": 8}, "timm_unet": {"channels": 4}}
SMALL = "test_convnext"  # timm's own small networks for tests


def small(method, name=SMALL, **backbone):
    torch.manual_seed(0)
    parts = {"backbone": {"name": name, **backbone}, "head": HEADS[method]}
    return build_network(method, in_channels=2, num_classes=3, **parts)


@pytest.mark.parametrize("method", ROWS)
def test_a_row_has_its_card(method):
    row = method_row(method)
    assert row["method_card"]["id"] == method and row["spatial_dims"] == row["method_card"]["dimensions"] == 2
    assert row["network_def"]["backbone"]["name"] in row["method_card"]["backbone"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ROWS)
def test_parameters_are_those_on_the_card(method):
    with torch.device("meta"):
        network = build_network(method, in_channels=1, num_classes=2)
    assert sum(each.numel() for each in network.parameters()) == method_row(method)["method_card"]["parameters"]


@pytest.mark.parametrize("method", ROWS)
def test_logits_have_the_size_of_the_images_in_training_too(method):
    network, x = small(method), torch.randn(2, 2, 64, 96)
    assert network.train()(x).shape == network.eval()(x).shape == (2, 3, 64, 96)
    network.train()(x).square().mean().backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None}
    assert all(f"head.{name}" in reached for name, _ in network.head.named_parameters())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_resnet", {}),
        ("test_vit", {}),
        ("test_byobnet", {}),
        ("mobilenetv3_small_050", {}),
        pytest.param("swin_tiny_patch4_window7_224", {}, marks=pytest.mark.slow),
        pytest.param("swinv2_cr_tiny_224", {}, marks=pytest.mark.slow),
        pytest.param("swinv2_tiny_window8_256", {}, marks=pytest.mark.slow),
        pytest.param("convnextv2_tiny", {}, marks=pytest.mark.slow),
        pytest.param("maxvit_tiny_tf_224", {"img_size": [64, 96]}, marks=pytest.mark.slow),
        pytest.param("hiera_tiny_224", {"img_size": [64, 96]}, marks=pytest.mark.slow),
        pytest.param("mambaout_femto", {}, marks=pytest.mark.slow),
        pytest.param("pvt_v2_b0", {}, marks=pytest.mark.slow),
        pytest.param("tf_efficientnetv2_b0", {}, marks=pytest.mark.slow),
        pytest.param("vit_tiny_patch16_224", {}, marks=pytest.mark.slow),
    ],
)
def test_encoders_of_any_kind(name, options):
    network = small("timm_unet", name, **options).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 2, 64, 96)).shape == (1, 3, 64, 96)


def test_maps_with_their_channels_last_are_turned():
    """A Swin of two blocks: timm gives (B, H, W, C)."""
    features = timm.create_model(
        "swin_tiny_patch4_window7_224",
        features_only=True,
        in_chans=1,
        embed_dim=12,
        depths=(1, 1),
        num_heads=(2, 2),
        strict_img_size=False,
        out_indices=(0, 1),
    )
    assert features(torch.zeros(1, 1, 56, 112))[0].shape == (1, 14, 28, 12)
    network = Segmenter(features, lambda channels: FCNHead(channels, 2, channels=4, level=0, num_convs=1))
    assert network.eval()(torch.zeros(1, 1, 56, 112)).shape == (1, 2, 56, 112)
    features.output_fmt = "NCHW"  # which it does not
    with pytest.raises(
        InputError, match=r"gives maps of \[14, 7\] channels, and says that they have \[12, 24\]"
    ):
        network(torch.zeros(1, 1, 56, 112))


def test_the_levels_asked_for():
    assert timm_encoder("test_convnext", levels=2).feature_info.reduction() == [16, 32]
    with pytest.raises(InputError, match="test_convnext gives no pyramid with"):
        timm_encoder("test_convnext", levels=20)
    with pytest.raises(InputError, match="wants a whole number, at least 1"):
        timm_encoder("test_convnext", levels=0)


def test_unknown_names_get_the_nearest():
    with pytest.raises(
        InputError, match="unknown encoder of timm's 'convnextv2_tinny': did you mean 'convnextv2_tiny'"
    ):
        small("timm_fcn", "convnextv2_tinny")


def test_what_an_encoder_cannot_do_is_refused():
    with pytest.raises(InputError, match="has the channels of its name"):
        build_network("timm_fcn", num_classes=2, width=0.5)
    with pytest.raises(InputError, match=r"test_vit gives no pyramid with .*output_stride"):
        small("timm_fcn", "test_vit", output_stride=8)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_come_from_a_file(suffix, tmp_path):
    torch.manual_seed(7)
    whole = timm.create_model("test_convnext", in_chans=3)  # with a classifier, as published weights are
    file = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(whole.state_dict(), file)
    else:
        from safetensors.torch import save_file

        save_file(whole.state_dict(), file)
    parts = {"backbone": {"name": "test_convnext"}, "head": HEADS["timm_unet"]}
    network = build_network("timm_unet", in_channels=3, num_classes=2, pretrained=str(file), **parts)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = whole.eval().forward_intermediates(image, intermediates_only=True)
        got = network.eval().backbone(image)
    for ours, theirs in zip(got, expected[-len(got) :], strict=True):
        torch.testing.assert_close(ours, theirs)
    grey = build_network("timm_unet", in_channels=1, num_classes=2, pretrained=str(file), **parts)
    torch.testing.assert_close(
        grey.backbone.stem_0.weight, whole.stem[0].weight.sum(1, keepdim=True), rtol=1e-5, atol=1e-6
    )


def test_weights_of_another_encoder_are_refused(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), file)
    with pytest.raises(InputError, match="does not hold weights of timm's test_convnext"):
        timm_encoder("test_convnext", pretrained=str(file))
    with pytest.raises(InputError, match="no file of pretrained weights"):
        timm_encoder("test_convnext", pretrained="nowhere.pth")


def test_the_decoder_joins_every_level():
    """By hand: 1x1 maps of ones through convolutions of ones and norms that pass: sums of channels."""
    head = UNetHead((2, 3), 1, channels=1, norm=lambda _: nn.Identity()).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.fill_(1.0)
        head.classifier.bias.zero_()
        logits = head([torch.ones(1, 2, 1, 1), 2 * torch.ones(1, 3, 1, 1)])
    assert logits.item() == 2 * 1 + 3 * 2  # skip and below, through one hidden channel
    with pytest.raises(InputError, match="UNetHead reads level 1 of a pyramid"):
        UNetHead((2,), 1)


def test_the_decoders_channels_double_to_the_coarser_ones():
    head = UNetHead((4, 8, 16, 32), 2, channels=8, at_most=20, width=0.5)
    assert [level[1].conv.out_channels for level in head.levels] == [10, 8, 4]
