"""A converted data set, laid out so that any slice is one short read (stored_case.py).

STORE/manifest.json holds the recipe, the split, and for every case where it came from and how it lies in space.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from dsnet_med.errors import InputError, cannot_read, first_mistake, one_line, shown, unknown
from dsnet_med.files import read_json, write_json
from dsnet_med.geometry import SliceAxis
from dsnet_med.prepare.findings import Finding
from dsnet_med.prepare.intensity import IntensityRule
from dsnet_med.prepare.splits import SPLITS
from dsnet_med.prepare.stored_case import (
    CASES,
    FORMAT,
    Slices,
    StoredCase,
    checked_labels,
    checked_slices,
    data_file,
    read_slices,
    require_whole,
)
from dsnet_med.seal import holds, sealed

MANIFEST = "manifest.json"
TOOL = "dsnet-med"


def _by_id(cases: Any) -> Any:
    return cases if isinstance(cases, Mapping) else {case["id"]: case for case in cases}


def _listed(cases: dict[str, StoredCase]) -> list[dict[str, Any]]:
    return [case.model_dump(mode="json") for case in cases.values()]


class Store(BaseModel):
    """A store opened for reading, as its manifest says it. Holds no open files: pickle it, fork it, share it.

    `classes` are names; a label's value is its position there, 0 the background. `intensity` and `slice_axis`
    are what inference must repeat. `failed` has the reason of each case that could not be converted; `findings`
    are what the data doctor said of the source and the set as a whole.
    """

    model_config = ConfigDict(frozen=True)

    path: Path = Field(exclude=True)
    format: int = FORMAT
    tool: str = TOOL
    tool_version: str
    recipe: dict[str, Any]
    recipe_hash: str
    classes: tuple[str, ...]
    intensity: IntensityRule
    slice_axis: SliceAxis
    splits: dict[str, list[str]]
    cases: Annotated[dict[str, StoredCase], BeforeValidator(_by_id), PlainSerializer(_listed)]
    failed: dict[str, str]
    excluded: list[str]
    findings: tuple[Finding, ...] = ()

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open the store in the folder `path`. Raises InputError when it is none, unfinished or damaged."""
        store = cls.described(path)
        for case in store.cases.values():
            require_whole(path, case)
        return store

    @classmethod
    def described(cls, path: Path) -> "Store":
        """As `open`, by the manifest alone: data files may be missing or cut short."""
        file = path / MANIFEST
        if not file.is_file():
            begun = (path / CASES).is_dir()
            todo = "its preprocess run has not ended; run it again" if begun else "make one with preprocess"
            raise InputError(f"{path}: not a store, it holds no {MANIFEST}; {todo}")
        try:
            content = read_json(file)
            got, whole = content["format"], holds(content)
            if whole and got == FORMAT:
                return cls.model_validate(content | {"path": path})
        except ValidationError as error:
            raise InputError(f"{file}: damaged ({first_mistake(error)}); run preprocess again") from error
        except (OSError, ValueError, KeyError, TypeError, MemoryError) as error:
            told = f"not the manifest of a store ({one_line(error)}); run preprocess again"
            raise cannot_read(file, error, told) from error
        if whole is False or got == FORMAT:
            raise InputError(f"{file}: damaged, it has changed since preprocess wrote it; run preprocess again")
        raise InputError(
            f"{path}: a store of format {shown(got)}, wanted {FORMAT} (with check sums); run preprocess again"
        )

    def write(self) -> None:
        """Write the manifest, to the disk itself: from now on `path` is a store. Raises InputError."""
        write_json(self.path / MANIFEST, sealed(self.model_dump(mode="json")), durable=True)

    @property
    def recipe_id(self) -> str:
        """The id of the recipe that the store was made with."""
        return str(self.recipe["id"])

    @cached_property
    def id(self) -> str:
        """A hash of what is trained on: the recipe, the classes, every case's split, sources and slices."""
        names = {"id", "subject", "split", "shape", "dtype", "base", "slope", "image_sha256", "label_sha256"}
        names |= {"image_crc32", "label_crc32", "recipe_hash"}
        cases = [self.cases[case].model_dump(mode="json", include=names) for case in sorted(self.cases)]
        told = json.dumps([self.recipe_hash, self.classes, self.slice_axis, cases])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def cases_of(self, split: str) -> list[StoredCase]:
        """The cases of `train`, `val`, `test` or `extra`, sorted by id; may be none."""
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        return [case for case in self.cases.values() if case.split == split]

    def read_slice(self, case: str, index: int) -> Slices:
        """Slice `index` of a case: the normalised image (H, W) and its labels (H, W), both fresh arrays."""
        with self._opened(case, index) as stream:
            return next(checked_slices(stream, self.cases[case], range(index, index + 1)))

    def read_label(self, case: str, index: int) -> NDArray[np.uint8]:
        """The labels (H, W) of slice `index` of a case, without its image."""
        with self._opened(case, index) as stream:
            return checked_labels(stream, self.cases[case], index)

    def read_case(self, case: str) -> Slices:
        """A whole case: the normalised image (D, H, W) and its labels (D, H, W).

        What is read is compared with its check sums, as by the other two. Raises InputError.
        """
        with self._opened(case) as stream:
            return read_slices(stream, self.cases[case])

    def _opened(self, case: str, index: int = 0) -> IO[bytes]:
        """The data file of a case that has a slice `index`. Raises InputError where it cannot be opened."""
        if case not in self.cases:
            raise unknown("case", case, self.cases)
        if not 0 <= index < self.cases[case].shape[0]:
            raise IndexError(f"slice {index} of case '{case}', which has {self.cases[case].shape[0]}")
        file = data_file(self.path, case)
        try:
            return file.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise InputError(f"{file}: is no longer there; run preprocess, then this") from error
        except OSError as error:
            raise cannot_read(file, error, "cannot be read") from error
