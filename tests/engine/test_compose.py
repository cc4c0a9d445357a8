"""A run's configuration: merged, written out, and never with an id that does not exist."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from dsnet_med.engine import compose
from dsnet_med.engine.card import titled
from dsnet_med.engine.overrides import parse_settings
from dsnet_med.errors import InputError
from dsnet_med.methods import published_ids
from dsnet_med.networks import definition
from dsnet_med.seal import sealed


@pytest.mark.parametrize("method", published_ids())
def test_every_method_composes(method: str, store: Path) -> None:
    config = compose.compose_train(method, store, {})
    assert config["method_card"]["id"] == method
    assert config["num_classes"] == 9
    assert config["class_names"][:3] == ["background", "aorta", "gallbladder"]
    assert config["size"] == [64, 64]
    assert Path(config["dataset_dir"]) == store


def test_values_of_the_data_set_win_over_the_defaults_and_settings_over_both(store: Path) -> None:
    config = compose.compose_train("fcn", store, {"optimizer#lr": 0.5, "iterations": 7})
    assert config["optimizer"]["lr"] == 0.5
    assert config["iterations"] == 7
    assert config["batch_size"] == 2


def test_an_overlay_says_when_to_validate_whatever_the_iterations(store: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("validate_every: 700\n")
    assert compose.compose_train("fcn", store, {"iterations": 3000})["validate_every"] == 300
    assert compose.compose_train("fcn", store, {"iterations": 3000}, [overlay])["validate_every"] == 700


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("iteration", "did you mean 'iterations'"),
        ("optimizer#moment", "of 'optimizer' 'moment': did you mean 'momentum'"),
        ("network_def#backbone#layer", "did you mean 'layers'"),
        ("optimiser#lr", "did you mean 'optimizer'"),
        ("iterations#lr", "has no parts"),
        ("train#handlers#99", "unknown setting of 'train#handlers'"),
    ],
)
def test_settings_that_do_not_exist_are_refused(name: str, suggestion: str, store: Path) -> None:
    with pytest.raises(InputError, match=suggestion):
        compose.compose_train("fcn", store, {name: 1})


def test_cases_set_by_hand_are_what_is_looked_at_whatever_the_splits(store: Path, tmp_path: Path) -> None:
    """Such as those of a store that has no case to train on by its own split."""
    whole = shutil.copytree(store, tmp_path / "store")
    manifest = json.loads((whole / "manifest.json").read_text())
    for case in manifest["cases"]:
        case["split"] = "test"
    (whole / "manifest.json").write_text(json.dumps(sealed(manifest)))
    first, second, *_ = (case["id"] for case in manifest["cases"])
    cases = {"train": [first], "val": [second]}
    weighed = {"class_weights": "inverse_frequency", "oversample": 0.3}
    assert compose.compose_train("fcn", whole, {"cases": cases, **weighed})["cases"] == cases
    with pytest.raises(InputError, match="0 training and 0 val cases"):
        compose.compose_train("fcn", whole, {})
    with pytest.raises(InputError, match=r"got cases=.*: .*index out of range"):
        compose.compose_train("fcn", whole, {"cases": "$[][0]"})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"select_on": "tset"}, "did you mean 'test'"),
        ({"loggers": ["tensorbord"]}, "did you mean 'tensorboard'"),
    ],
)
def test_values_that_would_stop_the_run_are_refused_at_once(
    settings: dict[str, object], words: str, store: Path
) -> None:
    with pytest.raises(InputError, match=words):
        compose.compose_train("fcn", store, settings)


def test_unknown_method(store: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'fcn_dsm'"):
        compose.compose_train("fcn_dms", store, {})


def test_inference_sees_what_training_saw(run: Path) -> None:
    train, infer = (
        yaml.safe_load((run / "configs" / f"{name}.yaml").read_text()) for name in ("train", "inference")
    )
    for shared in ("class_names", "size", "fit", "width", "in_channels"):
        assert infer[shared] == train[shared]
    assert infer["slice_network"] == train["network_def"]
    assert infer["intensity"] == {"window": [-125.0, 275.0]}


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1))
@example("exp#1").via("each sign of MONAI's, and all that quotes them")
@example("$(touch x)")
@example("@bundle_root")
@example("%configs/train.yaml")
@example('it\'s "@#%$" \\x23 {0} ::')
def test_a_literal_is_read_back_by_monai_as_it_was(text: str) -> None:
    parser = ConfigParser(yaml.safe_load(yaml.safe_dump({"a": definition.literal(text), "b": "$@a + '/x'"})))
    if text[:1] not in "$@%" or text != definition.literal(text):
        assert parser.get_parsed_content("a") == text
        assert parser.get_parsed_content("b") == f"{text}/x"


@pytest.mark.parametrize("name", ["exp#1", "$x", "@store", "%a", "a@#b%c$d", "it's"])
def test_text_of_the_user_is_what_a_run_reads(name: str, store: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).symlink_to(store)
    (tmp_path / f"{name}.pth").write_bytes(b"")
    texts = {"pretrained": f"{name}.pth", "model_dir": name, "loss#dice": {"a": [f"x{name}"]}}
    settings = parse_settings([f"{key}={json.dumps(text)}" for key, text in texts.items()])
    config = ConfigParser(compose.compose_train("fcn", Path(name), settings))
    assert config.get_parsed_content("dataset_dir") == str(store)  # resolved: the store itself
    assert config.get_parsed_content("pretrained") == str(tmp_path / f"{name}.pth")
    assert config.get_parsed_content("model_dir") == name
    assert config.get_parsed_content("loss#dice") == {"a": [f"x{name}"]}


def test_expressions_and_references_of_settings_stay_what_they_are(store: Path) -> None:
    settings = parse_settings(
        ['model_dir=$@bundle_root + "/m#x"', 'run_logger="@loggers"', 'run="%initialize"']
    )
    config = compose.compose_train("fcn", store, settings)
    assert [config[name] for name in ("model_dir", "run_logger", "run")] == [*settings.values()]


@pytest.mark.parametrize("size", ["64,64", "(64, 64)", "[64]", "[64, 0]", "[64, 64.0]", "null", "-1", "yes"])
def test_a_size_that_is_none_is_refused(size: str, store: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"got size=.*, wanted .*such as 64 or \[64, 96\]|got size=None, wanted rows and columns",
    ):
        compose.compose_train("fcn", store, parse_settings([f"size={size}"]))


def test_no_setting_is_dropped(store: Path) -> None:
    """Every id that is set has that value in the run's configuration, or is refused with its name."""
    before = compose.compose_train("fcn", store, {})
    kinds = {
        bool: True,
        int: 32,
        float: 0.25,
        list: ["tensorboard"],
        dict: "$dict()",
        str: "a word",
        type(None): 7,
    }
    taken = 0
    for name, old in before.items():
        value = kinds[type(old)] if kinds[type(old)] != old else "$None"
        try:
            after = compose.compose_train("fcn", store, {name: value})[name]
        except InputError as error:
            assert any(each in str(error) for each in (name, str(value), "in_channels"))  # the task's
        else:
            assert after in (value, [value, value])  # a size
            taken += 1
    assert taken > len(before) / 2


