"""Small layers and functions that several heads and plug-ins share."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.errors import InputError, one_line
from dsnet_med.networks.arguments import shares, whole_numbers
from dsnet_med.networks.axes import CONVOLUTIONS

Norm = Callable[[int], nn.Module]
Layer = TypeVar("Layer", bound=nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)


def kaiming(layer: Layer, mode: Literal["fan_in", "fan_out"] = "fan_in") -> Layer:
    """`layer`, with weights as before a ReLU (He et al. 2015, https://arxiv.org/abs/1502.01852) and bias 0."""
    nn.init.kaiming_normal_(layer.weight, mode=mode)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def for_channels(weight: Tensor, wanted: int) -> Tensor:
    """The weights (out, C, ...) of a first convolution for images of `wanted` channels.

    Summed for one channel, else repeated and scaled, as timm's `adapt_input_conv` does, which in most of its
    versions takes C to be three.
    """
    given = weight.shape[1] if weight.ndim > 1 else 0
    if given in (0, wanted):  # nothing to fit; what is no convolution, loading it refuses
        return weight
    if wanted == 1:
        return weight.float().sum(1, keepdim=True)
    repeats = [1, -(-wanted // given), *(1 for _ in weight.shape[2:])]
    return weight.repeat(repeats)[:, :wanted] * (given / wanted)


def becomes_a_graph() -> bool:
    """Whether the code is being compiled, exported or traced: no place for kernels and gradients of our own."""
    return torch.compiler.is_compiling() or is_traced()


def is_traced() -> bool:
    """Whether `torch.jit.trace` records the code, where sizes are tensors and a branch is taken for good."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def levels_of(backbone: nn.Module) -> tuple[tuple[int, ...], int]:
    """The channels of a backbone's feature maps, finest first, and its largest reduction.

    Raises InputError for a network that does not describe them as timm's do.
    """
    info: Any = getattr(backbone, "feature_info", None)
    if not hasattr(info, "channels"):
        raise InputError(
            f"got a {type(backbone).__name__} as backbone, which gives no pyramid of feature maps: make timm's "
            "with features_only=True"
        )
    return tuple(info.channels()), int(max(info.reduction()))


def pyramid(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    """The feature maps of a backbone, each (B, C, H, W), however timm says that it keeps them.

    Outside of graphs, raises InputError where they are not what `feature_info` says.
    """
    last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
    maps = [each.permute(0, 3, 1, 2) if last else each for each in backbone(images)]
    info: Any = getattr(backbone, "feature_info", None)
    if info is not None and not becomes_a_graph():
        got, said = [each.shape[1] for each in maps], list(info.channels())
        if got != said:
            raise InputError(f"the backbone gives maps of {got} channels, and says that they have {said}")
    return maps


@contextmanager
def sizes_explained(images: Tensor) -> Iterator[None]:
    """InputError in one line for images of a size that a part of the network does not take."""
    got = f"images of shape {tuple(images.shape)}"
    try:
        yield
    except AssertionError as error:  # timm's word for it
        raise InputError(
            f"the backbone does not take {got}: {one_line(str(error)) or 'resize them'}"
        ) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            f"in training a batch norm sees one value per channel of {got}: use a batch of at least 2, or "
            "larger ones"
        ) from error


def channels_at(owner: str, in_channels: Sequence[int], level: int) -> int:
    """The channels of a level that a head reads; InputError where the pyramid has no such level."""
    if not -len(in_channels) <= level < len(in_channels):
        raise InputError(
            f"{owner} reads level {level} of a pyramid, and the backbone gives {len(in_channels)}: choose "
            "others, or a backbone with more"
        )
    return in_channels[level]


def widened(x: Tensor) -> Tensor:
    """x in single precision at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(x: Tensor) -> AbstractContextManager[None]:
    """For what overflows or cancels in half precision: products that a softmax or a quotient is taken of."""
    if torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def refuse_script(_module: nn.Module) -> NoReturn:
    """For `__prepare_scriptable__`, which `torch.jit.script` asks what it is to compile."""
    raise InputError(
        "torch.jit.script does not take this network, whose parts it cannot compile: use torch.jit.trace, "
        "torch.export or torch.onnx.export"
    )


def project(pixels: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear map (out, C) of every pixel: (B, C, N) -> (B, out, N), in the memory's order of `pixels`."""
    if _channels_last(pixels):
        return F.linear(pixels.mT, weight, bias).mT
    return F.conv1d(pixels, weight.unsqueeze(2), bias)


def pixels_at(pixels: Tensor, index: Tensor) -> Tensor:
    """The pixels that index (B, K) names: (B, C, N) -> (B, C, K), with a gradient that lies as `pixels` do."""
    if _channels_last(pixels):
        return pixels.mT.gather(1, index.unsqueeze(2).expand(-1, -1, pixels.shape[1])).mT
    return pixels.gather(2, index.unsqueeze(1).expand(-1, pixels.shape[1], -1))


def _channels_last(pixels: Tensor) -> bool:
    """Whether (B, C, N) lies in memory as (B, N, C)."""
    return not is_traced() and pixels.stride(1) == 1 and pixels.stride(2) == pixels.shape[1]


def weighted_sums(pixels: Tensor, weights: Tensor) -> Tensor:
    """Sums over the pixels under K sets of weights, (B, C, N) and (B, K, N) -> (B, K, C).

    Given the transposed `pixels.mT`, (B, N, C), and (B, K, C), sums over the channels: (B, K, N).
    """
    if becomes_a_graph() or not torch.is_grad_enabled():
        return weights @ pixels.mT
    sums: Tensor = _WeightedSums.apply(pixels, weights)
    return sums


class _WeightedSums(torch.autograd.Function):
    """Autograd alone would lay out one gradient across the memory, or take the slow product for the other."""

    generate_vmap_rule = True  # for torch.func

    @staticmethod
    def forward(pixels: Tensor, weights: Tensor) -> Tensor:
        return weights @ pixels.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        pixels, weights = ctx.saved_tensors
        of_pixels, of_weights = ctx.needs_input_grad
        gradient = gradients[0]  # (B, K, C), in the lower precision under autocast, as the product was
        low_pixels, low_weights = pixels.to(gradient.dtype), weights.to(gradient.dtype)
        return (
            _outer(gradient, low_weights, _channels_last(pixels)).to(pixels.dtype) if of_pixels else None,
            (gradient @ low_pixels).to(weights.dtype) if of_weights else None,
        )


def _outer(channels: Tensor, weights: Tensor, channels_last: bool) -> Tensor:
    """(B, K, C) and (B, K, N) -> (B, C, N), laid out as wanted."""
    return (weights.mT @ channels).mT if channels_last else channels.mT @ weights


def hard_sigmoid(x: Tensor) -> Tensor:
    """(x + 3) / 6 within 0 and 1. PyTorch's own has a constant of single precision in its gradient."""
    return ((x + 3) / 6).clamp(0, 1)


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """`values`, (B, C) or (C,), in the type of x and a shape that multiplies its channels (B, C, *spatial)."""
    return values.to(x.dtype).reshape(*values.shape, *[1] * (x.ndim - 2))


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear with corners not aligned."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def with_channels(images: Tensor, in_channels: int) -> Tensor:
    """Grey images (B, 1, ...) as (B, in_channels, ...), a view; others as they are."""
    spatial = [-1] * (images.ndim - 2)
    return images.expand(-1, in_channels, *spatial) if images.shape[1] == 1 else images


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    norm: Norm = nn.BatchNorm2d,
    *,
    spatial_dims: int = 2,
) -> nn.Sequential:
    """Convolution (no bias, Kaiming fan-out), `norm` of the channels, ReLU: (B, in, ...) -> (B, out, ...)."""
    make = CONVOLUTIONS[spatial_dims]
    conv = make(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(
        OrderedDict(conv=kaiming(conv, "fan_out"), norm=norm(out_channels), act=nn.ReLU(inplace=True))
    )


def group_norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    """Group norm with `groups` groups, or as many as divide `channels` and leave two or more in each.

    One channel per group has no variance on a 1x1 map; only one channel in all, or an odd number that divides
    `groups`, falls back to a single group.
    """
    shared = math.gcd(groups, channels)
    if shared == channels:
        shared = channels // 2 if channels % 2 == 0 else 1
    return nn.GroupNorm(shared, channels)


def classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """The last 1x1 convolution, (B, channels, H, W) -> logits (B, num_classes, H, W): N(0, 0.01), bias 0."""
    conv = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def scaled(channels: int, width: float) -> int:
    """`channels` times the width multiplier, rounded, at least 1. Raises InputError for less."""
    whole_numbers("the network", channels=channels)
    shares("the network", at_most=100, width=width)
    return max(round(channels * width), 1)
