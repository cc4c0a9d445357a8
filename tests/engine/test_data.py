"""What a trainer draws from a store."""

import dataclasses
from pathlib import Path

import pytest
import torch

from dsnet_med.engine import data
from dsnet_med.errors import InputError
from dsnet_med.prepare.store import Store


def test_validation_comes_from_training_patients_only(store: Path) -> None:
    chosen = data.split_cases(str(store))
    opened = Store.open(store)
    assert not set(chosen["train"]) & set(chosen["val"])
    assert set(chosen["train"]) | set(chosen["val"]) == {case.id for case in opened.cases_of("train")}
    assert data.split_cases(str(store)) == chosen


def test_test_cases_select_only_when_asked(store: Path) -> None:
    chosen = data.split_cases(str(store), "test")
    opened = Store.open(store)
    assert chosen["val"] == [case.id for case in opened.cases_of("test")]
    assert chosen["train"] == [case.id for case in opened.cases_of("train")]


def test_no_subject_is_on_both_sides(store: Path) -> None:
    cases = [
        dataclasses.replace(case, subject=f"s{i // 2}")
        for i, case in enumerate(Store.open(store).cases.values())
    ]
    train, val = data._hold_out(cases)
    assert len(train) + len(val) == len(cases)
    assert val
    assert not {case.subject for case in train} & {case.subject for case in val}


def test_slabs_hold_every_slice_once_and_one_case_each(store: Path) -> None:
    cases = list(Store.open(store).cases)
    slabs = data.slabs(str(store), cases, 5)
    seen = [(slab["case"], k) for slab in slabs for k in slab["index"]]
    wanted = [(item["case"], item["index"]) for item in data.slices(str(store), cases)]
    assert sorted(seen) == sorted(wanted)
    assert len(wanted) == 6 * 16


def test_reading_a_slice_and_a_slab(store: Path) -> None:
    case = next(iter(Store.open(store).cases))
    read = data.ReadSliced(str(store))
    single, several = read({"case": case, "index": 7}), read({"case": case, "index": range(6, 9)})
    assert single["image"].shape == single["label"].shape == (1, 64, 64)
    assert several["image"].shape == (3, 1, 64, 64)
    assert torch.equal(several["image"][1], single["image"])
    assert torch.equal(several["label"][1], single["label"])
    assert single["image"].dtype == torch.float32


def test_size_is_the_largest_slice_up_to_a_limit(store: Path) -> None:
    assert data.slice_size(str(store), [512, 512]) == [64, 64]
    assert data.slice_size(str(store), [32, 512]) == [32, 64]


def test_an_incomplete_store_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "failed", property(lambda self: {"0003": "damaged"}))
    data.open_store.cache_clear()
    with pytest.raises(InputError, match=r"0003.*--exclude"):
        data.open_store(str(store))
    data.open_store.cache_clear()
