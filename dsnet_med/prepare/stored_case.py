"""One case of a store: its entry in the manifest, and how its voxels are stored.

STORE/cases/<case>.bin     its slices (case_file.py)
STORE/cases/<case>.json    the case's entry of the manifest; written last, so its presence means "finished"

Images keep the clipped raw intensity: uint16 offsets from the lower clipping value where the source holds
integers, else float32. Normalisation happens on reading, and gives bit for bit what Scaling.apply gives. What
cannot be undone by a line, as a resampled image, is stored as float32 that is normalised already.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from dsnet_med.errors import InputError, cannot_read, first_mistake, one_line
from dsnet_med.files import read_json, write_json
from dsnet_med.geometry import SliceOrder
from dsnet_med.prepare.findings import Finding
from dsnet_med.prepare.intensity import Scaling
from dsnet_med.seal import holds, sealed

FORMAT = 3  # 2 had one channel and a check sum for each slice, 1 none
READ = (2, FORMAT)
TILE = (32, 64)  # rows and columns that share a check sum: what a patch reads of a slice is rounded up to them
CASES = "cases"
_ONE_TO_MANY = {"image_file": "image_files", "label_file": "label_files"}


class StoredCase(BaseModel):
    """What the manifest says of a case.

    `shape` (D, H, W) and `spacing_mm` (slice, row, column) are those of the slices; `native_shape` and `affine`
    (4 x 4, voxels to RAS+ millimetres) those of the source volume. File names are relative to the source;
    several channels may share a file, and a case without a label has no label file. `base` and `slope`, one for
    each channel, turn stored values of the type `dtype` into network input: (stored - base) * slope; `clip` is
    between which raw values. `codes` are the label values that occur. `tables_crc32` is the CRC-32 of the check
    sums at the end of its data file, eight hexadecimal digits; an entry of format 2 has those of its slices.
    `findings` are what the data doctor saw in the source volume, `unstated` what was guessed of its geometry.
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
    image_files: tuple[str, ...]
    image_sha256: tuple[str, ...]
    label_files: tuple[str, ...]
    label_sha256: tuple[str, ...]
    label_voxels: dict[str, int]
    dtype: str
    base: tuple[float, ...]
    slope: tuple[float, ...]
    clip: tuple[tuple[float, float], ...]
    codes: tuple[int, ...] = ()
    tables_crc32: str = ""
    image_crc32: str = ""
    label_crc32: str = ""
    recipe_hash: str
    unstated: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _of_one_channel(cls, told: Any) -> Any:
        """An entry of format 2 as one of a single channel."""
        if not isinstance(told, dict) or told.get("format") != 2 or "image_file" not in told:
            return told
        several = {new: (told[old],) if told[old] else () for old, new in _ONE_TO_MANY.items()}
        hashes = {name: (told[name],) if told[name] else () for name in ("image_sha256", "label_sha256")}
        lines = {name: (told[name],) for name in ("base", "slope", "clip")}
        kept = {name: value for name, value in told.items() if name not in _ONE_TO_MANY}
        return {**kept, **several, **hashes, **lines}

    @property
    def channels(self) -> int:
        """How many images each slice has."""
        return len(self.base)

    @cached_property
    def tile(self) -> tuple[int, int]:
        """The rows and columns of each tile of a slice; those of format 2 are one tile.

        At most TILE, all of one size; columns are a multiple of 4, so that every number lies at a multiple of
        its size.
        """
        _, height, width = self.shape
        if self.format == 2:
            return height, width
        rows, columns = (-(-side // -(-side // most)) for side, most in zip((height, width), TILE, strict=True))
        return rows, -(-columns // 4) * 4

    @cached_property
    def tiles(self) -> tuple[int, int]:
        """How many tiles a slice has: of columns, and in each of these of rows."""
        (rows, columns), (_, height, width) = self.tile, self.shape
        return -(-width // columns), -(-height // rows)

    @cached_property
    def unit(self) -> np.dtype[Any]:
        """How one tile lies on disk."""
        stored = np.dtype(self.dtype).newbyteorder("<")
        return np.dtype([("image", stored, (self.channels, *self.tile)), ("label", np.uint8, self.tile)])

    @cached_property
    def slice_nbytes(self) -> int:
        """The size of one slice in its data file."""
        return math.prod(self.tiles) * self.unit.itemsize

    @property
    def table_words(self) -> int:
        """How many numbers of 4 bytes follow the slices: check sums, then counts of every code."""
        return 0 if self.format == 2 else self.shape[0] * (1 + math.prod(self.tiles) + len(self.codes))

    @property
    def nbytes(self) -> int:
        """The size of its data file."""
        return self.shape[0] * self.slice_nbytes + 4 * self.table_words


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


def encoding(dtypes: Sequence[np.dtype[Any]], scalings: Sequence[Scaling]) -> tuple[str, tuple[float, ...]]:
    """How clipped channels of these types are stored without loss: their common type, StoredCase.base."""
    if all(map(_fits_two_bytes, dtypes, scalings)):
        return "uint16", (0.0,) * len(scalings)
    return "float32", tuple(scaling.low for scaling in scalings)


def _fits_two_bytes(dtype: np.dtype[Any], scaling: Scaling) -> bool:
    whole = dtype.kind in "iu" and float(scaling.low).is_integer() and float(scaling.high).is_integer()
    return whole and scaling.high - scaling.low <= np.iinfo(np.uint16).max


def encode(
    picture: NDArray[Any], entry: StoredCase, channel: int = 0
) -> NDArray[np.uint16] | NDArray[np.float32]:
    """A raw slice (H, W) of a channel as it is stored, little-endian."""
    low, high = entry.clip[channel]
    if entry.dtype == "float32":
        clipped: NDArray[np.float32] = np.clip(picture.astype("<f4"), np.float32(low), np.float32(high))
        return clipped
    limits = np.iinfo(picture.dtype)
    # In 16 bits or more the subtraction may wrap round modulo 2**16, which the cast undoes.
    if picture.itemsize < 2 or low < limits.min or high > limits.max:
        picture = picture.astype(np.int64)
    offsets: NDArray[np.uint16] = (np.clip(picture, int(low), int(high)) - int(low)).astype("<u2")
    return offsets
