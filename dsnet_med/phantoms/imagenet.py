"""A synthetic data set in the layout of ImageNet (ILSVRC2012): one shape, colour and texture per class."""

import colorsys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dsnet_med.errors import InputError
from dsnet_med.files import write_text
from dsnet_med.phantoms import scenes
from dsnet_med.phantoms.scenes import Generator, Size, ring, turned

_MOST_CLASSES = 1000
# The first of ILSVRC2012, sorted; those that follow here are numbers of the same form.
_WNIDS = (
    *("n01440764", "n01443537", "n01484850", "n01491361", "n01494475", "n01496331", "n01498041", "n01514668"),
    *("n01514859", "n01518878", "n01530575", "n01531178", "n01532829", "n01534433", "n01537544", "n01558993"),
    *(f"n{1600000 + 137 * place:08d}" for place in range(_MOST_CLASSES - 16)),
)
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

    Files are `train/<wnid>/<wnid>_<number>.JPEG` and `val/<wnid>/ILSVRC2012_val_<number>.JPEG`; with
    `flat_val` the latter lie in val/ itself, and val.txt beside it, written last, has lines `<file> <class>`,
    where a class is the place of its wnid among the sorted ones. Every 20th image is greyscale, and the 12th
    one for training is CMYK, as some of ImageNet's are. An image depends on `seed`, its split and its number
    alone, given `size` and `classes`. Yields each image's path below `out`, `images +
    validation_images(images, classes)` in all. Raises InputError.
    """
    if not 1 <= classes <= _MOST_CLASSES:
        raise InputError(f"a phantom of {classes} classes; wanted 1 to {_MOST_CLASSES}")
    if 1 <= images < classes:
        raise InputError(
            f"{images} images for {classes} classes; wanted at least one each: more images, fewer classes"
        )
    lines = []
    for split, number, rng in scenes.each_image(images, seed, size, classes):
        kind, mode = number % classes, "L" if number % _GREY_EVERY == _GREY_AT else "RGB"
        file, folder = f"{_WNIDS[kind]}_{number}.JPEG", f"{split}/{_WNIDS[kind]}"
        if split == "train" and number == _CMYK_AT:
            mode = "CMYK"
        if split == "val":
            file, folder = f"ILSVRC2012_val_{number + 1:08d}.JPEG", "val" if flat_val else folder
            lines.append(f"{file} {kind}\n")
        scenes.save(_image(rng, kind, size).convert(mode), out / folder / file)
        yield f"{folder}/{file}"
    if flat_val:
        write_text(out / "val.txt", "".join(lines))


def _image(rng: Generator, kind: int, about: Size) -> Image.Image:
    """An object of class `kind` anywhere in an image of about that size."""
    image = scenes.backdrop(rng, about)
    mask, half = Image.new("L", image.size), np.array(image.size) / 2
    radius = min(image.size) * rng.uniform(0.32, 0.42)
    middle = half + (half - radius) * rng.uniform(-0.8, 0.8, 2)
    outline = turned(_SHAPES[kind % len(_SHAPES)], rng.uniform(-_TURN_DEGREES, _TURN_DEGREES))
    scenes.fill(mask, middle + radius * outline, 255)
    hue = (kind * _GOLDEN + rng.uniform(-_HUE_SPREAD, _HUE_SPREAD)) % 1.0
    colour = np.rint(255 * np.array(colorsys.hsv_to_rgb(hue, *rng.uniform(0.85, 1.0, 2))))
    # Texture, with parts a third of the radius wide
    y, x = np.indices((image.height, image.width)) // max(2, round(radius / 3))
    dark = {"plain": 0 * x, "stripes": y % 2, "checks": (x + y) % 2}[_TEXTURES[kind % len(_TEXTURES)]]
    shade = np.where(dark == 1, _SHADE, 1.0)[..., None]
    image.paste(Image.fromarray((shade * colour).astype(np.uint8)), mask=mask)
    return scenes.noisy(rng, image, _NOISE)
