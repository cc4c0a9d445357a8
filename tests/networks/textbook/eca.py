"""Efficient channel attention as its authors' layer reads, under its names."""

import torch
from torch import Tensor, nn


class TextbookECA(nn.Module):
    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=(kernel_size - 1) // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(x, 1)  # (B, C, 1, 1)
        row = self.conv(pooled.squeeze(-1).transpose(-1, -2))  # (B, 1, C)
        return x * torch.sigmoid(row.transpose(-1, -2).unsqueeze(-1)).expand_as(x)
