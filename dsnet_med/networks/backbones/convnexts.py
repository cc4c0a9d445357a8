"""ConvNeXt, from timm, with a layer norm on every level.

Paper: Liu et al. 2022, https://arxiv.org/abs/2201.03545, in the form that MMSegmentation uses: the four levels
leave the network through a layer norm each. Departures: none.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from dsnet_med.errors import InputError, unknown
from dsnet_med.networks.arguments import blocks
from dsnet_med.networks.backbones.pretrained import features_of
from dsnet_med.networks.layers import scaled

_DIMS = {"tiny": 96, "small": 96, "base": 128, "large": 192}


def convnext(
    name: str = "convnext_base",
    *,
    in_channels: int = 3,
    pretrained: bool | str | Path = False,
    width: float = 1.0,
    layers: Sequence[int] | None = None,
    drop_path: float = 0.0,
    layer_scale: float = 1.0,
) -> "ConvNeXt":
    """The timm ConvNeXt called `name`: (B, in_channels, H, W) -> four maps at [1/4, 1/8, 1/16, 1/32].

    `width` multiplies all channels, `layers` gives the blocks per stage, `layer_scale` is the initial factor of
    each block. `pretrained` is True for timm's ImageNet weights, or a file that holds them. Raises InputError
    for an unknown name, when weights cannot be had, or when the network is not the one they were trained for.
    """
    size = name.removeprefix("convnext_").partition(".")[0]
    if size not in _DIMS:
        raise unknown("ConvNeXt", name, (f"convnext_{each}" for each in _DIMS))
    options: dict[str, Any] = {"dims": _dims(size, width)} if width != 1 else {}
    options |= {"depths": blocks("the ConvNeXt", layers)} if layers is not None else {}
    if pretrained and options:
        raise InputError(
            f"pretrained weights of {name} fit width 1 and its own layers, not {options}: use pretrained=False"
        )
    training = {"drop_path_rate": drop_path, "ls_init_value": layer_scale, "out_indices": (0, 1, 2, 3)}
    return ConvNeXt(features_of(name, in_channels, pretrained, **options, **training))


def _dims(size: str, width: float) -> tuple[int, ...]:
    return tuple(scaled(_DIMS[size] * 2**stage, width) for stage in range(4))


class ConvNeXt(nn.Module):
    """timm's ConvNeXt with a layer norm per level."""

    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"features\.stem_(\d)", r"downsample_layers.0.\1"),
        (r"features\.stages_(\d)\.downsample", r"downsample_layers.\1"),
        (r"features\.stages_(\d)\.blocks\.(\d+)\.conv_dw", r"stages.\1.\2.depthwise_conv"),
        (r"features\.stages_(\d)\.blocks\.(\d+)\.mlp\.fc(\d)", r"stages.\1.\2.pointwise_conv\3"),
        (r"features\.stages_(\d)\.blocks", r"stages.\1"),
        (r"norms\.(\d)", r"norm\1"),
    )

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        info: Any = features.feature_info
        self.features = features
        self.feature_info = info
        self.norms = nn.ModuleList(LayerNorm2d(each, eps=1e-6) for each in info.channels())

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = self.features(x)
        return [norm(level) for norm, level in zip(self.norms, levels, strict=True)]  # [1/4, 1/8, 1/16, 1/32]
