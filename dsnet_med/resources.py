"""Where configs/ and data_prep/ lie: beside the package in a checkout, inside it in an installed wheel."""

from pathlib import Path
from typing import Any

import yaml

from dsnet_med.errors import unknown

PACKAGE = Path(__file__).parent


def _folder(name: str) -> Path:
    checkout = PACKAGE.parent / name
    return checkout if (PACKAGE.parent / "pyproject.toml").is_file() else PACKAGE / "shipped" / name


def configs() -> Path:
    """The folder of bundle configurations (train.yaml, methods/, datasets/)."""
    return _folder("configs")


def data_prep() -> Path:
    """The folder of data-set recipes, one sub-folder each."""
    return _folder("data_prep")


def config_ids(kind: str) -> list[str]:
    """The names of the yaml files in configs/<kind>s; `kind` is "method", "dataset" or "natural method".

    A natural method lies in a bundle of its task, configs/natural/<task>/methods, and is called <task>/<name>.
    """
    return sorted(_config_files(kind))


def read_config(kind: str, name: str) -> dict[str, Any]:
    """What the yaml file of that name holds; InputError, with the nearest name, when there is no such file.

    A "method" may be a natural one.
    """
    files = _config_files(kind)
    if kind == "method":
        files |= _config_files("natural method")
    if name not in files:
        raise unknown(kind, name, files)
    row: dict[str, Any] = yaml.safe_load(files[name].read_text(encoding="utf-8"))
    return row


def _config_files(kind: str) -> dict[str, Path]:
    if kind == "natural method":
        files = (configs() / "natural").glob("*/methods/*.yaml")
        return {f"{file.parents[1].name}/{file.stem}": file for file in files}
    return {file.stem: file for file in (configs() / f"{kind}s").glob("*.yaml")}
