"""The dataset.json of a task folder: of the Medical Segmentation Decathlon, or of nnU-Net (both versions).

| | Decathlon, nnU-Net 1 | nnU-Net 2 |
|---|---|---|
| labels | {"1": "liver"} | {"liver": 1}; a list of values is a region, `ignore` a label without a meaning |
| channels | modality: {"0": "CT"} | channel_names: {"0": "CT"} |
| files | training: [{"image", "label"}], test: [path] | those in imagesTr and so on, or dataset: {case: ...} |
| image files | case.nii.gz | case_0000.nii.gz: the case, then the channel |
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from dsnet_med.errors import InputError, cannot_read, first_mistake, one_line, shown
from dsnet_med.files import read_json
from dsnet_med.find import case_name, is_volume, volumes_in

FILE_NAME = "dataset.json"
IGNORE = "ignore"
_FOLDERS = (("imagesTr", "labelsTr"), ("imagesTs", ""))
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


@dataclass(frozen=True)
class Listed:
    """A case of a task folder. Test images have no `label`; `problem` says why a case cannot be used."""

    case: str
    image: Path
    label: Path | None
    problem: str = ""


class DatasetJson(BaseModel):
    """What is read of a dataset.json."""

    name: Any = None
    labels: dict[str, Any] = {}
    channels: dict[str, Any] = Field({}, validation_alias=AliasChoices("channel_names", "modality"))
    training: list[Any] = []
    test: list[Any] = []
    dataset: dict[str, Any] = {}
    file_ending: str = ".nii.gz"
    training_cases: Any = Field(None, validation_alias="numTraining")


def read_dataset_json(source: Path) -> DatasetJson:
    """The dataset.json of a task folder. Raises InputError."""
    path = source / FILE_NAME
    if not path.is_file():
        below = next(iter(sorted(source.glob(f"*/{FILE_NAME}"))), None)
        folder = below.parent if below else "the task folder that holds it"
        raise InputError(f"{path}: no such file; give {folder}, or a recipe that names the classes")
    try:
        return DatasetJson.model_validate(read_json(path))
    except ValidationError as error:
        raise InputError(f"{path}: {first_mistake(error)}") from error
    except (OSError, ValueError, MemoryError) as error:
        raise cannot_read(path, error, f"cannot be read as JSON ({one_line(error)})") from error


def described_classes(
    source: Path, labels: dict[str, Any]
) -> tuple[tuple[str, ...], dict[int, int], tuple[str, ...]]:
    """Class names, background first; raw value -> class id; what has to be known of them. Raises InputError."""
    path = source / FILE_NAME
    if regions := [name for name, value in labels.items() if isinstance(value, list)]:
        raise InputError(
            f"{path}: labels {', '.join(regions)} are regions, lists of values, "
            "which are not read; give each value a name of its own"
        )
    by_value = all(key.isdecimal() for key in labels)
    pairs = [(str(key), name) if by_value else (str(name), key) for key, name in labels.items()]
    numbered = [(int(value), name) for value, name in pairs if value.isdecimal() and len(value) < 20]
    names = {value: "_".join(str(name).lower().split()) for value, name in numbered}
    raw = sorted(value for value, name in names.items() if name != IGNORE)
    once = len(names) == len(pairs) == len(set(names.values()))
    if names.get(0) != "background" or len(raw) < 2 or not once:
        raise InputError(
            f'{path}: wanted labels {{"0": "background", "1": name, ...}} or {{name: value}}, background 0, '
            f"each name once, got {shown(labels)}"
        )
    ignored = sorted(names.keys() - set(raw))
    label_map = {value: class_id for class_id, value in enumerate(raw)} | dict.fromkeys(ignored, 0)
    notes = tuple(
        f"{FILE_NAME}: label {value} is '{IGNORE}': its voxels become background, and are trained on as such"
        for value in ignored
    )
    return tuple(names[value] for value in raw), label_map, notes


def described_modality(source: Path, channels: dict[str, Any]) -> str:
    """`CT` or `MR` (everything else). Raises InputError for images of several channels."""
    names = [str(name) for name in channels.values()]
    if len(names) != 1:
        told = f"{len(names)} channels ({', '.join(names)})" if names else "no modality or channel_names"
        raise InputError(
            f'{source / FILE_NAME}: {told}, wanted one, {{"0": name}}; write that channel to 3-D files first'
        )
    return "CT" if names[0].upper().startswith("CT") else "MR"


def listed_cases(source: Path) -> Iterator[Listed]:
    """Every case that dataset.json lists or, where it lists none, that the folders hold. Raises InputError."""
    path = source / FILE_NAME
    description = read_dataset_json(source) if path.is_file() else DatasetJson.model_validate({})
    ending = description.file_ending
    if not is_volume(Path(f"case{ending}")):
        raise InputError(
            f"{path}: file_ending is {shown(ending)}, wanted that of 3-D volumes: .nii.gz, .nii, .nrrd or .mha"
        )
    if description.dataset:
        yield from _named_cases(source, description.dataset)
    elif description.training or description.test:
        yield from _listed_rows(source, description)
    else:
        yield from _folder_cases(source)


def _listed_rows(source: Path, description: DatasetJson) -> Iterator[Listed]:
    path, training = source / FILE_NAME, description.training
    rows = [*training, *({"image": row} if isinstance(row, str) else row for row in description.test)]
    for index, row in enumerate(rows):
        image, label = (row.get("image"), row.get("label")) if isinstance(row, dict) else (None, None)
        if not isinstance(image, str):
            wanted = 'wanted training [{"image": path, "label": path}] and test [path]'
            raise InputError(f"{path}: {wanted}, got {one_line(repr(row), 80)}")
        if PurePosixPath(image).name.startswith("._"):  # what macOS leaves beside files, never an image
            continue
        if index >= len(training):
            yield _listed(source, image, None)
        elif isinstance(label, str):
            yield _listed(source, image, label)
        else:
            problem = f"{path}: names no label for '{image}'"
            yield Listed(case_name(Path(image)), source / image, None, problem)


def _named_cases(source: Path, cases: dict[str, Any]) -> Iterator[Listed]:
    """nnU-Net 2's own list: {case: {"images": [path], "label": path}}."""
    path = source / FILE_NAME
    for case, row in cases.items():
        match row:
            case {"images": [str(image)], "label": str(label)}:
                yield replace(_listed(source, image, label), case=str(case))
            case _:
                wanted = f'{path}: dataset: {case} wanted {{"images": [one path], "label": path}}'
                yield Listed(str(case), path, None, f"{wanted}, got {one_line(repr(row), 80)}")


