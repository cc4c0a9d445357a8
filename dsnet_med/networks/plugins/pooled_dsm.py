"""DSM with pooled branches: the later form in the DSNet code, with cheaper attentions.

Paper: "Does the Attention Mechanism Act As a Correction Factor?" (DSNet); there the classes DSA_V7 and
DSA_V13. The channel attention is that of squeeze-and-excitation (Hu et al. 2018,
https://arxiv.org/abs/1709.01507), from the mean over the pixels; the spatial one, as in CBAM (Woo et al.
2018, https://arxiv.org/abs/1807.06521), a 7x7 convolution of the mean over the channels; both end in a hard
sigmoid. Selective kernel and softmax are DSM's, and

    out = x + W_2 relu(norm(W_1 sum_n softmax_n(m) v_n)),   v = relu(W x), or x itself

with K = C // ratio channels between W_1 and W_2. Lean as DSM is: only the part of m that differs between
pixels counts, and no map of rank one is built. Departures: any number of spatial axes; norms inside the
branches are left out.
"""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.errors import InputError
from dsnet_med.networks.arguments import flags, one_of, whole_numbers
from dsnet_med.networks.axes import CONVOLUTIONS, require_axes
from dsnet_med.networks.explaining import as_in_eval, on_grid
from dsnet_med.networks.layers import hard_sigmoid, per_channel, project
from dsnet_med.networks.plugins.dsm import NORMS, SelectiveKernel
from dsnet_med.networks.softmax_mean import softmax_mean


class PooledDSM(nn.Module):
    """(B, channels, *spatial) -> the same shape.

    `ratio` divides the channels inside; `value=False` aggregates x itself (DSA_V13) and not a projection of it
    (DSA_V7); `norm` is that of the selective kernel, "batch" or "group"; the spatial attention is made for
    `spatial_dims` axes.

    Raises InputError for an unknown norm, other than one to three axes, in `forward` for a map of other than
    `spatial_dims` axes, and in training for a batch of one under batch norm.
    """

    reference_name: ClassVar[str] = "dsa"
    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"reduce", "ch_attn.1.conv"),
        (r"expand", "ch_attn.2.conv"),
        (r"spatial", "sp_attn.0.conv"),
        (r"mix\.reduce", "sk.fc_reduce"),
        (r"mix\.norm", "sk.bn"),
        (r"mix\.expand", "sk.fc_select"),
        (r"value", "resConv.conv"),
        (r"transform", "conv_out"),
    )

    def __init__(
        self,
        channels: int,
        ratio: int = 1,
        value: bool = True,
        norm: str = "batch",
        *,
        spatial_dims: int = 2,
    ) -> None:
        whole_numbers("PooledDSM", channels=channels, ratio=ratio, spatial_dims=spatial_dims)
        flags("PooledDSM", value=value)
        one_of("DSM norm", norm, NORMS)
        super().__init__()
        hidden = max(channels // ratio, 1)
        self.spatial_dims = spatial_dims
        self.reduce = nn.Linear(channels, hidden)
        self.expand = nn.Linear(hidden, channels)
        self.spatial = _smoothing(spatial_dims)
        self.mix = SelectiveKernel(channels, hidden, norm)
        self.value = nn.Linear(channels, channels) if value else None
        self.transform = nn.Sequential(
            nn.Linear(channels, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)  # (B, C, N)
        added = self._added(pixels, *self._branches(x, pixels))
        return (pixels + per_channel(added, pixels)).reshape(x.shape)

    @as_in_eval
    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """`added`, `attention` and the others of DSM's fusion dsa, but for the pooling, which is a mean."""
        pixels = x.flatten(2)
        channel, spatial = self._branches(x, pixels)
        added = self._added(pixels, channel, spatial)
        maps = {"added": added, "channel": channel, "spatial": spatial}
        return on_grid(maps | self.mix.explained(channel, spatial), x)

    def _branches(self, x: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The channel attention (B, C) and the spatial one (B, 1, N)."""
        require_axes("PooledDSM", tuple(x.shape), self.spatial_dims)
        channel = hard_sigmoid(self.expand(F.relu(self.reduce(pixels.mean(2)))))  # (B, C)
        spatial = hard_sigmoid(self.spatial(x.mean(1, keepdim=True))).flatten(2)  # (B, 1, N)
        return channel, spatial

    def _added(self, pixels: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
        slope: Tensor = self.mix(channel, spatial)[0]  # softmax drops the offset: it is one for all pixels
        projected = project(pixels, self.value.weight, self.value.bias) if self.value else pixels
        context = softmax_mean(projected, slope, spatial.squeeze(1), rectify=self.value is not None)
        added: Tensor = self.transform(context)  # (B, C)
        return added


def _smoothing(dims: int) -> nn.Module:
    if dims not in CONVOLUTIONS:
        raise InputError(f"PooledDSM got spatial_dims={dims} and wants 1, 2 or 3")
    return CONVOLUTIONS[dims](1, 1, 7, padding=3)
