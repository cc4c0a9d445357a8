"""The dataset.json of a task folder: of the Medical Segmentation Decathlon, or of nnU-Net (both versions).

| | Decathlon, nnU-Net 1 | nnU-Net 2 |
|---|---|---|
| labels | {"1": "liver"} | {"liver": 1}; a list of values is a region, `ignore` a value without a meaning |
| channels | modality: {"0": "CT"} | channel_names: {"0": "CT"} |
| files | training: [{"image", "label"}], test: [path] | those in imagesTr and so on, or dataset: {case: ...} |
| image files | case.nii.gz, 4-D with several channels | case_0000.nii.gz: the case, then the channel |
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from dsnet_med.errors import InputError, cannot_read, first_mistake, one_line, shown
from dsnet_med.files import read_json
from dsnet_med.find import case_name, is_volume, volumes_in
from dsnet_med.regions import Region, parse

FILE_NAME = "dataset.json"
IGNORE = "ignore"
_FOLDERS = (("imagesTr", "labelsTr"), ("imagesTs", ""))
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


@dataclass(frozen=True)
class Listed:
    """A case of a task folder: one file, or one for each channel.

    Test images have no `label`; `problem` says why a case cannot be used.
    """

    case: str
    images: tuple[Path, ...]
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
    regions_class_order: list[int] = []
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


@dataclass(frozen=True)
class DescribedLabels:
    """What the labels of a dataset.json come to.

    `classes` are names, background first; `label_map` raw value -> class id; `ignore` raw values without a
    meaning; `regions` those that lists of values make.
    """

    classes: tuple[str, ...]
    label_map: dict[int, int]
    ignore: tuple[int, ...]
    regions: tuple[Region, ...]


def described_labels(source: Path, description: DatasetJson) -> DescribedLabels:
    """The classes and regions of a task folder. Raises InputError.

    A class of regions is called as the region that it alone makes, else `label_<value>`.
    """
    labels = description.labels
    by_value = bool(labels) and all(key.isdecimal() for key in labels)
    written = {str(name): key for key, name in labels.items()} if by_value else dict(labels)
    values = {"_".join(name.lower().split()): _values(value) for name, value in written.items()}
    ignored = values.pop(IGNORE, [])
    regions = any(isinstance(value, list | tuple) for value in written.values())
    every = sorted({value for own in values.values() for value in own})
    sound = len(values) + bool(ignored) == len(labels) and all(values.values())
    if not regions:
        sound = sound and len(every) == len(values)
    if values.get("background") != [0] or len(every) < 2 or set(ignored) & set(every) or not sound:
        raise InputError(
            f'{source / FILE_NAME}: wanted labels {{"0": "background", "1": name, ...}} or {{name: value}}, '
            f"background 0, each name once, got {shown(labels)}"
        )
    alone = {own[0]: name for name, own in values.items() if len(own) == 1}
    label_map = {value: class_id for class_id, value in enumerate(every)}
    return DescribedLabels(
        tuple(alone.get(value, f"label_{value}") for value in every),
        label_map,
        tuple(ignored),
        _regions(source, description, values, label_map) if regions else (),
    )


def _values(written: Any) -> list[int]:
    """The raw values of a label; none for what is no such thing."""
    listed = written if isinstance(written, list | tuple) else [written]
    texts = [str(value) for value in listed]
    return sorted({int(text) for text in texts}) if all(t.isdecimal() and len(t) < 6 for t in texts) else []


def _regions(
    source: Path, description: DatasetJson, values: dict[str, list[int]], class_ids: dict[int, int]
) -> tuple[Region, ...]:
    """The regions of lists of values, in their order, each written with its value of regions_class_order."""
    names = [name for name in values if name != "background"]
    order, path = description.regions_class_order, source / FILE_NAME
    if order and (len(order) != len(names) or any(value not in class_ids for value in order)):
        raise InputError(
            f"{path}: regions_class_order is {shown(order)}, wanted one of the label values for each of the "
            f"{len(names)} regions {', '.join(names)}"
        )
    made: dict[str, Any] = {}
    for place, name in enumerate(names):
        made[name] = {"of": [class_ids[value] for value in values[name]]}
        if order:
            made[name]["value"] = class_ids[order[place]]
    try:
        return parse(made)
    except InputError as error:
        raise InputError(f"{path}: {error}; regions_class_order says the values") from error


def described_channels(source: Path, channels: dict[str, Any]) -> tuple[str, ...]:
    """The names of the channels; of those with one name each gets its number too. Raises InputError."""
    if not channels or [str(key) for key in channels] != [str(number) for number in range(len(channels))]:
        got = shown(channels) if channels else "no modality or channel_names"
        wanted = 'wanted the names of the channels, {"0": name, "1": name, ...}'
        raise InputError(f"{source / FILE_NAME}: got {got}, {wanted}")
    names = [" ".join(str(name).split()) or f"channel {key}" for key, name in channels.items()]
    return tuple(f"{name}_{k}" if names.count(name) > 1 else name for k, name in enumerate(names))


def modality_of(channel: str) -> str:
    """`CT` or `MR` (everything else), by the name of a channel."""
    return "CT" if channel.upper().startswith("CT") else "MR"


def listed_cases(source: Path, channels: Sequence[str] = ("image",)) -> Iterator[Listed]:
    """Every case that dataset.json lists or, where it lists none, that the folders hold. Raises InputError."""
    path = source / FILE_NAME
    description = read_dataset_json(source) if path.is_file() else DatasetJson.model_validate({})
    ending = description.file_ending
    if not is_volume(Path(f"case{ending}")):
        raise InputError(
            f"{path}: file_ending is {shown(ending)}, wanted that of 3-D volumes: .nii.gz, .nii, .nrrd or .mha"
        )
    if description.dataset:
        yield from _named_cases(source, description.dataset, channels)
    elif description.training or description.test:
        yield from _listed_rows(source, description)
    else:
        yield from _folder_cases(source, channels)


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
            yield _listed(source, [image], None)
        elif isinstance(label, str):
            yield _listed(source, [image], label)
        else:
            problem = f"{path}: names no label for '{image}'"
            yield Listed(case_name(Path(image)), (source / image,), None, problem)


def _named_cases(source: Path, cases: dict[str, Any], channels: Sequence[str]) -> Iterator[Listed]:
    """nnU-Net 2's own list: {case: {"images": [path of each channel], "label": path}}."""
    path, wanted_images = source / FILE_NAME, "one path" if len(channels) == 1 else f"{len(channels)} paths"
    for case, row in cases.items():
        match row:
            case {"images": [str(), *_] as images, "label": str(label)} if len(images) == len(channels) and all(
                isinstance(image, str) for image in images
            ):
                yield replace(_listed(source, images, label), case=str(case))
            case _:
                wanted = f'{path}: dataset: {case} wanted {{"images": [{wanted_images}], "label": path}}'
                yield Listed(str(case), (path,), None, f"{wanted}, got {one_line(repr(row), 80)}")


