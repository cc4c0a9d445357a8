"""From a store to what a trainer draws: which cases, which slices, and how one is read."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from monai.transforms import MapTransform

from dsnet_med.errors import InputError, unknown
from dsnet_med.prepare.store import Store, StoredCase

VALIDATION_FRACTION = 0.15
SELECT_ON = ("val", "test")


@lru_cache(maxsize=8)
def open_store(path: str) -> Store:
    """The store in a folder, opened once per process. Raises InputError when it is none or incomplete."""
    store = Store.open(Path(path))
    if store.failed:
        raise InputError(
            f"{path} is incomplete: {len(store.failed)} cases failed ({', '.join(sorted(store.failed))}); "
            "mend them and run preprocess again, or leave them out with --exclude"
        )
    return store


def split_cases(store: str, select_on: str = "val") -> dict[str, list[str]]:
    """The case ids to train on and to select the checkpoint on: {"train": [...], "val": [...]}.

    `val`: the store's own validation split or, where it has none, every subject of a fixed 15 % of the training
    subjects (at least one), which are then not trained on. `test`: the test split, as the reference did; all
    training cases are trained on.
    """
    if select_on not in SELECT_ON:
        raise unknown("select_on", select_on, SELECT_ON)
    opened = open_store(store)
    train, val = opened.cases_of("train"), opened.cases_of("val")
    if select_on == "test":
        val = opened.cases_of("test")
    elif not val:
        train, val = _hold_out(train)
    if not train or not val:
        raise InputError(
            f"{store}: {len(train)} training and {len(val)} {select_on} cases; "
            "training needs at least one of each (two training subjects where there is no validation split)"
        )
    return {"train": [case.id for case in train], "val": [case.id for case in val]}


def _hold_out(train: list[StoredCase]) -> tuple[list[StoredCase], list[StoredCase]]:
    # Ordered by a hash of the subject's name: the same subjects for every method, seed and order of the files.
    subjects = sorted({case.subject for case in train}, key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = set(subjects[: max(1, round(VALIDATION_FRACTION * len(subjects)))])
    return (
        [case for case in train if case.subject not in held_out],
        [case for case in train if case.subject in held_out],
    )


def slices(store: str, cases: Sequence[str]) -> list[dict[str, Any]]:
    """One item per slice of these cases: {"case": id, "index": k}."""
    opened = open_store(store)
    return [{"case": case, "index": k} for case in cases for k in range(opened.cases[case].shape[0])]


def slabs(store: str, cases: Sequence[str], thickness: int) -> list[dict[str, Any]]:
    """One item per run of at most `thickness` neighbouring slices of one case: {"case": id, "index": range}."""
    opened = open_store(store)
    return [
        {"case": case, "index": range(start, min(start + thickness, opened.cases[case].shape[0]))}
        for case in cases
        for start in range(0, opened.cases[case].shape[0], thickness)
    ]


def slice_size(store: str, largest: Sequence[int]) -> list[int]:
    """The size (H, W) to train at: the store's largest slice, rounded up to 32, at most `largest`."""
    shapes = [case.shape for case in open_store(store).cases.values()]
    return [min(-(-max(shape[axis] for shape in shapes) // 32) * 32, largest[axis - 1]) for axis in (1, 2)]


class ReadSliced(MapTransform):
    """Read what an item names from the store.

    An item whose index is one slice becomes image and label (1, H, W); one whose index is a range of n slices
    becomes (n, 1, H, W), ready to be a batch. Images are float32, normalised; labels uint8 class ids.
    """

    def __init__(self, store: str) -> None:
        super().__init__(keys=("image", "label"))
        self.store = store

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if isinstance(data["index"], range):
            pairs = [self._read(data["case"], k) for k in data["index"]]
            image, label = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        else:
            image, label = self._read(data["case"], data["index"])
        return {**data, "image": image, "label": label}

    def _read(self, case: str, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = open_store(self.store).read_slice(case, index)
        return torch.from_numpy(image)[None], torch.from_numpy(label)[None]
