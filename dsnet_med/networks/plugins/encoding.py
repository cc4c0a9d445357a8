"""Context encoding, as a plug-in.

Paper: Zhang et al. 2018 (EncNet), https://arxiv.org/abs/1803.08904, in MMSegmentation's form, without the
semantic loss.

With x (B, C, N) projected, codewords c_k and scales s_k, pixels are assigned softly,
a = softmax_k(s_k |x - c_k|^2), and the residuals summed, e_k = sum_n a_nk (x_n - c_k). Both are matrix products
here, |x|^2 - 2 x'c + |c|^2 and x a - (sum a) c, so that nothing of size (B, N, K, C) is built. As these
differences cancel, they are taken in single precision at least, also under autocast. Departures: none in the
function; any number of spatial axes is taken.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.errors import InputError
from dsnet_med.networks.arguments import whole_numbers
from dsnet_med.networks.explaining import as_in_eval
from dsnet_med.networks.layers import (
    kaiming,
    per_channel,
    project,
    weighted_sums,
    widened,
    without_autocast,
)


class Encoding(nn.Module):
    """(B, channels, *spatial) -> the same shape: relu(x + x gate), a gate per channel from the encoded image.

    `num_codes` is the number of codewords. Raises InputError in training for a single pixel in all, or a single
    image of a single channel: the batch norms have no variance then.
    """

    reference_name: ClassVar[str] = "enc_module"
    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"project", "encoding_project.conv"),
        (r"project_norm", "encoding_project.bn"),
        (r"(codewords|scale)", r"encoding.0.\1"),
        (r"code_norm", "encoding.1"),
        (r"gate", "fc.0"),
    )

    def __init__(self, channels: int, num_codes: int = 32) -> None:
        whole_numbers("Encoding", channels=channels, num_codes=num_codes)
        super().__init__()
        self.project = kaiming(nn.Linear(channels, channels, bias=False), "fan_out")
        self.project_norm = nn.BatchNorm1d(channels)
        bound = 1 / math.sqrt(num_codes * channels)
        self.codewords = nn.Parameter(torch.empty(num_codes, channels).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.empty(num_codes).uniform_(-1, 0))
        self.code_norm = nn.BatchNorm1d(num_codes)
        self.gate = nn.Linear(channels, channels)

    def forward(self, x: Tensor, encoded: Tensor | None = None) -> Tensor:
        """`encoded` (B, channels): the image's description, where it is known already."""
        return self.emphasize(x, self.encode(x) if encoded is None else encoded)

    @as_in_eval
    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """`gate_channel` (B, channels) in (1, 2), and the ReLU, `gate_rectifier` (B, channels, *spatial)."""
        return {"gate_channel": 1 + self._gate(self.encode(x)), "gate_rectifier": (x >= 0).to(x.dtype)}

    def emphasize(self, x: Tensor, encoded: Tensor) -> Tensor:
        """The map under the gate that an image's description (B, channels) gives: the shape of x."""
        return F.relu(x * (1 + per_channel(self._gate(encoded), x)))

    def _gate(self, encoded: Tensor) -> Tensor:
        return torch.sigmoid(self.gate(encoded))

    def encode(self, x: Tensor) -> Tensor:
        """The image's description, (B, channels, *spatial) -> (B, channels)."""
        if self.training and min(x.numel() // x.shape[1], len(x) * x.shape[1]) < 2:
            raise InputError(
                f"Encoding got a map of shape {tuple(x.shape)} in training, where its batch norms need two "
                "pixels, and two channels or images: use a larger map or batch"
            )
        pixels = project(x.flatten(2), self.project.weight)
        pixels = F.relu(self.project_norm(pixels))  # (B, C, N)
        with without_autocast(pixels):  # sums over the pixels, which half precision cannot hold
            residuals = self._residuals(widened(pixels)).to(self.codewords.dtype)
            mean: Tensor = F.relu(self.code_norm(residuals)).mean(1)
        return mean

    def _residuals(self, pixels: Tensor) -> Tensor:
        """What the codewords leave over of their pixels, (B, C, N) -> (B, K, C)."""
        codewords, scale = self.codewords.to(pixels.dtype), self.scale.to(pixels.dtype).unsqueeze(1)
        squares = pixels.square().sum(1, keepdim=True)  # (B, 1, N)
        lengths = codewords.square().sum(1).unsqueeze(1)  # (K, 1)
        # A convolution, as a product of (K, C) and (B, C, N) would copy the pixels.
        distances = squares + project(pixels, -2 * codewords) + lengths  # (B, K, N)
        weights = (scale * distances).softmax(1)
        return weighted_sums(pixels, weights) - weights.sum(2, keepdim=True) * codewords
