"""Multiply-accumulates as the reference's tool counts them, without computing anything."""

from collections.abc import Callable
from functools import partial
from math import prod

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dsnet_med.methods import natural_method_ids, published_ids

TABLES = {"synapse_512x512_9_classes": (512, 9), "acdc_256x256_4_classes": (256, 4)}  # size, classes
# The ACDC table has the rows with a ResNet only.
CASES = [(table, row) for table in TABLES for row in published_ids() if table[0] == "s" or row[-2:] != "_b"]
NATURAL_TABLES = {  # what the published counts are called, by task
    "imagenet": "imagenet_224x224",
    "cityscapes": "cityscapes_512x1024_19_classes_without_aux",
    "coco": "coco_faster_rcnn_fpn_800x1280_81_outputs",
}
NATURAL_CLASSES = {"imagenet": 1000, "cityscapes": 19, "coco": 80}
NATURAL_KEYS = {  # of every row in these tables; ImageNet's A and B are swapped there
    "imagenet/resnet50": "resnet50",
    "imagenet/fcanet50": "fcanet50",
    "imagenet/dsnet50_a": "dsnet50_b (ratio 2, bias, stage 4, after_conv2)",
    "imagenet/dsnet50_b": "dsnet50_a (ratio 16, all stages, after_conv2)",
    "cityscapes/resnet50": "city FCN R50v1c",
    "cityscapes/fcanet50": "city FCN FreqNet deep stem",
    "cityscapes/dsnet50_a": "city FCN ex_a (DSNet50-A)",
    "coco/resnet50": "R50@(800, 1280)",
    "coco/fcanet50": "FcaNet50@(800, 1280)",
    "coco/dsnet50_a": "config ex_a (stage4 after_conv2 r2 bias)@(800, 1280)",
    "coco/dsnet50_b": "all stages after_conv1 r16@(800, 1280)",
}
NATURAL_ROWS = natural_method_ids()
# Per value of the output: what is neither a convolution nor a matrix product.
NORMS = {nn.BatchNorm2d: 2, nn.LayerNorm: 5, nn.GroupNorm: 5}


def multiply_accumulates(network: nn.Module, size: int, in_channels: int = 3) -> int:
    """Of a batch of one at the head's output stride; norms and resizing count as the reference has them."""
    images = torch.zeros(1, in_channels, size, size, device="meta")
    return counted(network, lambda: network.head(network.backbone(images)))


def natural_multiply_accumulates(network: nn.Module, task: str) -> int:
    """Of one image of the published table's size: what that table counts of the network."""

    def image(height: int, width: int) -> torch.Tensor:
        return torch.zeros(1, 3, height, width, device="meta")

    def detect() -> None:
        levels = network.backbone(image(800, 1280))
        network.rpn.head(list(levels.values()))
        regions = torch.zeros(1000, network.backbone.out_channels, 7, 7, device="meta")
        network.roi_heads.box_predictor(network.roi_heads.box_head(regions))

    runs: dict[str, Callable[[], object]] = {
        "imagenet": lambda: network.pooled(image(224, 224)),
        "cityscapes": lambda: network.head(network.backbone(image(512, 1024))),
        "coco": detect,
    }
    return counted(network, runs[task])


def counted(network: nn.Module, run: Callable[[], object]) -> int:
    """What `run`, which runs parts of `network`, takes."""
    extra = 0

    def count(factor, _module, _inputs, output):
        nonlocal extra
        extra += factor * output.numel()

    for module in network.modules():
        factor = next((value for kind, value in NORMS.items() if isinstance(module, kind)), None)
        if factor:
            module.register_forward_hook(partial(count, factor))
    network = network.eval()
    resizing = {  # twice what the reference counts: halved at the end
        torch.ops.aten.upsample_bilinear2d: lambda *_args, out_shape, **_kwargs: 8 * prod(out_shape),
        torch.ops.aten.upsample_nearest2d: lambda *_args, out_shape, **_kwargs: 2 * prod(out_shape),
        torch.ops.aten.mean: lambda image, *_args, **_kwargs: 2 * prod(image),
        torch.ops.aten._adaptive_avg_pool2d: lambda image, *_args, **_kwargs: 2 * prod(image),
    }
    # Older counters take an operation apart unless its overloads are named, too.
    overloads = {
        getattr(each, name): formula for each, formula in resizing.items() for name in each.overloads()
    }
    with FlopCounterMode(display=False, custom_mapping=resizing | overloads) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() // 2 + extra
