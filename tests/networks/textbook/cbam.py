"""CBAM as its authors' modules read, under their names."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TextbookCBAM(nn.Module):
    def __init__(self, channels: int, ratio: int = 16, kernel_size: int = 7) -> None:
        super().__init__()
        hidden = max(channels // ratio, 1)
        self.ChannelGate = nn.Module()
        self.ChannelGate.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )
        self.SpatialGate = nn.Module()
        self.SpatialGate.spatial = nn.Module()
        self.SpatialGate.spatial.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.SpatialGate.spatial.bn = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.ChannelGate.mlp(F.avg_pool2d(x, x.shape[2:]))
        largest = self.ChannelGate.mlp(F.max_pool2d(x, x.shape[2:]))
        x = x * torch.sigmoid(mean + largest)[:, :, None, None].expand_as(x)
        spatial = self.SpatialGate.spatial
        summary = torch.cat([x.max(1, keepdim=True).values, x.mean(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(spatial.bn(spatial.conv(summary)))
