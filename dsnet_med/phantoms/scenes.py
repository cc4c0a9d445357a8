"""What the synthetic natural images share: splits, outlines, backdrops, noise. Sizes are (H, W) pixels."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dsnet_med.errors import InputError
from dsnet_med.files import written_whole

Generator = np.random.Generator
Points = NDArray[np.float64]  # (N, 2): x to the right, y down
Colour = tuple[int, int, int]
Size = tuple[int, int]

_SMALLEST = 32
_VALIDATION_PART = 4
_PATCHES = (4, 5)  # a backdrop blends this grid of muted colours
_MUTED = (70, 150)
_SPREAD = 0.08  # of an image's size about the one that was asked for
_JPEG_QUALITY = 92


def validation_images(images: int, classes: int = 1) -> int:
    """How many validation images a phantom adds to `images` for training: a quarter, at least one per class."""
    return max(images // _VALIDATION_PART, classes)


def each_image(images: int, seed: int, size: Size, classes: int = 1) -> Iterator[tuple[str, int, Generator]]:
    """Split, number and generator of every image to draw; an image's generator is the same whatever the others.

    Raises InputError unless there is an image to draw, and each is large enough to show something.
    """
    if images < 1:
        raise InputError(f"a phantom of {images} images; wanted at least 1")
    if min(size) < _SMALLEST:
        raise InputError(f"images of {size[0]}x{size[1]} pixels (HxW); wanted at least {_SMALLEST}x{_SMALLEST}")
    for index, (split, count) in enumerate((("train", images), ("val", validation_images(images, classes)))):
        for number in range(count):
            yield split, number, np.random.default_rng([seed, index, number])


def ring(count: int, inner: float = 1.0) -> Points:
    """`count` corners about the origin, the first one on top, at distances 1 and `inner` in turn."""
    angles = 2 * np.pi * np.arange(count) / count
    radii = np.where(np.arange(count) % 2, inner, 1.0)[:, None]
    points: Points = radii * np.stack((np.sin(angles), -np.cos(angles)), axis=1)
    return points


def turned(outline: Points, degrees: float) -> Points:
    """`outline` turned clockwise (in the picture) about the origin."""
    turn = np.deg2rad(degrees)
    points: Points = outline @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return points


def fill(image: Image.Image, outline: Points, colour: Colour | int, rim: Colour | None = None) -> None:
    """Fill the polygon `outline` of `image` with a colour, or a number, and draw its `rim` in another."""
    # PIL.ImageDraw counts from the middle of the first pixel, not from its edge.
    corners = [(float(x) - 0.5, float(y) - 0.5) for x, y in outline]
    ImageDraw.Draw(image).polygon(corners, fill=colour, outline=rim)


def backdrop(rng: Generator, about: Size) -> Image.Image:
    """An RGB image of muted colours that run into each other, each side some percent away from `about`."""
    height, width = (round(n * rng.uniform(1 - _SPREAD, 1 + _SPREAD)) for n in about)
    patches = rng.integers(*_MUTED, (*_PATCHES, 3)).astype(np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)


def noisy(rng: Generator, image: Image.Image, deviation: float) -> Image.Image:
    """`image` (RGB) with Gaussian noise of that many grey levels in each channel."""
    pixels = np.asarray(image) + rng.normal(0, deviation, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def save(image: Image.Image, path: Path) -> None:
    """Write `image` as its suffix says (.png, else JPEG), whole or not at all. Raises InputError."""
    options: dict[str, Any] = {"format": "JPEG", "quality": _JPEG_QUALITY}
    with written_whole(path) as temporary:
        image.save(temporary, **({"format": "PNG"} if path.suffix == ".png" else options))
