"""Patches of volumes: how large they are, where they are read, and what is refused."""

import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from narrow import NARROW
from tiny_volumes import SMALL, write_row

from dsnet_med import resources
from dsnet_med.engine import data, patches
from dsnet_med.engine.compose import compose_inference, compose_train, plain
from dsnet_med.engine.metadata import describe
from dsnet_med.engine.overrides import load
from dsnet_med.engine.run import prepare, train
from dsnet_med.errors import InputError
from dsnet_med.phantoms import make_brats
from dsnet_med.prepare.convert import convert
from dsnet_med.prepare.recipe import load_recipe
from dsnet_med.prepare.store import Store


def test_the_patch_is_the_median_case_up_to_a_number_of_voxels(store):
    cases = list(Store.open(store).cases)
    assert patches.patch_size(str(store), cases, [128, 128, 128], 16) == [16, 64, 64]
    assert patches.patch_size(str(store), cases, [32, 32, 32], 16) == [16, 32, 48]
    assert patches.patch_size(str(store), cases, [8, 8, 8], [16, 32, 32]) == [16, 32, 32]
    assert patches.patch_size(str(store), cases, [128, 128, 128], [4, 48, 48]) == [16, 96, 96]


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ([16, 32], "wanted slices, rows and columns"),
        ([16, 32, 40], "wanted multiples of .16, 16, 16., the stride"),
        ([32, 64, 64], "larger than the volumes: no training case has more than .16, 64, 64. voxels"),
    ],
)
def test_another_size_is_refused_in_one_line(size, words, store):
    with pytest.raises(InputError, match=words):
        patches.checked_patch(size, str(store), list(Store.open(store).cases), 16)
    assert patches.checked_patch(16, str(store), list(Store.open(store).cases), 16) == [16, 16, 16]


def _reader(store, seed, size=(8, 16, 16), oversample=0.0):
    read = patches.ReadPatches(str(store), size, oversample)
    read.set_random_state(seed=seed)
    return read


