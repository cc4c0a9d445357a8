"""A synthetic data set in the layout of Cityscapes: street scenes with the published labelIds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dsnet_med.phantoms import scenes
from dsnet_med.phantoms.scenes import Colour, Generator, Size

_CITIES = {"train": ("aachen", "bochum", "bremen"), "val": ("frankfurt", "lindau", "munster")}
_FRAME = 19  # of the 30 of a snippet, the one with labels
_CLASSES: dict[str, tuple[int, Colour]] = {  # labelIds of cityscapesScripts; evaluation ignores the first five
    "ego vehicle": (1, (28, 30, 34)),
    "rectification border": (2, (8, 8, 8)),
    "out of roi": (3, (8, 8, 8)),
    "static": (4, (96, 62, 40)),
    "parking": (9, (128, 112, 116)),
    "road": (7, (92, 92, 98)),
    "sidewalk": (8, (158, 146, 140)),
    "building": (11, (142, 96, 78)),
    "pole": (17, (60, 64, 70)),
    "traffic light": (19, (196, 168, 30)),
    "traffic sign": (20, (206, 40, 44)),
    "vegetation": (21, (54, 104, 44)),
    "sky": (23, (176, 204, 232)),
    "person": (24, (176, 58, 132)),
    "car": (26, (36, 66, 160)),
}
_WHITE, _GLASS, _SKIN, _RUBBER = (224, 224, 220), (140, 170, 188), (222, 178, 150), (20, 20, 20)
_COLOUR_SPREAD, _NOISE = 14, 7.0
_HORIZON, _KERB = 0.48, 0.56  # as parts of the height
_BORDER = 64  # the height over the rectification border's width; twice that for what lies out of the roi

Place = tuple[float, float]


def make_cityscapes(out: Path, *, images: int, seed: int, size: Size = (128, 256)) -> Iterator[str]:
    """Write `images` street scenes of `size` (H, W) with labels for training, and a quarter for validation.

    Files are `leftImg8bit/<split>/<city>/<city>_<sequence>_000019_leftImg8bit.png` (RGB) and
    `gtFine/<split>/<city>/<city>_<sequence>_000019_gtFine_labelIds.png` (8 bits, ids 0 to 33), from three
    cities in turn. A scene depends on `seed`, its split and its number alone, given `size`. Yields each
    image's path below `out` when its labels are written too, `images + validation_images(images)` in all.
    Raises InputError.
    """
    for split, number, rng in scenes.each_image(images, seed, size):
        sequence, place = divmod(number, len(_CITIES[split]))
        city = _CITIES[split][place]
        name = f"{split}/{city}/{city}_{sequence:06d}_{_FRAME:06d}"
        street = _street(rng, size)
        scenes.save(street.labels, out / "gtFine" / f"{name}_gtFine_labelIds.png")
        scenes.save(scenes.noisy(rng, street.image, _NOISE), out / "leftImg8bit" / f"{name}_leftImg8bit.png")
        yield f"leftImg8bit/{name}_leftImg8bit.png"


@dataclass(frozen=True)
class _Street:
    """A picture and its labels, painted together; places are parts of the width and of the height."""

    image: Image.Image
    labels: Image.Image
    rng: Generator

    def paint(self, name: str, outline: Sequence[Place], colour: Colour | None = None) -> None:
        """Fill `outline` in both, with about the colour of the class unless another is given."""
        label, usual = _CLASSES[name]
        shift = self.rng.integers(-_COLOUR_SPREAD, _COLOUR_SPREAD + 1, 3)
        red, green, blue = (int(n) for n in np.clip(np.array(colour or usual) + shift, 0, 255))
        scenes.fill(self.image, np.array(outline) * self.image.size, (red, green, blue))
        scenes.fill(self.labels, np.array(outline) * self.image.size, label)

    def box(self, name: str, foot: Place, extent: Place, colour: Colour | None = None) -> None:
        """Fill the box of `extent` (W, H) that stands with the middle of its lower edge at `foot` (x, y)."""
        (x, y), (width, height) = foot, extent
        left, right, top = x - width / 2, x + width / 2, y - height
        self.paint(name, [(left, top), (right, top), (right, y), (left, y)], colour)

    def oval(self, name: str, middle: Place, extent: Place, colour: Colour | None = None) -> None:
        """Fill the ellipse of `extent` (W, H) about `middle` (x, y)."""
        outline = scenes.ring(24) * (extent[0] / 2, extent[1] / 2) + middle
        self.paint(name, [(x, y) for x, y in outline], colour)


def _street(rng: Generator, size: Size) -> _Street:
    height, width = size
    street = _Street(Image.new("RGB", (width, height)), Image.new("L", (width, height)), rng)
    vanishing = rng.uniform(0.42, 0.58)
    _paint_far(street)
    _paint_ground(street, vanishing)
    _paint_posts(street)
    _paint_traffic(street, vanishing)
    street.oval("ego vehicle", (0.5, 1.04), (1.3, 0.3))
    # The rim that rectification left black, and outermost what lies out of the region of interest
    for name, pixels in (
        ("rectification border", max(2, height // _BORDER)),
        ("out of roi", max(1, height // (2 * _BORDER))),
    ):
        label, colour = _CLASSES[name]
        for picture, fill in ((street.labels, label), (street.image, colour)):
            ImageDraw.Draw(picture).rectangle((0, 0, width - 1, height - 1), outline=fill, width=pixels)
    return street


def _paint_far(street: _Street) -> None:
    """Sky, a row of houses with a gap or two, trees before them."""
    rng = street.rng
    street.box("sky", (0.5, 1.0), (1.0, 1.0))
    houses = int(rng.integers(5, 8))
    for place in range(houses):
        x, top = (place + 0.5) / houses, _KERB - rng.uniform(0.06, 0.42)
        street.box("building", (x, _KERB), (rng.uniform(0.8, 1.0) / houses, _KERB - top))
    for x in rng.uniform(0, 1, int(rng.integers(2, 5))):
        crown = rng.uniform(0.07, 0.13)
        street.box("vegetation", (x, _KERB), (crown / 5, 0.2))
        street.oval("vegetation", (x, 0.37), (crown, rng.uniform(0.2, 0.3)))


def _paint_ground(street: _Street, vanishing: float) -> None:
    """Sidewalks up to the houses, a bay to park in, and the road with its middle line."""
    street.box("sidewalk", (0.5, 1.0), (1.0, 1.0 - _HORIZON - 0.04))
    side = street.rng.choice((-1, 1))
    bay = vanishing + side * 0.3
    street.paint("parking", [(bay, 0.62), (bay + side * 0.1, 0.62), (bay + side * 0.3, 0.8), (bay, 0.8)])
    street.paint("road", [(-0.12, 1.0), (1.12, 1.0), (vanishing + 0.07, _KERB), (vanishing - 0.07, _KERB)])
    street.paint("road", [(0.49, 1.0), (0.51, 1.0), (vanishing + 0.003, 0.6), (vanishing - 0.003, 0.6)], _WHITE)


def _paint_posts(street: _Street) -> None:
    """On either side a pole with a sign or a traffic light; a bin beside one of them."""
    rng = street.rng
    left, right = rng.uniform(0.06, 0.22), rng.uniform(0.78, 0.94)
    for x, on_top in zip((left, right), rng.permutation(("traffic sign", "traffic light")), strict=True):
        top = rng.uniform(0.22, 0.32)
        street.box("pole", (x, 0.68), (0.014, 0.68 - top))
        street.oval(str(on_top), (x, top), (0.05, 0.11))
    street.box("static", (left + rng.choice((-0.04, 0.06)), 0.7), (0.04, 0.1))


def _paint_traffic(street: _Street, vanishing: float) -> None:
    """Persons on the sidewalks and cars on the road, the far ones first."""
    rng = street.rng
    for x in (rng.uniform(0.1, 0.24), *rng.uniform(0.68, 0.9, int(rng.integers(1, 3)))):
        foot, tall = rng.uniform(0.66, 0.76), rng.uniform(0.2, 0.28)
        street.box("person", (x, foot), (0.16 * tall, 0.8 * tall))
        street.oval("person", (x, foot - 0.88 * tall), (0.1 * tall, 0.24 * tall), _SKIN)
    for foot in np.sort(rng.uniform(0.62, 0.84, int(rng.integers(1, 4)))):
        near = (foot - _HORIZON) / (1 - _HORIZON)
        x, wide = vanishing + rng.choice((-0.42, 0.42)) * near + rng.uniform(-0.03, 0.03), 0.12 + 0.2 * near
        street.box("car", (x, foot), (wide, 0.7 * wide))
        street.box("car", (x, foot - 0.6 * wide), (0.7 * wide, 0.5 * wide), _GLASS)
        for wheel in (x - 0.35 * wide, x + 0.35 * wide):
            street.oval("car", (wheel, foot), (0.18 * wide, 0.3 * wide), _RUBBER)
