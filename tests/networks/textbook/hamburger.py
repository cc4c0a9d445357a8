"""Hamburger as its formulas read, with the pixels' transposes and every product made anew."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.networks.layers import group_norm


def textbook_nmf(x: Tensor, bases: Tensor, steps: int) -> Tensor:
    """x (B, D, N), bases (B, D, R), coefficients (B, N, R): the last update of the coefficients comes alone."""
    coefficients = torch.softmax(torch.einsum("bdn,bdr->bnr", x, bases), dim=2)
    for step in range(steps + 1):
        numerator = torch.einsum("bdn,bdr->bnr", x, bases)
        similarity = torch.einsum("bdr,bds->brs", bases, bases)
        coefficients = coefficients * numerator / (coefficients @ similarity + 1e-6)
        if step < steps:
            numerator = torch.einsum("bdn,bnr->bdr", x, coefficients)
            similarity = torch.einsum("bnr,bns->brs", coefficients, coefficients)
            bases = bases * numerator / (bases @ similarity + 1e-6)
    return torch.einsum("bdr,bnr->bdn", bases, coefficients)


class TextbookHamburger(nn.Module):
    """On (B, C, H, W), with start bases that are given, or else drawn in every call."""

    def __init__(
        self, channels, ham_channels=None, rank=64, train_steps=6, eval_steps=7, *, norm=group_norm
    ) -> None:
        super().__init__()
        hidden = ham_channels or channels
        self.rank, self.train_steps, self.eval_steps = rank, train_steps, eval_steps
        self.ham_in = nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, hidden, 1)))
        self.ham_out = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(hidden, channels, 1, bias=False), gn=norm(channels))
        )

    def forward(self, x: Tensor, bases: Tensor | None = None) -> Tensor:
        hidden = F.relu(self.ham_in(x)).flatten(2)
        if bases is None:
            bases = torch.rand(len(x), hidden.shape[1], self.rank, dtype=x.dtype, device=x.device)
            bases = F.normalize(bases, dim=1)
        steps = self.train_steps if self.training else self.eval_steps
        low_rank = textbook_nmf(hidden, bases, steps).unflatten(2, x.shape[2:])
        return F.relu(x + self.ham_out(low_rank))
