"""Where configs/ and data_prep/ lie: beside the package in a checkout, inside it in an installed wheel."""

from pathlib import Path
from typing import Any

from dsnet_med.errors import InputError, unknown
from dsnet_med.find import require_file
from dsnet_med.yaml_core import read_yaml

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


def config_file(kind: str, name: str) -> Path:
    """The yaml file of that name; InputError, with the nearest name, when there is none.

    A "method" may be a natural one, or the path of a row's own file.
    """
    files = _config_files(kind)
    if kind == "method":
        files |= _config_files("natural method")
        if name.endswith((".yaml", ".yml")):
            require_file(Path(name))
            return Path(name)
    if name not in files:
        raise unknown(kind, name, files)
    return files[name]


def read_config(kind: str, name: str) -> dict[str, Any]:
    """What the file `config_file` holds. Raises InputError for a row's own file that holds no row."""
    file = config_file(kind, name)
    row = read_yaml(file)
    if kind == "method" and not _is_row(row):
        raise InputError(f"{file} holds no row: wanted method_card with an id and a title, and network_def")
    return row


def _is_row(row: dict[str, Any]) -> bool:
    card = row.get("method_card")
    return isinstance(card, dict) and {"id", "title"} <= card.keys() and "network_def" in row


def _config_files(kind: str) -> dict[str, Path]:
    if kind == "natural method":
        files = (configs() / "natural").glob("*/methods/*.yaml")
        return {f"{file.parents[1].name}/{file.stem}": file for file in files}
    return {file.stem: file for file in (configs() / f"{kind}s").glob("*.yaml")}
