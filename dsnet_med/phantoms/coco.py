"""A synthetic data set in the layout of COCO 2017: coloured shapes with boxes, polygons and crowds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dsnet_med.files import write_text
from dsnet_med.phantoms import scenes
from dsnet_med.phantoms.scenes import Colour, Generator, Points, Size, ring, turned

# fmt: off
_CATEGORIES = {
    "person": {1: "person"},
    "vehicle": {2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck",
                9: "boat"},
    "outdoor": {10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench"},
    "animal": {16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant",
               23: "bear", 24: "zebra", 25: "giraffe"},
    "accessory": {27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase"},
    "sports": {34: "frisbee", 35: "skis", 36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat",
               40: "baseball glove", 41: "skateboard", 42: "surfboard", 43: "tennis racket"},
    "kitchen": {44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl"},
    "food": {52: "banana", 53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot",
             58: "hot dog", 59: "pizza", 60: "donut", 61: "cake"},
    "furniture": {62: "chair", 63: "couch", 64: "potted plant", 65: "bed", 67: "dining table", 70: "toilet"},
    "electronic": {72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard", 77: "cell phone"},
    "appliance": {78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator"},
    "indoor": {84: "book", 85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier",
               90: "toothbrush"},
}
# fmt: on
_PERSON = 1
_LOOKS: dict[int, tuple[Points, Colour, Colour]] = {  # outline, fill and rim
    _PERSON: (ring(28) * (0.62, 1.0), (40, 90, 230), (20, 45, 115)),
    13: (turned(ring(8), 22.5), (225, 30, 40), (112, 15, 20)),  # stop sign
    38: (ring(4) * (0.9, 1.0), (150, 50, 200), (75, 25, 100)),  # kite
    59: (ring(3), (245, 195, 40), (122, 97, 20)),  # pizza
    72: (turned(ring(4), 45) * (1.0, 0.7), (20, 215, 215), (10, 107, 107)),  # tv
}
_SIDES_PX = ((12, 30), (36, 88), (98, 125))  # COCO's small, medium and large end at 32^2 and 96^2
_MOST_OBJECTS, _TURN_DEGREES = 4, 10.0
_WIDEST, _NARROWEST_PX = 0.95, 5.0  # of an object: part of the image's sides, and pixels
_TRIES, _SHRINK = 60, 0.95  # where it meets another object, it is tried elsewhere, and smaller
_CROWD_EVERY, _CROWD_AT, _EMPTY_EVERY, _EMPTY_AT = 4, 1, 5, 3
_FIRST_IDS = {"train": 9, "val": 285}  # with this step, no image is in both
_ID_STEP = 10  # between images, and between images' annotations
_NOISE = 10.0
_HEADER = {
    "info": {"description": "Synthetic data in the form of COCO 2017", "version": "1.0", "year": 2017},
    "licenses": [{"url": "https://creativecommons.org/publicdomain/zero/1.0/", "id": 1, "name": "CC0 1.0"}],
}

Annotation = dict[str, Any]
Box = tuple[float, float, float, float]  # left, top, right, bottom


def make_coco(out: Path, *, images: int, seed: int, size: Size = (160, 200)) -> Iterator[str]:
    """Write `images` images of about `size` (H, W) for training, a quarter for validation, and annotations.

    Files are `<split>2017/<id, 12 digits>.jpg` and, last, `annotations/instances_<split>2017.json` in the
    published form, with all 80 categories, of which five have objects. An object is a polygon; the second
    image of every four has a crowd too (iscrowd 1, uncompressed RLE down the columns), and the fourth of every
    five is empty. Objects' boxes do not overlap. An image, its id and its annotations depend on `seed`, its
    split and its number alone, given `size`. Yields each image's path below `out`, `images +
    validation_images(images)` in all. Raises InputError.
    """
    listed: dict[str, list[Annotation]] = {"train": [], "val": []}
    annotated: dict[str, list[Annotation]] = {"train": [], "val": []}
    for split, number, rng in scenes.each_image(images, seed, size):
        image, annotations = _draw(rng, number, size)
        image_id = _FIRST_IDS[split] + _ID_STEP * number
        name = f"{image_id:012d}.jpg"
        scenes.save(image, out / f"{split}2017" / name)
        listed[split].append(
            {"license": 1, "file_name": name, "height": image.height, "width": image.width, "id": image_id}
        )
        annotated[split] += [
            {**annotation, "image_id": image_id, "id": image_id * _ID_STEP + place}
            for place, annotation in enumerate(annotations)
        ]
        yield f"{split}2017/{name}"
    for split, entries in listed.items():
        document = {**_HEADER, "images": entries, "annotations": annotated[split]}
        target = out / "annotations" / f"instances_{split}2017.json"
        write_text(target, json.dumps({**document, "categories": _categories()}) + "\n")


def _categories() -> list[Annotation]:
    return [
        {"supercategory": group, "id": number, "name": name}
        for group, members in _CATEGORIES.items()
        for number, name in members.items()
    ]


def _draw(rng: Generator, number: int, size: Size) -> tuple[Image.Image, list[Annotation]]:
    """An image, and its annotations but for their ids."""
    image = scenes.backdrop(rng, size)
    annotations: list[Annotation] = []
    taken: list[Box] = []
    if number % _EMPTY_EVERY != _EMPTY_AT:
        if number % _CROWD_EVERY == _CROWD_AT:
            annotations.append(_add_crowd(rng, image, taken))
        sides = rng.choice(_SIDES_PX, rng.integers(1, _MOST_OBJECTS + 1))
        for area in sorted((rng.uniform(*limits) for limits in sides**2), reverse=True):
            annotations += _add_object(rng, image, area, taken)
    return scenes.noisy(rng, image, _NOISE), annotations


def _add_object(rng: Generator, image: Image.Image, area: float, taken: list[Box]) -> list[Annotation]:
    """Draw an object of about `area` square pixels, or less where there is little room; at times, none."""
    category = int(rng.choice(list(_LOOKS)))
    outline = turned(_LOOKS[category][0], rng.uniform(-_TURN_DEGREES, _TURN_DEGREES))
    placed = _place(rng, outline * np.sqrt(area / _area(outline)), image.size, taken)
    if placed is None:
        return []
    left, top, right, bottom = box = _box(placed)
    taken.append(box)
    scenes.fill(image, placed, *_LOOKS[category][1:])
    return [
        {
            "segmentation": [placed.ravel().tolist()],
            "area": round(_area(placed), 4),
            "iscrowd": 0,
            "bbox": [left, top, round(right - left, 2), round(bottom - top, 2)],
            "category_id": category,
        }
    ]


def _place(rng: Generator, outline: Points, limits: tuple[int, int], taken: list[Box]) -> Points | None:
    """`outline` moved to where it is free within `limits` (W, H), to hundredths of a pixel."""
    outline = outline * min(1.0, float(np.min(_WIDEST * np.array(limits) / np.ptp(outline, axis=0))))
    for _ in range(_TRIES):
        room = np.array(limits) - np.ptp(outline, axis=0)
        placed: Points = np.round(outline - outline.min(axis=0) + rng.uniform(0.01, 0.99, 2) * room, 2)
        if not any(_meet(_box(placed), other) for other in taken):
            return placed
        outline = outline * _SHRINK
        if np.ptp(outline, axis=0).min() < _NARROWEST_PX:
            break
    return None


def _add_crowd(rng: Generator, image: Image.Image, taken: list[Box]) -> Annotation:
    """Draw a row of people who overlap, as one annotation."""
    limits, count = np.array(image.size), int(rng.integers(5, 8))
    extent = limits * rng.uniform((0.38, 0.22), (0.5, 0.3))
    corner, mask = rng.uniform(0.05, 0.95, 2) * (limits - extent), Image.new("1", image.size)
    person, colour, rim = _LOOKS[_PERSON]
    for x in np.linspace(0.15, 0.85, count):
        half = extent / 2 * (1.6 / count, rng.uniform(0.8, 1.0))
        outline = corner + extent * (x, 0.5) + half * person / (0.62, 1.0)
        scenes.fill(image, outline, colour, rim)
        scenes.fill(mask, outline, 1)
    pixels = np.asarray(mask)
    y, x = np.nonzero(pixels)
    left, top, right, bottom = int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1
    taken.append((left, top, right, bottom))
    return {
        "segmentation": {"counts": _runs(pixels), "size": list(pixels.shape)},
        "area": int(pixels.sum()),
        "iscrowd": 1,
        "bbox": [left, top, right - left, bottom - top],
        "category_id": _PERSON,
    }


def _box(outline: Points) -> Box:
    (left, top), (right, bottom) = outline.min(axis=0).tolist(), outline.max(axis=0).tolist()
    return left, top, right, bottom


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _area(outline: Points) -> float:
    """Of a polygon, by the shoelace formula."""
    x, y = outline.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _runs(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed RLE: lengths of runs down the columns, the first one (maybe 0) outside."""
    flat = np.concatenate(([False], mask.ravel(order="F")))
    starts = np.flatnonzero(flat[1:] != flat[:-1])
    lengths: list[int] = np.diff(starts, prepend=0, append=mask.size).tolist()
    return lengths
