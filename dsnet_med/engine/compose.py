"""From a method, a store and overrides to the configuration of one run: plain values, checked ids."""

import ast
import inspect
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from dsnet_med import resources
from dsnet_med.engine.card import card_of
from dsnet_med.engine.data import open_store, slice_size, split_cases
from dsnet_med.engine.loggers import require_known
from dsnet_med.errors import InputError, unknown
from dsnet_med.methods import method_ids
from dsnet_med.networks.definition import literal, locate
from dsnet_med.prepare.store import Store

_MEANINGS = ("$", "@", "%")  # of the first sign of a value
_PATHS = ("bundle_root", "checkpoint", "dataset_dir", "model_dir", "output_dir", "pretrained")


class _Numbers(yaml.SafeLoader):
    """A safe loader that takes 1e-4 for a number, as YAML 1.2 does, and not for text."""


_Numbers.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def compose_train(method: str, store: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """train.yaml with a data set's and a method's values over it, and what the store says written out.

    `settings` are top-level ids or nested ones (`optimizer#lr`) with their values. Raises InputError for a
    method or an id that does not exist.
    """
    if method not in method_ids():
        raise unknown("method", method, method_ids())
    opened = open_store(str(store))
    parts = ("train.yaml", f"datasets/{opened.recipe_id}.yaml", f"methods/{method}.yaml")  # later ones win
    config = load(*(file for part in parts if (file := resources.configs() / part).is_file()))
    row = deepcopy(config)
    config["dataset_dir"] = literal(str(store.resolve()))
    config["class_names"] = [literal(_plain_name(name)) for name in opened.classes]
    config["num_classes"] = len(opened.classes)
    for name, value in as_written(settings).items():
        override(config, name, value)
    config["method_card"] = card_of(row["method_card"], row, config)
    split_cases(str(store), str(config["select_on"]))  # refuse now what would stop the run later
    require_known(config["loggers"])
    if config["size"] == row["size"] and not isinstance(row["size"], list):  # nothing says it
        config["size"] = slice_size(str(store), config["largest_size"])
    _check_size(config["size"])
    return config


def _check_size(size: Any) -> None:
    if not isinstance(size, list) or len(size) != 2 or not all(type(each) is int and each > 0 for each in size):
        raise InputError(f"got size={size}, wanted rows and columns in brackets, for example size=[64,64]")


def compose_inference(train: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """inference.yaml for the network and the data of a composed train.yaml."""
    config = load(resources.configs() / "inference.yaml")
    config["class_names"] = plain_names(train)  # which `infer` reads as they are, and MONAI only counts
    for name in ("num_classes", "in_channels", "size", "fit", "width", "batch_size"):
        config[name] = train[name]
    config["slice_network"] = train["network_def"]
    config["intensity"], config["slice_axis"] = store.intensity.as_dict(), store.slice_axis
    return config


def load(*files: Path) -> dict[str, Any]:
    """MONAI's merge of configuration files: later ones win."""
    return dict(ConfigParser.load_config_files([str(file) for file in files]))


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
    if not isinstance(value, str) or (value[:1] in _MEANINGS and not _names_a_file(value, name)):
        return value
    return literal(value)


def _names_a_file(value: str, name: str) -> bool:
    return name in _PATHS and Path(value).exists()


def plain_names(train: Mapping[str, Any]) -> list[str]:
    """The names of the classes of a composed train.yaml, where they are literals."""
    names = train["class_names"]
    return [ast.literal_eval(name[1:]) if name.startswith(("$'", '$"')) else name for name in names]


def literals(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with every text in them as a `literal`."""
    parts = ((name, literals(value) if isinstance(value, Mapping) else value) for name, value in values.items())
    return {name: literal(value) if isinstance(value, str) else value for name, value in parts}


def _plain_name(name: str) -> str:
    if name[:1] in _MEANINGS:  # in metadata.json, too, which others read as it is
        raise InputError(
            f"a class is called '{name}', and MONAI finds a meaning in a first {name[0]}: rename it"
        )
    return name


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
