"""Channel attention: every channel attends to the channels that are least like it.

Paper: Fu et al. 2019, "Dual Attention Network for Scene Segmentation", https://arxiv.org/abs/1809.02983 (its
channel branch). With x (B, C, N), N pixels,

    out = x + gamma softmax(max(e) - e) x,   e = x x' (B, C, C), maximum and softmax along a row

as the published code has it; the paper's formula lacks the reversal. Lean: a row's maximum drops out of its
softmax; gamma, which starts at 0, scales the (C, C) weights and not a map; as e is symmetric, its gradient
needs one product and not two. Departures: any number of spatial axes.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dsnet_med.networks.arguments import whole_numbers
from dsnet_med.networks.layers import becomes_a_graph, widened, without_autocast


class ChannelAttention(nn.Module):
    """(B, channels, *spatial) -> the same shape, with one parameter, whatever the number of channels."""

    reference_names: ClassVar[tuple[tuple[str, str], ...]] = ((r"gamma", "gamma.scale"),)

    def __init__(self, channels: int) -> None:
        whole_numbers("ChannelAttention", channels=channels)
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)  # (B, C, N)
        return torch.baddbmm(pixels, self._weights(pixels), pixels).reshape(x.shape)

    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """`added` (B, channels, *spatial), and `attention` (B, channels, channels) over the channels."""
        pixels = x.flatten(2)
        with without_autocast(x):
            attention = _attention(pixels)
        added = (self._weights(pixels) @ pixels).reshape(x.shape)
        return {"added": added, "attention": attention}

    def _weights(self, pixels: Tensor) -> Tensor:
        with without_autocast(pixels):
            return (self.gamma * _attention(pixels)).to(pixels.dtype)


def _attention(pixels: Tensor) -> Tensor:
    return (-_gram(pixels)).softmax(2)


def _gram(x: Tensor) -> Tensor:
    """x x', (B, C, N) -> (B, C, C), in single precision at least."""
    if becomes_a_graph() or not torch.is_grad_enabled():
        return _product(x)
    product: Tensor = _Gram.apply(x)
    return product


def _product(x: Tensor) -> Tensor:
    wide = widened(x)
    return wide @ wide.mT


class _Gram(torch.autograd.Function):
    """x x' with the gradient (g + g') x, which autograd would compute as g x + g' x."""

    generate_vmap_rule = True  # for torch.func

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _product(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        return ((gradients[0] + gradients[0].mT) @ widened(x)).to(x.dtype)
