"""From a store to what a trainer draws: which cases, which slices and how often, and how one is read."""

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from dsnet_med.errors import InputError, first_of, shown, unknown
from dsnet_med.networks.layers import with_channels
from dsnet_med.prepare.cases import RawCase
from dsnet_med.prepare.store import MANIFEST, Store
from dsnet_med.prepare.stored_case import StoredCase
from dsnet_med.regions import IGNORED

VALIDATION_FRACTION = 0.15
SELECT_ON = ("val", "test")
_NO_CASE = ""  # stands for the cases of a store that is not there
_Case = TypeVar("_Case", StoredCase, RawCase)
Augmentation = Callable[[torch.Tensor, torch.Tensor, Sequence[int]], tuple[torch.Tensor, torch.Tensor]]


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


def reopen_store(path: str) -> Store:
    """As `open_store`, looked at again, for a run that begins: `preprocess` may have made it anew."""
    open_store.cache_clear()
    return open_store(path)


def require_store(path: str, store_id: str | None) -> None:
    """Raise InputError unless the store of that id is in the folder; None stands for any."""
    if store_id is None:
        return
    if not Path(path).is_dir():
        raise InputError(
            f"no store at {path}, where the run had its data: say where it is now, --resume --data STORE"
        )
    if (found := reopen_store(path).id) != store_id:
        raise InputError(
            f"{path} holds other data than the run began with (id {found}, was {store_id}): give those as "
            "--data, or train anew in another --out"
        )


def split_cases(store: str, select_on: str = "val", fold: int | None = None) -> dict[str, list[str]]:
    """The case ids to train on and to select the checkpoint on: {"train": [...], "val": [...]}.

    `val`: the store's own validation split or, where it has none, every subject of a fixed 15 % of the training
    subjects (at least one), which are then not trained on. `test`: the test split, as the reference did; all
    training cases are trained on. `fold`, a number from 0: that fold of the store's, and the others train.
    Raises InputError where the store has no such fold, or no case on one side.
    """
    if select_on not in SELECT_ON:
        raise unknown("select_on", select_on, SELECT_ON)
    opened = open_store(store)
    train, val = opened.cases_of("train"), opened.cases_of("val")
    if fold is not None:
        if select_on != "val":
            raise InputError(f"got fold {fold} and select_on={select_on}, wanted one of them: a fold validates")
        train, val = fold_of(opened, opened.folds, fold)
    elif select_on == "test":
        val = opened.cases_of("test")
    elif not val:
        train, val = hold_out(train)
    if not train or not val:
        raise InputError(
            f"{store}: {len(train)} training and {len(val)} {select_on} cases; "
            "training needs at least one of each (two training subjects where there is no validation split)"
        )
    return {"train": [case.id for case in train], "val": [case.id for case in val]}


def fold_of(
    store: Store, folds: Sequence[Sequence[str]], fold: int
) -> tuple[list[StoredCase], list[StoredCase]]:
    """Of the training and validation splits, the cases of the other folds, to learn from, and of this one.

    `folds` are the subjects of each, `fold` a number from 0. Raises InputError where there is no such fold.
    """
    if not folds:
        raise InputError(f"got fold {fold}, and {store.path} has no folds: make them with preprocess --folds 5")
    if type(fold) is not int or not 0 <= fold < len(folds):
        raise InputError(f"got fold {fold}, wanted 0 to {len(folds) - 1}: {store.path} has {len(folds)} folds")
    own, every = set(folds[fold]), {subject for subjects in folds for subject in subjects}
    known = [case for case in (*store.cases_of("train"), *store.cases_of("val")) if case.subject in every]
    return [case for case in known if case.subject not in own], [case for case in known if case.subject in own]


def cases_where_there(store: str, select_on: str = "val", fold: int | None = None) -> dict[str, list[str]]:
    """As `split_cases`; where there is no store, a case on each side whose slices say so when they are read.

    A bundle's workflow can so be made, and asked for its properties, before its data are there.
    """
    if (Path(store) / MANIFEST).is_file():
        return split_cases(store, select_on, fold)
    return {"train": [_NO_CASE], "val": [_NO_CASE]}


