"""A plug-in between two 3x3 convolutions, at a part of the channels.

The DSNet code does so with several of its modules ("Does the Attention Mechanism Act As a Correction
Factor?"); its DSA_V14 is this one with PooledDSM, `value=False`, at a quarter of the channels. Departures:
none in the
function; `spatial_dims` is new.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from dsnet_med.networks.arguments import callables, whole_numbers
from dsnet_med.networks.axes import made_for, require_axes
from dsnet_med.networks.explaining import as_in_eval
from dsnet_med.networks.layers import Norm, conv_norm_relu, group_norm
from dsnet_med.networks.plugins.pooled_dsm import PooledDSM

_DEFAULT = partial(PooledDSM, value=False)


class Squeezed(nn.Module):
    """(B, channels, *spatial) -> the same shape, through `plugin` at channels // ratio: no residual connection.

    `plugin` is called with these channels; `norm` makes the norm behind each convolution. Convolutions, and a
    plug-in that wants to know, are made for `spatial_dims` axes. Raises InputError for maps of another number.
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
        *,
        spatial_dims: int = 2,
    ) -> None:
        whole_numbers("Squeezed", channels=channels, ratio=ratio)
        whole_numbers("Squeezed", at_most=3, spatial_dims=spatial_dims)
        callables("Squeezed", plugin=plugin, norm=norm)
        super().__init__()
        hidden = max(channels // ratio, 1)
        self.spatial_dims = spatial_dims
        self.squeeze = conv_norm_relu(channels, hidden, norm=norm, spatial_dims=spatial_dims)
        self.inner = made_for(plugin, hidden, spatial_dims)
        self.align = conv_norm_relu(hidden, channels, norm=norm, spatial_dims=spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        require_axes("Squeezed", tuple(x.shape), self.spatial_dims)
        aligned: Tensor = self.align(self.inner(self.squeeze(x)))
        return aligned

    @as_in_eval
    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """`added` (B, channels, *spatial), and the maps of the plug-in inside as `inner_...`."""
        maps: dict[str, Tensor] = {"added": self(x) - x}
        of_inner: Callable[[Tensor], dict[str, Tensor]] | None = getattr(self.inner, "explained", None)
        for name, each in of_inner(self.squeeze(x)).items() if of_inner else ():
            maps[f"{name}_inner" if name.startswith("attention") else f"inner_{name}"] = each
        return maps
