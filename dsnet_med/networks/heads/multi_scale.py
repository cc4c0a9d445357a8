"""Multi-scale head: levels joined at the finest one's size, a plug-in between two 1x1 convolutions.

With batch norm and DSM it is the multi-scale DSNet head (DSNet code: MSDSNHead); with group norm and Hamburger
the light Hamburger head of SegNeXt (Guo et al. 2022, https://arxiv.org/abs/2209.08575; there: LightHamHead).
Departures: none.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dsnet_med.networks.layers import (
    Norm,
    channels_at,
    classifier,
    conv_norm_relu,
    group_norm,
    resized,
    scaled,
)


class MultiScaleHead(nn.Module):
    """A pyramid of (B, in_channels[i], H_i, W_i) -> logits (B, num_classes, H, W) at the first of `levels`.

    `plugin` is called with the channels; `norm` makes the norm of a number of channels; `width` multiplies
    `channels`.
    """

    reference_names: tuple[tuple[str, str], ...] = (
        (r"(squeeze|align)\.norm", r"\1.bn"),
        (r"classifier", "conv_seg"),
    )

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        plugin: Callable[[int], nn.Module],
        channels: int = 512,
        norm: Norm = nn.BatchNorm2d,
        levels: Sequence[int] = (-3, -2, -1),
        dropout: float = 0.1,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.levels = tuple(levels)
        hidden = scaled(channels, width)
        joined = sum(channels_at("MultiScaleHead", in_channels, level) for level in self.levels)
        self.squeeze = conv_norm_relu(joined, hidden, 1, norm)
        self.plugin = plugin(hidden)
        self.align = conv_norm_relu(hidden, hidden, 1, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(hidden, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        chosen = [features[level] for level in self.levels]
        size = chosen[0].shape[2:]
        joined = torch.cat([resized(each, size) for each in chosen], dim=1)
        hidden = self.align(self.plugin(self.squeeze(joined)))
        logits: Tensor = self.classifier(self.dropout(hidden))
        return logits


def light_ham_head(
    in_channels: Sequence[int],
    num_classes: int,
    *,
    plugin: Callable[..., nn.Module],
    groups: int = 32,
    **options: Any,
) -> MultiScaleHead:
    """A MultiScaleHead whose norms, `plugin`'s included, are group norms of `groups` groups.

    `plugin` is called with the channels and `norm`, as Hamburger takes them; `options` are MultiScaleHead's.
    """
    norm = partial(group_norm, groups=groups)
    head = MultiScaleHead(in_channels, num_classes, norm=norm, plugin=partial(plugin, norm=norm), **options)
    head.reference_names = (
        (r"plugin", "hamburger"),
        (r"(squeeze|align)\.norm", r"\1.gn"),
        (r"classifier", "conv_seg"),
    )
    return head
