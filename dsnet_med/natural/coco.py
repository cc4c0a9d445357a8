"""COCO as published (train2017/, val2017/, annotations/): boxes, and AP by COCO's own evaluation.

Data: Lin et al. 2014, https://arxiv.org/abs/1405.0312. Crowds are boxes around many objects: they are not
trained on, and a detection inside one is neither right nor wrong. Images without a box to train on are left
out of training, as in MMDetection; evaluation takes every image. The network's labels 1, 2, ... are the
categories in the order of their ids.
"""

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import torch
from ignite.metrics import Metric
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import ops, tv_tensors
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes

from dsnet_med.errors import InputError
from dsnet_med.files import written_whole
from dsnet_med.natural.coco_annotations import check_categories
from dsnet_med.natural.images import Transform, read_bytes, read_image, require_files, required_folder
from dsnet_med.natural.sums import Sums

if TYPE_CHECKING:
    from pycocotools.coco import COCO

SCORES = ("AP", "AP50", "AP75", "APS", "APM", "APL")  # the first of the evaluation's statistics
_SMALLEST = 32  # pixels of the short side of an image to train on
Item = dict[str, Any]


class Coco(Dataset[Item]):
    """Items {"image", "target"} of a split: what `transform` makes of an image and its target.

    The target of training holds `boxes` (N, 4), x1 y1 x2 y2, and `labels` (N,); that of evaluation the
    `image_id`. An image is taken as viewers show it, on which boxes are drawn, unless the annotations give it
    the size that it is stored in. `run` is the folder of the run that keeps sums of what is read.

    Raises InputError for missing folders and files, for training without a single box, and, when reached, for
    files that cannot be read or that the run read otherwise before.
    """

    def __init__(
        self,
        dataset_dir: str,
        split: str,
        annotations: "COCO",
        transform: Transform,
        *,
        training: bool,
        run: str | None = None,
    ) -> None:
        folder = Path(dataset_dir) / f"{split}2017"
        self.folder = required_folder(folder, "wanted the images there, as COCO has them")
        self.annotations, self.transform, self.training = annotations, transform, training
        self.labels = {number: label for label, number in enumerate(sorted(annotations.cats), start=1)}
        self.ids = sorted(annotations.imgs)
        if training:
            large = (number for number in self.ids if min(self._size(number)) >= _SMALLEST)
            self.ids = [number for number in large if len(self._target(number)["labels"])]
        if not self.ids:
            raise InputError(f"the annotations of {folder} hold no box to train on: all are crowds or none")
        files = [str(self._file(number)) for number in self.ids]
        self.sums = Sums(run, files)
        require_files(files, "fetch them, or take them out of the annotations")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Item:
        number = self.ids[index]
        target = self._target(number) if self.training else {"image_id": number}
        file = self._file(number)
        content = read_bytes(file)
        self.sums.compare(index, file, content, self._told(number))
        transformed, target = self.transform(self._image(number, content), target)
        return {"image": transformed, "target": target}

    def _told(self, number: int) -> bytes:
        """What the annotations say of an image; COCO's evaluation writes more into them."""
        objects = self.annotations.imgToAnns[number]
        told = [[each[key] for key in ("bbox", "area", "category_id", "iscrowd")] for each in objects]
        return json.dumps([*self._size(number), told]).encode()

    def _image(self, number: int, content: bytes) -> Image:
        file, size = self._file(number), self._size(number)
        image = read_image(file, content)
        if image.size == size[::-1] != size:
            image = read_image(file, content, upright=False)
        if image.size != size:
            raise InputError(
                f"{file} has {image.size[0]}x{image.size[1]} pixels, by its annotations {size[0]}x{size[1]}: "
                "wanted the image that was annotated"
            )
        return image

    def _file(self, number: int) -> Path:
        return self.folder / str(self.annotations.imgs[number]["file_name"])

    def _size(self, number: int) -> tuple[int, int]:
        image = self.annotations.imgs[number]
        return image["width"], image["height"]

    def _target(self, number: int) -> Item:
        """The objects to train on: no crowds, and a box of at least a pixel inside the image."""
        width, height = self._size(number)
        objects = [each for each in self.annotations.imgToAnns[number] if not each["iscrowd"]]
        boxes = torch.tensor([each["bbox"] for each in objects], dtype=torch.float64).reshape(-1, 4)
        boxes = ops.clip_boxes_to_image(ops.box_convert(boxes, "xywh", "xyxy"), (height, width))
        kept = ops.remove_small_boxes(boxes, 1)
        labels = torch.tensor([self.labels[each["category_id"]] for each in objects], dtype=torch.int64)
        canvas = tv_tensors.BoundingBoxes(boxes[kept].float(), format="XYXY", canvas_size=(height, width))
        return {"boxes": canvas, "labels": labels[kept]}


