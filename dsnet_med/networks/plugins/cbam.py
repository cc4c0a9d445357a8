"""Convolutional block attention module (CBAM).

Paper: Woo et al. 2018, https://arxiv.org/abs/1807.06521, in its authors' form: the spatial gate has a batch
norm of momentum 0.01. Departures: none; two-dimensional maps only.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.errors import InputError


class CBAM(nn.Module):
    """(B, channels, H, W) -> the same shape: a gate per channel, then one per pixel.

    `ratio` divides the channels inside the channel gate, `kernel_size` is that of the spatial gate, which
    `spatial=False` leaves out. `forward` raises InputError for other than two spatial axes.
    """

    reference_name: ClassVar[str] = "cbam"
    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"reduce", "ChannelGate.mlp.1"),
        (r"expand", "ChannelGate.mlp.3"),
        (r"spatial\.0", "SpatialGate.spatial.conv"),
        (r"spatial\.1", "SpatialGate.spatial.bn"),
    )

    def __init__(self, channels: int, ratio: int = 16, kernel_size: int = 7, spatial: bool = True) -> None:
        super().__init__()
        hidden = max(channels // ratio, 1)
        self.reduce = nn.Linear(channels, hidden)
        self.expand = nn.Linear(hidden, channels)
        conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.spatial = nn.Sequential(conv, nn.BatchNorm2d(1, momentum=0.01)) if spatial else None

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise InputError(f"CBAM got a map of shape {tuple(x.shape)} and wants (batch, channels, H, W)")
        pooled = torch.stack([x.mean((2, 3)), x.amax((2, 3))])  # (2, B, C)
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(pooled))).sum(0))
        x = x * gate[:, :, None, None]
        if self.spatial is None:
            return x
        summary = torch.stack([x.amax(1), x.mean(1)], dim=1)  # (B, 2, H, W)
        return x * torch.sigmoid(self.spatial(summary))
