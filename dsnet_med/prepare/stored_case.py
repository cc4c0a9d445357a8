"""One case of a store: its entry in the manifest, and its slices in a data file, raw in and normalised out.

STORE/cases/<case>.bin     for each slice, in geometry.SliceOrder's order: the image, then the label (uint8)
STORE/cases/<case>.json    the case's entry of the manifest; written last, so its presence means "finished"

Images keep the clipped raw intensity: uint16 offsets from the lower clipping value where the source holds
integers, else float32. Normalisation happens on reading, and gives bit for bit what Scaling.apply gives.

The entry has a check sum of every slice, with which whatever is read is compared: damage, an exchanged file and
a store that changed since it was opened are noticed by the reader, and cost no pass of their own.
"""

import struct
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from dsnet_med.errors import InputError, cannot_read, first_mistake, one_line
from dsnet_med.files import read_json, write_json
from dsnet_med.geometry import SliceOrder
from dsnet_med.prepare.findings import Finding
from dsnet_med.prepare.intensity import Scaling
from dsnet_med.seal import holds, sealed

FORMAT = 2  # 1 had no check sums
CASES = "cases"
Slices = tuple[NDArray[np.float32], NDArray[np.uint8]]


class StoredCase(BaseModel):
    """What the manifest says of a case.

    `shape` (D, H, W) and `spacing_mm` (slice, row, column) are those of the slices; `native_shape` and `affine`
    (4 x 4, voxels to RAS+ millimetres) those of the source volume. File names are relative to the source.
    `base` and `slope` turn stored values into network input: (stored - base) * slope. `image_crc32` and
    `label_crc32` are the CRC-32 of every slice as it is stored, eight hexadecimal digits each. `findings` are
    what the data doctor saw in the source volume, `unstated` what was guessed of its geometry.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    id: str
    subject: str
    split: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    native_shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    order: SliceOrder
    image_file: str
    image_sha256: str
    label_file: str
    label_sha256: str
    label_voxels: dict[str, int]
    dtype: str
    base: float
    slope: float
    clip: tuple[float, float]
    image_crc32: str
    label_crc32: str
    recipe_hash: str
    unstated: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @cached_property
    def record(self) -> np.dtype[Any]:
        """How one slice lies on disk."""
        size = self.shape[1:]
        return np.dtype([("image", np.dtype(self.dtype).newbyteorder("<"), size), ("label", np.uint8, size)])

    @cached_property
    def sums(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The CRC-32 of the image and of the label of every slice, D of each. Raises InputError."""
        form = f">{self.shape[0]}I"
        try:
            return struct.unpack(form, bytes.fromhex(self.image_crc32)), struct.unpack(
                form, bytes.fromhex(self.label_crc32)
            )
        except (ValueError, struct.error) as error:
            raise InputError(f"case '{self.id}': its check sums are damaged; run preprocess again") from error

    @property
    def nbytes(self) -> int:
        """The size of its data file."""
        return self.shape[0] * self.record.itemsize


def data_file(path: Path, case: str) -> Path:
    """Where the slices of a case lie in the store `path`."""
    return path / CASES / f"{case}.bin"


def entry_file(path: Path, case: str) -> Path:
    """Where the manifest entry of a finished case lies in the store `path`."""
    return path / CASES / f"{case}.json"


def write_entry(path: Path, case: StoredCase) -> None:
    """Write a case's entry beside its data file: from now on it is finished. Raises InputError."""
    write_json(entry_file(path, case.id), sealed(case.model_dump(mode="json")))


def read_entry(path: Path, case: str) -> StoredCase:
    """The entry of a finished case of the store `path`. Raises InputError where it is absent or damaged."""
    file = entry_file(path, case)
    try:
        content = read_json(file)
        if not holds(content):
            raise InputError(f"{file}: damaged, or of an earlier version; run preprocess again")
        return StoredCase.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{file}: damaged ({first_mistake(error)}); run preprocess again") from error
    except InputError:
        raise
    except (OSError, ValueError, TypeError, MemoryError) as error:
        raise cannot_read(
            file, error, f"cannot be read ({one_line(error, 80)}); run preprocess again"
        ) from error


