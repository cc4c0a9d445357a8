"""What values settings may have, for every task; and which data a run goes on with."""

import json
import shutil
from functools import partial

import pytest
from narrow import NARROW

from dsnet_med.engine.compose import compose_train
from dsnet_med.engine.data import open_store, require_store
from dsnet_med.engine.overrides import load
from dsnet_med.engine.run import prepare, reopen
from dsnet_med.engine.settings import RULES, check_classes, check_settings
from dsnet_med.errors import InputError
from dsnet_med.inference.trust import is_own
from dsnet_med.methods import natural_method_ids
from dsnet_med.prepare.store import Store
from dsnet_med.prepare.stored_case import data_file
from dsnet_med.seal import sealed

WRONG = {  # the rule that finds it is of the same id
    "iterations": [0, -1, 2.5, True],
    "epochs": [0],
    "steps_per_epoch": [0],
    "validate_every": [0, -4],
    "checkpoint_every": [0],
    "val_interval": [0],
    "batch_size": [0, -1, 1.5, "two"],
    "accumulate": [0],
    "workers": [-1, 0.5],
    "warmup": [-1],
    "early_stopping": [-1],
    "lr_scheduler#warmup": [-5],
    "seed": [-1, 2**63, 1.5],
    "in_channels": [0, 300, 1.5],
    "spatial_dims": [1, 4],
    "stride": [0, [16, 16]],
    "fold": [-1, "first"],
    "precision": ["half", "float64"],
    "fit": ["stretch"],
    "width": [0, -1, float("nan"), 1000],
    "learning_rate": [-0.1, "fast"],
    "optimizer#lr": [-1e-3, float("inf")],
    "lr_scheduler#power": [-1],
    "lr_scheduler#gamma": [-1],
    "clip": [-1],
    "optimizer#weight_decay": [-0.1],
    "lr_scheduler#floor": [-0.1],
    "loss#ce_weight": [-1],
    "loss#dice_weight": ["much"],
    "loss#auxiliary_weight": [-1],
    "loss#presence_weight": [-1],
    "ema": [1, -0.1],
    "optimizer#momentum": [1.0],
    "train#augmentation#rotate_prob": [1.5],
    "train#augmentation#flip_prob": [-0.5],
    "train#augmentation#affine_prob": [2],
    "train#augmentation#noise_prob": [2],
    "train#augmentation#blur_prob": [2],
    "train#augmentation#brightness_prob": [2],
    "train#augmentation#contrast_prob": [2],
    "train#augmentation#resolution_prob": [2],
    "train#augmentation#gamma_prob": [2],
    "train#augmentation#degree": [400],
    "milestones": [[5, 3], 7, [-1]],
    "size": [-1, 0, 7, [64], [64, -1], "large"],
    "min_size": [0, -1, 1.5],
    "max_size": [0],
    "largest_size": [0, [0, 512]],
    "crop": [64, [16, 64], [64, 64, 64]],
    "short_side": [[512, 256], [0, 512], 512],
}


def nested(name, value):
    for key in reversed(name.split("#")):
        value = {key: value}
    return value


@pytest.mark.parametrize("name", RULES)
def test_a_value_that_cannot_be_is_one_line(name):
    for value in WRONG[name]:
        with pytest.raises(InputError) as error:
            check_settings(nested(name, value))
        assert str(error.value).startswith(f"got {name}={value}, wanted ")
    for value in ("$1 - 2", "@other", ["$-1", 0]):  # whose values are not known yet
        check_settings(nested(name, value))


def test_values_that_contradict_each_other():
    with pytest.raises(InputError, match="got min_size=96 and max_size=64"):
        check_settings({"min_size": 96, "max_size": 64})
    with pytest.raises(InputError, match="got in_channels=1, wanted 3: the images are read in colour"):
        check_settings({"task": "coco", "in_channels": 1})
    with pytest.raises(InputError, match=r"got size=.64, 64., wanted one number, the side of a square"):
        check_settings({"task": "imagenet", "size": [64, 64]})
    check_settings({"task": "organs", "in_channels": 1, "size": [64, 64]})


