"""From a method, a store and overrides to the configuration of one run: plain values, checked ids."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from dsnet_med import resources
from dsnet_med.engine.data import open_store, slice_size, split_cases
from dsnet_med.engine.loggers import require_known
from dsnet_med.errors import InputError, unknown
from dsnet_med.methods import method_ids
from dsnet_med.networks.definition import locate
from dsnet_med.prepare.store import Store


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
    config["dataset_dir"] = str(store.resolve())
    config["class_names"], config["num_classes"] = list(opened.classes), len(opened.classes)
    for name, value in from_anywhere(settings).items():
        override(config, name, value)
    split_cases(str(store), str(config["select_on"]))  # refuse now what would stop the run later
    require_known(config["loggers"])
    if not isinstance(config["size"], list):  # no data set and no setting says it
        config["size"] = slice_size(str(store), config["largest_size"])
    return config


def compose_inference(train: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """inference.yaml for the network and the data of a composed train.yaml."""
    config = load(resources.configs() / "inference.yaml")
    for name in ("class_names", "num_classes", "in_channels", "size", "fit", "width", "batch_size"):
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
            settings[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"'{text}': the value is not valid YAML ({str(error).splitlines()[0]})") from error
    return settings
