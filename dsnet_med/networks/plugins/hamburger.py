"""Hamburger: global context as a low-rank part, by non-negative matrix factorisation (NMF).

Paper: Geng et al. 2021, "Is Attention Better Than Matrix Decomposition?", https://arxiv.org/abs/2109.04553,
with the NMF "ham" (one group, inverse temperature 1) as HamNet and SegNeXt use it.

With x >= 0 (B, D, N), D channels, N pixels and R bases, start from bases b (B, D, R) and the coefficients
c = softmax_R(b' x) (B, R, N), then repeat `steps` times

    c <- c (b' x) / (b' b c + eps),   b <- b (x c') / (b c c' + eps)

(products and quotients outside the matrix products are per element), update c once more and return b c. The
gradient flows through all steps. All are taken in single precision at least: the sums over the pixels are
beyond half precision. Lean: the coefficients lie as the pixels do, so nothing of size (B, D, N) is
transposed, and the product b' x of the start serves the first step too.

Departure from the published code, which draws the start bases anew in every call: in eval they are fixed, so
predictions are deterministic and do not depend on the rest of the batch.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.errors import InputError
from dsnet_med.networks.arguments import callables, whole_numbers
from dsnet_med.networks.explaining import as_in_eval
from dsnet_med.networks.layers import Norm, group_norm, kaiming, project, widened, without_autocast


class Hamburger(nn.Module):
    """(B, channels, *spatial) -> the same shape: relu(x + norm(W_out nmf(relu(W_in x)))).

    `ham_channels` (default: `channels`) is the width inside, `rank` the number of bases; `norm` makes the norm
    of a number of channels. Training draws new start bases in every call. In eval they are `bases`
    (1 or B, ham_channels, rank), seeded at construction; assign other ones, or give them to `forward`.

    `bases` is no part of the state dict: after `to_empty` (a network built on the meta device), call
    `reset_parameters`. Raises InputError for bases of another shape.
    """

    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"reduce", "ham_in.conv"),
        (r"expand", "ham_out.conv"),
        (r"norm", "ham_out.gn"),
    )
    bases: Tensor

    def __init__(
        self,
        channels: int,
        ham_channels: int | None = None,
        rank: int = 64,
        train_steps: int = 6,
        eval_steps: int = 7,
        *,
        norm: Norm = group_norm,
    ) -> None:
        whole_numbers("Hamburger", channels=channels, rank=rank)
        whole_numbers("Hamburger", at_least=0, train_steps=train_steps, eval_steps=eval_steps)
        hidden = channels if ham_channels is None else ham_channels
        whole_numbers("Hamburger", ham_channels=hidden)
        callables("Hamburger", norm=norm)
        super().__init__()
        self.rank, self.train_steps, self.eval_steps = rank, train_steps, eval_steps
        self.reduce = kaiming(nn.Linear(channels, hidden), "fan_out")
        self.expand = kaiming(nn.Linear(hidden, channels, bias=False), "fan_out")
        self.norm = norm(channels)
        self.register_buffer("bases", None, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the start bases of eval again: the same ones every time, on the device of real weights."""
        device = self.reduce.weight.device
        bases = _seeded_bases(self.reduce.out_features, self.rank)
        self.bases = bases if device.type == "meta" else bases.to(self.reduce.weight)

    def forward(self, x: Tensor, bases: Tensor | None = None) -> Tensor:
        """`bases` (1 or B, ham_channels, rank): the start, instead of the one that the mode says."""
        return F.relu(x + self._context(x, bases), inplace=True)

    @as_in_eval
    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """`added` (B, channels, *spatial): the low-rank context, as far as the ReLU lets it below -x."""
        return {"added": torch.maximum(self._context(x, None), -x)}

    def _context(self, x: Tensor, bases: Tensor | None) -> Tensor:
        pixels = F.relu(project(x.flatten(2), self.reduce.weight, self.reduce.bias), inplace=True)  # (B, D, N)
        steps = self.train_steps if self.training else self.eval_steps
        with without_autocast(x):
            wide = widened(pixels)
            low_rank = nmf(wide, self._start(wide, bases), steps).to(pixels.dtype)
        context: Tensor = self.norm(project(low_rank, self.expand.weight).reshape(x.shape))
        return context

    def _start(self, pixels: Tensor, bases: Tensor | None) -> Tensor:
        batch, channels, _ = pixels.shape  # not len(pixels), which an export takes for a constant
        size = (channels, self.rank)
        if bases is None and self.training:
            return F.normalize(torch.rand(batch, *size, dtype=pixels.dtype, device=pixels.device), dim=1)
        start = self.bases if bases is None else bases
        if start.shape[1:] != size or start.shape[0] not in (1, batch):
            wanted = f"(1, {channels}, {self.rank}) or one such matrix for each of the {batch} samples"
            raise InputError(f"Hamburger got bases of shape {tuple(start.shape)}, and wants {wanted}")
        return start.to(pixels).expand(batch, -1, -1)


def nmf(x: Tensor, bases: Tensor, steps: int, eps: float = 1e-6) -> Tensor:
    """The low-rank part of x >= 0, (B, D, N) -> (B, D, N), after `steps` updates of the `bases` (B, D, R)."""
    numerator = bases.mT @ x  # (B, R, N)
    coefficients = numerator.softmax(1)
    for _ in range(steps):
        coefficients = coefficients * numerator / (bases.mT @ bases @ coefficients + eps)
        gram = coefficients @ coefficients.mT  # (B, R, R)
        bases = bases * (x @ coefficients.mT) / (bases @ gram + eps)
        numerator = bases.mT @ x
    coefficients = coefficients * numerator / (bases.mT @ bases @ coefficients + eps)
    return bases @ coefficients


def _seeded_bases(channels: int, rank: int) -> Tensor:
    """Uniform in (0, 1), each of length 1, (1, channels, rank); made on the CPU whatever the default device."""
    generator = torch.Generator("cpu").manual_seed(0)
    return F.normalize(torch.rand(1, channels, rank, generator=generator, device="cpu"), dim=1)
