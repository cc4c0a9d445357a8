"""Context encoding, as a plug-in.

Paper: Zhang et al. 2018 (EncNet), https://arxiv.org/abs/1803.08904, in MMSegmentation's form, without the
semantic loss.

With x (B, C, N) projected, codewords c_k and scales s_k, pixels are assigned softly,
a = softmax_k(s_k |x - c_k|^2), and the residuals summed, e_k = sum_n a_nk (x_n - c_k). Both are matrix products
here, |x|^2 - 2 x'c + |c|^2 and x a - (sum a) c, so that nothing of size (B, N, K, C) is built. Departures: none
in the function; any number of spatial axes is taken.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.errors import InputError


class Encoding(nn.Module):
    """(B, channels, *spatial) -> the same shape: relu(x + x gate), a gate per channel from the encoded image.

    `num_codes` is the number of codewords. Raises InputError in training for a single pixel in all, of which
    the batch norm has no variance.
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
        super().__init__()
        self.project = nn.Linear(channels, channels, bias=False)
        nn.init.kaiming_normal_(self.project.weight, mode="fan_out", nonlinearity="relu")
        self.project_norm = nn.BatchNorm1d(channels)
        bound = 1 / math.sqrt(num_codes * channels)
        self.codewords = nn.Parameter(torch.empty(num_codes, channels).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.empty(num_codes).uniform_(-1, 0))
        self.code_norm = nn.BatchNorm1d(num_codes)
        self.gate = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        encoded = self.encode(x)
        gate = torch.sigmoid(self.gate(encoded)).unflatten(1, (-1, *[1] * (x.ndim - 2)))
        return F.relu(x + x * gate)

    def encode(self, x: Tensor) -> Tensor:
        """The image's description, (B, channels, *spatial) -> (B, channels)."""
        if self.training and x.numel() == x.shape[1]:
            raise InputError("Encoding got one pixel in training, where its batch norm needs at least two")
        pixels = F.conv1d(x.flatten(2), self.project.weight.unsqueeze(2))
        pixels = F.relu(self.project_norm(pixels))  # (B, C, N)
        weights = self._assign(pixels)  # (B, K, N)
        residuals = weights @ pixels.mT - weights.sum(2, keepdim=True) * self.codewords  # (B, K, C)
        mean: Tensor = F.relu(self.code_norm(residuals)).mean(1)
        return mean

    def _assign(self, pixels: Tensor) -> Tensor:
        squares = pixels.square().sum(1, keepdim=True)  # (B, 1, N)
        lengths = self.codewords.square().sum(1).unsqueeze(1)  # (K, 1)
        distances = squares - 2 * self.codewords @ pixels + lengths  # (B, K, N)
        return (self.scale.unsqueeze(1) * distances).softmax(1)
