"""A run's configuration: merged, written out, and never with an id that does not exist."""

from pathlib import Path

import pytest
import yaml

from dsnet_med.engine import compose
from dsnet_med.errors import InputError
from dsnet_med.methods import method_ids


@pytest.mark.parametrize("method", method_ids())
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


def test_parsing_settings() -> None:
    parsed = compose.parse_settings(["a=0.5", "b#c=[64, 64]", "d=true", "e=text", "f=x=y"])
    assert parsed == {"a": 0.5, "b#c": [64, 64], "d": True, "e": "text", "f": "x=y"}
    for bad in ("novalue", "=3", "a=[1"):
        with pytest.raises(InputError, match=r"wanted|valid"):
            compose.parse_settings([bad])


def test_inference_sees_what_training_saw(run: Path) -> None:
    train, infer = (
        yaml.safe_load((run / "configs" / f"{name}.yaml").read_text()) for name in ("train", "inference")
    )
    for shared in ("class_names", "size", "fit", "width", "in_channels"):
        assert infer[shared] == train[shared]
    assert infer["slice_network"] == train["network_def"]
    assert infer["intensity"] == {"window": [-125.0, 275.0]}
