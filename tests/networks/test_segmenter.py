"""The encoder-decoder: sizes, channels, precision, errors."""

from functools import partial

import pytest
import timm
import torch

import dsnet_med
from dsnet_med.engine.losses import SegmentationLoss
from dsnet_med.errors import InputError
from dsnet_med.networks import Classifier, Segmenter, heads, plugins
from dsnet_med.networks.backbones import resnet
from dsnet_med.networks.heads import FCNHead

SMALL = {"width": 0.125, "backbone": {"layers": [1, 1, 1, 1]}}
ROWS = ["fcn", "fcn_dsm"]


def small(method, in_channels=1, num_classes=3, **parts):
    torch.manual_seed(0)
    return dsnet_med.build_network(
        method, in_channels=in_channels, num_classes=num_classes, **{**SMALL, **parts}
    )


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (65, 47), (33, 8), (8, 8), (100, 9)])
@pytest.mark.parametrize("method", ROWS)
def test_logits_have_the_size_of_the_images(method, size, train):
    network = small(method).train(train)
    assert network(torch.randn(2, 1, *size)).shape == (2, 3, *size)


@pytest.mark.parametrize("in_channels", [1, 3, 4])
def test_takes_any_number_of_channels(in_channels):
    assert small("fcn", in_channels)(torch.randn(2, in_channels, 32, 32)).shape == (2, 3, 32, 32)


