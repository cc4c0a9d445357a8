"""Multi-scale convolutional attention network (MSCAN), the backbone of SegNeXt.

Paper: Guo et al. 2022, https://arxiv.org/abs/2209.08575. Departures from MMSegmentation's form: maps stay maps
(there they become tokens and back), any number of input channels, and a width multiplier.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from timm.layers import DropPath, LayerNorm2d
from timm.models import FeatureInfo
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.errors import InputError, one_line, unknown
from dsnet_med.networks.arguments import blocks
from dsnet_med.networks.checkpoint import read_checkpoint
from dsnet_med.networks.layers import for_channels, scaled

_MLP_RATIOS = (8, 8, 4, 4)
_STRIPS = (7, 11, 21)


class Size(NamedTuple):
    """Channels and blocks of the four stages."""

    dims: tuple[int, ...]
    depths: tuple[int, ...]


SIZES = {
    "mscan_tiny": Size((32, 64, 160, 256), (3, 3, 5, 2)),
    "mscan_small": Size((64, 128, 320, 512), (2, 2, 4, 2)),
    "mscan_base": Size((64, 128, 320, 512), (3, 3, 12, 3)),
    "mscan_large": Size((64, 128, 320, 512), (3, 5, 27, 3)),
}


def mscan(
    name: str = "mscan_base",
    *,
    in_channels: int = 3,
    pretrained: bool | str | Path = False,
    width: float = 1.0,
    layers: Sequence[int] | None = None,
    drop_path: float = 0.1,
) -> "MSCAN":
    """The MSCAN called `name`: (B, in_channels, H, W) -> four maps at [1/4, 1/8, 1/16, 1/32].

    `width` multiplies all channels, `layers` overrides the blocks per stage, `drop_path` is the last block's
    rate of stochastic depth. `pretrained` is a file of the published ImageNet weights (.pth or .safetensors,
    SegNeXt's or MMSegmentation's names); its first convolution is summed over the colours for one channel.

    Raises InputError for an unknown name, for `pretrained=True`, since no library hosts the weights, and for a
    file that is none or of another network.
    """
    if name not in SIZES:
        raise unknown("MSCAN", name, SIZES)
    size = SIZES[name]
    dims = [scaled(channels, width) for channels in size.dims]
    network = MSCAN(
        dims, blocks("the MSCAN", layers or size.depths), in_channels=in_channels, drop_path=drop_path
    )
    if pretrained:
        _load(network, pretrained)
    return network


class MSCAN(nn.Module):
    """Four stages, each an embedding at half the size (the first at a quarter), blocks and a layer norm."""

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        mlp_ratios: Sequence[int] = _MLP_RATIOS,
        *,
        in_channels: int = 3,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        rates = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
        self.stages = nn.ModuleList()
        for stage, (channels, depth, ratio) in enumerate(zip(dims, depths, mlp_ratios, strict=True)):
            embed = _embed(dims[stage - 1], channels) if stage else _stem(in_channels, channels)
            blocks = nn.Sequential(*(Block(channels, ratio, next(rates)) for _ in range(depth)))
            norm = LayerNorm2d(channels, eps=1e-5)
            self.stages.append(nn.Sequential(OrderedDict(embed=embed, blocks=blocks, norm=norm)))
        self.feature_info = _feature_info(dims)
        self.reference_names = _reference_names(len(dims))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features  # [1/4, 1/8, 1/16, 1/32]


class Block(nn.Module):
    """Attention and a convolutional MLP, each behind a batch norm, scaled per channel and added."""

    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"attention\.project_in", "attn.proj_1"),
        (r"attention\.gate\.square", "attn.spatial_gating_unit.conv0"),
        (r"attention\.gate\.strips\.(\d)\.0", r"attn.spatial_gating_unit.conv\1_1"),
        (r"attention\.gate\.strips\.(\d)\.1", r"attn.spatial_gating_unit.conv\1_2"),
        (r"attention\.gate\.mix", "attn.spatial_gating_unit.conv3"),
        (r"attention\.project_out", "attn.proj_2"),
        (r"scale(\d)", r"layer_scale_\1"),
        (r"mlp\.0", "mlp.fc1"),
        (r"mlp\.1", "mlp.dwconv"),
        (r"mlp\.3", "mlp.fc2"),
    )

    def __init__(self, channels: int, mlp_ratio: int = 4, drop_path: float = 0.0) -> None:
        super().__init__()
        hidden = channels * mlp_ratio
        self.norm1 = nn.BatchNorm2d(channels)
        self.attention = Attention(channels)
        self.scale1 = nn.Parameter(torch.full((channels,), 0.01))
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = nn.Sequential(
            _conv(channels, hidden), _conv(hidden, hidden, 3, groups=hidden), nn.GELU(), _conv(hidden, channels)
        )
        self.scale2 = nn.Parameter(torch.full((channels,), 0.01))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.scale1[:, None, None] * self.attention(self.norm1(x)))
        changed: Tensor = self.drop_path(self.scale2[:, None, None] * self.mlp(self.norm2(x)))
        return x + changed


class Attention(nn.Module):
    """1x1 convolution, GELU, multi-scale gate, 1x1 convolution, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project_in = _conv(channels, channels)
        self.gate = MultiScaleConvAttention(channels)
        self.project_out = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        attended: Tensor = self.project_out(self.gate(F.gelu(self.project_in(x))))
        return x + attended