def hold_out(train: Sequence[_Case]) -> tuple[list[_Case], list[_Case]]:
    """Cases to train on and to validate on: those of 15 % of the subjects, at least of one.

    By a hash of the subject's name: the same subjects for every method, seed and order of the files.
    """
    subjects = sorted({case.subject for case in train}, key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = set(subjects[: max(1, round(VALIDATION_FRACTION * len(subjects)))])
    return (
        [case for case in train if case.subject not in held_out],
        [case for case in train if case.subject in held_out],
    )


def training_items(store: str, cases: Sequence[str], spatial_dims: int = 2) -> list[dict[str, Any]]:
    """What is drawn in training: every slice of these cases, or in 3-D every case, of which patches are read.

    So cases are drawn alike in 3-D, whatever their size, as in nnU-Net.
    """
    return slices(store, cases) if spatial_dims == 2 else [{"case": case} for case in cases]


def validation_items(
    store: str, cases: Sequence[str], thickness: int, spatial_dims: int = 2
) -> list[dict[str, Any]]:
    """The batches of a validation: runs of slices as of `slice_batches`, or in 3-D every case, whole."""
    return slice_batches(store, cases, thickness) if spatial_dims == 2 else [{"case": case} for case in cases]


def slices(store: str, cases: Sequence[str]) -> list[dict[str, Any]]:
    """One item per slice of these cases: {"case": id, "index": k}."""
    if list(cases) == [_NO_CASE]:
        return [{"case": _NO_CASE, "index": 0}]
    opened = open_store(store)
    return [{"case": case, "index": k} for case in cases for k in range(opened.cases[case].shape[0])]


def slice_batches(store: str, cases: Sequence[str], thickness: int) -> list[dict[str, Any]]:
    """One item per run of at most `thickness` neighbouring slices of one case: {"case": id, "index": range}."""
    if list(cases) == [_NO_CASE]:
        return [{"case": _NO_CASE, "index": range(1)}]
    opened = open_store(store)
    return [
        {"case": case, "index": range(start, min(start + thickness, opened.cases[case].shape[0]))}
        for case in cases
        for start in range(0, opened.cases[case].shape[0], thickness)
    ]


def batches(count: int, size: int) -> list[range]:
    """The indices below `count` in batches of `size`, the last of what is left."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def check_cases(cases: Mapping[str, Sequence[str]], store: str) -> None:
    """Raise InputError unless {"train": [...], "val": [...]} name cases of the store, none on both sides."""
    known = open_store(store).cases
    if not isinstance(cases, Mapping) or set(cases) != {"train", "val"}:
        raise InputError(f"got cases={cases}, wanted {{train: [...], val: [...]}} with the names of cases")
    for side, names in cases.items():
        if isinstance(names, str) or not isinstance(names, Sequence) or not names:
            raise InputError(f"cases#{side}: got {shown(names)}, wanted a list of at least one case")
        if strange := next((str(name) for name in names if name not in known), None):
            raise unknown(f"case of {store}", strange, known)
    if both := [name for name in cases["train"] if name in set(cases["val"])]:
        raise InputError(f"cases: {first_of(both)} to train and to validate on; wanted each on one side")


def slice_size(store: str, largest: Sequence[int]) -> list[int]:
    """The size (H, W) to train at: the store's largest slice, rounded up to 32, at most `largest`."""
    shapes = [case.shape for case in open_store(store).cases.values()]
    return [min(-(-max(shape[axis] for shape in shapes) // 32) * 32, largest[axis - 1]) for axis in (1, 2)]


def checked_size(size: Any) -> list[int]:
    """[rows, columns] that a user has written; one number stands for a square. Raises InputError."""
    both = [size, size] if type(size) is int else size
    if not isinstance(both, list) or len(both) != 2 or not all(type(each) is int and each > 0 for each in both):
        raise InputError(f"got size={size}, wanted rows and columns, for example size=64 or size=[64, 96]")
    return both


def class_weights(kind: Any, store: str, cases: Sequence[str]) -> list[float] | None:
    """The weight of every class in the cross-entropy: None, the numbers themselves, or by what the cases hold.

    `inverse_frequency`: 1 / the class's share of the voxels of `cases`, scaled to a mean of 1 over the classes;
    one that no case holds weighs as much as the rarest. Raises InputError.
    """
    if kind in (None, "none"):
        return None
    if open_store(store).regions:
        raise InputError(f"got class_weights={kind} for regions, which have no classes: leave it out")
    classes = open_store(store).classes
    if isinstance(kind, list):
        if len(kind) != len(classes) or not all(type(each) in (int, float) and each >= 0 for each in kind):
            raise InputError(f"got class_weights={kind}, wanted {len(classes)} numbers, one for each class")
        return [float(each) for each in kind]
    if kind != "inverse_frequency":
        raise unknown("class_weights", str(kind), ("none", "inverse_frequency", "[one number for each class]"))
    entries = [open_store(store).cases[case] for case in cases]
    counts = [sum(entry.label_voxels.get(name, 0) for entry in entries) for name in classes]
    rarest = min(count for count in counts if count)
    inverse = [1 / max(count, rarest) for count in counts]
    return [weight * len(inverse) / sum(inverse) for weight in inverse]


def slice_weights(oversample: Any, store: str, items: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """How often each of `items` (see `slices`) is drawn, in proportion; None where all are drawn alike.

    `oversample` is a number from 0 to 1, the share of draws that surely hold an organ, as nnU-Net's
    oversample_foreground_percent (0.33 there), or {organ: factor}: a slice that holds the organ is drawn
    `factor` times as often as one without; of several factors the largest counts. Raises InputError.
    """
    if oversample in (None, "none", 0, {}):
        return None
    opened = open_store(store)
    organs = list(opened.targets)
    held = _organs_held(store, tuple((item["case"], item["index"]) for item in items))
    if isinstance(oversample, Mapping):
        for name, factor in oversample.items():
            if name not in organs:
                raise unknown("organ in oversample", str(name), organs)
            if type(factor) not in (int, float) or not factor > 0:
                raise InputError(f"got oversample#{name}={factor}, wanted a number above 0")
        factors = [(_codes_of(opened, name), float(factor)) for name, factor in oversample.items()]
        return [max((factor for codes, factor in factors if found & codes), default=1.0) for found in held]
    if type(oversample) not in (int, float) or not 0 < oversample <= 1:
        raise InputError(f"got oversample={oversample}, wanted a number from 0 to 1, or {{organ: factor}}")
    count = sum(bool(found) for found in held)
    if not count:
        raise InputError(f"oversample={oversample}: no slice of the training cases holds an organ")
    everywhere, more = (1 - oversample) / len(held), oversample / count
    return [everywhere + more * bool(found) for found in held]


def _codes_of(store: Store, target: str) -> set[int]:
    """The stored label values of an organ or a region."""
    if store.regions:
        return next(set(region.codes) for region in store.regions if region.name == target)
    return {store.classes.index(target)}


@lru_cache(maxsize=1)
def _organs_held(store: str, slices: tuple[tuple[str, int], ...]) -> list[set[int]]:
    """The class ids but background of every slice."""
    opened = open_store(store)
    counts = {case: opened.code_counts(case) for case in {case for case, _ in slices}}
    nothing = {0, IGNORED} if opened.ignore else {0}
    return [set(np.flatnonzero(counts[case][index]).tolist()) - nothing for case, index in slices]


class PrepareBatch:
    """Move a batch to where it is trained on: image (B, C, *S) and label (B, 1, *S), plain tensors.

    Grey slices are repeated for a network of `in_channels`, as in inference. `augment` then changes both, by
    the numbers that a batch has as `draw`, one for each of its images. MONAI's engines call it.
    """

    def __init__(self, in_channels: int = 1, augment: Augmentation | None = None) -> None:
        self.in_channels, self.augment = in_channels, augment

    def __call__(
        self, batchdata: Mapping[str, Any], device: Any = None, non_blocking: bool = True, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = (
            convert_to_tensor(batchdata[key], track_meta=False).to(device, non_blocking=non_blocking, **kwargs)
            for key in ("image", "label")
        )
        if self.augment is not None:
            image, label = self.augment(image, label, [int(each) for each in batchdata["draw"]])
        return with_channels(image, self.in_channels) if image.ndim == 4 else image, label


class ReadSliced(MapTransform):
    """Read what an item names from the store.

    An item whose index is one slice becomes image (C, H, W) and label (1, H, W); one whose index is a range of
    n slices (n, C, H, W) and (n, 1, H, W), ready to be a batch; one without an index a whole case, which is
    (1, C, D, H, W) and (1, 1, D, H, W). Images are float32, normalised; labels uint8 as stored.
    """

    def __init__(self, store: str) -> None:
        super().__init__(keys=("image", "label"))
        self.store = store

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if "index" not in data:
            volume, labels = open_store(self.store).read_case(data["case"])
            image, label = torch.from_numpy(volume)[None], torch.from_numpy(labels)[None, None]
        elif isinstance(data["index"], range):
            pairs = [self._read(data["case"], k) for k in data["index"]]
            image, label = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        else:
            image, label = self._read(data["case"], data["index"])
        return {**data, "image": image, "label": label}

    def _read(self, case: str, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = open_store(self.store).read_slice(case, index)
        return torch.from_numpy(image), torch.from_numpy(label)[None]