def collate(items: Sequence[Item]) -> dict[str, list[Any]]:
    """Images of several sizes and their targets, as lists."""
    return {name: [item[name] for item in items] for name in items[0]}


def prepare_training(
    batch: Mapping[str, list[Any]], device: torch.device, *_: Any, **__: Any
) -> tuple[Any, ...]:
    """What MONAI's trainer hands to the network: images and targets; the loss needs nothing more."""
    targets = [{name: value.to(device) for name, value in target.items()} for target in batch["target"]]
    return [image.to(device) for image in batch["image"]], None, (targets,), {}


def prepare_evaluation(
    batch: Mapping[str, list[Any]], device: torch.device, *_: Any, **__: Any
) -> tuple[Any, ...]:
    """What MONAI's evaluator hands to the network, images, and to the metric, targets."""
    return [image.to(device) for image in batch["image"]], batch.get("target")


def loss(losses: Mapping[str, Tensor], _: None) -> Tensor:
    """The sum of Faster R-CNN's four losses."""
    return torch.stack(list(losses.values())).sum()


class AveragePrecision(Metric):
    """`SCORES` over all images of `annotations`; NaN for a size of object that none of them holds.

    Takes pairs of the detections of a batch, as Faster R-CNN gives them, and its targets with `image_id`.
    Raises InputError where the categories are not called `class_names`, or there is no object to find.
    """

    def __init__(self, annotations: "COCO", class_names: Sequence[str], output_transform: Any) -> None:
        check_categories(annotations, class_names, "the validation set")
        if all(each["iscrowd"] for each in annotations.anns.values()):
            raise InputError("the validation set's annotations hold no object to find: all are crowds or none")
        self.annotations, self.numbers = annotations, sorted(annotations.cats)
        super().__init__(output_transform)

    def reset(self) -> None:
        """Forget all detections."""
        self.results: list[Item] = []
        self.scores: dict[str, float] | None = None

    def update(self, output: tuple[Sequence[Mapping[str, Tensor]], Sequence[Item]]) -> None:
        """Take the detections of a batch."""
        for detections, target in zip(*output, strict=True):
            rows = zip(*(detections[name].tolist() for name in ("boxes", "labels", "scores")), strict=True)
            self.results += [
                {
                    "image_id": target["image_id"],
                    "category_id": self.numbers[label - 1],
                    "bbox": [left, top, right - left, bottom - top],
                    "score": score,
                }
                for (left, top, right, bottom), label, score in rows
            ]

    def compute(self) -> dict[str, float]:
        """The scores by name, evaluated when first asked for, by all processes: it takes a minute for COCO."""
        if self.scores is None:
            every = [each for part in idist.all_gather(self.results) for each in part]
            self.scores = evaluate_boxes(self.annotations, sorted(every, key=itemgetter("image_id")))
        return self.scores


def evaluate_boxes(annotations: "COCO", results: list[Item]) -> dict[str, float]:
    """`SCORES` of `results` in COCO's own form (image_id, category_id, bbox, score) by COCO's evaluation."""
    from pycocotools.cocoeval import COCOeval  # noqa: PLC0415 -- an extra

    with redirect_stdout(io.StringIO()):
        detected = annotations.loadRes(results) if results else _nothing(annotations)
        evaluation = COCOeval(annotations, detected, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = zip(SCORES, evaluation.stats.tolist(), strict=False)
    return {name: value if value >= 0 else float("nan") for name, value in values}


def _nothing(annotations: "COCO") -> "COCO":
    """No detections, which COCO's own reader cannot read."""
    nothing = type(annotations)()
    nothing.dataset = {**annotations.dataset, "annotations": []}
    nothing.createIndex()
    return nothing


def write_boxes(
    detections: Mapping[str, Tensor], file: str, place: Path, names: Sequence[str], shown_from: float = 0.5
) -> list[Item]:
    """Draw the detections of at least `shown_from` over the image, as <name>.jpg; gives all of them.

    Each has a category, a score and a bbox, x y width height in pixels as COCO's.
    """
    boxes, labels, scores = (detections[name].cpu() for name in ("boxes", "labels", "scores"))
    found = [names[label - 1] for label in labels.tolist()]
    drawn = [i for i, score in enumerate(scores.tolist()) if score >= shown_from]
    image = pil_to_tensor(read_image(file))
    if drawn:
        titles = [f"{found[i]} {scores[i]:.2f}" for i in drawn]
        image = draw_bounding_boxes(image, boxes[drawn], titles, colors="red", width=2)
    with written_whole(place.with_suffix(".jpg")) as temporary:
        to_pil_image(image).save(temporary)
    sizes = ops.box_convert(boxes, "xyxy", "xywh").tolist()
    return [
        {"category": name, "score": round(score, 4), "bbox": [round(number, 2) for number in box]}
        for name, score, box in zip(found, scores.tolist(), sizes, strict=True)
    ]
