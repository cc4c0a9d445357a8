"""Image files as items for MONAI's engines, with torchvision's transforms."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from dsnet_med.errors import InputError, one_line

_SMALLEST = 32  # pixels of a side, the largest reduction of a backbone
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
            image = _large_enough(read_image(self.files[index]))
        except InputError as reason:
            error = str(reason)
        return {"image": self.transform(image), "path": self.files[index], "error": error}


def read_image(file: str | Path) -> Image.Image:
    """The image in a file, in RGB; InputError where there is none."""
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} cannot be read as an image: {one_line(error)}") from error


def find_images(folder: str) -> list[str]:
    """The image files in `folder` and below, sorted; InputError where there are none."""
    found = (file for file in Path(folder).rglob("*") if file.is_file())
    files = sorted(str(file) for file in found if file.suffix.lower() in IMG_EXTENSIONS)
    if not files:
        raise InputError(f"no images in {folder}: wanted files such as .jpg or .png, there or in folders below")
    return files


def required(path: Path, what: str) -> Path:
    """`path`; InputError, which says `what` lies there in the published layout, where there is nothing."""
    if not path.exists():
        raise InputError(f"{path} is missing: {what}")
    return path


def _large_enough(image: Image.Image) -> Image.Image:
    if min(image.size) < _SMALLEST:
        raise InputError(f"the image has {image.size[0]}x{image.size[1]} pixels and needs {_SMALLEST} a side")
    return image