def _listed(source: Path, images: list[str], label: str | None) -> Listed:
    case = case_name(Path(images[0]))
    for name in (*images, label or "."):
        if leaves(name):
            problem = f"{source / FILE_NAME}: '{name}' leaves the task folder; wanted a path relative to it"
            return Listed(case, (source / FILE_NAME,), None, problem)
    files = tuple(source / image for image in images)
    if (
        len(files) == 1 and not files[0].exists()
    ):  # the lists of nnU-Net 1 name the case, its folders the channel
        files = _channel_files(files[0], case) or files
    return Listed(case, files, source / label if label else None)


def _channel_files(file: Path, case: str) -> tuple[Path, ...]:
    """The files `case_0000`, `case_0001` and so on beside `file`, as far as they are there."""
    ending = file.name.removeprefix(case)
    numbered = (file.with_name(f"{case}_{channel:04d}{ending}") for channel in range(10_000))
    return tuple(itertools.takewhile(lambda each: each.exists(), numbered))


def leaves(name: str) -> bool:
    """Whether a path that should be relative to a folder leads out of it."""
    return PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts


def _folder_cases(source: Path, channels: Sequence[str]) -> Iterator[Listed]:
    """The cases of imagesTr with their labels of labelsTr, and those of imagesTs without."""
    for images, labels in _FOLDERS:
        label_of = {case_name(file): file for file in _volumes(source / labels)} if labels else {}
        numbered, cases = _by_case(_volumes(source / images), set(label_of))
        for case, files in sorted(cases.items()):
            problem = _channel_problem(case, files, channels) if numbered else ""
            label = label_of.get(case, source / labels / f"{case}.nii.gz") if labels else None
            yield Listed(case, tuple(files), label, problem)


def _channel_problem(case: str, files: Sequence[Path], channels: Sequence[str]) -> str:
    """What is wrong with the files of a case, which end in the number of their channel."""
    numbers = [int(case_name(file)[-4:]) for file in files]
    if numbers == list(range(len(channels))):
        return ""
    names = ", ".join(file.name for file in files)
    if len(channels) == 1:
        return f"case '{case}' has {len(files)} channels ({names}), wanted one"
    lacking = [f"{k:04d} ({name})" for k, name in enumerate(channels) if k not in numbers]
    what = f"lacks the channels {', '.join(lacking)}" if lacking else f"has {len(files)} channels"
    return f"case '{case}' {what}: it has {names}, wanted {len(channels)} files, one for each channel"


def _volumes(folder: Path) -> list[Path]:
    return volumes_in(folder) if folder.is_dir() else []


def _by_case(files: list[Path], labelled: set[str]) -> tuple[bool, dict[str, list[Path]]]:
    """Whether the files end in the number of a channel, and the files of each case.

    `_0000` is a channel where every file has one, unless labels are named so too.
    """
    channels = [_CHANNEL.fullmatch(case_name(file)) for file in files]
    suffixed = all(channels) and not any(case_name(file) in labelled for file in files)
    cases: dict[str, list[Path]] = defaultdict(list)
    for file, channel in zip(files, channels, strict=True):
        cases[channel["case"] if suffixed and channel else case_name(file)].append(file)
    return suffixed, cases
