"""A plug-in that starts as the identity, for networks that are already trained.

The learned factor is that of ReZero (Bachlechner et al. 2020, https://arxiv.org/abs/2003.04887) and of the
gamma in DANet's attention.
"""

import torch
from torch import Tensor, nn


class ReZero(nn.Module):
    """x + alpha (plugin(x) - x) with one learned alpha that starts at 0: (B, C, *spatial) -> the same shape.

    At the first step only alpha has a gradient; once it has moved, the plug-in has one too.
    """

    def __init__(self, plugin: nn.Module) -> None:
        super().__init__()
        self.plugin = plugin
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.plugin(x)
        return x + self.alpha * (result - x)
