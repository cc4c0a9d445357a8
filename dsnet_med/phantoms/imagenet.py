"""A synthetic data set in the layout of ImageNet (ILSVRC2012): one shape, colour and texture per class."""

import colorsys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dsnet_med.errors import InputError
from dsnet_med.files import write_text
from dsnet_med.phantoms.scenes import (
    Colour,
    Generator,
    Size,
    backdrop,
    corners,
    generator_of,
    noisy,
    require_scene,
    ring,
    save,
    size_near,
    turned,
    validation_images,
)

_MOST_CLASSES = 1000
# The first of ILSVRC2012, sorted; those that follow here are numbers of the same form.
_WNIDS = (
    *("n01440764", "n01443537", "n01484850", "n01491361", "n01494475", "n01496331", "n01498041", "n01514668"),
    *("n01514859", "n01518878", "n01530575", "n01531178", "n01532829", "n01534433", "n01537544", "n01558993"),
)
_NEXT_WNID, _WNID_STEP = 1600000, 137
# Shapes and textures repeat together after 15 classes; so does what a greyscale image shows.
_SHAPES = (ring(32), ring(3), turned(ring(4), 45), ring(10, 0.45), ring(4) * (0.35, 1.2))
_TEXTURES = ("plain", "stripes", "checks")
_GOLDEN = 0.618034  # hues at this distance keep apart, however many
_HUE_SPREAD, _TURN_DEGREES = 0.015, 15.0
_SHADE = 0.4  # of a texture's dark parts
_NOISE = 14.0
_GREY_EVERY, _GREY_AT, _CMYK_AT = 20, 5, 11


def make_imagenet(
    out: Path, *, images: int, seed: int, size: Size = (96, 128), classes: int = 8, flat_val: bool = False
) -> Iterator[str]:
    """Write `images` training images of about `size` (H, W), spread over `classes`, and a validation set.

    Files are train/<wnid>/<wnid>_<number>.JPEG and val/<wnid>/ILSVRC2012_val_<number>.JPEG; with `flat_val` the
    latter lie in val/ itself, and val.txt beside it, written last, has lines `<file> <class>`, where a class is
    the place of its wnid among the sorted ones. Every 20th image is greyscale, and the 12th one for training is
    CMYK, as some of ImageNet's are. An image depends on `seed`, its split and its number alone, given `size`
    and `classes`. Yields each image's path below `out`, `images + validation_images(images, classes)` in all.
    Raises InputError.
    """
    require_scene(images, size)
    _require_classes(images, classes)
    wnids = _wnids(classes)
    for number in range(images):
        wnid, rng = wnids[number % classes], generator_of(seed, "train", number)
        name = f"train/{wnid}/{wnid}_{number}.JPEG"
        save(_image(rng, number % classes, size, _mode("train", number)), out / name)
        yield name
    lines = []
    for number in range(validation_images(images, classes)):
        kind, rng = number % classes, generator_of(seed, "val", number)
        file = f"ILSVRC2012_val_{number + 1:08d}.JPEG"
        name = f"val/{file}" if flat_val else f"val/{wnids[kind]}/{file}"
        save(_image(rng, kind, size, _mode("val", number)), out / name)
        lines.append(f"{file} {kind}\n")
        yield name
    if flat_val:
        write_text(out / "val.txt", "".join(lines))


def _require_classes(images: int, classes: int) -> None:
    if not 1 <= classes <= _MOST_CLASSES:
        raise InputError(f"a phantom of {classes} classes; wanted 1 to {_MOST_CLASSES}")
    if images < classes:
        raise InputError(
            f"{images} images for {classes} classes; wanted at least one each: more images, fewer classes"
        )


def _wnids(classes: int) -> list[str]:
    more = range(classes - len(_WNIDS))
    return [*_WNIDS[:classes], *(f"n{_NEXT_WNID + _WNID_STEP * place:08d}" for place in more)]


def _mode(split: str, number: int) -> str:
    """The colours of an image, as Pillow names them."""
    if number % _GREY_EVERY == _GREY_AT:
        return "L"
    return "CMYK" if split == "train" and number == _CMYK_AT else "RGB"


def _image(rng: Generator, kind: int, about: Size, mode: str) -> Image.Image:
    """An object of class `kind` anywhere in an image of about that size."""
    size = size_near(rng, about)
    height, width = size
    image, mask = backdrop(rng, size), Image.new("L", (width, height))
    radius = min(size) * rng.uniform(0.32, 0.42)
    middle = np.array((width, height)) / 2 + (np.array((width, height)) / 2 - radius) * rng.uniform(
        -0.8, 0.8, 2
    )
    outline = turned(_SHAPES[kind % len(_SHAPES)], rng.uniform(-_TURN_DEGREES, _TURN_DEGREES))
    ImageDraw.Draw(mask).polygon(corners(middle + radius * outline), fill=255)
    image.paste(_surface(_colour(rng, kind), _TEXTURES[kind % len(_TEXTURES)], size, radius), mask=mask)
    return noisy(rng, image, _NOISE).convert(mode)


def _colour(rng: Generator, kind: int) -> Colour:
    hue = (kind * _GOLDEN + rng.uniform(-_HUE_SPREAD, _HUE_SPREAD)) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, rng.uniform(0.85, 1.0), rng.uniform(0.85, 1.0))
    return round(255 * red), round(255 * green), round(255 * blue)


def _surface(colour: Colour, texture: str, size: Size, radius: float) -> Image.Image:
    """A whole image of `texture`, with parts a third of `radius` wide."""
    y, x = np.indices(size) // max(2, round(radius / 3))
    dark = {"plain": 0 * x, "stripes": y % 2, "checks": (x + y) % 2}[texture]
    shade = np.where(dark == 1, _SHADE, 1.0)[..., None]
    return Image.fromarray((shade * np.array(colour)).astype(np.uint8))
