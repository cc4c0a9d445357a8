"""The loss: the reference's values and gradients in every version, textbook sums, and what it refuses."""

from copy import deepcopy
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.losses import DiceCELoss
from networks.golden import Golden, by_reference_name, check_close, load
from torch.nn import functional as F

from dsnet_med import resources
from dsnet_med.engine.losses import DICE, SegmentationLoss, presence
from dsnet_med.errors import InputError
from dsnet_med.natural import cityscapes
from dsnet_med.networks import Segmenter
from dsnet_med.networks.backbones import resnet
from dsnet_med.networks.heads import FCNHead
from dsnet_med.networks.plugins import DSM

CE = "ce_1.2"
NAMES = {  # what the reference's file calls each form, and its weight there
    "softmax": ("dice_0.8_legacy_softmax (mmseg 1.0.0 = dice_loss_legacy.py)", 0.8),
    "sigmoid": ("dice_0.8_default (mmseg 1.1.2..1.2.2, use_sigmoid=True)", 0.8),
    "softmax_flat": ("dice_0.8_use_sigmoid_False (mmseg 1.2.2)", 0.8),
    "naive": ("dice_1.0_naive_softmax_eps1e-5 (new_configs)", 1.0),
    "nnunet": ("memory_efficient_soft_dice_1.0 (new_configs)", 1.0),
}
LABELS = {"noign": "label", "ign": "label_ign"}
CASES = [(dice, ignored) for dice in NAMES for ignored in LABELS if (dice, ignored) != ("nnunet", "ign")]


