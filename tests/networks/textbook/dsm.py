"""DSM as its formulas read, every map built in full: the oracle of the lean form and the published counts."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATHS = {"sq": 0, "sq_plain": 0, "pr": 1, "pr_plain": 1}


class TextbookDSM(nn.Module):
    """DSM on (B, C, H, W), with 1x1 convolutions under the reference's names."""

    def __init__(self, channels: int, ratio: int = 2, bias: bool = False, fusion: str = "dsa") -> None:
        super().__init__()
        hidden = max(channels // ratio, 1)
        self.fusion = fusion
        if fusion != "spatial":
            self.conv_q_right = nn.Conv2d(channels, 1, 1, bias=bias)
            self.conv_v_right = nn.Conv2d(channels, hidden, 1, bias=bias)
            up = nn.Conv2d(hidden, channels, 1, bias=bias)
            self.conv_up = nn.Sequential(nn.LayerNorm([hidden, 1, 1]), nn.ReLU(), up)
        if fusion != "channel":
            self.conv_q_left = nn.Conv2d(channels, hidden, 1, bias=bias)
            self.conv_v_left = nn.Conv2d(channels, hidden, 1, bias=bias)
        if fusion in ("dsa", "dam"):
            self.sk = nn.Module()
            self.sk.fc_reduce = nn.Conv2d(channels, hidden, 1, bias=False)
            self.sk.bn = nn.BatchNorm2d(hidden)
            self.sk.fc_select = nn.Conv2d(hidden, 2 * channels, 1, bias=False)
        if fusion == "dsa":
            self.resConv = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=bias), nn.ReLU())
        if fusion in ("dam", "sq", "pr"):
            self.combine_attn = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Sigmoid())

    def channel_attention(self, x: Tensor) -> Tensor:  # (B, C, 1, 1)
        weights = self.conv_q_right(x).flatten(2).softmax(2)  # (B, 1, N)
        pooled = torch.einsum("bkn,bn->bk", self.conv_v_right(x).flatten(2), weights[:, 0])
        return torch.sigmoid(self.conv_up(pooled[:, :, None, None]))

    def spatial_attention(self, x: Tensor) -> Tensor:  # (B, 1, H, W)
        query = F.adaptive_max_pool2d(self.conv_q_left(x), 1).flatten(1).softmax(1)  # (B, K)
        keys = self.conv_v_left(x).flatten(2)  # (B, K, N)
        return torch.sigmoid(torch.einsum("bk,bkn->bn", query, keys)).unflatten(1, x.shape[2:]).unsqueeze(1)

    def selected(self, paths: Tensor) -> Tensor:  # (B, 2, C, H, W) -> (B, C, H, W)
        pooled = paths.sum(1).mean((2, 3), keepdim=True)
        hidden = F.relu(self.sk.bn(self.sk.fc_reduce(pooled)))
        weights = self.sk.fc_select(hidden).unflatten(1, (2, -1)).softmax(1)
        return (paths * weights).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        if self.fusion == "channel":
            return x * self.channel_attention(x)
        if self.fusion == "spatial":
            return x * self.spatial_attention(x)
        channel, spatial = self.channel_attention(x), self.spatial_attention(x)
        paths = torch.stack([channel * spatial, channel + spatial], dim=1)
        mix = paths[:, PATHS[self.fusion]] if self.fusion in PATHS else self.selected(paths)
        if self.fusion == "dsa":
            weights = mix.flatten(2).softmax(2)
            return x + (weights * self.resConv(x).flatten(2)).sum(2)[:, :, None, None]
        return x * (self.combine_attn(mix) if hasattr(self, "combine_attn") else mix)
