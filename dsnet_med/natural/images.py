"""Image files as items for MONAI's engines, with torchvision's transforms."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from dsnet_med.errors import InputError, one_line

_SMALLEST = 32  # pixels of a side, the largest reduction of a backbone
_LONGEST = 50  # times the short side: a network that shrinks images would leave nothing of that
_EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV")
Transform = Callable[..., Any]


class LabelledImages(Dataset[dict[str, Any]]):
    """Items {"image", "label"}: what `transform` makes of the image in each file; the label as it is.

    Raises InputError for a file that cannot be read.
    """

    def __init__(self, samples: Sequence[tuple[str, int]], transform: Transform) -> None:
        self.samples, self.transform = samples, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file, label = self.samples[index]
        return {"image": self.transform(read_image(file)), "label": label}


class UnlabelledImages(Dataset[dict[str, Any]]):
    """Items {"image", "path", "error"}: one that cannot be read is black and says why, so that others go on."""

    def __init__(self, files: Sequence[str], transform: Transform) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, error = Image.new("RGB", (_SMALLEST, _SMALLEST)), ""
        try:
            image = _usable(read_image(self.files[index]))
        except InputError as reason:
            error = str(reason)
        return {"image": self.transform(image), "path": self.files[index], "error": error}


def read_image(file: str | Path) -> Image.Image:
    """The image in a file, in RGB; InputError where there is none, or one of other values than 8 bits."""
    try:
        with Image.open(file) as image:
            if image.mode in _EIGHT_BITS:
                return image.convert("RGB")
            mode = image.mode
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} cannot be read as an image: {one_line(error)}") from error
    raise InputError(f"{file} holds pixels of the kind {mode}: wanted 8 bits for each colour")


def find_images(folder: str) -> list[str]:
    """The image files in `folder` and below, sorted; InputError where there are none."""
    if not Path(folder).is_dir():
        raise InputError(f"got {folder}, which is no folder: wanted one that holds images")
    files = sorted(str(file) for file in Path(folder).rglob("*") if file.is_file() and is_image(file))
    if not files:
        raise InputError(f"no images in {folder}: wanted files such as .jpg or .png, there or in folders below")
    return files


def is_image(file: str | Path) -> bool:
    """Whether a file is called as images are, and is not hidden (as the ._ files of macOS)."""
    path = Path(file)
    return path.suffix.lower() in IMG_EXTENSIONS and not path.name.startswith(".")


def subfolders(folder: Path) -> list[Path]:
    """The folders in `folder` that are not hidden, sorted."""
    return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def required(path: Path, what: str) -> Path:
    """`path`; InputError, which says `what` lies there in the published layout, where there is nothing."""
    if not path.exists():
        raise InputError(f"{path} is missing: {what}")
    return path


def required_folder(path: Path, what: str) -> Path:
    """`required`, and InputError for a file."""
    if required(path, what).is_file():
        raise InputError(f"{path} is a file: {what}")
    return path


def _usable(image: Image.Image) -> Image.Image:
    short, long = sorted(image.size)
    if short < _SMALLEST or long > _LONGEST * short:
        raise InputError(
            f"the image has {image.size[0]}x{image.size[1]} pixels: wanted sides of {_SMALLEST} at least, and "
            f"none longer than {_LONGEST} times the other"
        )
    return image
