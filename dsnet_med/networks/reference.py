"""Weights of the published code (MMSegmentation module names) for our networks.

Each plug-in, head and network says in `reference_names` what the reference calls its parts, as pairs (pattern
of ours, theirs); a plug-in's `reference_name` is what it is called inside a backbone's block, and
`reference_name_in_head` inside a head. ResNets are timm's own, so their table is here. Names come from a
network of ours on the meta device, so nothing is left over unseen.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dsnet_med.errors import InputError
from dsnet_med.networks.checkpoint import weights_in
from dsnet_med.networks.definition import build
from dsnet_med.resources import read_config

_SHOWN = 5

Table = Sequence[tuple[str, str]]


def from_reference(state_dict: Mapping[str, Any], method: str | nn.Module) -> dict[str, Tensor]:
    """The reference's `state_dict` of `method` under our names, ready for `load_state_dict(..., strict=True)`.

    `state_dict` may be a whole checkpoint with the weights under "state_dict", and its names may start with
    "module.". `method` is a row's id, or one of our networks where it is a variant of a row (other depth).
    Raises InputError, naming a few, for entries left over on either side; batch counters may be missing.
    Also for a detector, whose parts have no names here but for the backbone.
    """
    network = _skeleton(method) if isinstance(method, str) else method
    for module in network.modules():
        if reason := getattr(module, "without_reference_names", None):
            raise InputError(reason)
    theirs = _weights(state_dict)
    ours = network.state_dict()
    names = reference_names(network)
    counters = {name for name in names.values() if name.endswith("num_batches_tracked")}
    _check_left_over(theirs.keys() - set(names.values()), "are unknown to this network")
    _check_left_over(set(names.values()) - counters - theirs.keys(), "are missing from the checkpoint")
    return {key: fitted(theirs.get(name, torch.tensor(0)), ours[key], name) for key, name in names.items()}


def reference_names(network: nn.Module) -> dict[str, str]:
    """The reference's name of every entry of `network`'s state dict, by ours."""
    modules = dict(network.named_modules())
    named = [path for path, module in modules.items() if hasattr(module, "reference_names")]
    parts = {path: modules[path] for path in sorted(named, key=len, reverse=True)}  # the innermost first
    places = {path: _place(path, modules) for path in parts}
    stems = _deep_stems(modules)
    return {key: _renamed(_rename_parts(key, parts, places), stems) for key in network.state_dict()}


def _deep_stems(modules: Mapping[str, nn.Module]) -> Table:
    """The stems of ResNets that have three convolutions: `stem.0` to `stem.7` there, `conv1` and `bn1` here."""
    table = []
    for path, module in modules.items():
        host, _, name = path.rpartition(".")
        if name == "conv1" and isinstance(module, nn.Sequential) and _join(host, "layer1") in modules:
            table.append((re.escape(path) + r"\.(\d)", _join(host, r"stem.\1")))
            table.append((re.escape(_join(host, "bn1")), _join(host, "stem.7")))
    return table


def _place(path: str, modules: Mapping[str, nn.Module]) -> str:
    """What the part at `path` is called in the reference, before the parts around it have their say.

    Our plug-in is a child of what it follows, such as `layer4.0.act2.plugin`; theirs has a name of its own: it
    is a sibling, such as `layer4.0.dsa`, or a child of the head, such as `gc_block`.
    """
    host, _, name = path.rpartition(".")
    if not re.fullmatch(r"plugin\d*", name):
        return path
    if hasattr(modules[host], "reference_names"):  # a head
        return _join(host, getattr(modules[path], "reference_name_in_head", name))
    return _join(host.rpartition(".")[0], getattr(modules[path], "reference_name", name))


def _join(*names: str) -> str:
    return ".".join(filter(None, names))


def _rename_parts(key: str, parts: Mapping[str, nn.Module], places: Mapping[str, str]) -> str:
    for path, part in parts.items():
        prefix = f"{path}." if path else ""
        if key.startswith(prefix):
            table: Table = part.reference_names  # type: ignore[assignment]
            key = _join(places[path], _renamed(key.removeprefix(prefix), table))
    return key


def _renamed(key: str, table: Table) -> str:
    for pattern, replacement in table:
        renamed, count = re.subn(rf"^{pattern}(?=\.|$)", replacement, key)
        if count:
            return renamed
    return key


def _skeleton(method: str) -> nn.Module:
    values = {"in_channels": 3, "num_classes": 2, "pretrained": False, "width": 1.0}
    with torch.device("meta"):
        network: nn.Module = build(read_config("method", method)["network_def"], values)
    return network


def _weights(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    content = weights_in(state_dict, "the checkpoint")
    weights = {name.removeprefix("module."): value for name, value in content.items()}
    if len(weights) < len(content):
        twice = next(name for name in content if f"module.{name}" in content)
        raise InputError(f"the checkpoint holds '{twice}' and 'module.{twice}': leave out one of the two")
    return weights


def _check_left_over(names: Iterable[str], complaint: str) -> None:
    left_over = sorted(names)
    if left_over:
        more = ", ..." if len(left_over) > _SHOWN else ""
        raise InputError(
            f"the checkpoint is not of this method: {len(left_over)} entries {complaint}: "
            f"{', '.join(left_over[:_SHOWN])}{more}"
        )


def fitted(value: Tensor, ours: Tensor, name: str) -> Tensor:
    """`value` without the trailing axes of size 1 that 1x1 convolutions have and linear layers do not."""
    if ours.is_floating_point() and not value.is_floating_point():
        raise InputError(f"'{name}' holds {value.dtype}, and {ours.dtype} is wanted")
    if value.ndim < ours.ndim or any(size != 1 for size in value.shape[ours.ndim :]):
        raise InputError(f"'{name}' has shape {tuple(value.shape)}, and {ours.ndim} axes are wanted")
    return value.reshape(value.shape[: ours.ndim])
