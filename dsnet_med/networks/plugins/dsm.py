"""Dual-branch selective attention module (DSM).

Paper: "Does the Attention Mechanism Act As a Correction Factor?" (DSNet). The two branches are those of
polarized self-attention (Liu et al. 2021, https://arxiv.org/abs/2107.00782); the soft choice between two paths
is that of selective kernels (Li et al. 2019, https://arxiv.org/abs/1903.06586).

With x (B, C, N), N = H*W pixels, K = C // ratio hidden channels, the channel attention c (B, C) and the spatial
attention s (B, N) are fused by one of

    dsa                 x + sum_n softmax_n(m) relu(W x),   m = a1 (c s) + a2 (c + s)
    dam                 x sigmoid(W m)
    sq, pr              x sigmoid(W (c s)),   x sigmoid(W (c + s))
    sq_plain, pr_plain  x (c s),   x (c + s)
    channel, spatial    x c,   x s

where the weights a1 + a2 = 1 (B, C) are a selective kernel of mean_n(c s + c + s).

Everything here is the same function as these formulas, but no (B, C, N) map is built that has rank one:

- projections follow the pooling, W (x p) for (W x) p, so both value branches project one vector per image;
- mean_n(c s + c + s) = c mean(s) + c + mean(s);
- m = s (a1 c + a2) + a2 c: softmax_n drops the last term, and W m = s (W (a1 c + a2)) + W (a2 c);
- the sum over the pixels under softmax_n(g s) with g, s in (0, 1) needs no (B, C, N) weights (`softmax_mean`);
- the query of the spatial branch is a maximum over the pixels, whose gradient reaches one pixel per channel.

Departures from the published code: none in the function; parameters are named for what they do, linear maps of
vectors are `nn.Linear`, any number of spatial axes is taken, and `norm="group"` is new.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.errors import InputError
from dsnet_med.networks.arguments import flags, one_of, whole_numbers
from dsnet_med.networks.explaining import as_in_eval, on_grid
from dsnet_med.networks.layers import kaiming, per_channel, pixels_at, project, weighted_sums
from dsnet_med.networks.softmax_mean import softmax_mean

NORMS = ("batch", "group")  # of the selective kernel


class DSM(nn.Module):
    """Dual-branch selective attention: (B, channels, *spatial) -> the same shape.

    `ratio` divides the channels inside the branches, `bias` is that of the projections, `fusion` one of the
    names above. `norm` is the normalisation inside the selective kernel (fusions dsa and dam): "batch", as
    published, or "group" (one group), which also trains with a batch of one.

    Raises InputError for an unknown fusion or norm, and in training for a batch of one under batch norm.
    """

    reference_name: ClassVar[str] = "dsa"
    reference_name_in_head: ClassVar[str] = "dsn_block"
    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"channel\.query", "conv_q_right"),
        (r"channel\.value", "conv_v_right"),
        (r"channel\.norm", "conv_up.0"),
        (r"channel\.expand", "conv_up.2"),
        (r"spatial\.query", "conv_q_left"),
        (r"spatial\.value", "conv_v_left"),
        (r"fusion\.mix\.reduce", "sk.fc_reduce"),
        (r"fusion\.mix\.norm", "sk.bn"),
        (r"fusion\.mix\.expand", "sk.fc_select"),
        (r"fusion\.value", "resConv.0"),
        (r"fusion\.combine", "combine_attn.0"),
    )

    def __init__(
        self, channels: int, ratio: int = 2, bias: bool = False, fusion: str = "dsa", norm: str = "batch"
    ) -> None:
        whole_numbers("DSM", channels=channels, ratio=ratio)
        flags("DSM", bias=bias)
        one_of("DSM norm", norm, NORMS)
        super().__init__()
        hidden = max(channels // ratio, 1)
        self.channel = None if fusion == "spatial" else ChannelBranch(channels, hidden, bias)
        self.spatial = None if fusion == "channel" else SpatialBranch(channels, hidden, bias)
        self.fusion: Fusion = _fusion(fusion, channels, hidden, bias, norm)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)  # (B, C, N)
        fused: Tensor = self.fusion(pixels, *self._branches(pixels).values())
        return fused.reshape(x.shape)

    @as_in_eval
    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """Of fusion dsa `added` (B, channels), and the `attention` (B, channels, *spatial) that gave it. Of the
        others `gate`, (B, channels, *spatial) where both branches are in it.

        And what is there of the branches, `channel` (B, channels) and `spatial` (B, 1, *spatial), the weights
        `attention_channel` (B, 1, *spatial) under which the channel branch pools the pixels, and the selective
        kernel's weights `series` and `parallel` (B, channels) of c s and of c + s.
        """
        pixels = x.flatten(2)
        branches = self._branches(pixels)
        maps = self.fusion.explained(pixels, *branches.values()) | branches
        if self.channel is not None:
            maps["attention_channel"] = self.channel.attention(pixels)
        return on_grid(maps, x)

    def _branches(self, pixels: Tensor) -> dict[str, Tensor]:
        """c (B, C) and s (B, 1, N), those that the fusion takes."""
        named = {"channel": self.channel, "spatial": self.spatial}
        return {name: branch(pixels) for name, branch in named.items() if branch is not None}


class ChannelBranch(nn.Module):
    """(B, C, N) -> (B, C) in (0, 1): softmax-pool over the pixels, then project."""

    def __init__(self, channels: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.query = kaiming(nn.Linear(channels, 1, bias))
        self.value = kaiming(nn.Linear(channels, hidden, bias))
        self.norm = nn.LayerNorm(hidden)
        self.expand = nn.Linear(hidden, channels, bias)

    def forward(self, pixels: Tensor) -> Tensor:
        pooled = weighted_sums(pixels, self.attention(pixels)).squeeze(1)  # (B, C)
        hidden = F.relu(self.norm(self.value(pooled)))  # (B, K)
        return torch.sigmoid(self.expand(hidden))

    def attention(self, pixels: Tensor) -> Tensor:
        """The weights of the pixels, (B, 1, N)."""
        return project(pixels, self.query.weight, self.query.bias).softmax(2)


class SpatialBranch(nn.Module):
    """(B, C, N) -> (B, 1, N) in (0, 1): each pixel against one query per image."""

    def __init__(self, channels: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.query = kaiming(nn.Linear(channels, hidden, bias))
        self.value = kaiming(nn.Linear(channels, hidden, bias))

    def forward(self, pixels: Tensor) -> Tensor:
        query = self.largest(pixels).softmax(1)  # (B, K)
        logits = weighted_sums(pixels.mT, (query @ self.value.weight).unsqueeze(1))  # (B, 1, N)
        if self.value.bias is not None:
            logits = logits + (query @ self.value.bias)[:, None, None]
        return torch.sigmoid(logits)

    def largest(self, pixels: Tensor) -> Tensor:
        """max_n of the projected pixels, (B, K): found without a gradient, computed for the winners."""
        with torch.no_grad():
            winners = project(pixels, self.query.weight, self.query.bias).argmax(2)  # (B, K)
        largest = (pixels_at(pixels, winners) * self.query.weight.mT).sum(1)
        return largest if self.query.bias is None else largest + self.query.bias


class Aggregation(nn.Module):
    """Fusion dsa: add to every pixel one vector per image, sum_n softmax_n(slope s) relu(W x)."""

    def __init__(self, channels: int, mix: "SelectiveKernel", bias: bool) -> None:
        super().__init__()
        self.mix = mix
        self.value = nn.Linear(channels, channels, bias)

    def forward(self, pixels: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
        return pixels + per_channel(self.aggregate(pixels, channel, spatial), pixels)

    def explained(self, pixels: Tensor, channel: Tensor, spatial: Tensor) -> dict[str, Tensor]:
        added = self.aggregate(pixels, channel, spatial)
        return {"added": added} | self.mix.explained(channel, spatial)

    def aggregate(self, pixels: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
        """The vector that is added to every pixel, (B, C)."""
        slope: Tensor = self.mix(channel, spatial)[0]  # softmax drops the offset: it is one for all pixels
        value = project(pixels, self.value.weight, self.value.bias)  # (B, C, N)
        return softmax_mean(value, slope, spatial.squeeze(1), rectify=True)


class DualGate(nn.Module):
    """Fusions dam, sq and pr: x sigmoid(W m); without `combine`, x m. m = slope s + offset."""

    def __init__(self, channels: int, mix: "Mix", combine: bool = True) -> None:
        super().__init__()
        self.mix = mix
        self.combine = nn.Linear(channels, channels) if combine else None

    def forward(self, pixels: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
        return pixels * self.gate(pixels, channel, spatial)

    def explained(self, pixels: Tensor, channel: Tensor, spatial: Tensor) -> dict[str, Tensor]:
        maps = {"gate": self.gate(pixels, channel, spatial)}
        if isinstance(self.mix, SelectiveKernel):
            maps["series"], maps["parallel"] = self.mix.weights(channel, spatial).unbind(1)
        return maps

    def gate(self, pixels: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
        """(B, C, N), in the type of `pixels`."""
        slope, offset = self.mix(channel, spatial)  # (B, C) each
        if self.combine is None:
            return per_channel(slope, pixels) * spatial + per_channel(offset, pixels)
        slope, offset = F.linear(slope, self.combine.weight), self.combine(offset)
        return torch.sigmoid(per_channel(slope, pixels) * spatial + per_channel(offset, pixels))


class ChannelGate(nn.Module):
    """Fusion channel: x c."""

    def forward(self, pixels: Tensor, channel: Tensor) -> Tensor:
        return pixels * per_channel(channel, pixels)

    def explained(self, _pixels: Tensor, channel: Tensor) -> dict[str, Tensor]:
        return {"gate": channel}


class SpatialGate(nn.Module):
    """Fusion spatial: x s."""

    def forward(self, pixels: Tensor, spatial: Tensor) -> Tensor:
        return pixels * spatial

    def explained(self, _pixels: Tensor, spatial: Tensor) -> dict[str, Tensor]:
        return {"gate": spatial}


class SelectiveKernel(nn.Module):
    """A soft choice between c s and c + s: the slope and offset (B, C) of a1 c s + a2 (c + s)."""

    def __init__(self, channels: int, hidden: int, norm: str) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, hidden, bias=False)
        self.norm = _norm(norm, hidden)
        self.expand = nn.Linear(hidden, 2 * channels, bias=False)

    def forward(self, channel: Tensor, spatial: Tensor) -> tuple[Tensor, Tensor]:
        series, parallel = self.weights(channel, spatial).unbind(1)
        return series * channel + parallel, parallel * channel

    def explained(self, channel: Tensor, spatial: Tensor) -> dict[str, Tensor]:
        """softmax_n(m) as `attention` (B, C, N), and the paths' weights `series` and `parallel` (B, C)."""
        series, parallel = self.weights(channel, spatial).unbind(1)
        slope: Tensor = self(channel, spatial)[0]  # softmax drops the offset: it is one for all pixels
        attention = (per_channel(slope, spatial) * spatial).softmax(2)
        return {"attention": attention, "series": series, "parallel": parallel}

    def weights(self, channel: Tensor, spatial: Tensor) -> Tensor:
        """The weights of both paths, (B, 2, C), which sum to 1 over the paths."""
        if self.norm.training and len(channel) == 1 and isinstance(self.norm, nn.BatchNorm1d):
            raise InputError(
                "DSM got a batch of one in training, where the batch norm of its selective kernel sees one "
                'value per channel: use a batch of at least 2, or norm="group"'
            )
        mean = spatial.mean(2)  # (B, 1)
        pooled = channel * mean + channel + mean  # mean over the pixels of c s + c + s
        hidden = F.relu(self.norm(self.reduce(pooled)))
        weights: Tensor = self.expand(hidden).unflatten(1, (2, -1)).softmax(1)
        return weights