BASIC = {"_target_": "monai.networks.nets.BasicUNet", "spatial_dims": 2, "out_channels": 9}


@pytest.mark.parametrize(
    ("settings", "title", "kept"),
    [
        ({}, "FCN", {"paper", "backbone", "plugin", "place", "head", "parameters", "flops"}),
        ({"optimizer#lr": 0.1, "pretrained": True}, "FCN", {"backbone", "parameters", "flops"}),
        ({"width": 1.0}, "FCN", {"parameters"}),
        ({"width": 0.125}, "FCN (width 0.125)", {"paper", "backbone", "head"}),
        ({"network_def#backbone#layers": [1, 1, 1, 1]}, "FCN (backbone.layers changed)", {"paper", "head"}),
        ({"network_def#backbone#plugin": {"_target_": "x.Y"}}, "FCN (backbone.plugin changed)", {"head"}),
        (
            {"width": 0.5, "network_def#head": {"_target_": "x.Head"}},
            "FCN (width 0.5, head changed)",
            {"backbone", "plugin", "place"},
        ),
        ({"network_def": BASIC}, "BasicUNet (in place of FCN)", set()),
        ({"network_def": "$torch.nn.Conv2d(1, 9, 1)"}, "another network (in place of FCN)", set()),
        ({"network": BASIC}, "BasicUNet (in place of FCN)", set()),
    ],
)
def test_a_run_of_another_network_is_not_called_as_its_row(
    settings: dict[str, object], title: str, kept: set[str], store: Path
) -> None:
    row = compose.compose_train("fcn", store, {})["method_card"]
    card = titled(compose.compose_train("fcn", store, settings)["method_card"])
    assert card["title"] == title
    assert {name for name in row if card.get(name) == row[name]} >= kept
    if title != "FCN":
        assert "parameters" not in card and "flops" not in card
    if not kept:
        assert card["id"] == "fcn-replaced"
        assert not {name for name in row if card.get(name) == row[name]}
