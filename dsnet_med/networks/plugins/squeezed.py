"""A plug-in between two 3x3 convolutions, at a part of the channels.

The DSNet code does so with several of its modules ("Does the Attention Mechanism Act As a Correction
Factor?"); its DSA_V14 is this one with PooledDSM, `value=False`, at a quarter of the channels. Departures:
none.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from dsnet_med.errors import InputError
from dsnet_med.networks.arguments import callables, whole_numbers
from dsnet_med.networks.layers import Norm, conv_norm_relu, group_norm
from dsnet_med.networks.plugins.pooled_dsm import PooledDSM

_DEFAULT = partial(PooledDSM, value=False)


class Squeezed(nn.Module):
    """(B, channels, H, W) -> the same shape, through `plugin` at channels // ratio: no residual connection.

    `plugin` is called with these channels; `norm` makes the norm behind each convolution. Raises InputError
    for maps that are not 2-D.
    """

    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"(squeeze|align)\.norm", r"\1.gn"),
        (r"inner", "attn"),
    )

    def __init__(
        self,
        channels: int,
        plugin: Callable[[int], nn.Module] = _DEFAULT,
        ratio: int = 4,
        norm: Norm = group_norm,
    ) -> None:
        whole_numbers("Squeezed", channels=channels, ratio=ratio)
        callables("Squeezed", plugin=plugin, norm=norm)
        super().__init__()
        hidden = max(channels // ratio, 1)
        self.squeeze = conv_norm_relu(channels, hidden, norm=norm)
        self.inner = plugin(hidden)
        self.align = conv_norm_relu(hidden, channels, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise InputError(f"Squeezed got a map of shape {tuple(x.shape)} and wants (batch, channels, H, W)")
        aligned: Tensor = self.align(self.inner(self.squeeze(x)))
        return aligned
