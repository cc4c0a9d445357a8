"""One case of a store: its entry in the manifest, and its slices in a data file, raw in and normalised out.

STORE/cases/<case>.bin     for each slice, in geometry.SliceOrder's order: the image, then the label (uint8)
STORE/cases/<case>.json    the case's entry of the manifest; written last, so its presence means "finished"

Images keep the clipped raw intensity: uint16 offsets from the lower clipping value where the source holds
integers, else float32. Normalisation happens on reading, and gives bit for bit what Scaling.apply gives.
"""

from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from dsnet_med.errors import InputError
from dsnet_med.geometry import SliceOrder
from dsnet_med.prepare.findings import Finding
from dsnet_med.prepare.intensity import Scaling

FORMAT = 1
CASES = "cases"
Slices = tuple[NDArray[np.float32], NDArray[np.uint8]]


class StoredCase(BaseModel):
    """What the manifest says of a case.

    `shape` (D, H, W) and `spacing_mm` (slice, row, column) are those of the slices; `native_shape` and `affine`
    (4 x 4, voxels to RAS+ millimetres) those of the source volume. File names are relative to the source.
    `base` and `slope` turn stored values into network input: (stored - base) * slope. `findings` are what the
    data doctor saw in the source volume.
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
    recipe_hash: str
    findings: tuple[Finding, ...] = ()

    @cached_property
    def record(self) -> np.dtype[Any]:
        """How one slice lies on disk."""
        size = self.shape[1:]
        return np.dtype([("image", np.dtype(self.dtype).newbyteorder("<"), size), ("label", np.uint8, size)])

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


def require_whole(path: Path, case: StoredCase) -> None:
    """Raise InputError unless the case's data file in the store `path` has the size that its entry tells."""
    file = data_file(path, case.id)
    got = file.stat().st_size if file.is_file() else 0
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


def next_slice(stream: IO[bytes], entry: StoredCase) -> Slices:
    """The next slice of an open data file: the normalised image (H, W) and its labels (H, W)."""
    records = np.fromfile(stream, entry.record, count=1)
    if not len(records):
        raise InputError(f"case '{entry.id}': its data file is cut short; run preprocess again")
    image = records["image"][0].astype(np.float32)
    if entry.base:
        image -= np.float32(entry.base)
    image *= np.float32(entry.slope)
    return image, records["label"][0]


def read_slices(stream: IO[bytes], entry: StoredCase) -> Slices:
    """All slices of an open data file, (D, H, W)."""
    images, labels = np.empty(entry.shape, np.float32), np.empty(entry.shape, np.uint8)
    for index in range(entry.shape[0]):
        images[index], labels[index] = next_slice(stream, entry)
    return images, labels