@pytest.mark.parametrize("method", natural_method_ids())
def test_every_row_on_images_is_as_it_should_be_and_is_checked(method, tmp_path):
    compose_train(method, tmp_path, {"precision": "bfloat16"})
    with pytest.raises(InputError, match="got optimizer#lr=-1, wanted at least 0"):
        compose_train(method, tmp_path, {"optimizer#lr": -1})


def test_classes_are_those_of_the_data():
    check_classes({"class_names": ["$'a'", "b"], "num_classes": 2}, ["background", "liver"])
    check_classes({"class_names": "$names", "num_classes": "$len(@class_names)"}, ["background", "liver"])
    with pytest.raises(InputError, match="got num_classes=3, wanted 2, for the 2 classes of the data: b"):
        check_classes({"num_classes": 3}, ["background", "liver"])
    for names in (["a"], ["a", "a"], ["a", "b", "c"]):
        with pytest.raises(InputError, match="wanted a name for each of the 2 classes of the data"):
            check_classes({"class_names": names}, ["background", "liver"])


def test_a_composed_configuration_is_checked(store):
    for name, value in (("batch_size", 0), ("width", 0), ("num_classes", 14), ("class_names", ["background"])):
        with pytest.raises(InputError, match=f"got {name}="):
            compose_train("fcn", store, {name: value})


def test_a_store_is_known_by_what_is_in_it(store, tmp_path):
    written = compose_train("fcn", store, {})["store_id"]
    moved = shutil.copytree(store, tmp_path / "moved")
    require_store(str(moved), written)
    require_store(str(store), None)  # a run of before
    with pytest.raises(InputError, match=r"no store at .*gone, .* --resume --data STORE"):
        require_store(str(tmp_path / "gone"), written)
    _with_other_data(moved, "label_sha256")
    open_store.cache_clear()
    with pytest.raises(InputError, match="moved holds other data than the run began with"):
        require_store(str(moved), written)
    open_store.cache_clear()


def _with_other_data(store, name):
    manifest = json.loads((store / "manifest.json").read_text())
    case = manifest["cases"][-1]
    case[name] = "0" * 8 if isinstance(case[name], str) else ["0" * 64]
    (store / "manifest.json").write_text(json.dumps(sealed(manifest)))


def test_a_store_that_moved_is_taken_and_another_is_not(store, tmp_path):
    prepare("fcn", store, tmp_path / "run", NARROW)
    moved = shutil.copytree(store, tmp_path / "moved")
    reopen(tmp_path / "run", {}, data=moved)
    config = load(tmp_path / "run" / "configs" / "train.yaml")
    assert config["dataset_dir"] == str(moved)
    _with_other_data(moved, "tables_crc32")
    open_store.cache_clear()
    for data in (moved, None):
        with pytest.raises(InputError, match="holds other data than the run began with"):
            reopen(tmp_path / "run", {}, data=data)
    open_store.cache_clear()


def test_a_run_that_begins_sees_a_store_that_was_made_anew(store, tmp_path):
    copy = shutil.copytree(store, tmp_path / "store")
    before = compose_train("fcn", copy, {})["store_id"]
    _with_other_data(copy, "tables_crc32")
    assert compose_train("fcn", copy, {})["store_id"] != before


def test_a_data_file_that_changes_under_an_open_store_is_noticed(store, tmp_path):
    opened = Store.open(shutil.copytree(store, tmp_path / "store"))
    case = next(iter(opened.cases))
    file = data_file(opened.path, case)
    opened.read_slice(case, 0)
    content = file.read_bytes()
    for changed in (b"", b"\1" * len(content), b"\1" + content[:-1]):
        file.write_bytes(changed)
        for read in (partial(opened.read_slice, case, 0), partial(opened.read_case, case)):
            with pytest.raises(InputError, match=rf"{case}\.bin: slice \d+ is not what was stored"):
                read()


def test_every_run_is_its_users_own(store, tmp_path, monkeypatch):
    """So that one with MONAI's network, or timm's, is loaded without a word of trust, until it is changed."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    network = {
        "_target_": "monai.networks.nets.BasicUNet",
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 9,
    }
    run = tmp_path / "run"
    prepare("fcn", store, run, {**NARROW, "network_def": network})
    reopen(run, {"iterations": 12})
    assert is_own(run)
    inference = run / "configs" / "inference.yaml"
    inference.write_text(inference.read_text() + "other: 1\n")
    assert not is_own(run)
