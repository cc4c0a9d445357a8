"""The boundary to pydicom: what it raises becomes one line that names the file, and it is silent."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dsnet_med.errors import InputError, one_line

if TYPE_CHECKING:
    from pydicom import FileDataset


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Reads from `file` in here raise nothing but InputError, and neither warn nor log."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:  # pydicom has no one type for what it cannot read
        raise InputError(
            f"{file}: not a readable DICOM file ({one_line(error, 160)}); export it again"
        ) from error
    finally:
        logger.setLevel(level)


def header(file: Path) -> "FileDataset":
    """All that stands before the pixels. To be called, and looked into, within `reading`."""
    from pydicom import dcmread  # noqa: PLC0415 -- takes long to load, and few inputs are DICOM

    return dcmread(file, stop_before_pixels=True)