def test_logits_are_resized_between_pixel_centres():
    network = small("fcn").eval()
    images = torch.randn(1, 1, 32, 32)
    low = network.head(network.backbone(images))  # (1, 3, 4, 4)
    rows = (torch.arange(32) + 0.5) / 8 - 0.5  # the centre of each output pixel among the input's
    lower = rows.floor().clamp(0, 3).long()
    upper, part = (lower + 1).clamp(max=3), (rows.clamp(0, 3) - lower)
    tall = low[:, :, lower] * (1 - part)[:, None] + low[:, :, upper] * part[:, None]
    full = tall[..., lower] * (1 - part) + tall[..., upper] * part
    torch.testing.assert_close(network(images), full, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", ROWS)
def test_bfloat16_autocast_gives_no_nan(method):
    network, images = small(method), 5 * torch.randn(2, 1, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = network(images).float().square().mean()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("method", ROWS)
def test_every_parameter_learns(method):
    network = small(method, backbone={"layers": [1, 1, 1, 1]})
    torch.nn.init.ones_(network.backbone.layer4[0].bn3.weight)  # timm starts residual branches at zero
    for stage in (network.backbone.layer1, network.backbone.layer2, network.backbone.layer3):
        torch.nn.init.ones_(stage[0].bn3.weight)
    network(torch.randn(4, 1, 64, 64)).square().sum().backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in dead if "channel.query.bias" not in name] == []  # which a softmax ignores


@pytest.mark.parametrize("method", ROWS)
def test_exports(method):
    network, images = small(method).eval(), torch.randn(2, 1, 48, 40)
    exported = torch.export.export(network, (images,))
    torch.testing.assert_close(exported.module()(images), network(images), atol=1e-5, rtol=1e-4)


def test_small_images_are_refused():
    with pytest.raises(InputError, match="images of 7x64 pixels and needs at least 8x8"):
        small("fcn")(torch.randn(2, 1, 7, 64))


def test_a_missing_batch_axis_is_named():
    with pytest.raises(
        InputError, match=r"shape \(1, 64, 64\) and wants images \(batch, channels, height, width\)"
    ):
        small("fcn")(torch.randn(1, 64, 64))


def test_dsm_refuses_a_batch_of_one_in_training():
    images = torch.randn(1, 1, 32, 32)
    with pytest.raises(InputError, match="batch of at least 2"):
        small("fcn_dsm").train()(images)
    assert small("fcn").train()(images).shape == (1, 3, 32, 32)
    assert small("fcn_dsm").eval()(images).shape == (1, 3, 32, 32)


def test_dilations_are_those_of_stride_8():
    network = resnet()
    dilations = {
        stage: [block.conv2.dilation[0] for block in network[stage]] for stage in ("layer2", "layer3", "layer4")
    }
    assert dilations == {"layer2": [1] * 4, "layer3": [1, 2, 2, 2, 2, 2], "layer4": [2, 4, 4]}
    assert network.feature_info.reduction() == [4, 8, 8, 8]
    assert network.feature_info.channels() == [256, 512, 1024, 2048]


@pytest.mark.parametrize(
    ("place", "channels", "output"),
    [
        ("act1", 64, "anything"),  # after conv1
        ("act2", 64, "anything"),  # after conv2
        ("bn3", 256, "the shortcut"),  # after conv3
        ("act3", 256, "nothing"),  # after the residual
    ],
)
def test_the_four_places_in_a_bottleneck(place, channels, output):
    """What a plug-in that gives zeros leaves of the block."""
    torch.manual_seed(0)
    seen = []

    class Zeros(torch.nn.Module):
        def forward(self, x):
            return torch.zeros_like(x)

    def plugin(count):
        seen.append(count)
        return Zeros()

    block = resnet(plugin=plugin, at=f"layer1.0.{place}").layer1[0].eval()
    x = torch.randn(1, 64, 9, 7)
    left = block(x)
    assert seen == [channels]
    if output == "the shortcut":
        torch.testing.assert_close(left, torch.relu(block.downsample(x)))
    assert left.any() == (output != "nothing")


def test_width_keeps_at_least_one_channel():
    assert resnet(width=0.001, layers=[1, 1, 1, 1])(torch.randn(2, 3, 16, 16))[-1].shape == (2, 4, 2, 2)


def weights_file(folder, suffix):
    from safetensors.torch import save_file

    torch.manual_seed(3)
    state = timm.create_model("resnet50c").state_dict()
    file = folder / f"weights{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    return file, state


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_pretrained_from_a_file_sums_the_first_convolution(tmp_path, suffix):
    file, state = weights_file(tmp_path, suffix)
    one, three = resnet(in_channels=1, pretrained=file), resnet(in_channels=3, pretrained=str(file))
    torch.testing.assert_close(three.state_dict()["layer4.2.conv3.weight"], state["layer4.2.conv3.weight"])
    grey = torch.randn(1, 1, 32, 32)
    for ours, theirs in zip(one.eval()(grey), three.eval()(grey.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_pretrained_that_cannot_be_had_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no checkpoint at"):
        resnet(pretrained=tmp_path / "none.pth")
    with pytest.raises(InputError, match="fit width 1 and its own layers"):
        resnet(pretrained=True, width=0.5)
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(InputError, match="it is damaged, or no PyTorch checkpoint"):
        resnet(pretrained=tmp_path / "bad.pth")
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(
        InputError, match=r"does not hold weights of timm's resnet50c: \d+ entries are missing[^\n]*$"
    ):
        resnet(pretrained=tmp_path / "other.pth")


def test_a_head_without_convolutions():
    """As the reference allows where the channels are the level's."""
    head = FCNHead([24], 4, channels=24, num_convs=0, concat_input=False)
    x = torch.randn(2, 24, 5, 6)
    torch.testing.assert_close(head.eval()([x]), head.classifier(x))
    with pytest.raises(InputError, match="keeps the 24 channels of its level"):
        FCNHead([24], 4, channels=16, num_convs=0)


def test_convolutions_and_classifier_start_as_in_the_reference():
    torch.manual_seed(0)
    head = FCNHead([64], 9, channels=128)
    assert head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not head.classifier.bias.any()
    first = head.convs[0].conv.weight
    assert first.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)  # Kaiming, fan out


def encoder(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, features_only=True, **options)


def test_an_encoder_with_the_channels_last_is_turned():
    """As timm's Swin, MambaOut and Sequencer keep their maps."""
    backbone = encoder("test_mambaout")
    network = Segmenter(backbone, partial(FCNHead, num_classes=3, channels=8)).eval()
    images = torch.randn(2, 3, 64, 96)
    turned = [each.movedim(-1, 1) for each in backbone(images)]
    assert turned[-1].shape == (2, 64, 2, 3) and backbone.output_fmt == "NHWC"
    expected = torch.nn.functional.interpolate(network.head(turned), (64, 96), mode="bilinear")
    torch.testing.assert_close(network(images), expected)
    torch.testing.assert_close(Classifier(backbone, 5).pooled(images), turned[-1].mean((2, 3)))


HEADS = {
    "FCNHead": heads.FCNHead,
    "DANetHead": heads.DANetHead,
    "EncHead": heads.EncHead,
    "UPerHead": heads.UPerHead,
    "ham_head": partial(heads.ham_head, plugin=plugins.Hamburger),
    "light_ham_head": partial(heads.light_ham_head, plugin=plugins.Hamburger),
    "MultiScaleHead": partial(heads.MultiScaleHead, plugin=plugins.DSM),
}
# levels at 4 and 5 scales, at one, and with the channels last
ENCODERS = {"test_convnext": {}, "test_resnet": {}, "test_vit": {"img_size": 64}, "test_mambaout": {}}


@pytest.mark.parametrize("name", ENCODERS)
def test_every_head_runs_on_every_encoder_as_it_stands(name):
    backbone = encoder(name, **ENCODERS[name])
    labels = torch.zeros(2, 64, 64, dtype=torch.long)
    for head in HEADS.values():
        network = Segmenter(backbone, partial(head, num_classes=3, width=1 / 64))
        for train in (True, False):
            with torch.no_grad():
                logits = network.train(train)(torch.zeros(2, 3, 64, 64))
            main = logits[0] if train and isinstance(logits, tuple) else logits
            assert main.shape == (2, 3, 64, 64)
            assert SegmentationLoss()(logits, labels).isfinite()


def test_what_a_head_or_a_backbone_does_not_fit_is_one_line():
    with pytest.raises(InputError, match="reads level -3 of a pyramid, and the backbone gives 2"):
        HEADS["MultiScaleHead"]([4, 8], 3)
    with pytest.raises(InputError, match=r"got a ResNet as backbone, .* make timm's with features_only=True"):
        Segmenter(timm.create_model("test_resnet"), FCNHead)
    vit = Segmenter(encoder("test_vit", img_size=64), partial(FCNHead, num_classes=3, channels=8))
    with pytest.raises(InputError, match=r"does not take images of shape \(2, 3, 64, 72\): Input width"):
        vit(torch.zeros(2, 3, 64, 72))


@pytest.mark.parametrize(
    "method", ["hamnet_mscan_b", "dsnet_mscan_b", "fcn", "upernet_convnext_b", "imagenet/resnet50"]
)
def test_a_batch_of_one_that_leaves_a_norm_one_value_is_one_line(method):
    network = dsnet_med.build_network(method, in_channels=3, num_classes=3, width=0.0625).train()
    size = 8 if method == "fcn" else 32  # one pixel of the last map
    with pytest.raises(InputError, match="use a batch of at least 2"):
        network(torch.randn(1, 3, size, size))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"head": {"channels": 0}}, "got channels=0 and wants a whole number, at least 1"),
        ({"head": {"num_convs": -1}}, "FCNHead got num_convs=-1"),
        ({"backbone": {"layers": [0, 1, 1, 1]}}, "layers=.0, 1, 1, 1. and wants the blocks of 4 stages"),
        ({"backbone": {"layers": [1]}}, "wants the blocks of 4 stages"),
        ({"backbone": {"output_stride": 7}}, "got output_stride=7, wanted 8, 16 or 32"),
        ({"width": -1}, "got width=-1 and wants a number above 0"),
    ],
)
def test_arguments_that_make_no_network_are_one_line(parts, message):
    with pytest.raises(InputError, match=message):
        dsnet_med.build_network("fcn", num_classes=3, **{"width": 0.0625, **parts})