@pytest.fixture(scope="module")
def vectors(golden):
    with np.load(golden / "losses.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "meta"}


def value_and_gradient(loss, logits, labels):
    logits = logits.clone().requires_grad_()
    value = loss(logits, labels)
    value.backward()
    return value.detach(), logits.grad


def check(loss, vectors, parts, ignored):
    value, slope = value_and_gradient(loss, vectors["logits"], vectors[LABELS[ignored]])
    expected = sum(vectors[f"{part}|{ignored}|value"] for part in parts)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    gradient = sum(vectors[f"{part}|{ignored}|grad"] for part in parts)
    torch.testing.assert_close(slope, gradient, rtol=0, atol=2e-6 * gradient.abs().max().item())


# ---------------------------------------------------------------- the reference


def test_every_entry_of_the_vectors_is_compared(vectors):
    compared = {f"{CE}|{ignored}" for ignored in LABELS} | {f"{NAMES[dice][0]}|{i}" for dice, i in CASES}
    assert compared == {key.removesuffix("|value") for key in vectors if key.endswith("|value")}
    assert NAMES.keys() == DICE.keys()


@pytest.mark.parametrize("ignored", LABELS)
def test_cross_entropy(vectors, ignored):
    check(SegmentationLoss(dice_weight=0.0), vectors, [CE], ignored)


@pytest.mark.parametrize(("dice", "ignored"), CASES)
def test_dice(vectors, dice, ignored):
    name, weight = NAMES[dice]
    check(SegmentationLoss(dice, ce_weight=0.0, dice_weight=weight), vectors, [name], ignored)


@pytest.mark.parametrize("ignored", LABELS)
@pytest.mark.parametrize("dice", ["softmax", "sigmoid", "softmax_flat"])
def test_both_weighted_as_published(vectors, dice, ignored):
    check(SegmentationLoss(dice), vectors, [CE, NAMES[dice][0]], ignored)


def test_the_configuration_trains_with_the_published_loss(vectors):
    parser = ConfigParser()
    parser.read_config(str(resources.configs() / "train.yaml"))
    parser["cases"] = {"train": []}  # of which the class weights would be counted
    check(parser.get_parsed_content("loss"), vectors, [CE, NAMES["softmax"][0]], "noign")
    parser["loss#dice"] = "sigmoid"
    parser.parse(reset=True)
    check(parser.get_parsed_content("loss"), vectors, [CE, NAMES["sigmoid"][0]], "noign")


@pytest.mark.parametrize(("dice", "suffix"), [("sigmoid", "new"), ("softmax", "legacy")])
@pytest.mark.parametrize(("name", "dsm"), [("model_fcn_small", False), ("model_fcn_dsm_small", True)])
def test_training_a_whole_network(golden, name, dsm, dice, suffix):
    reference = Golden(golden, name)
    plugin = (lambda channels: DSM(channels, bias=True)) if dsm else None
    backbone = resnet(width=1 / 32, stem_width=2, plugin=plugin)
    network = Segmenter(backbone, lambda channels: FCNHead(channels, 9, channels=8))
    load(network, reference.state()).train()
    logits = network.head(network.backbone(reference["in/0"]))
    parts = {
        key: value for key, value in reference.group("loss").items() if "loss_ce" in key or key_of(dice) in key
    }
    assert len(parts) == 2
    loss = SegmentationLoss(dice)(logits, reference["label"])
    torch.testing.assert_close(loss.detach(), sum(parts.values()), rtol=2e-6, atol=0)
    loss.backward()
    gradients = by_reference_name(network, {key: p.grad for key, p in network.named_parameters()})
    expected = reference.group(f"grad_total_{suffix}")
    assert len(expected) == 3
    for key, value in expected.items():
        check_close(gradients[key], value, rtol=2e-4)  # float32, through 53 layers


def key_of(dice):
    return {"sigmoid": "1.2.2", "softmax": "1.0.0"}[dice]


# ---------------------------------------------------------------- textbook forms, in every shape


def textbook(dice, logits, labels, classes):
    """The Dice of one batch, class by class and pixel by pixel, in float64."""
    p = torch.sigmoid(logits) if dice == "sigmoid" else logits.softmax(1)
    t = torch.stack([(labels == k).double() for k in range(classes)], 1)
    kept = (labels != 255).double()[:, None]
    per_sample = []
    for b in range(len(p)):
        if dice == "softmax":
            filled = torch.stack([(labels[b].clamp(max=classes - 1) == k).double() for k in range(classes)])
            scores = [
                1 - (2 * (p[b, k] * t[b, k]).sum() + 1) / ((p[b, k] ** 2).sum() + filled[k].sum() + 1)
                for k in range(classes)
            ]
            per_sample.append(sum(scores) / classes)
        elif dice == "naive":
            per_sample.append(1 - (2 * (p[b] * t[b]).sum() + 1e-5) / (p[b].sum() + t[b].sum() + 1e-5))
        else:
            over = (p[b] ** 2).sum() + 1e-3 + (t[b] ** 2).sum() + 1e-3
            per_sample.append(1 - 2 * (p[b] * t[b]).sum() / over)
    if dice == "nnunet":
        both, ours, theirs = ((each * kept).sum((0, 2, 3))[1:] for each in (p * t, p, t))
        return -((2 * both + 1e-5) / (ours + theirs + 1e-5)).mean()
    return sum(per_sample) / len(per_sample)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(DICE)), st.integers(1, 3), st.integers(2, 5), st.integers(1, 7), st.integers(0, 99)
)
def test_equals_the_textbook(dice, batch, classes, side, seed):
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, classes, side, side + 1, generator=random, dtype=torch.float64)
    labels = torch.randint(0, classes + 1, (batch, side, side + 1), generator=random)
    labels[labels == classes] = 255
    value = SegmentationLoss(dice, ce_weight=0.0, dice_weight=1.0)(logits, labels)
    torch.testing.assert_close(value, textbook(dice, logits, labels, classes), rtol=1e-10, atol=1e-12)
    expected = F.cross_entropy(logits, labels, ignore_index=255, reduction="none").mean()
    value = SegmentationLoss(dice, ce_weight=1.0, dice_weight=0.0)(logits, labels)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)


def test_without_ignored_pixels_the_default_is_also_one_of_monai_s():
    theirs = DiceCELoss(
        to_onehot_y=True,
        softmax=True,
        squared_pred=True,
        smooth_nr=1,
        smooth_dr=1,
        lambda_ce=1.2,
        lambda_dice=0.8,
    )
    logits, labels = torch.randn(2, 5, 9, 11), torch.randint(0, 5, (2, 1, 9, 11))
    torch.testing.assert_close(SegmentationLoss()(logits, labels), theirs(logits, labels))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dice", sorted(DICE))
def test_volumes_are_as_slices_of_as_many_voxels(dice, masked):
    logits, labels = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64), torch.randint(0, 3, (2, 1, 4, 5, 6))
    labels[0, 0, 1] = 255
    loss = SegmentationLoss(dice, masked=masked)
    torch.testing.assert_close(loss(logits, labels), loss(logits.flatten(2, 3), labels.flatten(2, 3)))
    coarse = F.interpolate(logits, (2, 3, 3), mode="trilinear")
    large = F.interpolate(coarse, (4, 5, 6), mode="trilinear")
    torch.testing.assert_close(loss(coarse, labels), loss(large, labels))


