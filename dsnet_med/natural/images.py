"""Image files as items for MONAI's engines, with torchvision's transforms."""

import io
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from dsnet_med.errors import InputError, one_line, want_of_means
from dsnet_med.find import files_in, folders_below
from dsnet_med.natural.sums import Sums

_SMALLEST = 32  # pixels of a side, the largest reduction of a backbone
_LONGEST = 50  # times the short side: a network that shrinks images would leave nothing of that
_EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV")
_NAMED = 5  # files in an error
Transform = Callable[..., Any]


class LabelledImages(Dataset[dict[str, Any]]):
    """Items {"image", "label"}: what `transform` makes of the image in each file; the label as it is.

    `run` is the folder of the run that keeps sums of what is read. Raises InputError for files that are missing
    or empty, and, when reached, for one that cannot be read or that the run read otherwise before.
    """

    def __init__(
        self, samples: Sequence[tuple[str, int]], transform: Transform, run: str | None = None
    ) -> None:
        require_files((file for file, _ in samples), "fetch them again, or take them out of the folder")
        self.samples, self.transform = samples, transform
        self.sums = Sums(run, [file for file, _ in samples])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file, label = self.samples[index]
        content = read_bytes(file)
        self.sums.compare(index, file, content, str(label).encode())
        return {"image": self.transform(read_image(file, content)), "label": label}


class UnlabelledImages(Dataset[dict[str, Any]]):
    """Items {"image", "path", "error"}: one that cannot be read is black and says why, so that others go on."""

    def __init__(self, files: Sequence[str], transform: Transform) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, error = Image.new("RGB", (_SMALLEST, _SMALLEST)), ""
        try:
            found = read_image(self.files[index])
            short, long = sorted(found.size)
            if short < _SMALLEST or long > _LONGEST * short:
                raise InputError(
                    f"the image has {found.width}x{found.height} pixels: wanted sides of {_SMALLEST} at least, "
                    f"and none longer than {_LONGEST} times the other"
                )
            image = found
        except InputError as reason:
            error = str(reason)
        return {"image": self.transform(image), "path": self.files[index], "error": error}


def read_bytes(file: str | Path, what: str = "an image") -> bytes:
    """What a file holds, to be read as `what`. Raises InputError."""
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise unreadable(file, what, error) from error


def unreadable(file: str | Path, what: str, error: BaseException) -> InputError:
    """The error for a file that cannot be read as `what`, by its cause."""
    cause = "its bytes are none" if isinstance(error, UnidentifiedImageError) else one_line(error)
    return InputError(f"{file} cannot be read as {what}: {want_of_means(error) or cause}")


def read_image(file: str | Path, content: bytes | None = None, *, upright: bool = True) -> Image.Image:
    """The image in a file, in RGB, as viewers show it, or else as it is stored, whatever its EXIF orientation.

    `content` is what the file holds, where it has been read already. Raises InputError where there is none, or
    one of other values than 8 bits.
    """
    try:
        with Image.open(io.BytesIO(read_bytes(file) if content is None else content)) as image:
            if image.mode in _EIGHT_BITS:
                colours = image.convert("RGB")
                # Whatever Pillow raises for damaged EXIF, the image can be read without.
                with suppress(Exception):
                    if upright:
                        ImageOps.exif_transpose(colours, in_place=True)
                return colours
            mode = image.mode
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
        raise unreadable(file, "an image", error) from error
    raise InputError(f"{file} holds pixels of the kind {mode}: wanted 8 bits for each colour")


def require_files(files: Iterable[str | Path], what: str) -> None:
    """Raise InputError that counts and names the `files` that are not there, or are empty, and says `what`."""
    # In words of os.path, since ImageNet has a million
    absent = [f for f in files if not (os.path.isfile(f) and os.path.getsize(f))]  # noqa: PTH113, PTH202
    if absent:
        rest = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
        named = ", ".join(map(str, absent[:_NAMED]))
        counted = "1 file is" if len(absent) == 1 else f"{len(absent)} files are"
        raise InputError(f"{counted} missing or empty: {named}{rest}: {what}")


def find_images(folder: str) -> list[str]:
    """The image files in `folder` and below, sorted; InputError where there are none."""
    if not Path(folder).is_dir():
        raise InputError(f"got {folder}, which is no folder: wanted one that holds images")
    folders = [Path(folder), *folders_below(Path(folder))]
    files = sorted(str(file) for each in folders for file in files_in(each) if is_image(file))
    if not files:
        raise InputError(f"no images in {folder}: wanted files such as .jpg or .png, there or in folders below")
    return files


def is_image(file: str | Path) -> bool:
    """Whether a file is called as images are, and is not hidden (as the ._ files of macOS)."""
    path = Path(file)
    return path.suffix.lower() in IMG_EXTENSIONS and not path.name.startswith(".")


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
