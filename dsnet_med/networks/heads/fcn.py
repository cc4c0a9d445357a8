"""Fully convolutional head, with or without a plug-in between its convolutions.

Paper: Long, Shelhamer, Darrell 2015, https://arxiv.org/abs/1411.4038, in the form of MMSegmentation's
FCNHead: 3x3 convolutions with batch norm, their result joined with their input and fused by one more, channel
dropout, and a 1x1 classifier. With one convolution and no joining it is the auxiliary head. The heads of CCNet,
GCNet, EANet and DSNet (there: CCHead, GCHead, EAHead, DSNHead) are this one with their plug-in after the first
convolution; HamNet's (HamHead) is this one with group norm and Hamburger. Departures: none.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dsnet_med.errors import InputError
from dsnet_med.networks.arguments import whole_numbers
from dsnet_med.networks.layers import Norm, channels_at, classifier, conv_norm_relu, scaled


class FCNHead(nn.Module):
    """A pyramid of (B, in_channels[i], H_i, W_i) -> logits (B, num_classes, H_level, W_level).

    `width` multiplies `channels`; `concat_input` joins the head's input to the last feature map; `norm` makes
    the norm of a number of channels; `plugin`, called with the channels, follows the first convolution.
    Without convolutions (`num_convs=0`) `channels` are those of the level; InputError otherwise.
    """

    reference_names: tuple[tuple[str, str], ...] = (
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
        norm: Norm = nn.BatchNorm2d,
        plugin: Callable[[int], nn.Module] | None = None,
        dropout: float = 0.1,
        width: float = 1.0,
        level: int = -1,
    ) -> None:
        super().__init__()
        whole_numbers("FCNHead", at_least=0, num_convs=num_convs)
        self.level = level
        features, hidden = channels_at("FCNHead", in_channels, level), scaled(channels, width)
        if not num_convs and hidden != features:
            raise InputError(
                f"FCNHead got num_convs=0 and channels={hidden}: without convolutions it keeps the {features} "
                "channels of its level"
            )
        sizes = [features] + [hidden] * num_convs
        self.convs = nn.Sequential(*(conv_norm_relu(*pair, norm=norm) for pair in pairwise(sizes)))
        self.plugin = plugin(hidden) if plugin else None
        self.fuse = conv_norm_relu(features + hidden, hidden, norm=norm) if concat_input else None
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(hidden, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = features[self.level]  # (B, C, H, W)
        hidden = self.convs[:1](x)  # (B, channels, H, W)
        if self.plugin is not None:
            hidden = self.plugin(hidden)
        hidden = self.convs[1:](hidden)
        if self.fuse is not None:
            hidden = self.fuse(torch.cat([x, hidden], dim=1))
        logits: Tensor = self.classifier(self.dropout(hidden))
        return logits
