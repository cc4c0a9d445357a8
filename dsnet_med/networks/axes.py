"""Plug-ins for maps of as many spatial axes as there are: told to those that ask."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from dsnet_med.errors import InputError

CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def made_for(factory: Callable[..., nn.Module], channels: int, spatial_dims: int) -> nn.Module:
    """The plug-in for maps (B, channels, *spatial) of that many spatial axes.

    `factory(channels, spatial_dims=...)` where it takes `spatial_dims` and `functools.partial` has not set it,
    else `factory(channels)`.
    """
    return factory(channels, spatial_dims=spatial_dims) if _asks(factory) else factory(channels)


def require_axes(owner: str, shape: tuple[int, ...], spatial_dims: int) -> None:
    """Raise InputError where a map of that shape has other than (batch, channels) and `spatial_dims` axes."""
    if len(shape) != spatial_dims + 2:
        raise InputError(
            f"{owner} got a map of shape {shape} and wants (batch, channels) and {spatial_dims} spatial axes: "
            f"make it with spatial_dims={len(shape) - 2}"
        )


def _asks(factory: Any) -> bool:
    while isinstance(factory, partial):
        if "spatial_dims" in factory.keywords:
            return False
        factory = factory.func
    try:
        return "spatial_dims" in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # of what is not written in Python
        return False
