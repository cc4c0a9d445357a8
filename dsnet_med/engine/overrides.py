"""Settings that people write, id=value, and what they do to a configuration."""

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dsnet_med.errors import InputError, unknown
from dsnet_med.networks.definition import literal, locate

MEANINGS = ("$", "@", "%")  # of the first sign of a value
_PATHS = ("bundle_root", "checkpoint", "dataset_dir", "model_dir", "output_dir", "pretrained")


class _Numbers(yaml.SafeLoader):
    """A safe loader that takes 1e-4 for a number, as YAML 1.2 does, and not for text."""


_Numbers.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def override(config: dict[str, Any], name: str, value: Any) -> None:
    """Set `iterations`, `optimizer#lr`, `train#handlers#0#print_lr` or the like; InputError for an unknown id.

    Known are the ids of the configuration and every argument of what a `_target_` names.
    """
    *parents, last = name.replace("::", "#").split("#")
    node: Any = config
    for depth, key in enumerate([*parents, last]):
        known = _parts(node)
        if key not in known:
            where = f" of '{'#'.join(parents[:depth])}'" if depth else ""
            raise unknown(f"setting{where}", key, [each for each in known if each[0] != "_"])
        index: Any = int(key) if isinstance(node, list) else key
        if depth == len(parents):
            node[index] = value
        elif not isinstance(node.get(index) if isinstance(node, dict) else node[index], dict | list):
            raise InputError(f"setting '{name}': '{key}' is a single value, which has no parts")
        else:
            node = node[index]


def from_anywhere(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with the whole path of a file of pretrained weights, so that a run can go on in any folder."""
    file = settings.get("pretrained")
    whole = {"pretrained": str(Path(file).resolve())} if isinstance(file, str) and Path(file).is_file() else {}
    return {**settings, **whole}


def as_written(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` for MONAI, which is to read text as it was written.

    What is an expression, a reference or a macro stays one, unless it names a file or folder that is there.
    """
    return {name: _as_written(value, name) for name, value in from_anywhere(settings).items()}


def _as_written(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_written(part, str(key)) for key, part in value.items()}
    if isinstance(value, list):
        return [_as_written(part, name) for part in value]
    if not isinstance(value, str) or (value[:1] in MEANINGS and not _names_a_file(value, name)):
        return value
    return literal(value)


def _names_a_file(value: str, name: str) -> bool:
    return name in _PATHS and Path(value).exists()


def _parts(node: Any) -> list[str]:
    if isinstance(node, list):
        return [str(i) for i in range(len(node))]
    return [*node, *(name for name in _arguments(str(node.get("_target_", ""))) if name not in node)]


def _arguments(target: str) -> list[str]:
    """What the function or class called `target` takes; nothing where that cannot be told."""
    try:
        return list(inspect.signature(locate(target)).parameters)
    except (ImportError, AttributeError, TypeError, ValueError):  # MONAI's short names; compiled functions
        return []


def parse_settings(assignments: Sequence[str]) -> dict[str, Any]:
    """`id=value` texts as a dictionary; values are YAML (0.05, true, [64, 64]). Raises InputError."""
    settings = {}
    for text in assignments:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise InputError(f"got '{text}', wanted id=value, for example optimizer#lr=0.05")
        try:
            settings[name.strip()] = _Numbers(value).get_single_data()
        except yaml.YAMLError as error:
            raise InputError(f"'{text}': the value is not valid YAML ({str(error).splitlines()[0]})") from error
    return settings
