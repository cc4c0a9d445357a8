"""The dataset.json of a task folder of the Medical Segmentation Decathlon."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from dsnet_med.errors import InputError

FILE_NAME = "dataset.json"


def read_dataset_json(source: Path) -> dict[str, Any]:
    """The dataset.json of a Decathlon task folder. Raises InputError."""
    path = source / FILE_NAME
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; give the task folder that holds it, or a recipe that names the classes"
        )
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(description, dict):
        raise InputError(
            f"{path}: holds {type(description).__name__}, wanted an object with labels and training"
        )
    return description


def described_classes(source: Path, description: dict[str, Any]) -> tuple[tuple[str, ...], dict[int, int]]:
    """Class names, background first, and raw value -> class id. Raises InputError."""
    labels = description.get("labels")
    wanted = f'{source / FILE_NAME}: wanted labels {{"0": "background", "1": name, ...}}'
    if not isinstance(labels, dict) or not all(str(value).isdigit() for value in labels):
        raise InputError(f"{wanted}, got {labels!r}")
    names = {int(value): _plain_name(name) for value, name in labels.items()}
    raw = sorted(names)
    if raw[:1] != [0] or names[0] != "background" or len(raw) < 2 or len(set(names.values())) != len(raw):
        raise InputError(f"{wanted}, each name once, got {labels!r}")
    return tuple(names[value] for value in raw), {value: class_id for class_id, value in enumerate(raw)}


def _plain_name(name: Any) -> str:
    return "_".join(str(name).lower().split())


def described_modality(source: Path, description: dict[str, Any]) -> str:
    """`CT` or `MR` (everything else). Raises InputError for images of several channels."""
    channels = description.get("modality")
    if not isinstance(channels, dict) or not channels:
        raise InputError(f'{source / FILE_NAME}: wanted modality {{"0": name}}, got {channels!r}')
    if len(channels) > 1:
        names = ", ".join(str(name) for name in channels.values())
        raise InputError(
            f"{source / FILE_NAME}: images of {len(channels)} channels ({names}), wanted one; "
            "write the one you want to 3-D files first"
        )
    return "CT" if str(next(iter(channels.values()))).upper().startswith("CT") else "MR"


def listed_files(source: Path) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """(image, label) of every training case, and the test images, from dataset.json. Raises InputError."""
    description = read_dataset_json(source)
    training, test = description.get("training"), description.get("test", [])
    try:
        pairs = [(_inside(source, row["image"]), _inside(source, row["label"])) for row in training or ()]
        return pairs, [_inside(source, row["image"] if isinstance(row, dict) else row) for row in test]
    except (TypeError, KeyError) as error:
        raise InputError(
            f'{source / FILE_NAME}: wanted training [{{"image": path, "label": path}}] and test [path]'
        ) from error


def _inside(source: Path, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{source / FILE_NAME}: '{name}' leaves the task folder; wanted a path relative to it")
    return source / path
