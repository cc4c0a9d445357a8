"""ImageNet as published (train/<class>/*.JPEG, val/), and classifications of other images.

Data: Russakovsky et al. 2015, https://arxiv.org/abs/1409.0575. The validation images lie in a folder per
class, as the training ones, or flat in val/ with a list of their labels: `val.txt` (file and class, the form
of MMPretrain's meta/val.txt) or the `LOC_val_solution.csv` of the Kaggle release. A class is named by its
WordNet id, or counted from 0 in their order.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torchvision.datasets.folder import make_dataset

from dsnet_med.errors import InputError
from dsnet_med.files import read_text
from dsnet_med.find import files_in, folders_in
from dsnet_med.natural.images import is_image, required_folder, unreadable

_LISTS = ("val.txt", "meta/val.txt", "LOC_val_solution.csv")
_TRAIN = "wanted a folder per class in train/, as ImageNet has it"
Sample = tuple[str, int]


def find_classes(dataset_dir: str) -> list[str]:
    """The names of the classes in their order: the folders in train/. InputError where there are none."""
    folder = required_folder(Path(dataset_dir) / "train", _TRAIN)
    if names := [each.name for each in folders_in(folder)]:
        return names
    raise InputError(f"{folder} holds no folders: {_TRAIN}")


def train_samples(dataset_dir: str, classes: Sequence[str]) -> list[Sample]:
    """The training images with the index of their class. Raises InputError for a class without any."""
    folder = Path(dataset_dir) / "train"
    samples = _in_class_folders(folder, classes)
    if empty := sorted(set(range(len(classes))) - {index for _, index in samples}):
        raise InputError(f"{folder / classes[empty[0]]} holds no images: wanted .JPEG files, or no such folder")
    return samples


def val_samples(dataset_dir: str, classes: Sequence[str]) -> list[Sample]:
    """The validation images with the index of their class.

    Raises InputError for a layout that is neither of the two, classes that training has not, and a list that
    does not name every image once.
    """
    root = Path(dataset_dir)
    folder = required_folder(root / "val", "wanted the validation images there, in a folder per class or flat")
    if folders_in(folder):
        return _in_class_folders(folder, classes)
    lists = [root / name for name in _LISTS if (root / name).is_file()]
    if not lists:
        raise InputError(f"{folder} has no folder per class, and {root} no list of labels: wanted {_LISTS[0]}")
    return _listed(lists[0], folder, classes)


def _in_class_folders(folder: Path, classes: Sequence[str]) -> list[Sample]:
    indices = {name: index for index, name in enumerate(classes)}
    if unknown := sorted({each.name for each in folders_in(folder)} - indices.keys()):
        raise InputError(f"{folder} holds {len(unknown)} classes that train/ has not, such as {unknown[0]}")
    samples: list[Sample] = make_dataset(str(folder), indices, is_valid_file=is_image, allow_empty=True)
    if not samples:
        raise InputError(f"{folder} holds no images in its folders: wanted .JPEG files")
    return samples


def _listed(file: Path, folder: Path, classes: Sequence[str]) -> list[Sample]:
    indices = {name: index for index, name in enumerate(classes)}
    if not any(name.isdecimal() for name in classes):  # a number is a place, unless it is a name
        indices |= {str(index): index for index in range(len(classes))}
    images = {image.stem: str(image) for image in files_in(folder) if is_image(image)}
    if not images:
        raise InputError(f"{folder} holds no images: wanted .JPEG files")
    samples: dict[str, Sample] = {}
    for number, line in enumerate(_lines(file), start=1):
        words = re.split(r"[,\s]+", line.strip())
        if words[0] in ("", "ImageId"):  # Kaggle's heading
            continue
        name, label = Path(words[0]).stem, words[1] if len(words) > 1 else ""
        if problem := (
            (f"no image {words[0]} in {folder}" if name not in images else "")
            or (f"no class '{label}' in train/" if label not in indices else "")
            or (f"{words[0]} for the second time" if name in samples else "")
        ):
            raise InputError(f"{file}, line {number}: {problem}")
        samples[name] = (images[name], indices[label])
    if missing := sorted(images.keys() - samples.keys()):
        raise InputError(f"{file} lists {len(samples)} of {len(images)} images: {missing[0]} is not among them")
    return list(samples.values())


def _lines(file: Path) -> list[str]:
    try:
        return read_text(file).splitlines()
    except (OSError, ValueError, MemoryError) as error:
        raise unreadable(file, "a list of labels", error) from error


def top_classes(
    logits: Tensor, _file: str, _place: Path, classes: Sequence[str], count: int = 5
) -> dict[str, float]:
    """The `count` likeliest classes of an image, with their probabilities, from its logits (classes,)."""
    probabilities, indices = logits.softmax(0).topk(min(count, len(classes)))
    pairs = zip(indices.tolist(), probabilities.tolist(), strict=True)
    return {classes[index]: round(value, 6) for index, value in pairs}
