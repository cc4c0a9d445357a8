"""Multiply-accumulates as the reference's tool counts them, without computing anything."""

from functools import partial
from math import prod

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dsnet_med.methods import method_ids

TABLES = {"synapse_512x512_9_classes": (512, 9), "acdc_256x256_4_classes": (256, 4)}  # size, classes
# The ACDC table has the rows with a ResNet only.
CASES = [(table, row) for table in TABLES for row in method_ids() if table[0] == "s" or row[-2:] != "_b"]
# Per value of the output: what is neither a convolution nor a matrix product.
NORMS = {nn.BatchNorm2d: 2, nn.LayerNorm: 5, nn.GroupNorm: 5}


def multiply_accumulates(network: nn.Module, size: int, in_channels: int = 3) -> int:
    """Of a batch of one at the head's output stride; norms and resizing count as the reference has them."""
    extra = 0

    def count(factor, _module, _inputs, output):
        nonlocal extra
        extra += factor * output.numel()

    for module in network.modules():
        factor = next((value for kind, value in NORMS.items() if isinstance(module, kind)), None)
        if factor:
            module.register_forward_hook(partial(count, factor))
    network = network.eval()
    resize = {torch.ops.aten.upsample_bilinear2d: lambda *_args, out_shape, **_kwargs: 8 * prod(out_shape)}
    with FlopCounterMode(display=False, custom_mapping=resize) as counter, torch.no_grad():
        network.head(network.backbone(torch.zeros(1, in_channels, size, size, device="meta")))
    return counter.get_total_flops() // 2 + extra
