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

from dsnet_med.errors import InputError, one_line
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


def read_dataset_json(source: Path) -> dict[str, Any]:
    """The dataset.json of a task folder. Raises InputError."""
    path = source / FILE_NAME
    if not path.is_file():
        below = next(iter(sorted(source.glob(f"*/{FILE_NAME}"))), None)
        folder = below.parent if below else "the task folder that holds it"
        raise InputError(f"{path}: no such file; give {folder}, or a recipe that names the classes")
    try:
        description = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({one_line(error)})") from error
    if not isinstance(description, dict):
        raise InputError(
            f"{path}: holds {type(description).__name__}, wanted an object with labels and training"
        )
    return description


def described_classes(
    source: Path, description: dict[str, Any]
) -> tuple[tuple[str, ...], dict[int, int], tuple[str, ...]]:
    """Class names, background first; raw value -> class id; what has to be known of them. Raises InputError."""
    names = _values_and_names(source, description.get("labels"))
    ignored = [value for value, name in names.items() if name == IGNORE]
    raw = sorted(value for value in names if value not in ignored)
    label_map = {value: class_id for class_id, value in enumerate(raw)}
    notes = tuple(
        f"{FILE_NAME}: label {value} is '{IGNORE}': its voxels become background, and are trained on as such"
        for value in ignored
    )
    return tuple(names[value] for value in raw), label_map | dict.fromkeys(ignored, 0), notes


def _values_and_names(source: Path, labels: Any) -> dict[int, str]:
    """Raw value -> name, from either order of the two. Raises InputError."""
    wanted = f'{source / FILE_NAME}: wanted labels {{"0": "background", "1": name, ...}} or {{name: value}}'
    if not isinstance(labels, dict):
        raise InputError(f"{wanted}, got {labels!r}")
    regions = [str(name) for name, value in labels.items() if isinstance(value, list)]
    if regions:
        raise InputError(
            f"{source / FILE_NAME}: labels {', '.join(regions)} are regions, lists of values, "
            "which are not read; give each value a name of its own"
        )
    by_value = all(str(key).isdecimal() for key in labels)
    pairs = [(key, name) if by_value else (name, key) for key, name in labels.items()]
    if not all(str(value).isdecimal() and not isinstance(value, bool) for value, _ in pairs):
        raise InputError(f"{wanted}, got {labels!r}")
    names = {int(value): _plain_name(name) for value, name in pairs}
    organs = [name for name in names.values() if name != IGNORE]
    once = len(names) == len(pairs) and len(set(names.values())) == len(names)
    if names.get(0) != "background" or len(organs) < 2 or not once:
        raise InputError(f"{wanted}, background 0, each name once, got {labels!r}")
    return names


def _plain_name(name: Any) -> str:
    return "_".join(str(name).lower().split())


def described_modality(source: Path, description: dict[str, Any]) -> str:
    """`CT` or `MR` (everything else). Raises InputError for images of several channels."""
    channels = description.get("channel_names", description.get("modality"))
    if not isinstance(channels, dict) or not channels:
        raise InputError(
            f'{source / FILE_NAME}: wanted modality or channel_names {{"0": name}}, got {channels!r}'
        )
    if len(channels) > 1:
        names = ", ".join(str(name) for name in channels.values())
        raise InputError(
            f"{source / FILE_NAME}: images of {len(channels)} channels ({names}), wanted one; "
            "write the one you want to 3-D files first"
        )
    return "CT" if str(next(iter(channels.values()))).upper().startswith("CT") else "MR"


def listed_cases(source: Path) -> Iterator[Listed]:
    """Every case that dataset.json lists or, where it lists none, that the folders hold. Raises InputError."""
    path = source / FILE_NAME
    description = read_dataset_json(source) if path.is_file() else {}
    ending = description.get("file_ending", ".nii.gz")
    if not is_volume(Path(f"case{ending}")):
        raise InputError(
            f"{path}: file_ending is {ending!r}, wanted that of 3-D volumes: .nii.gz, .nii, .nrrd or .mha"
        )
    if isinstance(description.get("dataset"), dict):
        yield from _named_cases(source, description["dataset"])
    elif description.get("training") or description.get("test"):
        yield from _listed_rows(source, description)
    else:
        yield from _folder_cases(source)


def _listed_rows(source: Path, description: dict[str, Any]) -> Iterator[Listed]:
    path, training, test = source / FILE_NAME, description.get("training") or [], description.get("test") or []
    wanted = f'{path}: wanted training [{{"image": path, "label": path}}] and test [path]'
    if not isinstance(training, list) or not isinstance(test, list):
        raise InputError(wanted)
    rows = [*training, *({"image": row} if isinstance(row, str) else row for row in test)]
    for index, row in enumerate(rows):
        image, label = (row.get("image"), row.get("label")) if isinstance(row, dict) else (None, None)
        if not isinstance(image, str):
            raise InputError(f"{wanted}, got {one_line(repr(row), 80)}")
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