# ---------------------------------------------------------------- ignored voxels, regions, several sizes


@pytest.mark.parametrize("regions", [None, {"whole": [1, 2], "core": [2]}])
@pytest.mark.parametrize("dice", sorted(DICE))
def test_masked_voxels_count_nowhere(dice, regions):
    """As if they had been cut off; and no gradient reaches them."""
    logits, labels = torch.randn(2, 3, 6, 4, dtype=torch.float64), torch.randint(0, 3, (2, 1, 6, 4))
    if regions:
        logits = logits[:, 1:]
    labels[:, :, 3:] = 255
    loss = SegmentationLoss(dice, masked=True, regions=regions)
    value, slope = value_and_gradient(loss, logits, labels)
    cut, slope_of_cut = value_and_gradient(loss, logits[:, :, :3], labels[:, :, :3])
    torch.testing.assert_close(value, cut)
    torch.testing.assert_close(slope[:, :, :3], slope_of_cut)
    assert not slope[:, :, 3:].any()
    labels[:] = 255
    assert loss(logits, labels).isfinite()


def test_regions_by_hand():
    """Two voxels of labels 1 and 2; probabilities 3/4 and 1/4 of the whole, 1/2 and 3/4 of the core."""
    labels = torch.tensor([[[[1, 2]]]])
    logits = torch.tensor([[[[log(3), -log(3)]], [[0, log(3)]]]])
    loss = SegmentationLoss("nnunet", ce_weight=1, dice_weight=0, regions={"whole": [1, 2], "core": [2]})
    entropy = -(log(3 / 4) + log(1 / 4) + log(1 / 2) + log(3 / 4)) / 4
    assert loss(logits, labels).item() == pytest.approx(entropy)
    loss = SegmentationLoss("nnunet", ce_weight=0, dice_weight=1, regions={"whole": [1, 2], "core": [2]})
    dice = (2 * (3 / 4 + 1 / 4) / (1 + 2) + 2 * (3 / 4) / (1 / 2 + 3 / 4 + 1)) / 2
    assert loss(logits, labels).item() == pytest.approx(-dice, abs=1e-4)
    with pytest.raises(InputError, match="3 logits for 2 regions"):
        loss(torch.zeros(1, 3, 1, 2), labels)
    with pytest.raises(InputError, match="class_weights for regions"):
        SegmentationLoss(class_weights=[1, 2], regions={"whole": [1, 2], "core": [2]})


@pytest.mark.parametrize("sizes", [[(8, 8), (4, 4), (2, 2)], [(8, 8, 4), (4, 4, 4), (2, 2, 2)]])
def test_deep_supervision_weighs_each_size_half_of_the_one_before(sizes):
    labels = torch.randint(0, 3, (2, 1, *sizes[0]))
    outputs = [torch.randn(2, 3, *size) for size in sizes]
    coarse = [F.interpolate(labels.float(), size, mode="nearest-exact") for size in sizes]
    alone = SegmentationLoss("nnunet")
    parts = [alone(output, label) for output, label in zip(outputs, coarse, strict=True)]
    expected = (parts[0] + parts[1] / 2 + parts[2] / 4) / 1.75
    loss = SegmentationLoss("nnunet", deep_supervision=True)
    torch.testing.assert_close(loss(outputs, labels), expected)
    torch.testing.assert_close(loss(outputs[0], labels), parts[0])
    torch.testing.assert_close(loss(outputs, labels[:, 0]), expected)


# ---------------------------------------------------------------- how it is called


def test_class_weights_multiply_the_cross_entropy_of_their_pixels():
    logits, labels = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randint(0, 3, (2, 1, 4, 5))
    labels[0, 0, 0, 0] = 255
    loss = SegmentationLoss(ce_weight=1.0, dice_weight=0.0, class_weights=[0.5, 1, 4])
    chosen = labels[:, 0].clamp(max=2)
    by_pixel = -logits.log_softmax(1).gather(1, chosen[:, None])[:, 0]
    weights = torch.tensor([0.5, 1, 4], dtype=torch.float64)[chosen] * (labels[:, 0] != 255)
    torch.testing.assert_close(loss(logits, labels), (weights * by_pixel).sum() / 40)
    assert not loss.state_dict()


