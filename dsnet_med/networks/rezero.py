"""A plug-in that starts as the identity, for networks that are already trained.

The learned factor is that of ReZero (Bachlechner et al. 2020, https://arxiv.org/abs/2003.04887) and of the
gamma in DANet's attention.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from dsnet_med.networks.explaining import correction


class ReZero(nn.Module):
    """x + alpha (plugin(x) - x) with one learned alpha that starts at 0: (B, C, *spatial) -> the same shape.

    At the first step only alpha has a gradient; once it has moved, the plug-in has one too.
    """

    __jit_unused_properties__: ClassVar = ["explained"]

    def __init__(self, plugin: nn.Module) -> None:
        super().__init__()
        self.plugin = plugin
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.plugin(x)
        return x + self.alpha * (result - x)

    @property
    def explained(self) -> Callable[[Tensor], dict[str, Tensor]]:
        """As of every plug-in: `gate` and `added` of the plug-in inside under alpha, and its other maps.

        There is no such attribute where that plug-in has none.
        """
        return partial(self._explained, self.plugin.explained)  # type: ignore[arg-type]

    def _explained(self, of_plugin: Callable[[Tensor], dict[str, Tensor]], x: Tensor) -> dict[str, Tensor]:
        maps = of_plugin(x)
        named = {name.partition("_")[0] for name in maps}
        gate, added = correction(maps, x)
        found = {name: each for name, each in maps.items() if name.partition("_")[0] not in ("gate", "added")}
        if "gate" in named:
            found["gate"] = _flat(1 + self.alpha * (gate - 1))
        if "added" in named:
            found["added"] = _flat(self.alpha * added)
        return found


def _flat(values: Tensor) -> Tensor:
    """(B, C, 1, ...) as (B, C); others as they are."""
    return values.flatten(1) if values[0, 0].numel() == 1 else values
