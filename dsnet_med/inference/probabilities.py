"""Probabilities of every class in half precision, on disk from the first slice on: they would fill a memory."""

import math
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from dsnet_med.files import output_error, written_whole

Probabilities = NDArray[np.float16]
_PLANES = 8
_ANY_DATE = (1980, 1, 1, 0, 0, 0)  # the same probabilities are the same bytes


def on_disk(folder: Path, shape: Sequence[int]) -> Probabilities:
    """An array (K, X, Y, Z) in a file without a name in `folder`: it goes with the array, or with this process.

    Raises InputError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as stream:
            size = math.prod(shape) * np.dtype(np.float16).itemsize
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a crash later
                os.posix_fallocate(stream.fileno(), 0, size)
            return np.memmap(stream, np.float16, "w+", shape=tuple(shape), order="F")
    except OSError as error:
        raise output_error(folder, error) from error


def write_probabilities(
    path: Path, probabilities: Probabilities, class_names: Sequence[str], affine: NDArray[np.float64]
) -> None:
    """Write a compressed .npz with `probabilities` (K, X, Y, Z) float16, `class_names` and `affine`.

    A few planes are in memory at a time. Raises InputError when it cannot be written.
    """
    with (
        written_whole(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        with archive.open(_entry("probabilities"), "w", force_zip64=True) as stream:
            _write_header(stream, probabilities)
            for start in range(0, probabilities.shape[3], _PLANES):
                stream.write(probabilities[..., start : start + _PLANES].tobytes(order="F"))
        for name, value in (("class_names", np.array(class_names)), ("affine", affine)):
            with archive.open(_entry(name), "w") as stream:
                np.lib.format.write_array(stream, value, allow_pickle=False)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(f"{name}.npy", _ANY_DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _write_header(stream: IO[bytes], array: Probabilities) -> None:
    facts = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": True, "shape": array.shape}
    np.lib.format.write_array_header_2_0(stream, facts)
