"""What a trainer draws from a store."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

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
        case.model_copy(update={"subject": f"s{i // 2}"})
        for i, case in enumerate(Store.open(store).cases.values())
    ]
    train, val = data.hold_out(cases)
    assert len(train) + len(val) == len(cases)
    assert val
    assert not {case.subject for case in train} & {case.subject for case in val}


def test_slabs_hold_every_slice_once_and_one_case_each(store: Path) -> None:
    cases = list(Store.open(store).cases)
    batches = data.slice_batches(str(store), cases, 5)
    seen = [(batch["case"], k) for batch in batches for k in batch["index"]]
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


@pytest.mark.parametrize(("size", "expected"), [(64, [64, 64]), ([64, 96], [64, 96])])
def test_a_size_is_a_square_or_rows_and_columns(size: object, expected: list[int]) -> None:
    assert data.checked_size(size) == expected


@pytest.mark.parametrize("size", [-1, 0, [64], [64, 0], "64", 64.0, True, None, [64, True]])
def test_another_size_is_refused(size: object) -> None:
    with pytest.raises(InputError, match=r"wanted rows and columns"):
        data.checked_size(size)


def test_cases_are_the_store_s_and_on_one_side(store: Path) -> None:
    first, second, third = list(Store.open(store).cases)[:3]
    data.check_cases({"train": [first, third], "val": [second]}, str(store))
    for cases, words in [
        ({"train": [first, second], "val": [second]}, f"cases: {second} to train and to validate"),
        ({"train": [first], "val": []}, "cases#val: got .*at least one"),
        ({"train": first, "val": [second]}, "cases#train: got .*a list"),
        ({"train": [first], "val": ["nobody"]}, "unknown case of .*'nobody'"),
        ({"train": [first]}, "wanted {train: "),
        ([first], "wanted {train: "),
    ]:
        with pytest.raises(InputError, match=words):
            data.check_cases(cases, str(store))  # type: ignore[arg-type]


def test_class_weights_are_the_inverse_of_what_the_cases_hold(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = data.open_store(str(store))
    case = next(iter(opened.cases))
    counts = dict.fromkeys(opened.classes, 0) | {"background": 800, "aorta": 100, "liver": 200}
    monkeypatch.setitem(opened.cases, case, opened.cases[case].model_copy(update={"label_voxels": counts}))
    weights = data.class_weights("inverse_frequency", str(store), [case])
    scale = (1 / 800 + 1 / 200 + 7 / 100) / 9  # six organs are not there and weigh as the rarest
    expected = dict.fromkeys(opened.classes, 1 / 100) | {"background": 1 / 800, "liver": 1 / 200}
    assert weights == pytest.approx([expected[name] / scale for name in opened.classes])
    assert data.class_weights("none", "nowhere", []) is data.class_weights(None, "nowhere", []) is None
    assert data.class_weights([1] * 9, str(store), []) == [1.0] * 9
    for kind, words in [
        ([1, 2], "wanted 9 numbers"),
        ([-1] * 9, "wanted 9"),
        ("inverse", "'inverse_frequency'"),
        (3, "3"),
    ]:
        with pytest.raises(InputError, match=words):
            data.class_weights(kind, str(store), [case])


def test_slices_are_drawn_more_often_by_what_they_hold(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Store.open(store)
    liver, aorta = opened.classes.index("liver"), opened.classes.index("aorta")
    held = [[0], [0, liver], [0, aorta], [liver, aorta]]
    counts = np.array([np.bincount(each, minlength=256) for each in held])
    monkeypatch.setattr(Store, "code_counts", lambda self, case: counts)
    items = [{"case": "x", "index": index} for index in range(4)]

    def weights(oversample: object) -> object:
        return data.slice_weights(oversample, str(store), items)

    assert weights(0.4) == pytest.approx([0.15, 0.15 + 0.4 / 3, 0.15 + 0.4 / 3, 0.15 + 0.4 / 3])
    assert weights(1) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    assert weights({"liver": 3, "aorta": 0.5}) == [1.0, 3.0, 0.5, 3.0]
    assert [weights(none) for none in (None, "none", 0, 0.0, {})] == [None] * 5
    for oversample, words in [
        ({"livre": 3}, "did you mean 'liver'"),
        ({"background": 2}, "unknown organ"),
        ({"liver": 0}, "above 0"),
        (1.5, "from 0 to 1"),
        (True, "from 0 to 1"),
        ("liver", "from 0 to 1"),
    ]:
        with pytest.raises(InputError, match=words):
            weights(oversample)
    with pytest.raises(InputError, match="no slice"):
        data.slice_weights(0.5, str(store), items[:1])


def test_labels_are_read_without_their_image(store: Path) -> None:
    opened = Store.open(store)
    case = list(opened.cases)[1]
    for index in (0, 5):
        assert np.array_equal(opened.read_label(case, index), opened.read_slice(case, index)[1])
    file = store / "cases" / f"{case}.bin"
    whole = file.read_bytes()
    try:
        slices = opened.cases[case].shape[0] * opened.cases[case].slice_nbytes
        file.write_bytes(whole[: slices - 1])
        for read in (opened.read_label, opened.read_slice):
            with pytest.raises(InputError, match="cut short, or changed since"):
                read(case, opened.cases[case].shape[0] - 1)
    finally:
        file.write_bytes(whole)


def test_grey_slices_are_repeated_for_a_network_of_three_channels() -> None:
    image, label = torch.rand(2, 1, 4, 5), torch.zeros(2, 1, 4, 5)
    batch = {"image": MetaTensor(image), "label": label}
    moved, same = data.PrepareBatch(in_channels=3)(batch, torch.device("cpu"))
    assert torch.equal(moved, torch.cat([image] * 3, 1))
    assert type(moved) is torch.Tensor
    assert torch.equal(same, label)
    assert data.PrepareBatch(in_channels=3)(batch | {"image": moved})[0].shape == (2, 3, 4, 5)


def test_an_incomplete_store_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    incomplete = Store.open(store).model_copy(update={"failed": {"0003": "damaged"}})
    monkeypatch.setattr(Store, "open", lambda path: incomplete)
    data.open_store.cache_clear()
    with pytest.raises(InputError, match=r"0003.*--exclude"):
        data.open_store(str(store))
    data.open_store.cache_clear()


def test_a_workflow_can_be_made_without_its_store_and_reading_says_that_it_is_not_there(
    store: Path, tmp_path: Path
) -> None:
    assert data.cases_where_there(str(store), "test") == data.split_cases(str(store), "test")
    gone = str(tmp_path / "gone")
    cases = data.cases_where_there(gone)
    for items in (data.slices(gone, cases["train"]), data.slice_batches(gone, cases["val"], 8)):
        (item,) = items
        with pytest.raises(InputError, match="not a store"):
            data.ReadSliced(gone)(item)