Fusion = Aggregation | DualGate | ChannelGate | SpatialGate
Mix = nn.Module | Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def series(channel: Tensor, _spatial: Tensor) -> tuple[Tensor, Tensor]:
    """The slope and offset of c s."""
    return channel, torch.zeros_like(channel)


def parallel(channel: Tensor, _spatial: Tensor) -> tuple[Tensor, Tensor]:
    """The slope and offset of c + s."""
    return torch.ones_like(channel), channel


def _fusion(name: str, channels: int, hidden: int, bias: bool, norm: str) -> "Fusion":
    fusions: dict[str, Callable[[], Fusion]] = {
        "dsa": lambda: Aggregation(channels, SelectiveKernel(channels, hidden, norm), bias),
        "dam": lambda: DualGate(channels, SelectiveKernel(channels, hidden, norm)),
        "sq": lambda: DualGate(channels, series),
        "pr": lambda: DualGate(channels, parallel),
        "sq_plain": lambda: DualGate(channels, series, combine=False),
        "pr_plain": lambda: DualGate(channels, parallel, combine=False),
        "channel": ChannelGate,
        "spatial": SpatialGate,
    }
    return fusions[one_of("DSM fusion", name, fusions)]()


def _norm(name: str, channels: int) -> nn.Module:
    return nn.BatchNorm1d(channels) if name == "batch" else nn.GroupNorm(1, channels)
