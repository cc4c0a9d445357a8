"""CBAM as its authors' modules read, under their names."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POOLS = {
    "avg": lambda x: F.avg_pool2d(x, x.shape[2:]),
    "max": lambda x: F.max_pool2d(x, x.shape[2:]),
    "lp": lambda x: F.lp_pool2d(x, 2, x.shape[2:]),
    "lse": lambda x: x.exp().sum((2, 3), keepdim=True).log(),
}


class TextbookCBAM(nn.Module):
    def __init__(self, channels: int, ratio=16, kernel_size=7, spatial=True, pools=("avg", "max")) -> None:
        super().__init__()
        hidden = max(channels // ratio, 1)
        self.pools = pools
        self.ChannelGate = nn.Module()
        self.ChannelGate.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )
        if spatial:
            self.SpatialGate = nn.Module()
            self.SpatialGate.spatial = nn.Module()
            conv = nn.Conv2d(2, 1, kernel_size, padding=(kernel_size - 1) // 2, bias=False)
            self.SpatialGate.spatial.conv = conv
            self.SpatialGate.spatial.bn = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        logits = sum(self.ChannelGate.mlp(POOLS[name](x)) for name in self.pools)
        x = x * torch.sigmoid(logits)[:, :, None, None].expand_as(x)
        if not hasattr(self, "SpatialGate"):
            return x
        spatial = self.SpatialGate.spatial
        summary = torch.cat([x.max(1, keepdim=True).values, x.mean(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(spatial.bn(spatial.conv(summary)))
