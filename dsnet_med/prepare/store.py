"""A converted data set, laid out so that any slice is one short read.

STORE/manifest.json        the recipe, the split, and for every case where it came from and how it lies in space
STORE/cases/<case>.bin     for each slice, in geometry.SliceOrder's order: the image, then the label (uint8)
STORE/cases/<case>.json    the case's entry of the manifest; written last, so its presence means "finished"

Images keep the clipped raw intensity: uint16 offsets from the lower clipping value where the source holds
integers, else float32. Normalisation happens on reading, and gives bit for bit what Scaling.apply gives.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError, unknown
from dsnet_med.geometry import SliceAxis
from dsnet_med.prepare.intensity import Intensity, Scaling
from dsnet_med.prepare.manifest import CASES, Manifest, StoredCase, read_manifest
from dsnet_med.prepare.splits import SPLITS

Slices = tuple[NDArray[np.float32], NDArray[np.uint8]]


@dataclass(frozen=True)
class Store:
    """A store opened for reading. Holds no open files: pickle it, fork it, read it from threads."""

    path: Path
    manifest: Manifest
    seen: dict[str, tuple[int, int]] = field(default_factory=dict, compare=False)  # size and time of files

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open the store in the folder `path`. Raises InputError when it is none, unfinished or damaged."""
        store = cls(path, read_manifest(path))
        for case in store.cases.values():
            require_whole(path, case)
        return store

    @cached_property
    def cases(self) -> dict[str, StoredCase]:
        """The cases by id."""
        return {case.id: case for case in self.manifest.cases}

    @cached_property
    def id(self) -> str:
        """A hash of what is trained on: the recipe, the classes, and every case's split and source files."""
        names = ("id", "subject", "split", "shape", "image_sha256", "label_sha256", "recipe_hash")
        cases = [[getattr(self.cases[case], name) for name in names] for case in sorted(self.cases)]
        told = json.dumps([self.manifest.recipe_hash, self.classes, self.slice_axis, cases])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @property
    def recipe_id(self) -> str:
        """The id of the recipe that the store was made with."""
        return str(self.manifest.recipe["id"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label's value is its position here, 0 the background."""
        return self.manifest.classes

    @property
    def failed(self) -> dict[str, str]:
        """Cases that could not be converted, with the reason."""
        return self.manifest.failed

    @property
    def slice_axis(self) -> SliceAxis:
        """How the slices were chosen; inference must use the same."""
        return self.manifest.slice_axis

    @property
    def intensity(self) -> Intensity:
        """The normalisation; inference must use the same."""
        return self.manifest.intensity

    def cases_of(self, split: str) -> list[StoredCase]:
        """The cases of `train`, `val`, `test` or `extra`, sorted by id; may be none."""
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        return [case for case in self.cases.values() if case.split == split]

    def read_slice(self, case: str, index: int) -> Slices:
        """Slice `index` of a case: the normalised image (H, W) and its labels (H, W), both fresh arrays."""
        with self._opened(case, index) as stream:
            return _next_slice(stream, self.cases[case])

    def read_label(self, case: str, index: int) -> NDArray[np.uint8]:
        """The labels (H, W) of slice `index` of a case, without its image."""
        with self._opened(case, index) as stream:
            label: NDArray[np.uint8] = _next_record(stream, self.cases[case])["label"]
            return label

    def read_case(self, case: str) -> Slices:
        """A whole case: the normalised image (D, H, W) and its labels (D, H, W)."""
        with self._opened(case) as stream:
            return _whole(stream, self.cases[case])

    def _opened(self, case: str, index: int = 0) -> IO[bytes]:
        """The data file of a case, open where slice `index` begins.

        Raises InputError where it is another than the one that was read before.
        """
        if case not in self.cases:
            raise unknown("case", case, self.cases)
        entry = self.cases[case]
        if not 0 <= index < entry.shape[0]:
            raise IndexError(f"slice {index} of case '{case}', which has {entry.shape[0]}")
        file = data_file(self.path, case)
        stream = file.open("rb", buffering=0)
        status = os.fstat(stream.fileno())
        now = (status.st_size, status.st_mtime_ns)
        if status.st_size != entry.nbytes or self.seen.setdefault(case, now) != now:
            stream.close()
            raise InputError(
                f"{file} has changed since the store was opened, or is cut short; run preprocess, then this"
            )
        stream.seek(index * entry.record.itemsize)
        return stream


def data_file(path: Path, case: str) -> Path:
    """Where the slices of a case lie in the store `path`."""
    return path / CASES / f"{case}.bin"


def entry_file(path: Path, case: str) -> Path:
    """Where the manifest entry of a finished case lies in the store `path`."""
    return path / CASES / f"{case}.json"


def read_stored(path: Path, case: StoredCase) -> Slices:
    """As `Store.read_case`, of the store in the folder `path`."""
    with data_file(path, case.id).open("rb") as stream:
        return _whole(stream, case)


def require_whole(path: Path, case: StoredCase) -> None:
    """Raise InputError unless the case's data file has the size that its entry tells."""
    file, wanted = data_file(path, case.id), case.nbytes
    got = file.stat().st_size if file.is_file() else 0
    if got != wanted:
        raise InputError(f"{file}: {got} bytes, wanted {wanted}; run the same preprocess command again")


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


def _whole(stream: IO[bytes], entry: StoredCase) -> Slices:
    images, labels = np.empty(entry.shape, np.float32), np.empty(entry.shape, np.uint8)
    for index in range(entry.shape[0]):
        images[index], labels[index] = _next_slice(stream, entry)
    return images, labels


def _next_slice(stream: IO[bytes], entry: StoredCase) -> Slices:
    """The next slice of an open data file."""
    record = _next_record(stream, entry)
    image = record["image"].astype(np.float32)
    if entry.base:
        image -= np.float32(entry.base)
    image *= np.float32(entry.slope)
    return image, record["label"]


def _next_record(stream: IO[bytes], entry: StoredCase) -> Any:
    records = np.fromfile(stream, entry.record, count=1)
    if not len(records):
        raise InputError(f"case '{entry.id}': its data file is cut short; run preprocess again")
    return records[0]
