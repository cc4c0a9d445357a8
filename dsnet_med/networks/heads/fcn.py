"""Fully convolutional head.

Paper: Long, Shelhamer, Darrell 2015, https://arxiv.org/abs/1411.4038, in the form of MMSegmentation's
FCNHead: 3x3 convolutions with batch norm, their result joined with their input and fused by one more, channel
dropout, and a 1x1 classifier. Departures: none; with one convolution and no joining it is the auxiliary head.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from dsnet_med.networks.layers import classifier, conv_norm_relu, scaled


class FCNHead(nn.Module):
    """A pyramid of (B, in_channels[i], H_i, W_i) -> logits (B, num_classes, H_level, W_level).

    `width` multiplies `channels`; `concat_input` joins the head's input to the last feature map.
    """

    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"(convs\.\d+)\.norm", r"\1.bn"),
        (r"fuse\.conv", "conv_cat.conv"),
        (r"fuse\.norm", "conv_cat.bn"),
        (r"classifier", "conv_seg"),
    )

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        num_convs: int = 2,
        concat_input: bool = True,
        dropout: float = 0.1,
        width: float = 1.0,
        level: int = -1,
    ) -> None:
        super().__init__()
        self.level = level
        features, hidden = in_channels[level], scaled(channels, width)
        self.convs = nn.Sequential(
            *(conv_norm_relu(hidden if index else features, hidden) for index in range(num_convs))
        )
        self.fuse = conv_norm_relu(features + hidden, hidden) if concat_input else None
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(hidden, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = features[self.level]  # (B, C, H, W)
        hidden = self.convs(x)  # (B, channels, H, W)
        if self.fuse is not None:
            hidden = self.fuse(torch.cat([x, hidden], dim=1))
        logits: Tensor = self.classifier(self.dropout(hidden))
        return logits
