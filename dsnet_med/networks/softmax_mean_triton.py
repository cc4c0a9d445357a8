"""`softmax_mean` in one pass over the map and one for its gradient, as Triton kernels.

A program of the forward pass owns a few channels of an image and walks over the pixels; one of the backward
pass owns a few pixels and walks over the channels, so that no two programs add to the same number: results
are the same every time. The exponents lie within (-1/2, 1/2), so no running maximum is needed. Sums are in
single precision.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHANNELS, _PIXELS = 8, 128  # of a tile


def fused_softmax_mean(value: Tensor, slope: Tensor, level: Tensor, rectify: bool) -> Tensor:
    """`value` (B, C, N), `slope` (B, C) and `level` (B, N) in [0, 1] -> (B, C); relu(value) where `rectify`."""
    mean: Tensor = _SoftmaxMean.apply(value, slope, level, rectify)
    return mean


class _SoftmaxMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, slope: Tensor, level: Tensor, rectify: bool) -> Tensor:
        slopes, levels = slope.float().contiguous(), level.float().contiguous()
        batch, channels, pixels = value.shape
        mean, total = torch.empty_like(slopes), torch.empty_like(slopes)
        _forward[(triton.cdiv(channels, _CHANNELS), batch)](
            value, slopes, levels, mean, total, *value.stride(), channels, pixels, rectify, _CHANNELS, _PIXELS
        )
        ctx.save_for_backward(value, slopes, levels, mean, total)
        ctx.rectify, ctx.types = rectify, (value.dtype, slope.dtype, level.dtype)
        return mean.to(torch.promote_types(value.dtype, slope.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        value, slopes, levels, mean, total = ctx.saved_tensors
        batch, channels, pixels = value.shape
        blocks = triton.cdiv(pixels, _PIXELS)
        of_value, of_level = torch.empty_like(value), torch.empty_like(levels)
        of_slope = slopes.new_empty(batch, blocks, channels)  # a part from every block of pixels
        _backward[(blocks, batch)](
            value, slopes, levels, mean, total, gradient.float().contiguous(), of_value, of_slope, of_level,
            *value.stride(), *of_value.stride(), channels, pixels, blocks, ctx.rectify, _CHANNELS, _PIXELS,
        )  # fmt: skip
        gradients = (of_value, of_slope.sum(1), of_level)
        of_value, slope, level = (each.to(kind) for each, kind in zip(gradients, ctx.types, strict=True))
        return of_value, slope, level, None


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]  # noqa: PLR0917
    value, slopes, levels, means, totals, by_image, by_channel, by_pixel, channels, pixels,
    rectify: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    slope = tl.load(slopes + image * channels + c, mask=c < channels, other=0.0)
    weighted = tl.zeros((CHANNELS, PIXELS), tl.float32)
    total = tl.zeros((CHANNELS, PIXELS), tl.float32)
    rows = value + image * by_image + c.to(tl.int64) * by_channel
    for start in range(0, pixels, PIXELS):
        n = start + tl.arange(0, PIXELS)
        level = tl.load(levels + image * pixels + n, mask=n < pixels, other=0.0) - 0.5
        inside = (c < channels)[:, None] & (n < pixels)[None, :]
        weight = tl.where(inside, tl.exp(slope[:, None] * level[None, :]), 0.0)
        v = tl.load(rows[:, None] + n[None, :] * by_pixel, mask=inside, other=0.0).to(tl.float32)
        if rectify:
            v = tl.where(v <= 0.0, 0.0, v)  # a NaN stays one
        weighted += weight * v
        total += weight
    summed = tl.sum(total, 1)
    tl.store(totals + image * channels + c, summed, mask=c < channels)
    tl.store(means + image * channels + c, tl.sum(weighted, 1) / summed, mask=c < channels)


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]  # noqa: PLR0917
    value, slopes, levels, means, totals, gradients, of_value, of_slope, of_level,
    by_image, by_channel, by_pixel, of_image, of_channel, of_pixel, channels, pixels, blocks,
    rectify: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    image, block = tl.program_id(1).to(tl.int64), tl.program_id(0)
    n = block * PIXELS + tl.arange(0, PIXELS)
    level = tl.load(levels + image * pixels + n, mask=n < pixels, other=0.0) - 0.5
    level_gradient = tl.zeros((PIXELS,), tl.float32)
    for start in range(0, channels, CHANNELS):
        c = start + tl.arange(0, CHANNELS)
        real = c < channels
        row = image * channels + c
        slope = tl.load(slopes + row, mask=real, other=0.0)
        mean = tl.load(means + row, mask=real, other=0.0)
        scale = tl.load(gradients + row, mask=real, other=0.0) / tl.load(totals + row, mask=real, other=1.0)
        inside = real[:, None] & (n < pixels)[None, :]
        wide = c.to(tl.int64)
        place = value + image * by_image + wide[:, None] * by_channel + n[None, :] * by_pixel
        v = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        weight = tl.where(inside, scale[:, None] * tl.exp(slope[:, None] * level[None, :]), 0.0)
        passed = weight
        if rectify:
            passed = tl.where(v <= 0.0, 0.0, weight)
            v = tl.where(v <= 0.0, 0.0, v)
        target = of_value + image * of_image + wide[:, None] * of_channel + n[None, :] * of_pixel
        tl.store(target, passed, mask=inside)
        logit_gradient = weight * (v - mean[:, None])
        level_gradient += tl.sum(logit_gradient * slope[:, None], 0)
        slope_gradient = tl.sum(logit_gradient * level[None, :], 1)
        tl.store(of_slope + (image * blocks + block) * channels + c, slope_gradient, mask=real)
    tl.store(of_level + image * pixels + n, level_gradient, mask=n < pixels)
