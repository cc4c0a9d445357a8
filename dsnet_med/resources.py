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
    """The names of the yaml files in configs/<kind>s; `kind` is "method" or "dataset"."""
    return sorted(file.stem for file in (configs() / f"{kind}s").glob("*.yaml"))


def read_config(kind: str, name: str) -> dict[str, Any]:
    """What configs/<kind>s/<name>.yaml holds; InputError, with the nearest name, when there is no such file."""
    known = config_ids(kind)
    if name not in known:
        raise unknown(kind, name, known)
    row: dict[str, Any] = yaml.safe_load((configs() / f"{kind}s" / f"{name}.yaml").read_text(encoding="utf-8"))
    return row
