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
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError, unknown
from dsnet_med.geometry import SliceAxis, SliceOrder
from dsnet_med.prepare.findings import Finding
from dsnet_med.prepare.intensity import Intensity, Scaling
from dsnet_med.prepare.splits import SPLITS

FORMAT = 1
MANIFEST = "manifest.json"
CASES = "cases"


@dataclass(frozen=True)
class StoredCase:
    """One case of a store: what its manifest entry says.

    `shape` (D, H, W) and `spacing_mm` (slice, row, column) are those of the slices; `native_shape` and `affine`
    (4 x 4, voxels to RAS+ millimetres) those of the source volume. File names are relative to the source.
    `base` and `slope` turn stored values into network input: (stored - base) * slope. `findings` are what the
    data doctor saw in the source volume.
    """

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

    @property
    def record_bytes(self) -> int:
        """The size of one slice on disk, image and label."""
        return self.shape[1] * self.shape[2] * (np.dtype(self.dtype).itemsize + 1)

    def as_dict(self) -> dict[str, Any]:
        """The manifest entry, as JSON takes it."""
        order = {"axes": list(self.order.axes), "reversed": list(self.order.reversed)}
        findings = [vars(finding) for finding in self.findings]
        return {"format": FORMAT} | vars(self) | {"order": order, "findings": findings}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "StoredCase":
        """The inverse of `as_dict`, after JSON made lists of the tuples."""
        fields = {name: value for name, value in entry.items() if name != "format"}
        for name in ("shape", "spacing_mm", "native_shape", "clip"):
            fields[name] = tuple(fields[name])
        order = fields["order"]
        fields["order"] = SliceOrder(tuple(order["axes"]), tuple(order["reversed"]))
        fields["affine"] = tuple(tuple(row) for row in fields["affine"])
        fields["findings"] = tuple(Finding(**finding) for finding in fields.get("findings", ()))
        return cls(**fields)


