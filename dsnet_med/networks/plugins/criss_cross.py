"""Criss-cross attention: every pixel attends to its own row and column.

Paper: Huang et al. 2019, "CCNet: Criss-Cross Attention for Semantic Segmentation",
https://arxiv.org/abs/1811.11721. A pixel meets H + W - 1 others: itself in its row, and not again in its
column. Applied twice with the same weights, every pixel reaches every other one.

    out = x + gamma sum_j softmax_j(q . k_j) v_j,   j over the row and the column

Lean: gamma, which starts at 0, scales the values' weights and not a map; rows and columns are batched matrix
products on strided views. Departures: none.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.errors import InputError
from dsnet_med.networks.arguments import whole_numbers
from dsnet_med.networks.layers import widened, without_autocast


class CrissCross(nn.Module):
    """(B, channels, H, W) -> the same shape; the same attention `recurrence` times over.

    Raises InputError for maps that are not 2-D.
    """

    reference_name_in_head: ClassVar[str] = "cca"
    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"query", "query_conv"),
        (r"key", "key_conv"),
        (r"value", "value_conv"),
        (r"gamma", "gamma.scale"),
    )

    def __init__(self, channels: int, recurrence: int = 1) -> None:
        whole_numbers("CrissCross", channels=channels, recurrence=recurrence)
        super().__init__()
        self.recurrence = recurrence
        hidden = max(channels // 8, 1)
        self.query = nn.Conv2d(channels, hidden, 1)
        self.key = nn.Conv2d(channels, hidden, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise InputError(
                f"CrissCross got a map of shape {tuple(x.shape)}, and rows and columns are of 2-D maps "
                "(B, C, H, W): choose a plug-in for any number of axes, or a 2-D network"
            )
        for _ in range(self.recurrence):
            x = self._attend(x)
        return x

    def _attend(self, x: Tensor) -> Tensor:
        weight, bias = self.gamma * self.value.weight, self.gamma * self.value.bias  # type: ignore[operator]
        value = F.conv2d(x, weight, bias)
        with without_autocast(x):  # products that half precision cannot hold
            wide = x.to(self.query.weight.dtype)
            attention = _attention(widened(self.query(wide)), widened(self.key(wide)))
        row, column = (each.to(value.dtype) for each in attention)
        output = (_rows(value) @ row.mT).transpose(1, 2)  # (B, C, H, W)
        output = output + (_columns(value) @ column.mT).permute(0, 2, 3, 1)
        return x + output


def _attention(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of a pixel's row, (B, H, W, W), and of its column, (B, W, H, H), which sum to 1 together."""
    row = _rows(query).mT @ _rows(key)  # (B, H, W, W)
    column = _columns(query).mT @ _columns(key)  # (B, W, H, H)
    height, width = query.shape[2:]
    itself = torch.eye(height, dtype=torch.bool, device=query.device)
    column = column.masked_fill(itself, float("-inf"))  # the row has it
    both = torch.cat([row, column.transpose(1, 2)], dim=3).softmax(3)  # (B, H, W, W + H)
    row, column = both.split([width, height], dim=3)
    return row, column.transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    return x.transpose(1, 2)  # (B, H, C, W)


def _columns(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)  # (B, W, C, H)
