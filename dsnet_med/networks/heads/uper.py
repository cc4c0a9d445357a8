"""Unified perceptual parsing head: pyramid pooling on the last level, then a feature pyramid.

Paper: Xiao et al. 2018, https://arxiv.org/abs/1807.10221, in MMSegmentation's form. Departures: none.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.errors import InputError
from dsnet_med.networks.layers import classifier, conv_norm_relu, resized, scaled


class UPerHead(nn.Module):
    """A pyramid of (B, in_channels[i], H_i, W_i), finest first -> logits (B, num_classes, H_0, W_0).

    `width` multiplies `channels`; `pool_scales` are the sizes that the last level is pooled to. Raises
    InputError in training for a batch of one where a scale is 1: its batch norm would see one value.
    """

    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"pooled\.(\d+)\.conv", r"psp_modules.\1.1.conv"),
        (r"pooled\.(\d+)\.norm", r"psp_modules.\1.1.bn"),
        (r"context\.conv", "bottleneck.conv"),
        (r"context\.norm", "bottleneck.bn"),
        (r"laterals\.(\d+)\.conv", r"lateral_convs.\1.conv"),
        (r"laterals\.(\d+)\.norm", r"lateral_convs.\1.bn"),
        (r"smooth\.(\d+)\.conv", r"fpn_convs.\1.conv"),
        (r"smooth\.(\d+)\.norm", r"fpn_convs.\1.bn"),
        (r"fuse\.conv", "fpn_bottleneck.conv"),
        (r"fuse\.norm", "fpn_bottleneck.bn"),
        (r"classifier", "conv_seg"),
    )

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        hidden, last = scaled(channels, width), in_channels[-1]
        self.pool_scales = tuple(pool_scales)
        self.pooled = nn.ModuleList(conv_norm_relu(last, hidden, 1) for _ in pool_scales)
        self.context = conv_norm_relu(last + len(self.pool_scales) * hidden, hidden)
        self.laterals = nn.ModuleList(conv_norm_relu(each, hidden, 1) for each in in_channels[:-1])
        self.smooth = nn.ModuleList(conv_norm_relu(hidden, hidden) for _ in in_channels[:-1])
        self.fuse = conv_norm_relu(len(in_channels) * hidden, hidden)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(hidden, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        maps = [lateral(each) for lateral, each in zip(self.laterals, features[:-1], strict=True)]
        maps.append(self._pool(features[-1]))  # (B, channels, H_i, W_i) each
        for level in range(len(maps) - 1, 0, -1):
            maps[level - 1] = maps[level - 1] + resized(maps[level], maps[level - 1].shape[2:])
        maps = [*(smooth(each) for smooth, each in zip(self.smooth, maps[:-1], strict=True)), maps[-1]]
        joined = torch.cat([maps[0], *(resized(each, maps[0].shape[2:]) for each in maps[1:])], dim=1)
        logits: Tensor = self.classifier(self.dropout(self.fuse(joined)))
        return logits

    def _pool(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] == 1 and 1 in self.pool_scales:
            raise InputError(
                "UPerHead got a batch of one in training, where the batch norm of its pooled 1x1 map sees one "
                "value per channel: use a batch of at least 2"
            )
        pooled = [
            resized(layer(F.adaptive_avg_pool2d(x, scale)), x.shape[2:])
            for layer, scale in zip(self.pooled, self.pool_scales, strict=True)
        ]
        context: Tensor = self.context(torch.cat([x, *pooled], dim=1))
        return context
