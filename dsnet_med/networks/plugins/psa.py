"""Polarized self-attention (PSA), parallel and sequential.

Paper: Liu et al. 2021, https://arxiv.org/abs/2107.00782, in its authors' code: for the spatial gate the
parallel form takes a softmax over the pixels after the product with the query, the sequential form before it.

With x (B, C, N), N pixels and K = C/2, projections follow the pooling, W (x p) for (W x) p: one vector per
image is projected instead of a map. In the parallel form the spatial value is (q W) x for q (W x), so that no
projected map (B, K, N) is left; the softmax of the sequential form needs that one. Departures: none in the
function; any number of spatial axes is taken.
"""

import torch
from torch import Tensor, nn

from dsnet_med.networks.arguments import one_of, whole_numbers
from dsnet_med.networks.explaining import on_grid
from dsnet_med.networks.layers import kaiming, project, weighted_sums, widened, without_autocast

_MODES = ("parallel", "sequential")


class PSA(nn.Module):
    """(B, channels, *spatial) -> the same shape.

    `mode` "parallel" adds x under both gates, "sequential" applies the channel gate, then the spatial one.
    Raises InputError for another mode.
    """

    reference_names: tuple[tuple[str, str], ...] = (
        (r"channel_query", "conv_q_right"),
        (r"channel_value", "conv_v_right"),
        (r"channel_expand", "conv_up"),
        (r"spatial_query", "conv_q_left"),
        (r"spatial_value", "conv_v_left"),
    )

    def __init__(self, channels: int, mode: str = "parallel") -> None:
        whole_numbers("PSA", channels=channels)
        one_of("mode of PSA", mode, _MODES)
        super().__init__()
        self.parallel = mode == "parallel"
        self.reference_name = "psa_p" if self.parallel else "psa_s"
        hidden = max(channels // 2, 1)
        self.channel_query = kaiming(nn.Linear(channels, 1, bias=False))
        self.channel_value = kaiming(nn.Linear(channels, hidden, bias=False))
        self.channel_expand = _expand(hidden, channels, self.parallel)
        self.spatial_query = kaiming(nn.Linear(channels, hidden, bias=False))
        self.spatial_value = kaiming(nn.Linear(channels, hidden, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)  # (B, C, N)
        if self.parallel:
            gated = pixels * (self.channel_gate(pixels) + self.spatial_gate(pixels))
        else:
            gated = pixels * self.channel_gate(pixels)
            gated = gated * self.spatial_gate(gated)
        return gated.reshape(x.shape)

    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """In parallel `gate` (B, channels, *spatial), the sum of `channel` (B, channels) and `spatial`
        (B, 1, *spatial); in series `gate_channel` and `gate_spatial`. `attention_channel` (B, 1, *spatial) are
        the weights under which the pixels are pooled for the channels' gates.
        """
        pixels = x.flatten(2)
        channel = self.channel_gate(pixels)
        maps = {"attention_channel": self._pooling(pixels)}
        if self.parallel:
            spatial = self.spatial_gate(pixels)
            maps |= {"gate": channel + spatial, "channel": channel.squeeze(2), "spatial": spatial}
        else:
            maps |= {"gate_channel": channel.squeeze(2), "gate_spatial": self.spatial_gate(pixels * channel)}
        return on_grid(maps, x)

    def channel_gate(self, pixels: Tensor) -> Tensor:
        """(B, C, N) -> (B, C, 1)."""
        pooled = weighted_sums(pixels, self._pooling(pixels)).squeeze(1)  # (B, C)
        gate: Tensor = self.channel_expand(self.channel_value(pooled)).sigmoid()
        return gate.unsqueeze(2)

    def _pooling(self, pixels: Tensor) -> Tensor:
        """(B, C, N) -> (B, 1, N)."""
        return project(pixels, self.channel_query.weight).softmax(2)

    def spatial_gate(self, pixels: Tensor) -> Tensor:
        """(B, C, N) -> (B, 1, N)."""
        query = self.spatial_query(pixels.mean(2))  # (B, K)
        if self.parallel:
            direction = query @ self.spatial_value.weight  # (B, C)
            with without_autocast(pixels):  # products that half precision cannot hold
                logits = weighted_sums(widened(pixels).mT, widened(direction).unsqueeze(1))
            return torch.sigmoid(logits.softmax(2)).to(pixels.dtype)
        values = project(pixels, self.spatial_value.weight).softmax(2)  # (B, K, N)
        return torch.sigmoid(query.unsqueeze(1) @ values)


def _expand(hidden: int, channels: int, parallel: bool) -> nn.Module:
    if parallel:
        return nn.Linear(hidden, channels, bias=False)
    inner = max(hidden // 4, 1)
    return nn.Sequential(nn.Linear(hidden, inner), nn.LayerNorm(inner), nn.ReLU(), nn.Linear(inner, channels))
