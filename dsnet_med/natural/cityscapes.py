"""Cityscapes as published (leftImg8bit/, gtFine/): 19 classes, scored over the whole set.

Data: Cordts et al. 2016, https://arxiv.org/abs/1604.01685. Label files hold ids 0 to 33, of which 19 are
trained and scored; the others are ignored (255). torchvision knows the ids. Crops, losses and scores are
those of MMSegmentation.
"""

import io
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from ignite.metrics import Metric, MetricsLambda
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets, tv_tensors
from torchvision.transforms import v2

from dsnet_med.engine.losses import PRESENCE_WEIGHT, cross_entropy, presence
from dsnet_med.errors import InputError
from dsnet_med.files import written_whole
from dsnet_med.find import folders_in
from dsnet_med.natural.images import (
    Transform,
    read_bytes,
    read_image,
    require_files,
    required,
    required_folder,
    unreadable,
)
from dsnet_med.natural.sums import Sums

IGNORED = 255
_TRAINED = [each for each in datasets.Cityscapes.classes if 0 <= each.train_id < IGNORED]  # in their order
CLASSES = [each.name for each in _TRAINED]
IDS = np.array([each.id for each in _TRAINED], dtype=np.uint8)
LARGEST_ID = max(each.id for each in datasets.Cityscapes.classes)  # 33
_LOOKED_AT = 8  # label files of a set
COLOURS = np.array([each.color for each in _TRAINED], dtype=np.uint8)


class Cityscapes(Dataset[dict[str, Tensor]]):
    """Items {"image", "label"} of a split: what `transform` makes of the image and its train ids (H, W).

    `run` is the folder of the run that keeps sums of what is read. Raises InputError for another layout, an
    image without its labels, files that are empty, labels that look like train ids, and, when reached, for
    files that cannot be read or that the run read otherwise before.
    """

    def __init__(self, dataset_dir: str, split: str, transform: Transform, run: str | None = None) -> None:
        layout = "wanted leftImg8bit/ and gtFine/, as Cityscapes has them"
        images = required_folder(Path(dataset_dir) / "leftImg8bit" / split, layout)
        labels = required_folder(Path(dataset_dir) / "gtFine" / split, layout)
        found = [file for city in folders_in(images) for file in sorted(city.glob("[!.]*_leftImg8bit.png"))]
        if not found:
            raise InputError(f"{images} holds no images: wanted <city>/<name>_leftImg8bit.png")
        self.samples = [(str(file), str(_label_file(file, labels))) for file in found]
        self.transform, self.sums = transform, Sums(run, [file for file, _ in self.samples])
        require_files(chain(*self.samples), "fetch them again")
        _refuse_train_ids([target for _, target in self.samples])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        file, target = self.samples[index]
        contents = read_bytes(file), read_bytes(target, "label ids")
        self.sums.compare(index, file, *contents)
        image, ids = read_image(file, contents[0]), read_train_ids(target, contents[1])
        if image.size != (ids.shape[1], ids.shape[0]):
            raise InputError(
                f"{target} has other sizes than {file}: wanted a label for every pixel of the image"
            )
        transformed, mask = self.transform(image, tv_tensors.Mask(ids))
        return {"image": transformed, "label": mask.as_subclass(Tensor).long()}


def _label_file(image: Path, labels: Path) -> Path:
    name = image.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
    return required(labels / image.parent.name / name, f"wanted the label ids of {image.name}")


def read_train_ids(file: str, content: bytes | None = None) -> Tensor:
    """The train ids (H, W) of a file of label ids, 0 to 33: 0 to 18, or 255. Raises InputError."""
    table = np.full(256, IGNORED, dtype=np.uint8)
    table[IDS] = np.arange(len(IDS))
    return torch.from_numpy(table[_label_ids(file, content)])


def _label_ids(file: str, content: bytes | None = None) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(read_bytes(file, "label ids") if content is None else content)) as labels:
            ids = np.asarray(labels)
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, MemoryError) as error:
        raise unreadable(file, "label ids", error) from error
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise InputError(f"{file} holds no label ids: wanted one channel of 8 bits, _gtFine_labelIds.png")
    if (highest := int(ids.max())) > LARGEST_ID:
        like = ", as a file of train ids does (_labelTrainIds.png)" if highest == IGNORED else ""
        raise InputError(f"{file} holds the id {highest}{like}: wanted label ids, 0 to {LARGEST_ID}")
    return ids


