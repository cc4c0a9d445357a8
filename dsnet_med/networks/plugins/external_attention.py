"""External attention: pixels attend to a small learned memory that all images share.

Paper: Guo et al. 2021, "Beyond Self-Attention: External Attention Using Two Linear Layers",
https://arxiv.org/abs/2105.02358, in the form of the DSNet code. With x (B, C, N), N pixels and K memory units,

    q = W_q x,   a = softmax_N(M_1 q),   out = q + W_p (M_2 (a / (sum_K a + eps)))

Lean: the two maps after the attention are one, (W_p M_2), so no second map of size (B, C, N) is built. The bias
of q shifts a memory unit's logits equally at all pixels, which the softmax drops; it still counts in q itself.

Departure from the published code, which reads the (B, C, H, W) memory as (B, N, C) without a transposition, so
that a "pixel" there is C neighbouring values of one channel or two: ours attends over pixels.
`reference_layout=True` is the published code.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.networks.arguments import flags, whole_numbers
from dsnet_med.networks.explaining import on_grid
from dsnet_med.networks.layers import project, widened

_EPS = 1e-9


class ExternalAttention(nn.Module):
    """(B, channels, *spatial) -> the same shape.

    `memory` is the number of memory units K; `reference_layout` reads the map as the published code does.
    """

    reference_name_in_head: ClassVar[str] = "ea_block"
    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"query", "q_linear"),
        (r"keys", "linear_1"),
        (r"values", "linear_2"),
        (r"project", "proj"),
    )

    def __init__(self, channels: int, memory: int = 128, reference_layout: bool = False) -> None:
        whole_numbers("ExternalAttention", channels=channels, memory=memory)
        flags("ExternalAttention", reference_layout=reference_layout)
        super().__init__()
        self.reference_layout = reference_layout
        self.query = nn.Linear(channels, channels)
        self.keys = nn.Linear(channels, memory, bias=False)
        self.values = nn.Linear(memory, channels)
        self.project = nn.Linear(channels, channels)
        with torch.no_grad():  # both memories start equal, and learn apart
            self.values.weight.copy_(self.keys.weight.mT)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)  # (B, C, N)
        if self.reference_layout:
            tokens = pixels.reshape(pixels.shape[0], pixels.shape[2], pixels.shape[1])  # as the memory lies
            return self._attend(tokens, F.linear, channels_axis=2).reshape(x.shape)
        return self._attend(pixels, project, channels_axis=1).reshape(x.shape)

    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """`added` (B, channels, *spatial) and, without `reference_layout`, `attention` (B, memory, *spatial):
        each memory unit's weights over the pixels, before the units of a pixel are made to sum to 1.
        """
        maps = {"added": self(x) - x}
        if not self.reference_layout:
            query = project(x.flatten(2), self.query.weight, self.query.bias)
            maps["attention"] = self._attention(query, project, channels_axis=1)
        return on_grid(maps, x)

    def _attend(self, x: Tensor, linear: Callable[..., Tensor], channels_axis: int) -> Tensor:
        query = linear(x, self.query.weight, self.query.bias)
        attention = self._attention(query, linear, channels_axis)
        attention = (attention / (attention.sum(channels_axis, keepdim=True) + _EPS)).to(query.dtype)
        weight = self.project.weight @ self.values.weight  # (C, K)
        return query + linear(attention, weight, self.project(self.values.bias))

    def _attention(self, query: Tensor, linear: Callable[..., Tensor], channels_axis: int) -> Tensor:
        return widened(linear(query, self.keys.weight)).softmax(3 - channels_axis)
