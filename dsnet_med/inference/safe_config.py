"""Network definitions that need no trust: parts of this package and torch's layers, with plain values.

Configurations of MONAI bundles are code: `$` runs an expression, `_target_` calls anything that can be
imported. A definition is plain when it calls only what builds networks here, and names no file and no download.
"""

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from torch import nn

from dsnet_med.errors import InputError
from dsnet_med.networks import backbones, heads, plugins

_LARGEST = 10_000
_BUILDERS = ("dsnet_med.build_network", "dsnet_med.methods.build_network", "dsnet_med.methods.with_plugin")
_PARTS = {
    "dsnet_med.networks": ("Ensemble", "LibraryNetwork", "Segmenter"),
    "dsnet_med.networks.backbones": tuple(backbones.__all__),
    "dsnet_med.networks.heads": tuple(heads.__all__),
    "dsnet_med.networks.plugins": tuple(plugins.__all__),
    "monai.networks.nets": ("DynUNet", "SegResNet", "SwinUNETR", "UNet"),  # those of the rows
}


def code_in(definition: Any) -> str | None:
    """The first thing in a network definition that would run a stranger's code; None for a plain one.

    Raises InputError for one that is too large, or holds itself.
    """
    try:
        return next(_found(definition, count()), None)
    except RecursionError as error:
        raise InputError("the network's definition holds itself, or is too deep") from error


def is_plain(settings: Any) -> bool:
    """Whether the settings of a configuration are values alone: no expression, target, macro or other file."""
    if isinstance(settings, Mapping):
        return all(_names_a_value(str(key)) and is_plain(value) for key, value in settings.items())
    if isinstance(settings, list):
        return all(map(is_plain, settings))
    return not (isinstance(settings, str) and settings[:1] in ("$", "%"))


def _names_a_value(key: str) -> bool:
    parts = key.lstrip("+~").replace("::", "#").split("#")
    return key != "laid_over" and not any(part[:1] in ("_", "$", "%") for part in parts)


def _found(node: Any, seen: Iterator[int], key: str = "") -> Iterator[str]:
    if next(seen) > _LARGEST:
        raise InputError(f"the network's definition has more than {_LARGEST} parts")
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _found(value, seen, str(name))
    elif isinstance(node, list):
        for value in node:
            yield from _found(value, seen, key)
    elif isinstance(node, str) and _is_code(key, node):
        yield f"{key}: {node}" if key else node


def _is_code(key: str, text: str) -> bool:
    if key == "_target_":
        return not _is_known(text)
    if key == "_mode_":
        return text != "callable"
    if key == "plugin":
        return text not in plugins.__all__
    return text[:1] in ("$", "%") or key[:1] == "_" or ":" in text


def _is_known(target: str) -> bool:
    module, _, name = target.rpartition(".")
    if target in _BUILDERS or name in _PARTS.get(module, ()):
        return True
    layer = getattr(nn, name, None) if module == "torch.nn" else None
    return isinstance(layer, type) and issubclass(layer, nn.Module)
