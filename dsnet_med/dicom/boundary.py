"""The boundary to pydicom: what it raises becomes one line that names the file.

Nothing of the process is changed: loggers and warnings are the host's, and another thread would see it. What
is asked of a header is read as bytes (values.py), of which pydicom says nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dsnet_med.errors import InputError, one_line

if TYPE_CHECKING:
    from pydicom import FileDataset


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Reads from `file` in here raise nothing but InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # pydicom has no one type for what it cannot read
        raise InputError(
            f"{file}: not a readable DICOM file ({one_line(error, 160)}); export it again"
        ) from error


def header(file: Path) -> "FileDataset":
    """All that stands before the pixels. To be called, and looked into, within `reading`."""
    from pydicom import dcmread  # noqa: PLC0415 -- takes long to load, and few inputs are DICOM

    return dcmread(file, stop_before_pixels=True, force=True)  # force: without preamble, too
