"""What the synthetic natural images share: outlines, backdrops, noise, whole files. Sizes are (H, W) pixels."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dsnet_med.errors import InputError
from dsnet_med.files import written_whole

Generator = np.random.Generator
Points = NDArray[np.float64]  # (N, 2): x to the right, y down
Colour = tuple[int, int, int]
Size = tuple[int, int]
SPLITS = ("train", "val")  # a split's index is part of its images' seeds

_SMALLEST = 32
_VALIDATION_PART = 4
_PATCHES = (4, 5)  # a backdrop blends this grid of muted colours
_MUTED = (70, 150)
_SPREAD = 0.08  # of an image's size about the one that was asked for
_JPEG_QUALITY = 92


def require_scene(images: int, size: Size) -> None:
    """Raise InputError unless there is an image to make, and each is large enough to show something."""
    if images < 1:
        raise InputError(f"a phantom of {images} images; wanted at least 1")
    if min(size) < _SMALLEST:
        raise InputError(f"images of {size[0]}x{size[1]} pixels (HxW); wanted at least {_SMALLEST}x{_SMALLEST}")


def validation_images(images: int, classes: int = 1) -> int:
    """How many validation images a phantom adds to `images` for training: a quarter, at least one per class."""
    return max(images // _VALIDATION_PART, classes)


def generator_of(seed: int, split: str, number: int) -> Generator:
    """The generator of one image, whatever the others are."""
    return np.random.default_rng([seed, SPLITS.index(split), number])


def size_near(rng: Generator, size: Size) -> Size:
    """A size some percent away from `size`, each side by itself."""
    height, width = (round(n * rng.uniform(1 - _SPREAD, 1 + _SPREAD)) for n in size)
    return height, width


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


def corners(outline: Points) -> list[tuple[float, float]]:
    """`outline` for PIL.ImageDraw, which counts from the middle of the first pixel, not from its edge."""
    return [(float(x) - 0.5, float(y) - 0.5) for x, y in outline]


def backdrop(rng: Generator, size: Size) -> Image.Image:
    """An RGB image of muted colours that run into each other."""
    patches = rng.integers(*_MUTED, (*_PATCHES, 3)).astype(np.uint8)
    return Image.fromarray(patches).resize((size[1], size[0]), Image.Resampling.BICUBIC)


def noisy(rng: Generator, image: Image.Image, deviation: float) -> Image.Image:
    """`image` (RGB) with Gaussian noise of that many grey levels in each channel."""
    pixels = np.asarray(image) + rng.normal(0, deviation, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def save(image: Image.Image, path: Path) -> None:
    """Write `image` as its suffix says (.png, else JPEG), whole or not at all. Raises InputError."""
    options: dict[str, Any] = {"format": "PNG"}
    if path.suffix != ".png":
        options = {"format": "JPEG", "quality": _JPEG_QUALITY}
    with written_whole(path) as temporary:
        image.save(temporary, **options)
