"""U-Net's decoder: from the coarsest map up, joined with the encoder's map at every level.

Paper: Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597. Departures: maps are enlarged bilinearly to
the next level's size, whatever the step, and convolutions are padded and normed, so that any encoder fits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dsnet_med.networks.arguments import whole_numbers
from dsnet_med.networks.layers import Norm, channels_at, classifier, conv_norm_relu, resized, scaled


class UNetHead(nn.Module):
    """A pyramid of (B, in_channels[i], H_i, W_i), finest first -> logits (B, num_classes, H_0, W_0).

    `channels` are those of the finest level, which double from one to the next coarser, up to `at_most`;
    `width` multiplies them. Two convolutions a level; `norm` makes the norm of a number of channels. Raises
    InputError for a pyramid of one level.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 32,
        at_most: int = 512,
        norm: Norm = nn.BatchNorm2d,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        whole_numbers("UNetHead", channels=channels, at_most=at_most)
        below = channels_at("UNetHead", in_channels, -1)
        channels_at("UNetHead", in_channels, 1)
        self.levels = nn.ModuleList()
        for level in range(len(in_channels) - 2, -1, -1):  # the coarsest first
            hidden = scaled(min(channels * 2**level, at_most), width)
            self.levels.append(
                nn.Sequential(
                    conv_norm_relu(below + in_channels[level], hidden, norm=norm),
                    conv_norm_relu(hidden, hidden, norm=norm),
                )
            )
            below = hidden
        self.classifier = classifier(below, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = features[-1]
        for convs, skip in zip(self.levels, features[-2::-1], strict=True):
            x = convs(torch.cat([resized(x, skip.shape[2:]), skip], dim=1))
        logits: Tensor = self.classifier(x)
        return logits
