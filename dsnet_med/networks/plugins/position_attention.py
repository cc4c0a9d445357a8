"""Position attention: every pixel attends to every other one.

Paper: Fu et al. 2019, "Dual Attention Network for Scene Segmentation", https://arxiv.org/abs/1809.02983 (its
position branch); a non-local block, https://arxiv.org/abs/1711.07971. With x (B, C, N), N pixels,

    out = x + gamma sum_j softmax_j(q_i . k_j) v_j

Lean: on the CPU the queries come in slices whose attention is made again for the backward pass, so no map of
size (B, N, N) is built; elsewhere, and in compiled or exported graphs, PyTorch's fused attention decides. The
scale gamma, which starts at 0, is that of the values' weights and not of a map. Departures: any number of
spatial axes.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.networks.arguments import whole_numbers
from dsnet_med.networks.explaining import on_grid, spread_places
from dsnet_med.networks.layers import becomes_a_graph, project, widened, without_autocast

_QUERIES = 512  # in a slice: few enough for the cache, and enough for the matrix products


class PositionAttention(nn.Module):
    """(B, channels, *spatial) -> the same shape; `hidden` (default: channels // 8) is the width of q and k."""

    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"query", "query_project"),
        (r"key", "key_project"),
        (r"value", "value_project"),
        (r"gamma", "gamma.scale"),
    )

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        whole_numbers("PositionAttention", channels=channels)
        hidden = max(channels // 8, 1) if hidden is None else hidden
        whole_numbers("PositionAttention", hidden=hidden)
        super().__init__()
        self.query = nn.Linear(channels, hidden)
        self.key = nn.Linear(channels, hidden)
        self.value = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self._added(x)

    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """`added` (B, channels, *spatial), and the `attention` (B, Q, *spatial) of up to 64 pixels, which are
        those of `spread_places`.
        """
        query, key = self._query_and_key(x.flatten(2))
        places = torch.zeros(x.shape[2:], dtype=torch.bool, device=x.device)
        places[spread_places(tuple(x.shape[2:]), x.device).unbind(1)] = True
        attention = _weights(query[:, :, places.flatten()], key)
        return {"added": self._added(x)} | on_grid({"attention": attention}, x)

    def _query_and_key(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        query = project(pixels, self.query.weight, self.query.bias)
        return query, project(pixels, self.key.weight, self.key.bias)

    def _added(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)  # (B, C, N)
        query, key = self._query_and_key(pixels)
        value = project(pixels, self.gamma * self.value.weight, self.gamma * self.value.bias)
        sliced = x.device.type == "cpu" and not becomes_a_graph()
        attend = _attend_in_slices if sliced else _attend_fused
        return attend(query, key, value).reshape(x.shape)


def _attend_fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = (part.mT.unsqueeze(1) for part in (query, key, value))  # (B, 1, N, channels)
    return F.scaled_dot_product_attention(query, key, value, scale=1.0).squeeze(1).mT


def _attend_in_slices(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    slices = query.split(_QUERIES, dim=2)
    return torch.cat([_forgetful(part, key, value) for part in slices], dim=2)


def _forgetful(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`_attend`, which keeps nothing but its arguments for the backward pass."""
    if not torch.is_grad_enabled():
        return _attend(query, key, value)
    output: Tensor = _Attend.apply(query, key, value)
    return output


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(B, K, n), (B, K, N), (B, C, N) -> (B, C, n): the values, averaged for each query."""
    return value @ _weights(query, key).to(value.dtype).mT


def _weights(query: Tensor, key: Tensor) -> Tensor:
    """(B, K, n), (B, K, N) -> (B, n, N), from products that half precision cannot hold."""
    with without_autocast(query):
        return (widened(query).mT @ widened(key)).softmax(2)


class _Attend(torch.autograd.Function):
    """`_attend`, whose weights are made again for the backward pass."""

    generate_vmap_rule = True  # for torch.func

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return _attend(query, key, value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.precision = output.dtype  # the lower one under autocast

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gradient = gradients[0]  # (B, C, n)
        query, key, value = (each.to(ctx.precision) for each in ctx.saved_tensors)
        weights = _weights(query, key).to(ctx.precision)  # (B, n, N)
        of_weights = gradient.mT @ value
        of_logits = weights * (of_weights - (weights * of_weights).sum(2, keepdim=True))
        found = key @ of_logits.mT, query @ of_logits, gradient @ weights
        of_query, of_key, of_value = (
            each.to(saved.dtype) for each, saved in zip(found, ctx.saved_tensors, strict=True)
        )
        return of_query, of_key, of_value
