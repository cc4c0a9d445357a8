"""Global context block.

Paper: Cao et al. 2019, https://arxiv.org/abs/1904.11492. Departures: none; any number of spatial axes is taken.
"""

from collections.abc import Collection
from typing import ClassVar

import torch
from torch import Tensor, nn

from dsnet_med.networks.arguments import names_of, one_of, shares, whole_numbers
from dsnet_med.networks.explaining import on_grid
from dsnet_med.networks.layers import kaiming, per_channel, project, weighted_sums

_POOLINGS = ("att", "avg")
_FUSIONS = ("channel_add", "channel_mul")


class GlobalContext(nn.Module):
    """(B, channels, *spatial) -> the same shape: one context per image, transformed, added to all pixels.

    `ratio` times the channels is the width of the transform. `pooling` is "att" (a softmax over the pixels) or
    "avg"; `fusions` are "channel_add" and "channel_mul" (a sigmoid gate), or both. The block starts as the
    identity under "channel_add". Raises InputError for unknown names or no fusion.
    """

    reference_name: ClassVar[str] = "context_block"
    reference_name_in_head: ClassVar[str] = "gc_block"
    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"mask", "conv_mask"),
        (r"add\.(\d)", r"channel_add_conv.\1"),
        (r"multiply\.(\d)", r"channel_mul_conv.\1"),
    )

    def __init__(
        self,
        channels: int,
        ratio: float = 0.25,
        pooling: str = "att",
        fusions: Collection[str] = ("channel_add",),
    ) -> None:
        whole_numbers("GlobalContext", channels=channels)
        shares("GlobalContext", at_most=4, ratio=ratio)
        one_of("pooling of GlobalContext", pooling, _POOLINGS)
        fusions = names_of("GlobalContext", "fusions", fusions, _FUSIONS)
        super().__init__()
        hidden = max(int(channels * ratio), 1)
        self.mask = kaiming(nn.Linear(channels, 1)) if pooling == "att" else None
        self.add = _transform(channels, hidden) if "channel_add" in fusions else None
        self.multiply = _transform(channels, hidden) if "channel_mul" in fusions else None

    def forward(self, x: Tensor) -> Tensor:
        context = self._pool(x.flatten(2))  # (B, C)
        if self.multiply is not None:
            x = x * per_channel(_gate(self.multiply, context), x)
        if self.add is not None:
            x = x + per_channel(self.add(context), x)
        return x

    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """`gate` and `added` (B, channels), as the fusions are; under "att" `attention` (B, 1, *spatial)."""
        pixels = x.flatten(2)
        context, maps = self._pool(pixels), {}
        if self.multiply is not None:
            maps["gate"] = _gate(self.multiply, context)
        if self.add is not None:
            maps["added"] = self.add(context)
        if self.mask is not None:
            maps["attention"] = _attention(self.mask, pixels)
        return on_grid(maps, x)

    def _pool(self, pixels: Tensor) -> Tensor:
        if self.mask is None:
            return pixels.mean(2)
        return weighted_sums(pixels, _attention(self.mask, pixels)).squeeze(1)


def _attention(mask: nn.Linear, pixels: Tensor) -> Tensor:
    return project(pixels, mask.weight, mask.bias).softmax(2)  # (B, 1, N)


def _gate(transform: nn.Module, context: Tensor) -> Tensor:
    return torch.sigmoid(transform(context))


def _transform(channels: int, hidden: int) -> nn.Sequential:
    last = nn.Linear(hidden, channels)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(channels, hidden), nn.LayerNorm(hidden), nn.ReLU(), last)
