"""Convolutional block attention module (CBAM).

Paper: Woo et al. 2018, https://arxiv.org/abs/1807.06521, in its authors' form: the spatial gate has a batch
norm of momentum 0.01. Departures: none in the function; `spatial_dims` is new.
"""

from collections.abc import Callable, Collection
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.errors import InputError
from dsnet_med.networks.arguments import flags, names_of, odd_numbers, whole_numbers
from dsnet_med.networks.explaining import as_in_eval
from dsnet_med.networks.layers import is_traced, per_channel


def _largest(x: Tensor, dim: int) -> Tensor:
    """The maximum, whose gradient reaches one value; without gradients, the form that is ten times as fast."""
    return x.max(dim).values if torch.is_grad_enabled() and not is_traced() else x.amax(dim)


# (B, C, N) -> (B, C)
_POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda pixels: pixels.mean(2),
    "max": lambda pixels: _largest(pixels, 2),
    "lp": lambda pixels: torch.linalg.vector_norm(pixels, dim=2),
    "lse": lambda pixels: pixels.logsumexp(2),
}
_LAYERS: dict[int, tuple[type[nn.Module], type[nn.Module]]] = {
    1: (nn.Conv1d, nn.BatchNorm1d),
    2: (nn.Conv2d, nn.BatchNorm2d),
    3: (nn.Conv3d, nn.BatchNorm3d),
}


class CBAM(nn.Module):
    """(B, channels, *spatial) -> the same shape: a gate per channel, then one per pixel.

    `ratio` divides the channels inside the channel gate, which sees the channels through `pools`, out of "avg",
    "max", "lp" (the root of the sum of squares) and "lse" (log-sum-exp). `kernel_size` is that of the spatial
    gate, made for `spatial_dims` axes, which `spatial=False` leaves out: any number of axes is taken then.

    Raises InputError for unknown or no pools, an even kernel size, other than one to three axes, and in
    `forward` for a map of other than `spatial_dims` axes.
    """

    reference_name: ClassVar[str] = "cbam"
    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"reduce", "ChannelGate.mlp.1"),
        (r"expand", "ChannelGate.mlp.3"),
        (r"spatial\.0", "SpatialGate.spatial.conv"),
        (r"spatial\.1", "SpatialGate.spatial.bn"),
    )

    def __init__(
        self,
        channels: int,
        ratio: int = 16,
        kernel_size: int = 7,
        spatial: bool = True,
        *,
        pools: Collection[str] = ("avg", "max"),
        spatial_dims: int = 2,
    ) -> None:
        whole_numbers("CBAM", channels=channels, ratio=ratio, spatial_dims=spatial_dims)
        odd_numbers("CBAM", kernel_size=kernel_size)
        flags("CBAM", spatial=spatial)
        super().__init__()
        self.pools = names_of("CBAM", "pools", pools, _POOLS)
        self.spatial_dims = spatial_dims
        hidden = max(channels // ratio, 1)
        self.reduce = nn.Linear(channels, hidden)
        self.expand = nn.Linear(hidden, channels)
        self.spatial = _spatial_gate(kernel_size, spatial_dims) if spatial else None

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        x = x * per_channel(self._channel_gate(x.flatten(2)), x)
        if self.spatial is None:
            return x
        return x * _pixel_gate(self.spatial, x)

    @as_in_eval
    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """`gate_channel` (B, channels) and, where there is one, `gate_spatial` (B, 1, *spatial)."""
        self._check(x)
        channel = self._channel_gate(x.flatten(2))
        if self.spatial is None:
            return {"gate_channel": channel}
        return {
            "gate_channel": channel,
            "gate_spatial": _pixel_gate(self.spatial, x * per_channel(channel, x)),
        }

    def _channel_gate(self, pixels: Tensor) -> Tensor:
        pooled = torch.stack([_POOLS[name](pixels) for name in self.pools])  # (pools, B, C)
        return torch.sigmoid(self.expand(F.relu(self.reduce(pooled))).sum(0))

    def _check(self, x: Tensor) -> None:
        if self.spatial is not None and x.ndim != self.spatial_dims + 2:
            raise InputError(
                f"CBAM got a map of shape {tuple(x.shape)} and wants (batch, channels) and {self.spatial_dims} "
                f"spatial axes: make it with spatial_dims={x.ndim - 2}, or spatial=False"
            )


def _pixel_gate(convolution: nn.Module, x: Tensor) -> Tensor:
    summary = torch.stack([_largest(x, 1), x.mean(1)], dim=1)  # (B, 2, *spatial)
    return torch.sigmoid(convolution(summary))


def _spatial_gate(kernel_size: int, dims: int) -> nn.Module:
    if dims not in _LAYERS:
        raise InputError(f"CBAM got spatial_dims={dims} and wants 1, 2 or 3")
    conv, norm = _LAYERS[dims]
    return nn.Sequential(conv(2, 1, kernel_size, padding=kernel_size // 2, bias=False), norm(1, momentum=0.01))
