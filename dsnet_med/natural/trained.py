"""What a training run leaves in its folder: weights, and the names of the classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter
from torch import nn

from dsnet_med.engine.distributed import is_main
from dsnet_med.errors import InputError
from dsnet_med.files import read_json, write_json
from dsnet_med.inference.record import load_recorded

_NAMES = TypeAdapter(Annotated[list[str], Field(min_length=1)])
_FILE = "classes.json"
_WANTED = "train first, or give the folder of a training run, --bundle_root"


def write_classes(run: str, names: Sequence[str]) -> None:
    """Write the names in the order of the network's outputs, once for all processes."""
    if is_main():
        write_json(Path(run) / _FILE, list(names))


def read_classes(run: str, published: int) -> list[str]:
    """The names in the order of the network's outputs; before any training "0" to those of the `published` set.

    Raises InputError where the file is there and holds no names.
    """
    file = Path(run) / _FILE
    if not file.exists():  # a bundle whose network can be built, and which is yet to be trained
        return [str(index) for index in range(published)]
    try:
        names: list[str] = _NAMES.validate_python(read_json(file))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} holds no list of names: {_WANTED}") from error
    return names


def load_weights(network: nn.Module, run: str) -> None:
    """Load the best weights into `network`.

    Raises InputError where they or the names of their classes are missing, or belong to another network.
    """
    best, names = Path(run) / "models" / "model.pt", Path(run) / _FILE
    for file in (best, names):
        if not file.is_file():
            raise InputError(f"no {file}: {_WANTED}")
    load_recorded(network, best)
