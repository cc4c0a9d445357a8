"""The names of the classes of a trained network, in the file beside its weights."""

import json
from collections.abc import Sequence
from pathlib import Path

from dsnet_med.errors import InputError
from dsnet_med.files import write_json

_FILE = "classes.json"


def write_classes(model_dir: str, names: Sequence[str]) -> None:
    """Write the names in the order of the network's outputs."""
    write_json(Path(model_dir) / _FILE, list(names))


def read_classes(model_dir: str) -> list[str]:
    """The names in the order of the network's outputs; InputError where they are not."""
    file = Path(model_dir) / _FILE
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file} cannot be read: give the models folder of a training run, --model_dir"
        ) from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"{file} holds no list of names: give the models folder of a training run, --model_dir"
        )
    return names
