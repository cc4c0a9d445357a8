"""The vector files of DSM, FCN heads, ResNets and whole models: outputs, gradients, running statistics.

Also: that every vector file on disk has its test, here or elsewhere.
"""

import ast
from functools import partial
from pathlib import Path

import pytest
import torch
from golden import (
    check_close,
    check_gradients,
    check_module,
    check_running_statistics,
    load,
    start_from,
)
from timm.models.resnet import Bottleneck
from torch import nn

from dsnet_med.networks import Segmenter, attach, plugins
from dsnet_med.networks.backbones import resnet
from dsnet_med.networks.heads import FCNHead, ham_head
from dsnet_med.networks.plugins import DSM

FUSIONS = {
    "dsa_dsa": "dsa",
    "dsa_dsa_bias": "dsa",
    "dsa_dsa_r16": "dsa",
    "dsa_dam": "dam",
    "dsa_sq": "sq",
    "dsa_pr": "pr",
    "dsa_sq_old": "sq_plain",
    "dsa_pr_old": "pr_plain",
    "dsa_ch_only": "channel",
    "dsa_sp_only": "spatial",
}


def literals(file):
    """The strings in a Python file."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_vector_file_has_a_test(golden):
    """By its name, which a test must give to read it; whole models are found by method in test_reference.py."""
    files = {file.stem for file in golden.glob("*.npz")}
    tests = Path(__file__).parents[1].rglob("test_*.py")
    read = {text.removesuffix(".npz") for file in tests for text in literals(file)}
    assert len(files) == 56
    assert sorted(files - read) == []


def dsm_of(golden, fusion):
    arguments = golden.meta["ctor"]
    ratio, bias = arguments.get("ratio", 2), arguments.get("bias", False)
    return DSM(arguments["in_channels"], ratio=ratio, bias=bias, fusion=fusion)


@pytest.mark.parametrize(("name", "fusion"), FUSIONS.items())
def test_dsm(vectors, name, fusion):
    golden = vectors(name)
    module = load(dsm_of(golden, fusion), golden.state())
    assert sum(p.numel() for p in module.parameters()) == golden.meta["params"]
    assert check_module(module, golden) > 3


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(("name", "fusion"), FUSIONS.items())
def test_dsm_attention_maps(vectors, name, fusion, mode):
    """In double precision: batch norm over four images magnifies rounding, and the vectors have their own."""
    golden = vectors(name)
    module = load(dsm_of(golden, fusion), golden.state()).double().train(mode == "train")
    pixels = golden["in/0"].flatten(2).double()
    maps = {}
    if module.channel is not None:
        maps["channel_attn"] = module.channel(pixels)
    if module.spatial is not None:
        maps["spatial_attn"] = module.spatial(pixels)
    if fusion in ("dsa", "dam"):
        maps["sk"] = module.fusion.mix.weights(maps["channel_attn"], maps["spatial_attn"])
    if fusion == "dsa":
        maps["aggregation"] = module.fusion.aggregate(pixels, maps["channel_attn"], maps["spatial_attn"])
    expected = {
        key.removeprefix(f"{mode}_"): value for key, value in golden.group("aux").items() if mode in key
    }
    assert maps.keys() == expected.keys()
    for key, value in expected.items():
        check_close(maps[key].float(), value)


@pytest.mark.parametrize("name", ["fcn_head", "fcn_head_aux"])
def test_fcn_head(vectors, name):
    golden = vectors(name)
    ctor = golden.meta["ctor"]
    arguments = {key: ctor[key] for key in ("channels", "num_convs", "concat_input")}
    module = load(FCNHead([ctor["in_channels"]], ctor["num_classes"], **arguments), golden.state())
    assert check_module(module, golden, run=lambda head, x: head([x])) > 3


PLUGGED_HEADS = {
    "cc_head": lambda: {"plugin": partial(plugins.CrissCross, recurrence=2)},
    "gc_head": lambda: {"plugin": partial(plugins.GlobalContext, ratio=0.25)},
    "ea_head": lambda: {"plugin": partial(plugins.ExternalAttention, memory=128, reference_layout=True)},
    "dsn_head": lambda: {"plugin": partial(DSM, ratio=2)},
}


@pytest.mark.parametrize("name", PLUGGED_HEADS)
def test_fcn_head_with_a_plugin(vectors, name):
    golden = vectors(name)
    ctor = golden.meta["ctor"]
    head = FCNHead(
        [ctor["in_channels"]], ctor["num_classes"], channels=ctor["channels"], **PLUGGED_HEADS[name]()
    )
    module = load(head, golden.state())
    assert sum(p.numel() for p in module.parameters()) == golden.meta["params"]
    assert check_module(module, golden, run=lambda head, x: head([x])) > 3


def test_ham_head(vectors):
    golden = vectors("ham_head")
    ctor = golden.meta["ctor"]
    head = ham_head([32], ctor["num_classes"], channels=16, groups=4, plugin=plugins.Hamburger)
    module = load(head, golden.state())
    head.plugin.bases = golden["aux/bases"]
    assert sum(p.numel() for p in module.parameters()) == golden.meta["params"]
    inputs = golden["in/0"].requires_grad_()
    output = module([inputs])
    check_close(output, golden["out_eval/0"])
    assert check_gradients(module, output, inputs, golden) > 3
    start_from(golden["aux/bases"], head.plugin)
    check_close(module.train()([inputs]), golden["out_train/0"])


BOTTLENECKS = {
    "bottleneck_plain": None,
    "bottleneck_se_after_conv1": (plugins.SE, "act1"),
    "bottleneck_cbam_after_conv1": (plugins.CBAM, "act1"),
    "bottleneck_dsa_after_conv2": (partial(DSM, bias=True), "act2"),
}


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_bottleneck(vectors, name):
    golden = vectors(name)
    downsample = nn.Sequential(nn.Conv2d(16, 64, 1, bias=False), nn.BatchNorm2d(64))
    block = Bottleneck(16, 16, dilation=2, downsample=downsample)
    if BOTTLENECKS[name]:
        plugin, place = BOTTLENECKS[name]
        attach(block, plugin, at=place)
    assert check_module(load(block, golden.state()), golden) > 3


# Fifty batch norms over a few small maps magnify the vectors' own rounding: in training they are up to 4.5e-5
# from what double precision gives. That is computed here, which is the same on every machine.
ROUNDED = 5e-5


def small_backbone(dsm):
    plugin = (lambda channels: DSM(channels, bias=True)) if dsm else None
    return resnet(width=1 / 32, stem_width=2, plugin=plugin)


@pytest.mark.parametrize(("name", "dsm"), [("resnet50v1c_d8_small", False), ("resnet50v1c_d8_dsm_small", True)])
def test_backbone(vectors, name, dsm):
    golden = vectors(name)
    backbone = small_backbone(dsm)
    state = {f"backbone.{key}": value for key, value in golden.state().items()}
    host = load(nn.ModuleDict({"backbone": backbone}), state)
    check_pyramid(backbone(golden["in/0"]), golden.group("out_eval"))
    host.double().train()
    with torch.no_grad():
        features = [each.float() for each in backbone(golden["in/0"].double())]
    check_pyramid(features, golden.group("out_train"), ROUNDED)
    host.float()
    check_running_statistics(host, golden, prefix="backbone.")


def check_pyramid(features, expected, rtol=1e-5):
    assert len(features) == len(expected) == 4
    for level, feature in enumerate(features):
        check_close(feature, expected[str(level)], rtol)


@pytest.mark.parametrize(("name", "dsm"), [("model_fcn_small", False), ("model_fcn_dsm_small", True)])
def test_model(vectors, name, dsm):
    golden = vectors(name)
    network = Segmenter(small_backbone(dsm), lambda channels: FCNHead(channels, 9, channels=8))
    load(network, golden.state())
    low = network.head(network.backbone(golden["in/0"]))
    check_close(low, golden["out_eval/low_res_logits"])
    full = golden["out_eval/full_res_logits"]
    check_close(network(golden["in/0"])[: len(full)], full)
    network.double().train()
    low = network.head(network.backbone(golden["in/0"].double()))
    check_close(low.float(), golden["out_train/low_res_logits"], ROUNDED)