@given(st.integers(0, 1000), st.sampled_from([(8, 16, 16), (16, 64, 64), (32, 80, 32), (3, 5, 7)]))
def test_a_patch_is_a_part_of_the_case_and_reaches_beyond_it_no_further_than_it_must(store, seed, size):
    opened = Store.open(store)
    case = opened.cases_of("train")[0].id
    item = _reader(store, seed, size, 0.5)({"case": case})
    assert item["image"].shape == item["label"].shape == (1, *size)
    assert item["image"].dtype == torch.float32
    shape = opened.cases[case].shape
    reader = _reader(store, seed, size)
    for voxel in (None, (0, 0, 0), shape):
        for first, length, side in zip(reader._start(shape, voxel), shape, size, strict=True):
            assert 0 <= first <= length - side if length >= side else first == -((side - length) // 2)
    inside = [
        slice(max(0, side - n) // 2, max(0, side - n) // 2 + n) for n, side in zip(shape, size, strict=True)
    ]
    assert item["label"][0].sum() == item["label"][0][tuple(inside)].sum()


def test_the_share_that_surely_holds_foreground_does_and_labels_are_drawn_alike(store):
    case = Store.open(store).cases_of("train")[0].id
    read = _reader(store, 0, (4, 8, 8), 1.0)
    held = [set(read({"case": case})["label"].unique().tolist()) - {0} for _ in range(40)]
    assert all(held)
    assert len(set().union(*held)) >= 6  # small organs, too
    never = _reader(store, 0, (2, 4, 4), 0.0)
    assert not all(never({"case": case})["label"].any() for _ in range(40))


def test_the_same_numbers_read_the_same_patch(store):
    case = Store.open(store).cases_of("train")[0].id
    first, second = (_reader(store, 3, oversample=0.5)({"case": case}) for _ in range(2))
    assert torch.equal(first["image"], second["image"])
    assert first["draw"] == second["draw"]
    assert first["draw"] != _reader(store, 4, oversample=0.5)({"case": case})["draw"]


@pytest.mark.parametrize("oversample", [{"liver": 2}, -1, 1.5, "much"])
def test_a_share_is_a_number(oversample):
    with pytest.raises(InputError, match="got oversample="):
        patches.check_oversample(oversample)


def test_a_row_in_three_dimensions_is_composed_and_checked(store, tmp_path):
    row = write_row(tmp_path)
    config = compose_train(row, store, {})
    assert config["size"] == [16, 64, 64]
    assert config["spatial_dims"] == 3
    inference = compose_inference(config)
    wanted = {"spatial_dims": 3, "size": [16, 64, 64], "fit": "window", "channel_names": ["image"]}
    assert {name: inference[name] for name in wanted} == wanted
    assert inference["regions"] is inference["spacing_mm"] is None
    assert compose_train(row, store, {"size": 16})["size"] == [16, 16, 16]
    for name, value, words in [
        ("size", [64, 64, 64], "a patch larger than the volumes"),
        ("size", [16, 20, 16], "the stride of the network"),
        ("fit", "resize", "wanted window"),
        ("in_channels", 3, "got in_channels=3, wanted 1: the data have image"),
        ("oversample", {"liver": 3}, "one share"),
        ("spatial_dims", 2, "says what --method and --data are"),
        ("fold", 0, "has no folds: make them with preprocess --folds"),
    ]:
        with pytest.raises(InputError, match=words):
            compose_train(row, store, {name: value})


def test_folds_share_the_training_cases_out(store, monkeypatch):
    opened = Store.open(store)
    known = [case.subject for case in opened.cases_of("train")]
    with_folds = opened.model_copy(update={"folds": (tuple(known[:2]), tuple(known[2:]))})
    monkeypatch.setattr(data, "open_store", lambda _: with_folds)
    first, second = (data.split_cases(str(store), fold=fold) for fold in (0, 1))
    assert first["train"] == second["val"]
    assert first["val"] == second["train"]
    assert len(first["val"]) == 2
    with pytest.raises(InputError, match="got fold 2, wanted 0 to 1"):
        data.split_cases(str(store), fold=2)
    with pytest.raises(InputError, match="wanted one of them: a fold validates"):
        data.split_cases(str(store), "test", 0)


@pytest.fixture(scope="module")
def four_channels(tmp_path_factory):
    """A store of four channels and three nested regions."""
    folder = tmp_path_factory.mktemp("brats")
    list(make_brats(folder / "raw", cases=4, seed=0, size=(32, 32, 16)))
    assert not [
        each.error
        for each in convert(load_recipe("brats"), folder / "raw", folder / "store", workers=1)
        if each.error
    ]
    return folder / "store"


@pytest.mark.parametrize(("row", "settings"), [("tiny", {**SMALL, "size": [16, 32, 32]}), ("fcn_dsm", NARROW)])
def test_regions_of_four_channels_train_in_any_dimension(row, settings, four_channels, tmp_path):
    method = write_row(tmp_path) if row == "tiny" else row
    settings = {**settings, "iterations": 2, "validate_every": 2, "loggers": ["tensorboard"]}
    prepare(method, four_channels, tmp_path / "run", settings)
    summary = train(tmp_path / "run", {})
    assert list(summary["scores"]["val_dice"]) == ["whole_tumour", "tumour_core", "enhancing"]
    written = load(tmp_path / "run" / "configs" / "inference.yaml")
    assert (written["in_channels"], written["num_classes"]) == (4, 3)
    assert written["channel_names"] == ["FLAIR", "T1w", "t1gd", "T2w"]
    assert len(written["intensity"]) == 4
    assert written["regions"]["tumour_core"] == {"of": [2, 3], "value": 2}
    with pytest.raises(InputError, match="got in_channels=3, wanted 4: the data have FLAIR"):
        compose_train(method, four_channels, {"in_channels": 3})
    with pytest.raises(InputError, match="class_weights=inverse_frequency for regions"):
        compose_train(method, four_channels, {"class_weights": "inverse_frequency"})


def test_oversample_takes_names_of_regions(four_channels):
    store = str(four_channels)
    items = data.slices(store, list(Store.open(four_channels).cases))
    weights = data.slice_weights({"enhancing": 3}, store, items)
    held = [3 in Store.open(four_channels).read_label(item["case"], item["index"]) for item in items]
    assert weights == [3.0 if each else 1.0 for each in held]
    assert any(held)
    with pytest.raises(InputError, match="did you mean 'enhancing'"):
        data.slice_weights({"enhancin": 3}, store, items)


def test_without_augmentation(store, tmp_path):
    config = compose_train(write_row(tmp_path), store, {"train#augmentation": None})
    assert config["train"]["augmentation"] is None


def test_a_fold_is_written_out_and_its_run_is_that_fold_s(four_channels, tmp_path):
    folder = shutil.copytree(four_channels, tmp_path / "store")
    opened = Store.open(folder)
    known = [case.subject for case in (*opened.cases_of("train"), *opened.cases_of("val"))]
    opened.model_copy(update={"folds": (tuple(known[:1]), tuple(known[1:]))}).write()
    config = compose_train(write_row(tmp_path), folder, {"fold": 1})
    cases = {side: {plain(name) for name in names} for side, names in config["cases"].items()}
    assert {case.subject for case in opened.cases.values() if case.id in cases["train"]} == {known[0]}
    assert {case.subject for case in opened.cases.values() if case.id in cases["val"]} == set(known[1:])
    assert config["fold"] == 1
    with pytest.raises(InputError, match="wanted one of them"):
        compose_train(write_row(tmp_path), folder, {"fold": 1, "cases": {"train": known[:1], "val": known[1:]}})


def test_metadata_says_what_a_network_of_volumes_and_regions_sees_and_gives(four_channels, tmp_path):
    said = describe(
        resources.configs() / "metadata.json", compose_train(write_row(tmp_path), four_channels, {})
    )
    image, logits = (
        said["network_data_format"][way][name] for way, name in (("inputs", "image"), ("outputs", "pred"))
    )
    assert image["num_channels"] == 4
    assert image["channel_def"] == {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    assert logits["channel_def"] == {"0": "whole_tumour", "1": "tumour_core", "2": "enhancing"}
    assert said["task"] == "Segmentation of 3 structures in MR, by windows of volumes"
    assert "4 channels (FLAIR, T1w, t1gd, T2w)" in said["image_classes"]


def test_small_patches_train(store, tmp_path):
    prepare(write_row(tmp_path), store, tmp_path / "run", {**SMALL, "iterations": 2, "validate_every": 2})
    summary = train(tmp_path / "run", {})
    assert summary["best"]["iteration"] == 2
    assert len(summary["scores"]["val_dice"]) == 8
