"""Criss-cross attention: every pixel attends to its own row and column.

Paper: Huang et al. 2019, "CCNet: Criss-Cross Attention for Semantic Segmentation",
https://arxiv.org/abs/1811.11721. A pixel meets H + W - 1 others: itself in its row, and not again in its
column. Applied twice with the same weights, every pixel reaches every other one. In 3-D, as in the longer form
of the paper (IEEE TPAMI 2020, the same address, version 2), a voxel attends along three axes, to D + H + W - 2
voxels, and reaches all others in three rounds.

    out = x + gamma sum_j softmax_j(q . k_j) v_j,   j over the lines through the pixel along every axis

Lean: gamma, which starts at 0, scales the values' weights and not a map; lines are batched matrix products on
strided views. Departures: none.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.networks.arguments import whole_numbers
from dsnet_med.networks.axes import CONVOLUTIONS, require_axes
from dsnet_med.networks.explaining import spread_places
from dsnet_med.networks.layers import widened, without_autocast


class CrissCross(nn.Module):
    """(B, channels, *spatial) -> the same shape; the same attention `recurrence` times over.

    `spatial_dims` is 2, rows and columns, or 3. Raises InputError for others, and for maps of another number.
    """

    reference_name_in_head: ClassVar[str] = "cca"
    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"query", "query_conv"),
        (r"key", "key_conv"),
        (r"value", "value_conv"),
        (r"gamma", "gamma.scale"),
    )

    def __init__(self, channels: int, recurrence: int = 1, *, spatial_dims: int = 2) -> None:
        whole_numbers("CrissCross", channels=channels, recurrence=recurrence)
        whole_numbers("CrissCross", at_least=2, at_most=3, spatial_dims=spatial_dims)
        super().__init__()
        self.recurrence, self.spatial_dims = recurrence, spatial_dims
        hidden, convolution = max(channels // 8, 1), CONVOLUTIONS[spatial_dims]
        self.query = convolution(channels, hidden, 1)
        self.key = convolution(channels, hidden, 1)
        self.value = convolution(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        require_axes("CrissCross", tuple(x.shape), self.spatial_dims)
        for _ in range(self.recurrence):
            x = x + self._added(x)
        return x

    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """`added` (B, channels, *spatial), and of every round the `attention_<round>` (B, Q, *spatial) of up to
        64 pixels, which are those of `spread_places`.
        """
        require_axes("CrissCross", tuple(x.shape), self.spatial_dims)
        given, maps = x, {}
        for number in range(1, self.recurrence + 1):
            maps[f"attention_{number}"] = _shown(self._attention(x))
            x = x + self._added(x)
        return {"added": x - given} | maps

    def _attention(self, x: Tensor) -> list[Tensor]:
        with without_autocast(x):  # products that half precision cannot hold
            wide = x.to(self.query.weight.dtype)
            return _attention(widened(self.query(wide)), widened(self.key(wide)))

    def _added(self, x: Tensor) -> Tensor:
        weight, bias = self.gamma * self.value.weight, self.gamma * self.value.bias  # type: ignore[operator]
        value = F.conv2d(x, weight, bias) if self.spatial_dims == 2 else F.conv3d(x, weight, bias)
        pairs = zip(_axes(x), self._attention(x), strict=True)
        parts = [_averaged(value, each.to(value.dtype), axis) for axis, each in pairs]
        output = parts[0]
        for part in parts[1:]:
            output = output + part
        return output


def _axes(x: Tensor) -> list[int]:
    """The spatial axes of (B, C, *spatial), the last first."""
    return list(range(x.ndim - 1, 1, -1))


def _attention(query: Tensor, key: Tensor) -> list[Tensor]:
    """For every axis, the last first, the weights (B, *spatial, n) of the n pixels on a pixel's line along it.

    All weights of a pixel sum to 1 together; it counts itself on the line along the last axis alone.
    """
    logits: list[Tensor] = []
    for axis in _axes(query):
        along = _lines(query, axis).mT @ _lines(key, axis)  # (B, *others, n, n)
        if logits:  # the first has it
            itself = torch.eye(query.shape[axis], dtype=torch.bool, device=query.device)
            along = along.masked_fill(itself, float("-inf"))
        logits.append(along.movedim(-2, axis - 1))
    weights = torch.cat(logits, dim=-1).softmax(-1)  # (B, *spatial, W + H, or with D)
    return list(weights.split([query.shape[axis] for axis in _axes(query)], dim=-1))


def _shown(attention: list[Tensor]) -> Tensor:
    """What `_attention` gives, for a few queries on the map: (B, Q, *spatial)."""
    shape = tuple(attention[0].shape[1:-1])
    places = spread_places(shape, attention[0].device)  # (Q, axes)
    maps = attention[0].new_zeros(attention[0].shape[0], len(places), *shape)
    for axis, weights in zip(range(len(shape) - 1, -1, -1), attention, strict=True):
        lines = list(places.unsqueeze(2).unbind(1))  # (Q, 1) each
        lines[axis] = torch.arange(shape[axis], device=places.device).unsqueeze(0)
        queries = torch.arange(len(places), device=places.device).unsqueeze(1)
        at: tuple[slice | Tensor, ...] = (slice(None), queries, *lines)
        those: tuple[slice | Tensor, ...] = (slice(None), *places.unbind(1))
        maps[at] += weights[those]  # (B, Q, n)
    return maps


def _averaged(value: Tensor, weights: Tensor, axis: int) -> Tensor:
    """The values on every pixel's line along an axis under its weights: the shape of `value`."""
    means = _lines(value, axis) @ weights.movedim(axis - 1, -2).mT  # (B, *others, C, n)
    return means.movedim(-2, 1).movedim(-1, axis)


def _lines(x: Tensor, axis: int) -> Tensor:
    """(B, C, *spatial) -> (B, *others, C, n): the lines along an axis, a view."""
    return x.movedim(axis, -1).movedim(1, -2)