def _listed(source: Path, image: str, label: str | None) -> Listed:
    file, case = source / image, case_name(Path(image))
    for name in (image, label or "."):
        if leaves(name):
            problem = f"{source / FILE_NAME}: '{name}' leaves the task folder; wanted a path relative to it"
            return Listed(case, source / FILE_NAME, None, problem)
    # The lists of nnU-Net 1 name the case, its folders the channel too.
    first_channel = file.with_name(f"{case}_0000{file.name.removeprefix(case)}")
    image_file = first_channel if first_channel.exists() and not file.exists() else file
    return Listed(case, image_file, source / label if label else None)


def leaves(name: str) -> bool:
    """Whether a path that should be relative to a folder leads out of it."""
    return PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts


def _folder_cases(source: Path) -> Iterator[Listed]:
    """The cases of imagesTr with their labels of labelsTr, and those of imagesTs without."""
    for images, labels in _FOLDERS:
        label_of = {case_name(file): file for file in _volumes(source / labels)} if labels else {}
        for case, channels in sorted(_by_case(_volumes(source / images), set(label_of)).items()):
            problem = ""
            if len(channels) > 1:
                names = ", ".join(file.name for file in channels)
                problem = f"case '{case}' has {len(channels)} channels ({names}), wanted one"
            label = label_of.get(case, source / labels / f"{case}.nii.gz") if labels else None
            yield Listed(case, channels[0], label, problem)


def _volumes(folder: Path) -> list[Path]:
    return volumes_in(folder) if folder.is_dir() else []


def _by_case(files: list[Path], labelled: set[str]) -> dict[str, list[Path]]:
    """The files of each case. `_0000` is a channel where every file has one, unless labels are named so too."""
    channels = [_CHANNEL.fullmatch(case_name(file)) for file in files]
    suffixed = all(channels) and not any(case_name(file) in labelled for file in files)
    cases: dict[str, list[Path]] = defaultdict(list)
    for file, channel in zip(files, channels, strict=True):
        cases[channel["case"] if suffixed and channel else case_name(file)].append(file)
    return cases
