"""The rows of the comparison: list, read and build them. Importing this module does not import torch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsnet_med.errors import InputError, unknown
from dsnet_med.resources import config_file, config_ids, read_config

if TYPE_CHECKING:
    from torch import nn


def method_ids() -> list[str]:
    """The ids of all rows of the segmentation of organs: the names of the files in configs/methods."""
    return config_ids("method")


def published_ids() -> list[str]:
    """The ids of the rows of the published tables, whose cards have the arithmetic of the published form."""
    return [method for method in method_ids() if "flops" in method_row(method)["method_card"]]


def natural_method_ids() -> list[str]:
    """The ids of the rows on natural images, <task>/<row>: the files in configs/natural/<task>/methods."""
    return config_ids("natural method")


def of_task(method: str, task: str) -> str:
    """`method`; InputError unless it is a row of `task`: imagenet, cityscapes or coco."""
    rows = [each for each in natural_method_ids() if each.startswith(f"{task}/")]
    if method not in rows:
        raise InputError(f"got the method {method} in the bundle of {task}: wanted one of {', '.join(rows)}")
    return method


def method_row(method: str) -> dict[str, Any]:
    """The row `method`, an id or a file, as its file has it: `method_card` and `network_def`.

    Raises InputError for an unknown id, and for a file that holds no row.
    """
    return read_config("method", method)


def dimensions(method: str) -> int:
    """The spatial axes of what the network of row `method` sees: 2, slices, or 3, patches of volumes."""
    return int(method_row(method).get("spatial_dims", 2))


def row_file(method: str) -> Path:
    """The file of the row `method`, which may be one itself; InputError for an unknown id."""
    return config_file("method", method)


def build_network(
    method: str,
    *,
    in_channels: int = 1,
    num_classes: int,
    pretrained: bool | str = False,
    width: float = 1.0,
    plugin: "str | Callable[[int], nn.Module] | None" = None,
    at: str | None = None,
    **parts: Any,
) -> "nn.Module":
    """The network of row `method`: (B, in_channels, H, W) -> logits (B, num_classes, H, W), in training too.

    A row of three dimensions takes (B, in_channels, D, H, W). Where a row has deep supervision (DynUNet),
    training gives a tuple, the logits first and then those of coarser levels, each at its own size.

    A row on natural images takes three channels and gives what its task wants: a `networks.Classifier`, a
    `Segmenter` with an auxiliary head, or torchvision's Faster R-CNN (`networks.detector`).

    `pretrained` is True for ImageNet weights of the backbone, or a file that holds them; `width` multiplies all
    channels. `plugin` and `at` put a plug-in into the network, see `with_plugin`. Further arguments override
    those of a part of the row, `backbone={"layers": [1, 1, 1, 1]}` or `head={"dropout": 0.0}`, or one of its
    values, a detector's `min_size=600`. Raises InputError for an unknown row or part, and when weights cannot
    be had or the plug-in does not fit.
    """
    from dsnet_med.networks.definition import build  # noqa: PLC0415 -- torch takes seconds to import

    definition = _overridden(method_row(method)["network_def"], parts)
    values = {"in_channels": in_channels, "num_classes": num_classes, "pretrained": pretrained, "width": width}
    network: nn.Module = build(definition, values)
    return network if plugin is None else with_plugin(network, plugin, at)


def with_plugin(
    network: "nn.Module", plugin: "str | Callable[[int], nn.Module]", at: str | None = None
) -> "nn.Module":
    """`network` with a plug-in after every submodule that the glob `at` names; see `networks.attach`.

    `plugin` is called with the channels, or names what is: one of ours ("SE"), or a class in a file
    ("mine.py:Mine"), which is executed. Names in the network are tried first, then those in its backbone, so
    that "layer4.*.act2", the default, works, then those in a network of another library. Raises InputError when
    nothing has such a name or the plug-in does not fit.
    """
    from dsnet_med.networks.attaching import DEFAULT_PLACE, attach, matching  # noqa: PLC0415
    from dsnet_med.networks.plugin_file import load_plugin  # noqa: PLC0415

    factory = load_plugin(plugin) if isinstance(plugin, str) else plugin
    place = at or DEFAULT_PLACE
    tried = (place, f"backbone.{place}", f"network.{place}")
    return attach(network, factory, at=next((each for each in tried if matching(network, each)), place))


def _overridden(definition: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    known = [key for key in definition if not key.startswith("_")]
    for name in parts:
        if name not in known:
            raise unknown("part of a network", name, known)
    return {**definition, **{name: _changed(definition[name], changes) for name, changes in parts.items()}}


def _changed(part: Any, changes: Any) -> Any:
    return {**part, **changes} if isinstance(part, Mapping) else changes