def require_whole(path: Path, case: StoredCase) -> None:
    """Raise InputError unless the case's data file in the store `path` has the size that its entry tells."""
    file = data_file(path, case.id)
    try:
        got = file.stat().st_size if file.is_file() else 0
    except OSError as error:
        raise cannot_read(file, error, "cannot be read") from error
    if got != case.nbytes:
        raise InputError(f"{file}: {got} bytes, wanted {case.nbytes}; run the same preprocess command again")


def encoding(dtype: np.dtype[Any], scaling: Scaling) -> tuple[str, float]:
    """How clipped voxels of this type are stored without loss: the stored type and StoredCase.base."""
    whole = dtype.kind in "iu" and float(scaling.low).is_integer() and float(scaling.high).is_integer()
    if whole and scaling.high - scaling.low <= np.iinfo(np.uint16).max:
        return "uint16", 0.0
    return "float32", scaling.low


def encode(picture: NDArray[Any], entry: StoredCase) -> NDArray[np.uint16] | NDArray[np.float32]:
    """A raw slice (H, W) as it is stored, little-endian."""
    low, high = entry.clip
    if entry.dtype == "float32":
        clipped: NDArray[np.float32] = np.clip(picture.astype("<f4"), np.float32(low), np.float32(high))
        return clipped
    limits = np.iinfo(picture.dtype)
    # In 16 bits or more the subtraction may wrap round modulo 2**16, which the cast undoes.
    if picture.itemsize < 2 or low < limits.min or high > limits.max:
        picture = picture.astype(np.int64)
    offsets: NDArray[np.uint16] = (np.clip(picture, int(low), int(high)) - int(low)).astype("<u2")
    return offsets


def checked_slices(stream: IO[bytes], entry: StoredCase, wanted: range) -> Iterator[Slices]:
    """Slices of an open data file: each normalised image (H, W) and its labels (H, W), fresh arrays.

    Raises InputError for one that is not what was stored.
    """
    image_sums, label_sums = entry.sums
    stream.seek(wanted.start * entry.record.itemsize)
    for index in wanted:
        records = np.fromfile(stream, entry.record, count=1)
        if not len(records) or crc32(records["image"][0]) != image_sums[index]:
            raise changed(stream, index)
        image, labels = records["image"][0].astype(np.float32), records["label"][0]
        if crc32(labels) != label_sums[index]:
            raise changed(stream, index)
        if entry.base:
            image -= np.float32(entry.base)
        image *= np.float32(entry.slope)
        yield image, labels


def checked_labels(stream: IO[bytes], entry: StoredCase, index: int) -> NDArray[np.uint8]:
    """The labels (H, W) of a slice of an open data file, without its image. Raises as `checked_slices`."""
    size = entry.shape[1] * entry.shape[2]
    stream.seek((index + 1) * entry.record.itemsize - size)
    labels = np.fromfile(stream, np.uint8, size)
    if crc32(labels) != entry.sums[1][index]:
        raise changed(stream, index)
    return labels.reshape(entry.shape[1:])


def changed(stream: IO[bytes], index: int) -> InputError:
    """What to say of a slice that is not what its check sum was made of."""
    return InputError(
        f"{stream.name}: slice {index} is not what was stored: damaged, cut short, or changed since the store "
        "was opened; run preprocess, then this"
    )


def read_slices(stream: IO[bytes], entry: StoredCase) -> Slices:
    """All slices of an open data file, (D, H, W). Raises as `checked_slices`."""
    images, labels = np.empty(entry.shape, np.float32), np.empty(entry.shape, np.uint8)
    for index, (image, label) in enumerate(checked_slices(stream, entry, range(entry.shape[0]))):
        images[index], labels[index] = image, label
    return images, labels