def test_several_outputs_are_summed_and_resized():
    labels = torch.randint(0, 4, (2, 1, 16, 12))
    outputs = [torch.randn(2, 4, 16, 12), torch.randn(2, 4, 8, 6), torch.randn(2, 4, 4, 3)]
    loss = SegmentationLoss()
    large = [F.interpolate(each, size=(16, 12), mode="bilinear", align_corners=False) for each in outputs]
    torch.testing.assert_close(loss(outputs, labels), sum(loss(each, labels) for each in large))
    torch.testing.assert_close(loss(tuple(outputs), labels[:, 0].to(torch.uint8)), loss(outputs, labels))


@pytest.mark.parametrize("dice", sorted(DICE))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(dice, dtype):
    logits = (4 * torch.randn(2, 9, 128, 128)).to(dtype)
    labels = torch.randint(0, 9, (2, 256, 256))
    expected, slope = value_and_gradient(SegmentationLoss(dice), logits.float(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_gradient(SegmentationLoss(dice), logits, labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, slope.to(dtype), rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("dice", sorted(DICE))
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_logits_give_finite_values_and_gradients(dice, scale):
    labels = torch.randint(0, 3, (2, 4, 4))
    labels[1] = 255
    logits = torch.zeros(2, 3, 4, 4)
    logits[:, 1] = scale
    value, slope = value_and_gradient(SegmentationLoss(dice), logits, labels)
    assert value.isfinite()
    assert slope.isfinite().all()


@pytest.mark.parametrize("dice", sorted(DICE))
def test_a_perfect_prediction_is_the_lowest(dice):
    labels = torch.arange(4).repeat(8, 4)[None]
    perfect = 50.0 * F.one_hot(labels, 4).movedim(-1, 1) - 25.0
    loss = SegmentationLoss(dice, ce_weight=0.0, dice_weight=1.0)
    best = loss(perfect, labels)
    assert best.item() == pytest.approx(-1.0 if dice == "nnunet" else 0.0, abs=1e-4)
    assert loss(perfect.roll(1, 1), labels) > best + 0.5


def test_copies_and_compiles_as_any_module():
    logits, labels = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 1, 8, 8))
    loss = SegmentationLoss()
    assert deepcopy(loss)(logits, labels) == loss(logits, labels)
    assert list(loss.parameters()) == []
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits, labels), loss(logits, labels))


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 4), "wanted .B, K, h, w."),
        (torch.zeros(2, 3, 4, 4), torch.zeros(3, 1, 4, 4), "wanted .B, K, h, w."),
        (torch.zeros(3, 4, 4), torch.zeros(3, 4, 4), "wanted .B, K, h, w."),
        (torch.zeros(2, 3, 4, 4), torch.full((2, 1, 4, 4), 3), "got label 3, wanted 0 to 2, or 255"),
        (torch.zeros(2, 3, 4, 4), torch.full((2, 1, 4, 4), -1), "got label -1"),
        ([], torch.zeros(2, 1, 4, 4), "no logits"),
    ],
)
def test_refuses_what_does_not_fit(logits, labels, words):
    with pytest.raises(InputError, match=words):
        SegmentationLoss()(logits, labels)


def test_refuses_an_unknown_dice():
    with pytest.raises(InputError, match="did you mean 'sigmoid'"):
        SegmentationLoss("sigmiod")


def test_presence_is_the_binary_cross_entropy_of_the_classes_that_are_there():
    """By hand: sigmoid(0) = 1/2 and sigmoid(log 3) = 3/4; class 2 is in no image, 255 is none."""
    logits = torch.tensor([[0.0, log(3), 0.0]])
    labels = torch.tensor([[[0, 1], [255, 1]]])
    expected = -(log(1 / 2) + log(3 / 4) + log(1 / 2)) / 3
    assert presence(logits, labels).item() == pytest.approx(expected)
    maps = torch.zeros(1, 3, 2, 2)
    both, alone = (SegmentationLoss()(each, labels[:, None]) for each in ((maps, logits), maps))
    assert (both - alone).item() == pytest.approx(0.2 * expected, rel=1e-5)
    both, alone = (cityscapes.loss(each, labels) for each in ((maps, logits), maps))
    assert (both - alone).item() == pytest.approx(0.2 * expected, rel=1e-5)
