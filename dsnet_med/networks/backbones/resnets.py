"""ResNets from timm, at output stride 8 unless another is asked for.

Papers: He et al. 2016, https://arxiv.org/abs/1512.03385; the deep stem: He et al. 2019,
https://arxiv.org/abs/1812.01187; dilation: Chen et al. 2017, https://arxiv.org/abs/1706.05587. timm's
`resnet50c` with `output_stride=8` is MMSegmentation's ResNetV1c-50-d8 layer for layer: stages 3 and 4 keep
their input's size, with dilation 2 and 4, and the first block of each keeps the dilation of the stage before.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dsnet_med.errors import InputError
from dsnet_med.networks.arguments import blocks
from dsnet_med.networks.attaching import attach
from dsnet_med.networks.backbones.pretrained import features_of, hub_name
from dsnet_med.networks.backbones.published import load_backbone
from dsnet_med.networks.layers import scaled

_STAGE_CHANNELS = (64, 128, 256, 512)
_STEM_WIDTH = 32
_OUTPUT_STRIDES = (8, 16, 32)


def resnet(
    name: str = "resnet50c",
    *,
    output_stride: int = 8,
    in_channels: int = 3,
    pretrained: bool | str | Path = False,
    width: float = 1.0,
    stem_width: int | None = None,
    layers: Sequence[int] | None = None,
    plugin: Callable[[int], nn.Module] | None = None,
    at: str = "layer4.*.act2",
) -> nn.Module:
    """A timm ResNet as a pyramid of four levels: (B, in_channels, H, W) -> four maps at [1/4, 1/8, 1/8, 1/8].

    `width` multiplies all channels (up to 512 in the bottlenecks, four times that in the maps); `stem_width`
    overrides the stem's 32; `layers` gives the blocks per stage, such as [1, 1, 1, 1]. `plugin`, called with
    the channels at hand, is attached after every submodule that the glob `at` names: `layer4.*.act2` is "after
    conv2, its norm and ReLU, in every block of stage 4".

    `pretrained` is True for timm's ImageNet weights, a name of theirs ("resnet50.tv_in1k"), or a file
    (.safetensors or .pth) of timm, of MMPretrain, MMSegmentation or MMDetection, or of a run of ours; see
    `load_backbone`. The first convolution is summed over its inputs for one channel. Raises InputError when
    the weights cannot be had, or when the network is not the one they were trained for.
    """
    shape, hub = _shape_options(width, stem_width, layers), hub_name(name, pretrained)
    if hub and pretrained and shape:
        raise InputError(
            f"pretrained weights of {name} fit width 1 and its own layers, not {shape}: use pretrained=False"
        )
    if output_stride not in _OUTPUT_STRIDES:
        raise InputError(f"got output_stride={output_stride}, wanted 8, 16 or 32")
    levels = {"output_stride": output_stride, "out_indices": (1, 2, 3, 4)}
    network = features_of(hub or name, in_channels, bool(hub and pretrained), **levels, **shape)
    if plugin:
        attach(network, plugin, at=at)
    if not hub:
        load_backbone(network, Path(str(pretrained)), f"timm's {name}")
    return network


def _shape_options(width: float, stem_width: int | None, layers: Sequence[int] | None) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if width != 1:
        options["channels"] = tuple(scaled(channels, width) for channels in _STAGE_CHANNELS)
        options["stem_width"] = scaled(_STEM_WIDTH, width)
    if stem_width is not None:
        options["stem_width"] = stem_width
    if layers is not None:
        options["layers"] = blocks("the ResNet", layers)
    return options
