"""Criss-cross attention as it is published: two Einstein sums, with minus infinity on the columns' diagonal."""

import torch
from torch import Tensor, nn


class TextbookCrissCross(nn.Module):
    """On (B, C, H, W)."""

    def __init__(self, channels: int, recurrence: int = 1) -> None:
        super().__init__()
        self.recurrence = recurrence
        hidden = max(channels // 8, 1)
        self.query_conv = nn.Conv2d(channels, hidden, 1)
        self.key_conv = nn.Conv2d(channels, hidden, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Module()
        self.gamma.scale = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.recurrence):
            x = self.attend(x)
        return x

    def attend(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        query, key, value = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        itself = torch.diag(torch.full((height,), float("-inf"), dtype=x.dtype, device=x.device))
        column = torch.einsum("bchw,bciw->bhwi", query, key) + itself[:, None, :]
        row = torch.einsum("bchw,bchj->bhwj", query, key)
        attention = torch.softmax(torch.cat([column, row], dim=3), dim=3)
        output = torch.einsum("bciw,bhwi->bchw", value, attention[..., :height])
        output = output + torch.einsum("bchj,bhwj->bchw", value, attention[..., height:])
        return self.gamma.scale * output + x
