"""A whole network of another library, as a row names it: its width, its sizes and its deep supervision."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dsnet_med.errors import InputError, one_line
from dsnet_med.networks.arguments import callables, shares, whole_numbers
from dsnet_med.networks.layers import becomes_a_graph, refuse_script


class LibraryNetwork(nn.Module):
    """Images (B, C, *spatial) -> logits (B, K, *spatial), by a network made elsewhere, such as MONAI's DynUNet.

    `network` makes it from the arguments that `features` names: numbers of channels, or lists of such, which
    `width` multiplies. They stay multiples of `features_multiple`, for groups of channels and attention heads;
    every side of an image is a multiple of `stride`, as the network halves it and joins what it enlarges again.

    Under MONAI's deep supervision (`network.deep_supervision`) training gives a tuple: the logits, then those
    of the coarser levels, finest first, each at its level's own size.

    Raises InputError for arguments that the network does not take; `forward`, outside of graphs, for images of
    another size, or whose coarsest map has one value, of which there is no variance.
    """

    __prepare_scriptable__ = refuse_script

    def __init__(
        self,
        network: Callable[..., nn.Module],
        features: Mapping[str, int | Sequence[int]],
        *,
        width: float = 1.0,
        features_multiple: int = 1,
        stride: int = 1,
    ) -> None:
        callables("the network", network=network)
        shares("the network", at_most=100, width=width)
        whole_numbers("the network", features_multiple=features_multiple, stride=stride)
        super().__init__()
        scaled = {name: _scaled(name, value, width, features_multiple) for name, value in features.items()}
        try:
            self.network = network(**scaled)
        except (AssertionError, IndexError, TypeError, ValueError) as error:
            title = getattr(getattr(network, "func", network), "__name__", "the network")
            raise InputError(f"{title} cannot be made of these settings: {one_line(str(error))}") from error
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        if becomes_a_graph():  # which must not carry the checks
            return self._logits(images)
        self._check(images)
        try:
            return self._logits(images)
        except ValueError as error:
            if "more than 1" not in str(error):
                raise
            raise InputError(
                f"a norm sees one value per channel of images of shape {tuple(images.shape)}: use larger ones, "
                f"in one axis at least {2 * self.stride}"
            ) from error

    def _logits(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        network: Any = self.network
        supervised = self.training and getattr(network, "deep_supervision", False)
        self._supervise(supervised)
        if not supervised:
            logits: Tensor = network(images)
            return logits
        main = network.output_block(network.skip_layers(images))
        coarser = tuple(network.heads)
        network.heads[:] = [torch.empty(0)] * len(coarser)  # no graph stays behind: copies and pickles work
        return (main, *coarser)

    def train(self, mode: bool = True) -> "LibraryNetwork":
        """As every module's."""
        super().train(mode)
        self._supervise(mode and getattr(self.network, "deep_supervision", False))
        return self

    def _supervise(self, supervised: bool) -> None:
        """MONAI's levels compute their coarser logits where they have a list to put them into, in eval, too."""
        network: Any = self.network
        for layer in network.modules() if getattr(network, "deep_supervision", False) else ():
            if hasattr(layer, "super_head") and (layer.heads is None) == supervised:
                layer.heads = network.heads if supervised else None

    def _check(self, images: Tensor) -> None:
        size, multiple = images.shape[2:], self.stride
        if any(each % multiple for each in size):
            wanted = [-(-each // multiple) * multiple for each in size]
            raise InputError(
                f"the network got images of {'x'.join(map(str, size))} and wants sides that are multiples of "
                f"{multiple}: set size={wanted}"
            )


def _scaled(name: str, value: Any, width: float, multiple: int) -> Any:
    """Numbers of channels times the width multiplier, rounded to multiples, at least one."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_scaled(name, each, width, multiple) for each in value]
    whole_numbers("the network", **{name: value})
    return value if width == 1 else max(round(value * width / multiple), 1) * multiple
