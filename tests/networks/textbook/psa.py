"""Polarized self-attention as its authors' modules read, every projected map built, under their names."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TextbookPSA(nn.Module):
    def __init__(self, channels: int, mode: str = "parallel") -> None:
        super().__init__()
        hidden = max(channels // 2, 1)
        self.parallel = mode == "parallel"
        self.conv_q_right = nn.Conv2d(channels, 1, 1, bias=False)
        self.conv_v_right = nn.Conv2d(channels, hidden, 1, bias=False)
        if self.parallel:
            self.conv_up = nn.Conv2d(hidden, channels, 1, bias=False)
        else:
            inner = max(hidden // 4, 1)
            layers = [nn.Conv2d(hidden, inner, 1), nn.LayerNorm([inner, 1, 1]), nn.ReLU()]
            self.conv_up = nn.Sequential(*layers, nn.Conv2d(inner, channels, 1))
        self.conv_q_left = nn.Conv2d(channels, hidden, 1, bias=False)
        self.conv_v_left = nn.Conv2d(channels, hidden, 1, bias=False)

    def channel(self, x: Tensor) -> Tensor:  # (B, C, 1, 1)
        values = self.conv_v_right(x).flatten(2)  # (B, K, N)
        weights = self.conv_q_right(x).flatten(2).softmax(2)  # (B, 1, N)
        context = torch.matmul(values, weights.transpose(1, 2)).unsqueeze(-1)  # (B, K, 1, 1)
        return torch.sigmoid(self.conv_up(context))

    def spatial(self, x: Tensor) -> Tensor:  # (B, 1, H, W)
        query = F.adaptive_avg_pool2d(self.conv_q_left(x), 1).flatten(2).transpose(1, 2)  # (B, 1, K)
        values = self.conv_v_left(x).flatten(2)  # (B, K, N)
        if self.parallel:
            context = torch.matmul(query, values).softmax(2)
        else:
            context = torch.matmul(query, values.softmax(2))
        return torch.sigmoid(context).view(x.shape[0], 1, *x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        if self.parallel:
            return x * self.spatial(x) + x * self.channel(x)
        x = x * self.channel(x)
        return x * self.spatial(x)
