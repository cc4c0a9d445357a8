"""A backbone's weights from files of other projects and of our own runs, plug-ins included."""

import os
from functools import partial

import pytest
import timm
import torch
from timm.models import adapt_input_conv
from torch.nn.functional import conv2d

from dsnet_med.errors import InputError
from dsnet_med.methods import build_network
from dsnet_med.networks.backbones import convnext, mscan, resnet
from dsnet_med.networks.layers import for_channels
from dsnet_med.networks.plugins import DSM, SE
from dsnet_med.networks.reference import from_reference, reference_names

NARROW = {"width": 1 / 16, "backbone": {"layers": [1, 1, 1, 1]}}


def small(row, **options):
    classes = {"imagenet": 10, "cityscapes": 5, "coco": 4}[row.partition("/")[0]]
    return build_network(row, in_channels=3, num_classes=classes, **(NARROW | options))


def lively(network):
    """`network` with weights that none of its kind starts with."""
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.normal_().abs_()
    return network


def started_from(file, row):
    return small(row, pretrained=file)


def backbone_of(network):
    return getattr(network.backbone, "body", network.backbone)


def equal(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


class Trap:
    """What runs `mkdir trapped` where a file of weights is unpickled without care."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "trapped"),)


@pytest.mark.parametrize(
    "backbone",
    [partial(resnet, layers=[1, 1, 1, 1]), partial(convnext, "convnext_tiny"), partial(mscan, "mscan_tiny")],
)
@pytest.mark.parametrize(
    ("key", "name"),
    [(None, "trap.pth"), ("state_dict", "trap.pt"), ("model", "trap.bin"), ("extra", "trap.pth")],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_in_a_file_is_run(tmp_path, backbone, key, name, zipped):
    weights = {"stem.0.weight": torch.zeros(2)}
    content = Trap(tmp_path) if key is None else {"state_dict": weights, key: Trap(tmp_path)}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"holds Python objects \(\w+\.mkdir\) that could only be made by"):
        backbone(pretrained=tmp_path / name)
    assert not (tmp_path / "trapped").exists()
    if zipped:  # the trap is one
        torch.load(tmp_path / name, weights_only=False)
        assert (tmp_path / "trapped").is_dir()


@pytest.mark.parametrize("key", ["state_dict", "model", "state_dict_ema"])
def test_weights_under_the_names_of_training_scripts(tmp_path, key):
    trained = lively(convnext("convnext_tiny")).features
    weights = {
        name.replace("stages_", "stages.").replace("stem_", "stem."): x
        for name, x in trained.state_dict().items()
    }
    others = {"state_dict": {"other": torch.zeros(1)}} if key.endswith("_ema") else {}
    torch.save(
        {"epoch": 7, "optimizer": {}, **others, key: {f"module.{n}": x for n, x in weights.items()}},
        tmp_path / "w.pth",
    )
    assert equal(convnext("convnext_tiny", pretrained=tmp_path / "w.pth").features, trained)


def test_the_first_convolution_for_other_numbers_of_channels():
    """As timm does for files of three channels; what one image of equal channels gives stays the same."""
    weight = torch.randn(4, 3, 5, 5)
    for wanted in range(1, 8):
        assert torch.equal(for_channels(weight, wanted), adapt_input_conv(wanted, weight))
    grey, image = torch.randn(4, 1, 5, 5), torch.randn(1, 1, 9, 9)
    for wanted in (1, 2, 3, 5):
        fitted = for_channels(grey, wanted)
        assert fitted.shape == (4, wanted, 5, 5)
        torch.testing.assert_close(conv2d(image.expand(-1, wanted, -1, -1), fitted), conv2d(image, grey))
    assert for_channels(weight.half(), 1).dtype == torch.float32


@pytest.mark.parametrize("row", ["imagenet/fcanet50", "imagenet/dsnet50_a", "imagenet/resnet50"])
@pytest.mark.parametrize("wrapped", ["", "state_dict"])
def test_a_classifier_of_mmpretrain_starts_a_detector(tmp_path, row, wrapped):
    trained = lively(small(row))
    theirs = {name: trained.state_dict()[ours] for ours, name in reference_names(trained).items()}
    assert "head.fc.weight" in theirs and "backbone.layer1.0.conv1.weight" in theirs
    assert ("backbone.layer4.0.dsa.sk.bn.weight" in theirs) == (row == "imagenet/dsnet50_a")
    assert ("backbone.layer4.0.att.fc.0.weight" in theirs) == (row == "imagenet/fcanet50")
    torch.save({wrapped: theirs} if wrapped else theirs, tmp_path / "theirs.pth")
    started = started_from(tmp_path / "theirs.pth", row.replace("imagenet", "coco"))
    assert equal(backbone_of(started), trained.backbone)


def test_a_segmenter_of_mmsegmentation_with_its_deep_stem(tmp_path):
    trained = lively(small("cityscapes/dsnet50_a"))
    theirs = {name: trained.state_dict()[ours] for ours, name in reference_names(trained).items()}
    assert {"backbone.stem.0.weight", "auxiliary_head.convs.0.conv.weight", "decode_head.conv_seg.bias"} <= set(
        theirs
    )
    for name in [name for name in theirs if ".dsa.conv_" in name and name.endswith("weight")]:
        theirs[name] = theirs[name].reshape(*theirs[name].shape[:2], 1, 1)  # 1x1 convolutions there
    torch.save(theirs, tmp_path / "theirs.pth")
    assert equal(started_from(tmp_path / "theirs.pth", "cityscapes/dsnet50_a").backbone, trained.backbone)


@pytest.mark.parametrize("source", ["imagenet", "coco"])
def test_a_run_of_ours_on_another_task(tmp_path, source):
    trained = lively(small(f"{source}/dsnet50_a"))
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    target = "coco" if source == "imagenet" else "imagenet"
    started = started_from(tmp_path / "model.pt", f"{target}/dsnet50_a")
    assert equal(backbone_of(started), backbone_of(trained))


def test_the_rest_of_a_detector_is_not_translated():
    network = small("coco/resnet50")
    for method in ("coco/resnet50", network):
        with pytest.raises(InputError, match="of a detector are not translated, only those of its backbone"):
            from_reference(network.state_dict(), method)


def test_plain_weights_leave_the_plugins_as_they_start(tmp_path):
    shape = {"layers": [1, 1, 1, 1], "width": 1 / 16}
    plain = lively(resnet(**shape))
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    torch.manual_seed(0)
    untouched = resnet(plugin=DSM, **shape)
    torch.manual_seed(0)
    network = resnet(plugin=DSM, pretrained=tmp_path / "plain.pth", **shape)
    for name, value in network.state_dict().items():
        expected = untouched.state_dict()[name] if "plugin" in name else plain.state_dict()[name]
        assert torch.equal(value, expected), name


def test_weights_of_another_plugin_are_not_dropped_in_silence(tmp_path):
    shape = {"layers": [1, 1, 1, 1], "width": 1 / 16}
    torch.save(resnet(plugin=SE, **shape).state_dict(), tmp_path / "se.pth")
    with pytest.raises(InputError, match=r"se\.pth does not hold weights of timm's resnet50c: \d+ entries"):
        resnet(plugin=DSM, pretrained=tmp_path / "se.pth", **shape)
    with pytest.raises(InputError, match=r"entries are of no part of it, such as layer4\.0\.act2\.plugin"):
        resnet(pretrained=tmp_path / "se.pth", **shape)


def test_a_file_of_another_width_is_refused_in_one_line(tmp_path):
    torch.save(resnet(layers=[1, 1, 1, 1], width=1 / 8).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(InputError, match=r"^[^\n]*size mismatch[^\n]*$"):
        resnet(layers=[1, 1, 1, 1], width=1 / 16, pretrained=tmp_path / "wide.pth")


def test_weights_of_timm_s_hub_by_name(monkeypatch):
    asked = []

    def offline(repository, *args, **kwargs):
        asked.append(repository)
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    with pytest.raises(InputError, match=r"cannot fetch the ImageNet weights of resnet50\.tv_in1k"):
        resnet("resnet50", output_stride=32, pretrained="resnet50.tv_in1k")
    assert asked == ["timm/resnet50.tv_in1k"]
    with pytest.raises(InputError, match=r"the ImageNet weights of resnet50c \(no route to host\)"):
        resnet(pretrained=True)
    with pytest.raises(InputError, match=r"unknown weights of timm's resnet50 'resnet50\.tv': did you mean"):
        resnet("resnet50", pretrained="resnet50.tv")
    with pytest.raises(InputError, match=r"no checkpoint at resnet50\.pth"):
        resnet("resnet50", pretrained="resnet50.pth")
    with pytest.raises(InputError, match="fit width 1"):
        resnet("resnet50", width=0.5, pretrained="resnet50.tv_in1k")


def test_the_classifier_of_timm_and_one_channel(tmp_path):
    state = timm.create_model(
        "resnet50", channels=(4, 8, 16, 32), stem_width=2, layers=(1, 1, 1, 1)
    ).state_dict()
    torch.save(state, tmp_path / "timm.pth")
    options = {"width": 1 / 16, "stem_width": 2, "layers": [1, 1, 1, 1], "pretrained": tmp_path / "timm.pth"}
    grey = resnet("resnet50", output_stride=32, in_channels=1, **options)
    torch.testing.assert_close(grey.conv1.weight, state["conv1.weight"].sum(1, keepdim=True))
    torch.testing.assert_close(grey.layer2[0].conv2.weight, state["layer2.0.conv2.weight"])
