"""The rows of the comparison: list, read and build them. Importing this module does not import torch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsnet_med.errors import unknown
from dsnet_med.resources import config_ids, read_config

if TYPE_CHECKING:
    from torch import nn


def method_ids() -> list[str]:
    """The ids of all rows: the names of the files in configs/methods."""
    return config_ids("method")


def method_row(method: str) -> dict[str, Any]:
    """The row `method` as its file has it: `method_card` and `network_def`; InputError for an unknown id."""
    return read_config("method", method)


def build_network(
    method: str,
    *,
    in_channels: int = 1,
    num_classes: int,
    pretrained: bool | str = False,
    width: float = 1.0,
    **parts: Mapping[str, Any],
) -> "nn.Module":
    """The network of row `method`: (B, in_channels, H, W) -> logits (B, num_classes, H, W), in training too.

    `pretrained` is True for ImageNet weights of the backbone, or a file that holds them; `width` multiplies all
    channels. Further arguments override those of a part of the row, `backbone={"layers": [1, 1, 1, 1]}` or
    `head={"dropout": 0.0}`. Raises InputError for an unknown row or part, and when weights cannot be had.
    """
    from dsnet_med.networks.definition import build  # noqa: PLC0415 -- torch takes seconds to import

    definition = _overridden(method_row(method)["network_def"], parts)
    values = {"in_channels": in_channels, "num_classes": num_classes, "pretrained": pretrained, "width": width}
    network: nn.Module = build(definition, values)
    return network


def _overridden(definition: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    known = [key for key in definition if not key.startswith("_")]
    for name in parts:
        if name not in known:
            raise unknown("part of a network", name, known)
    return {**definition, **{name: {**definition[name], **changes} for name, changes in parts.items()}}
