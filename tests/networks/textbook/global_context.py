"""The global context block as MMSegmentation's reads, under its names."""

import torch
from torch import Tensor, nn


class TextbookGlobalContext(nn.Module):
    def __init__(self, channels: int, ratio=0.25, pooling="att", fusions=("channel_add",)) -> None:
        super().__init__()
        hidden = max(int(channels * ratio), 1)
        if pooling == "att":
            self.conv_mask = nn.Conv2d(channels, 1, 1)
        for name in fusions:
            layers = [nn.Conv2d(channels, hidden, 1), nn.LayerNorm([hidden, 1, 1]), nn.ReLU()]
            setattr(self, f"{name}_conv", nn.Sequential(*layers, nn.Conv2d(hidden, channels, 1)))

    def context(self, x: Tensor) -> Tensor:  # (B, C, 1, 1)
        if not hasattr(self, "conv_mask"):
            return x.mean((2, 3), keepdim=True)
        maps = x.flatten(2).unsqueeze(1)  # (B, 1, C, N)
        weights = self.conv_mask(x).flatten(2).softmax(2).unsqueeze(-1)  # (B, 1, N, 1)
        return torch.matmul(maps, weights).view(x.shape[0], x.shape[1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        context = self.context(x)
        if hasattr(self, "channel_mul_conv"):
            x = x * torch.sigmoid(self.channel_mul_conv(context))
        if hasattr(self, "channel_add_conv"):
            x = x + self.channel_add_conv(context)
        return x
