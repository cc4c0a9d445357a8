"""Squeeze-and-excitation as MMSegmentation's layer reads, under its names."""

import torch
from torch import Tensor, nn


class TextbookSE(nn.Module):
    def __init__(self, channels: int, ratio: int = 16) -> None:
        super().__init__()
        width = channels // ratio
        hidden = max(8, int(width + 4) // 8 * 8)
        if hidden < 0.9 * width:
            hidden += 8
        self.conv1 = nn.Module()
        self.conv1.conv = nn.Conv2d(channels, hidden, 1)
        self.conv2 = nn.Module()
        self.conv2.conv = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(x, 1)
        logits = self.conv2.conv(torch.relu(self.conv1.conv(pooled)))
        return x * torch.clamp((logits + 3) / 6, 0, 1)