class MultiScaleConvAttention(nn.Module):
    """MSCA: x times a mixture of depthwise convolutions: 5x5, then strips of 7, 11 and 21."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.square = _conv(channels, channels, 5, groups=channels)
        self.strips = nn.ModuleList(
            nn.Sequential(
                _conv(channels, channels, (1, length), groups=channels),
                _conv(channels, channels, (length, 1), groups=channels),
            )
            for length in _STRIPS
        )
        self.mix = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        local = self.square(x)
        summed = local
        for strip in self.strips:
            summed = summed + strip(local)
        gate: Tensor = self.mix(summed)
        return gate * x


def _conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int] = 1,
    *,
    groups: int = 1,
    stride: int = 1,
) -> nn.Conv2d:
    """With a bias, the size kept but for the stride; normal with the fan-out of a group, as published."""
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    conv = nn.Conv2d(
        in_channels, out_channels, (height, width), stride, (height // 2, width // 2), groups=groups
    )
    nn.init.normal_(conv.weight, std=(2 / (height * width * out_channels / groups)) ** 0.5)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _stem(in_channels: int, channels: int) -> nn.Sequential:
    half = max(channels // 2, 1)
    first, second = _conv(in_channels, half, 3, stride=2), _conv(half, channels, 3, stride=2)
    return nn.Sequential(first, nn.BatchNorm2d(half), nn.GELU(), second, nn.BatchNorm2d(channels))


def _embed(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(_conv(in_channels, channels, 3, stride=2), nn.BatchNorm2d(channels))


def _feature_info(dims: Sequence[int]) -> FeatureInfo:
    levels = [
        {"num_chs": channels, "reduction": 4 * 2**stage, "module": f"stages.{stage}"}
        for stage, channels in enumerate(dims)
    ]
    return FeatureInfo(levels, out_indices=tuple(range(len(levels))))


def _reference_names(stages: int) -> tuple[tuple[str, str], ...]:
    """Ours -> the reference's, which counts stages from one and names the stem's layers otherwise."""
    table = [(r"stages\.0\.embed", "patch_embed1.proj")]
    for stage in range(stages):
        table += [
            (rf"stages\.{stage}\.embed\.0", f"patch_embed{stage + 1}.proj"),
            (rf"stages\.{stage}\.embed\.1", f"patch_embed{stage + 1}.norm"),
            (rf"stages\.{stage}\.blocks", f"block{stage + 1}"),
            (rf"stages\.{stage}\.norm", f"norm{stage + 1}"),
        ]
    return tuple(table)


def _load(network: MSCAN, pretrained: bool | str | Path) -> None:
    from dsnet_med.networks.reference import from_reference  # noqa: PLC0415 -- it imports what builds backbones

    if isinstance(pretrained, bool):
        raise InputError(
            "no library hosts the ImageNet weights of MSCAN: download those that SegNeXt publishes and pass "
            "the file, pretrained=mscan_b.pth, or use pretrained=False"
        )
    weights = _published(read_checkpoint(Path(pretrained)))
    try:
        _fit_first_convolution(weights, network)
        network.load_state_dict(from_reference(weights, network), strict=True)
    except (InputError, RuntimeError) as error:
        raise InputError(f"{pretrained} does not hold this MSCAN's weights: {one_line(str(error))}") from error


def _published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the classifier, and with MMSegmentation's names where SegNeXt's own files differ."""
    body = {name: value for name, value in weights.items() if not name.startswith("head.")}
    return {name.replace(".dwconv.dwconv.", ".dwconv."): value for name, value in body.items()}


def _fit_first_convolution(weights: dict[str, Tensor], network: MSCAN) -> None:
    name = "patch_embed1.proj.0.weight"
    wanted = network.stages[0].embed[0].in_channels  # type: ignore[union-attr, index]
    if name in weights:
        weights[name] = for_channels(weights[name], wanted)
