"""Probabilities of every class in half precision, on disk from the first slice on: they would fill a memory."""

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from dsnet_med.files import output_error, written_whole

Probabilities = NDArray[np.float16]
T = TypeVar("T", bound=np.generic)


def on_disk(
    folder: Path,
    shape: Sequence[int],
    kind: type[T] = np.float16,  # type: ignore[assignment]
    order: Literal["C", "F"] = "F",
) -> NDArray[T]:
    """An array, of zeros, in a file without a name in `folder`: it goes with the array, or with this process.

    Raises InputError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as stream:
            size = math.prod(shape) * np.dtype(kind).itemsize
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a crash later
                os.posix_fallocate(stream.fileno(), 0, size)
            return np.memmap(stream, kind, "w+", shape=tuple(shape), order=order)
    except OSError as error:
        raise output_error(folder, error) from error


def write_probabilities(
    path: Path, probabilities: Probabilities, class_names: Sequence[str], affine: NDArray[np.float64]
) -> None:
    """Write a compressed .npz with `probabilities` (K, X, Y, Z) float16, `class_names` and `affine`.

    NumPy puts no time into it: the same probabilities are the same bytes. Raises InputError when it cannot be
    written.
    """
    held = {"probabilities": probabilities, "class_names": np.array(class_names), "affine": affine}
    with written_whole(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **held)
