"""What the `explained` of plug-ins have in common: shapes, mode, queries to show, and what maps make of x."""

from collections.abc import Callable, Mapping
from functools import wraps
from math import prod
from typing import TypeVar

import torch
from torch import Tensor, nn

from dsnet_med.networks.layers import per_channel

Plugin = TypeVar("Plugin", bound=nn.Module)
Maps = dict[str, Tensor]
_QUERIES = 64  # of a plug-in that has one for every place


def as_in_eval(explained: Callable[[Plugin, Tensor], Maps]) -> Callable[[Plugin, Tensor], Maps]:
    """An `explained` that runs in eval, where no statistics move and nothing is drawn; the mode comes back."""

    @wraps(explained)
    def in_eval(plugin: Plugin, x: Tensor) -> Maps:
        modes = [(module, module.training) for module in plugin.modules()]
        plugin.eval()
        try:
            return explained(plugin, x)
        finally:
            for module, training in modes:
                module.training = training

    return in_eval


def on_grid(maps: Mapping[str, Tensor], x: Tensor) -> Maps:
    """Maps over N pixels, (B, K, N), as (B, K, *spatial), those of x (B, C, *spatial); others as they are."""
    return {
        name: each.reshape(*each.shape[:2], *x.shape[2:]) if each.ndim == 3 else each
        for name, each in maps.items()
    }


def correction(maps: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """What the maps of an `explained` say of x (B, C, *spatial): the output is gate * x + added.

    The gate is the product of all that are named `gate` or `gate_<word>`, the other the sum of all that are
    named `added` or `added_<word>`, in shapes that broadcast with x; without any, 1 and 0.
    """
    gate, added = x.new_ones([1] * x.ndim), x.new_zeros([1] * x.ndim)
    for name, each in maps.items():
        values = per_channel(each, x) if each.ndim == 2 else each
        match name.partition("_")[0]:
            case "gate":
                gate = gate * values
            case "added":
                added = added + values
    return gate, added


def spread_places(shape: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """Up to 64 places of a map spread evenly over it, in the order of its axes: (Q, axes), whole numbers.

    Along an axis of n places it is the middles of as many equal parts as the 64 leave for each axis.
    """
    most = round(_QUERIES ** (1 / len(shape)))
    along = [
        torch.tensor([(2 * part + 1) * size // (2 * parts) for part in range(parts)], device=device)
        for size, parts in ((size, min(size, most)) for size in shape)
    ]
    return torch.cartesian_prod(*along).reshape(prod(map(len, along)), len(shape))
