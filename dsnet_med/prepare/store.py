"""A converted data set, laid out so that any slice is one short read (stored_case.py).

STORE/manifest.json holds the recipe, the split, and for every case where it came from and how it lies in space.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from dsnet_med.errors import InputError, cannot_read, first_mistake, one_line, shown, unknown
from dsnet_med.files import read_json, write_json
from dsnet_med.geometry import SliceAxis
from dsnet_med.prepare.case_file import (
    Slices,
    Tables,
    checked_labels,
    checked_slices,
    read_box,
    read_slices,
    read_tables,
    with_counts,
)
from dsnet_med.prepare.findings import Finding
from dsnet_med.prepare.intensity import Intensity, IntensityRule
from dsnet_med.prepare.splits import SPLITS
from dsnet_med.prepare.stored_case import CASES, FORMAT, READ, StoredCase, data_file, require_whole
from dsnet_med.regions import CODES, Region, as_dict, parse
from dsnet_med.seal import holds, sealed

MANIFEST = "manifest.json"
TOOL = "dsnet-med"
_TABLES_KEPT = 512  # of cases, of some 200 kB each where slices have 512 x 512 voxels


def _by_id(cases: Any) -> Any:
    return cases if isinstance(cases, Mapping) else {case["id"]: case for case in cases}


def _listed(cases: dict[str, StoredCase]) -> list[dict[str, Any]]:
    return [case.model_dump(mode="json") for case in cases.values()]


def _regions(written: Any) -> Any:
    return parse(written) if isinstance(written, Mapping) else written


class Store(BaseModel):
    """A store opened for reading, as its manifest says it. Holds no open files: pickle it, fork it, share it.

    `classes` are names; a label's value is its position there, 0 the background; where `regions` overlap
    freely, the labels hold their bits instead. With `ignore`, voxels of the value IGNORED are of no class.
    `intensities` has a rule for each of the `channels`; these, `spacing_mm` (slice, row, column; None where
    nothing was resampled) and `slice_axis` are what inference must repeat. `folds` has the subjects of each
    fold of a cross-validation. `failed` has the reason of each case that could not be converted; `findings` are
    what the data doctor said of the source and the set as a whole.
    """

    model_config = ConfigDict(frozen=True)

    path: Path = Field(exclude=True)
    format: int = FORMAT
    tool: str = TOOL
    tool_version: str
    recipe: dict[str, Any]
    recipe_hash: str
    classes: tuple[str, ...]
    channels: tuple[str, ...] = ("image",)
    intensities: tuple[IntensityRule, ...]
    slice_axis: SliceAxis
    spacing_mm: tuple[float, float, float] | None = None
    regions: Annotated[tuple[Region, ...], BeforeValidator(_regions), PlainSerializer(as_dict)] = ()
    ignore: bool = False
    splits: dict[str, list[str]]
    folds: tuple[tuple[str, ...], ...] = ()
    cases: Annotated[dict[str, StoredCase], BeforeValidator(_by_id), PlainSerializer(_listed)]
    failed: dict[str, str]
    excluded: list[str]
    findings: tuple[Finding, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _of_one_channel(cls, told: Any) -> Any:
        """A manifest of format 2 as one of a single channel."""
        if not isinstance(told, dict) or told.get("format") != 2 or "intensity" not in told:
            return told
        return {**told, "intensities": [told["intensity"]]}

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
            if whole and got in READ:
                return cls.model_validate(content | {"path": path})
        except ValidationError as error:
            raise InputError(f"{file}: damaged ({first_mistake(error)}); run preprocess again") from error
        except (OSError, ValueError, KeyError, TypeError, MemoryError) as error:
            told = f"not the manifest of a store ({one_line(error)}); run preprocess again"
            raise cannot_read(file, error, told) from error
        if whole is False or got in READ:
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
        if self.format == 2:
            return _hash([self.recipe_hash, self.classes, self.slice_axis, self._cases_of_before()])
        names = {"id", "subject", "split", "shape", "spacing_mm", "dtype", "base", "slope", "tables_crc32"}
        names |= {"image_sha256", "label_sha256", "recipe_hash"}
        cases = [self.cases[case].model_dump(mode="json", include=names) for case in sorted(self.cases)]
        told = {"classes", "channels", "slice_axis", "spacing_mm", "regions", "ignore", "recipe_hash"}
        return _hash([self.model_dump(mode="json", include=told), cases])

    def _cases_of_before(self) -> list[dict[str, Any]]:
        """What the id of a store of format 2 is made of, so that its runs go on."""
        every = []
        for _, case in sorted(self.cases.items()):
            first = {"id": case.id, "subject": case.subject, "split": case.split, "shape": case.shape}
            hashes = {name: "".join(getattr(case, name)) for name in ("image_sha256", "label_sha256")}
            line = {"dtype": case.dtype, "base": case.base[0], "slope": case.slope[0]}
            sums = {name: getattr(case, name) for name in ("image_crc32", "label_crc32", "recipe_hash")}
            every.append(first | hashes | line | sums)
        return every

    @property
    def intensity(self) -> Intensity:
        """The rule of the first channel."""
        return self.intensities[0]

    @property
    def targets(self) -> tuple[str, ...]:
        """What is scored: the regions or, where there are none, every class but the background."""
        return tuple(region.name for region in self.regions) or self.classes[1:]

    @property
    def num_outputs(self) -> int:
        """How many numbers a network gives for each voxel: one for each region, else for each class."""
        return len(self.regions) or len(self.classes)

    def cases_of(self, split: str) -> list[StoredCase]:
        """The cases of `train`, `val`, `test` or `extra`, sorted by id; may be none."""
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        return [case for case in self.cases.values() if case.split == split]

    def read_slice(self, case: str, index: int) -> Slices:
        """Slice `index` of a case: the normalised image (C, H, W) and its labels (H, W), both fresh arrays.

        What is read is compared with its check sums, as by all that read. Raises InputError.
        """
        with self._opened(case, index) as stream:
            wanted = range(index, index + 1)
            return next(checked_slices(stream, self.cases[case], self._tables(case), wanted))

    def read_label(self, case: str, index: int) -> NDArray[np.uint8]:
        """The labels (H, W) of slice `index` of a case, without its image."""
        with self._opened(case, index) as stream:
            return checked_labels(stream, self.cases[case], self._tables(case), index)

    def read_case(self, case: str) -> Slices:
        """A whole case: the normalised image (C, D, H, W) and its labels (D, H, W)."""
        with self._opened(case) as stream:
            return read_slices(stream, self.cases[case], self._tables(case))

    def read_patch(self, case: str, start: Sequence[int], size: Sequence[int]) -> Slices:
        """The box of `size` (d, h, w) from the voxel `start` (z, y, x) on: (C, d, h, w) and (d, h, w).

        It may lie outside the case in part or as a whole: there the image is 0, and so is the label.
        """
        with self._opened(case) as stream:
            return read_box(stream, self.cases[case], self._tables(case), start, size)

    def code_counts(self, case: str) -> NDArray[np.uint32]:
        """How many voxels of each slice of a case have which label value: (D, 256). Reads no slice.

        Of a store of format 2, which does not say, every label is read, once.
        """
        tables = self._counted(case)
        counts = np.zeros((len(tables.counts), CODES), np.uint32)
        counts[:, list(tables.codes)] = tables.counts
        return counts

    def foreground(
        self, case: str, random: np.random.RandomState, codes: Sequence[int]
    ) -> tuple[int, int, int] | None:
        """A voxel (z, y, x) of a case: any one that has the label value drawn among those of `codes` there.

        None where the case holds none of them. Reads the label of one slice.
        """
        tables = self._counted(case)
        held = [code for code in codes if code in tables.codes]
        if not held:
            return None
        code = held[random.randint(len(held))]
        ends = np.cumsum(tables.counts[:, tables.codes.index(code)], dtype=np.int64)
        number = random.randint(ends[-1])
        index = int(np.searchsorted(ends, number, side="right"))
        before = int(ends[index - 1]) if index else 0
        places = np.flatnonzero(self.read_label(case, index) == code)
        row, column = divmod(int(places[number - before]), self.cases[case].shape[2])
        return index, row, column

    @cached_property
    def _read_tables(self) -> dict[str, Tables]:
        return {}

    def _tables(self, case: str) -> Tables:
        """The tables of a case, read when first asked for."""
        if case not in self._read_tables:
            with self._opened(case) as stream:
                tables = read_tables(stream, self.cases[case])
            if len(self._read_tables) >= _TABLES_KEPT:
                self._read_tables.clear()
            self._read_tables[case] = tables
            return tables
        return self._read_tables[case]

    def _counted(self, case: str) -> Tables:
        """As `_tables`, with what a store of format 2 lacks."""
        tables = self._tables(case)
        if not tables.codes:
            with self._opened(case) as stream:
                tables = self._read_tables[case] = with_counts(stream, self.cases[case], tables)
        return tables

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


def _hash(told: Any) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
