"""What a store says of itself: manifest.json, and the entry of each of its cases."""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from dsnet_med.errors import InputError
from dsnet_med.geometry import SliceAxis, SliceOrder
from dsnet_med.prepare.findings import Finding
from dsnet_med.prepare.intensity import IntensityRule

FORMAT = 1
MANIFEST = "manifest.json"
CASES = "cases"
TOOL = "dsnet-med"


class StoredCase(BaseModel):
    """One case of a store: what its manifest entry says.

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

    @property
    def record(self) -> np.dtype[Any]:
        """How one slice lies on disk: the image, then its labels."""
        size = self.shape[1:]
        return np.dtype([("image", np.dtype(self.dtype).newbyteorder("<"), size), ("label", np.uint8, size)])

    @property
    def nbytes(self) -> int:
        """The size of its data file."""
        return self.shape[0] * self.record.itemsize


class Manifest(BaseModel):
    """A store as a whole. `classes`, `intensity` and `slice_axis` are what inference must repeat."""

    model_config = ConfigDict(frozen=True)

    format: int
    tool: str
    tool_version: str
    recipe: dict[str, Any]
    recipe_hash: str
    classes: tuple[str, ...]
    intensity: IntensityRule
    slice_axis: SliceAxis
    splits: dict[str, list[str]]
    cases: list[StoredCase]
    failed: dict[str, str]
    excluded: list[str]
    findings: tuple[Finding, ...] = ()

    def all_findings(self) -> list[Finding]:
        """What preprocess found: in the source and the set as a whole, then in each case."""
        return [*self.findings, *(finding for case in self.cases for finding in case.findings)]


def read_manifest(path: Path) -> Manifest:
    """The manifest of the store in the folder `path`. Raises InputError: no store, unfinished or damaged."""
    file = path / MANIFEST
    if not file.is_file():
        begun = (path / CASES).is_dir()
        todo = "its preprocess run has not ended; run it again" if begun else "make one with preprocess"
        raise InputError(f"{path}: not a store, it holds no {MANIFEST}; {todo}")
    try:
        manifest = Manifest.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        message = f"{file}: not the manifest of a store, or damaged ({_told(error)}); run preprocess again"
        raise InputError(message) from error
    if manifest.format != FORMAT:
        raise InputError(f"{path}: a store of format {manifest.format}, wanted {FORMAT}; run preprocess again")
    return manifest


def _told(error: OSError | ValidationError) -> str:
    if isinstance(error, OSError):
        return str(error)
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