def _refuse_train_ids(files: Sequence[str]) -> None:
    """Raise InputError where no label is above the train ids, and most of what they name would be ignored."""
    step = max(1, len(files) // _LOOKED_AT)
    looked_at = (np.bincount(_label_ids(file).ravel(), minlength=LARGEST_ID + 1) for file in files[::step])
    counts = np.sum(list(looked_at), axis=0)
    trained = [number for number in IDS.tolist() if number < len(IDS)]
    if not counts[len(IDS) :].any() and 2 * counts[trained].sum() < counts.sum():
        raise InputError(
            f"{files[0]} and others hold no id above {len(IDS) - 1}, and look like train ids "
            f"(_labelTrainIds.png): wanted label ids, 0 to {LARGEST_ID}"
        )


class VariedCrop:
    """A random crop of image and mask, drawn again, ten times at most, while one class fills too much of it."""

    def __init__(self, size: Sequence[int], largest_share: float = 0.75) -> None:
        fill = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORED}
        self.crop = v2.RandomCrop(list(size), pad_if_needed=True, fill=fill)
        self.largest_share = largest_share

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        cropped: tuple[Tensor, Tensor] = self.crop(image, mask)
        for _ in range(9):
            labels = cropped[1]
            counts = torch.bincount(labels[labels != IGNORED].flatten().long())
            if (counts > 0).sum() > 1 and counts.max() < self.largest_share * counts.sum():
                break
            cropped = self.crop(image, mask)
        return cropped


def loss(outputs: Tensor | Sequence[Tensor], labels: Tensor, auxiliary_weight: float = 0.4) -> Tensor:
    """Cross-entropy of logits (B, 19, H, W) and labels (B, H, W), and a weighted one of each auxiliary output.

    Summed over the pixels that have a label and divided by the number of all. Logits (B, 19) are of presence.
    """
    every = [outputs] if isinstance(outputs, Tensor) else outputs
    main, *others = [cross_entropy(each.float(), labels, IGNORED) for each in every if each.ndim == 4]
    of_presence = [presence(each, labels) for each in every if each.ndim == 2]
    return main + auxiliary_weight * sum(others) + PRESENCE_WEIGHT * sum(of_presence)


def scores(confusion: Metric) -> MetricsLambda:
    """`confusion_scores` of an ignite ConfusionMatrix, under these names among the metrics of an evaluator."""
    return MetricsLambda(confusion_scores, confusion)


def confusion_scores(confusion: Tensor) -> Mapping[str, float]:
    """mIoU, mAcc and aAcc of a confusion matrix (true, predicted) of pixel counts over the whole set.

    mIoU is the mean over the classes of intersection over union, mAcc that of the recall, aAcc the share of all
    pixels that are right. A class that is neither there nor predicted has no IoU, one that is not there no
    recall, and is left out of the mean, as in MMSegmentation.
    """
    matrix = confusion.double()
    right, there, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    return {
        "mIoU": (right / (there + predicted - right)).nanmean().item(),
        "mAcc": (right / there).nanmean().item(),
        "aAcc": (right.sum() / matrix.sum()).item(),
    }


def write_labels(logits: Tensor, file: str, place: Path) -> dict[str, str]:
    """Write the label ids of an image as <name>.png, in its own grid, and over the image as <name>.jpg.

    `logits` are (19, H, W). Gives the two names.
    """
    classes = logits.argmax(0).cpu().numpy()
    shown = Image.blend(read_image(file), Image.fromarray(COLOURS[classes]), 0.5)
    labels, colours = place.with_suffix(".png"), place.with_suffix(".jpg")
    for path, picture in ((labels, Image.fromarray(IDS[classes])), (colours, shown)):
        with written_whole(path) as temporary:
            picture.save(temporary)
    return {"labels": labels.name, "colours": colours.name}