@dataclass(frozen=True)
class Store:
    """A store opened for reading. Holds no open files: pickle it, fork it, read it from threads."""

    path: Path
    manifest: dict[str, Any]
    cases: dict[str, StoredCase]
    seen: dict[str, tuple[int, int]] = field(
        default_factory=dict, compare=False, repr=False
    )  # size and time of files

    @classmethod
    def open(cls, path: Path, *, whole: bool = True) -> "Store":
        """Open the store in the folder `path`. Raises InputError when it is none, unfinished or damaged.

        Unless it has to be `whole`, data files may be missing or cut short.
        """
        manifest = _read_manifest(path)
        try:
            cases = {entry["id"]: StoredCase.from_dict(entry) for entry in manifest["cases"]}
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path / MANIFEST}: damaged ({error!r}); run preprocess again") from error
        store = cls(path, manifest, cases)
        for case in cases.values() if whole else ():
            require_whole(path, case)
        return store

    @property
    def recipe_id(self) -> str:
        """The id of the recipe that the store was made with."""
        return str(self.manifest["recipe"]["id"])

    @cached_property
    def id(self) -> str:
        """A hash of what is trained on: the recipe, the classes, and every case's split and source files."""
        cases = [
            (
                case.id,
                case.subject,
                case.split,
                case.shape,
                case.image_sha256,
                case.label_sha256,
                case.recipe_hash,
            )
            for case in sorted(self.cases.values(), key=lambda case: case.id)
        ]
        told = json.dumps([self.manifest["recipe_hash"], self.classes, self.slice_axis, cases])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label's value is its position here, 0 the background."""
        return tuple(self.manifest["classes"])

    @property
    def slice_axis(self) -> SliceAxis:
        """How the slices were chosen; inference must use the same."""
        return cast(SliceAxis, self.manifest["slice_axis"])

    @property
    def failed(self) -> dict[str, str]:
        """Cases that could not be converted, with the reason."""
        return dict(self.manifest["failed"])

    @property
    def findings(self) -> list[Finding]:
        """What preprocess found: in the source and the set as a whole, then in each case."""
        in_set = [Finding(**finding) for finding in self.manifest.get("findings", ())]
        return [*in_set, *(finding for case in self.cases.values() for finding in case.findings)]

    @cached_property
    def intensity(self) -> Intensity:
        """The normalisation; inference must use the same."""
        return Intensity.from_dict(self.manifest["intensity"])

    def cases_of(self, split: str) -> list[StoredCase]:
        """The cases of `train`, `val`, `test` or `extra`, sorted by id; may be none."""
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        return [case for case in self.cases.values() if case.split == split]

    def read_slice(self, case: str, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Slice `index` of a case: the normalised image (H, W) and its labels (H, W), both fresh arrays."""
        with self._slice(case, index) as stream:
            return _read_record(stream, self.cases[case])

    def read_label(self, case: str, index: int) -> NDArray[np.uint8]:
        """The labels (H, W) of slice `index` of a case, without its image."""
        with self._slice(case, index) as stream:
            entry = self.cases[case]
            label = np.empty(entry.shape[1:], np.uint8)
            stream.seek(entry.record_bytes - label.nbytes, os.SEEK_CUR)
            return _filled(label, stream, entry)

    def _slice(self, case: str, index: int) -> IO[bytes]:
        """The data file of a case, open where this slice begins."""
        entry = self._entry(case)
        if not 0 <= index < entry.shape[0]:
            raise IndexError(f"slice {index} of case '{case}', which has {entry.shape[0]}")
        stream = self._opened(entry)
        stream.seek(index * entry.record_bytes)
        return stream

    def _opened(self, entry: StoredCase) -> IO[bytes]:
        """The data file of a case. Raises InputError where it is another than the one that was read before."""
        file = data_file(self.path, entry.id)
        stream = file.open("rb", buffering=0)
        status = os.fstat(stream.fileno())
        now = (status.st_size, status.st_mtime_ns)
        if status.st_size != entry.shape[0] * entry.record_bytes or self.seen.setdefault(entry.id, now) != now:
            stream.close()
            raise InputError(
                f"{file} has changed since the store was opened, or is cut short; run preprocess, then this"
            )
        return stream

    def read_case(self, case: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """A whole case: the normalised image (D, H, W) and its labels (D, H, W)."""
        entry = self._entry(case)
        images, labels = np.empty(entry.shape, np.float32), np.empty(entry.shape, np.uint8)
        with self._opened(entry) as stream:
            for index in range(entry.shape[0]):
                images[index], labels[index] = _read_record(stream, entry)
        return images, labels

    def _entry(self, case: str) -> StoredCase:
        if case not in self.cases:
            raise unknown("case", case, self.cases)
        return self.cases[case]


def data_file(path: Path, case: str) -> Path:
    """Where the slices of a case lie in the store `path`."""
    return path / CASES / f"{case}.bin"


def entry_file(path: Path, case: str) -> Path:
    """Where the manifest entry of a finished case lies in the store `path`."""
    return path / CASES / f"{case}.json"


def require_whole(path: Path, case: StoredCase) -> None:
    """Raise InputError unless the case's data file has the size that its entry tells."""
    file, wanted = data_file(path, case.id), case.shape[0] * case.record_bytes
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


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        begun = (path / CASES).is_dir()
        todo = "its preprocess run has not ended; run it again" if begun else "make one with preprocess"
        raise InputError(f"{path}: not a store, it holds no {MANIFEST}; {todo}")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not the manifest of a store ({error}); run preprocess again") from error
    if version != FORMAT:
        raise InputError(f"{path}: a store of format {version}, wanted {FORMAT}; run preprocess again")
    return cast(dict[str, Any], manifest)


def _read_record(stream: IO[bytes], entry: StoredCase) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The next slice of an open data file."""
    stored = np.empty(entry.shape[1:], np.dtype(entry.dtype).newbyteorder("<"))
    image = _filled(stored, stream, entry).astype(np.float32, copy=False)
    label = _filled(np.empty(entry.shape[1:], np.uint8), stream, entry)
    if entry.base:
        image -= np.float32(entry.base)
    image *= np.float32(entry.slope)
    return image, label


def _filled(part: NDArray[Any], stream: IO[bytes], entry: StoredCase) -> NDArray[Any]:
    """`part` with the next bytes of an open data file."""
    if stream.readinto(part.reshape(-1).view(np.uint8)) != part.nbytes:  # type: ignore[attr-defined]
        raise InputError(f"case '{entry.id}': its data file is cut short; run preprocess again")
    return part
