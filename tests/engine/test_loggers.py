"""A run's numbers and pictures reach every logger once, whatever happens in between."""

import importlib.machinery
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from dsnet_med.engine import loggers
from dsnet_med.engine.loggers import Loggers, _mlflow_page, require_known
from dsnet_med.errors import InputError

PICTURE = np.full((4, 6, 3), 200, np.uint8)


def _trained(logger: Loggers, first: int, last: int) -> None:
    """Steps `first` to `last` of a run that logs its iteration, and a picture at the end."""

    def log(engine: Engine) -> None:
        logger.numbers(engine.state.iteration, {"loss": float(engine.state.iteration)})

    trainer = Engine(lambda *_: None)
    logger.attach(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, log)
    trainer.load_state_dict({"iteration": first - 1, "epoch_length": last, "max_epochs": 1})
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda e: logger.picture(e.state.iteration, "slices/a", PICTURE)
    )
    trainer.run(range(last), max_epochs=1)


def _lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _events(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ("tensorboard", ["tensorboard"]),
        ("tensorboard, wandb", ["tensorboard", "wandb"]),
        (["none"], []),
        (["tensorboard", "tensorboard"], ["tensorboard"]),
        ([], []),
        (None, []),
    ],
)
def test_one_name_is_a_list_of_one(names: object, wanted: list[str]) -> None:
    assert require_known(names) == wanted


@pytest.mark.parametrize("names", ["tensorbord", ["tensorbord"], 7, [[]]])
def test_an_unknown_logger_is_refused_by_its_whole_name(names: object) -> None:
    with pytest.raises(InputError, match=r"unknown logger '(tensorbord'.*'tensorboard'|7'|\[\]')"):
        require_known(names)


@pytest.mark.parametrize(
    "found", [None, importlib.machinery.ModuleSpec("mlflow", None)]
)  # a folder of that name
def test_a_missing_package_is_one_line_that_names_the_extra(
    found: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda _: found)
    with pytest.raises(
        InputError, match=r"the logger mlflow needs the package 'mlflow': pip install 'dsnet-med\[loggers\]'"
    ):
        require_known("mlflow")


def test_every_line_is_json_whatever_the_numbers(tmp_path: Path) -> None:
    logger = Loggers("none", str(tmp_path))
    odd = {"inf": float("inf"), "one": np.float32(0.5), "tensor": torch.tensor(2.0), "none": None}
    logger.numbers(3, {"loss": float("nan"), "val_dice": odd, "name": "text"})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    wanted = {"inf": None, "one": 0.5, "tensor": 2.0, "none": None}
    assert json.loads(line, parse_constant=pytest.fail) == {
        "iteration": 3,
        "loss": None,
        "val_dice": wanted,
        "name": None,
    }


def test_a_resumed_run_has_no_line_twice_and_a_new_one_none_of_the_old(tmp_path: Path) -> None:
    killed = Loggers("tensorboard", str(tmp_path))
    _trained(killed, 1, 3)
    state = killed.state_dict()
    _trained(killed, 4, 6)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"iteration": 7, "lo')
    resumed = Loggers("tensorboard", str(tmp_path))
    resumed.load_state_dict(state)
    _trained(resumed, 4, 5)
    assert _lines(tmp_path) == [{"iteration": k, "loss": k} for k in range(1, 6)]
    assert [event.step for event in _events(tmp_path).Scalars("loss")] == [1, 2, 3, 4, 5]
    _trained(Loggers("none", str(tmp_path)), 1, 2)
    assert len(_lines(tmp_path)) == 2


def test_tensorboard_goes_on_as_metrics_do_where_the_validation_was_still_to_come(tmp_path: Path) -> None:
    def logged(logger: Loggers, step: int) -> dict[str, Any]:
        logger.numbers(step, {"loss": step})
        return logger.state_dict()

    def opened() -> tuple[Loggers, Engine]:
        logger, trainer = Loggers("tensorboard", str(tmp_path)), Engine(lambda *_: None)
        logger.attach(trainer)
        return logger, trainer

    killed, trainer = opened()
    trainer.fire_event(Events.STARTED)
    logged(killed, 10)
    before = logged(killed, 20)  # a checkpoint before the validation, which is not heard of in the next one
    killed.numbers(20, {"val_score": 0.1})
    for pending in (True, False):
        resumed, trainer = opened()
        trainer.state.iteration = 20
        resumed.load_state_dict(before)
        trainer.fire_event(Events.STARTED)
        if pending:
            resumed.numbers(20, {"val_score": 0.2})
            before = resumed.state_dict()
        resumed.numbers(30, {"loss": 30})
    trainer.fire_event(Events.COMPLETED)
    events = _events(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 10), (20, 20), (30, 30)]
    assert [(event.step, round(event.value, 3)) for event in events.Scalars("val_score")] == [(20, 0.2)]


def test_a_run_that_begins_anew_hides_what_was_killed_before_its_first_checkpoint(tmp_path: Path) -> None:
    _trained(Loggers("tensorboard", str(tmp_path)), 1, 3)
    begun = Loggers("tensorboard", str(tmp_path))
    begun.load_state_dict({"lines": 0})
    _trained(begun, 1, 2)
    assert [event.step for event in _events(tmp_path).Scalars("loss")] == [1, 2]


def test_tensorboard_has_numbers_pictures_and_hyper_parameters(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.yaml").write_text(
        "seed: 0\nloss: {dice: softmax, weights: [1, 2]}\nx: null\n"
    )
    logger = Loggers("tensorboard", str(tmp_path), {"seed": 5})
    _trained(logger, 1, 2)
    logger = Loggers("none", str(tmp_path), {"seed": 5})
    events = _events(tmp_path)
    assert events.Scalars("loss")[-1].value == 2
    (image,) = events.Images("slices/a")
    assert (image.width, image.height, image.step) == (6, 4, 2)
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    shown = metadata.parse_session_start_info_plugin_data(content).hparams
    assert shown["seed"].number_value == 5
    assert shown["loss/dice"].string_value == "softmax"
    assert shown["loss/weights"].string_value == "[1, 2]"


def test_wandb_works_without_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = Loggers("wandb", str(tmp_path))
    _trained(logger, 1, 2)
    assert logger.links == [f"Weights & Biases, run {logger.run} (offline)"]
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"  # strace: it asks for no host, then
    (run,) = tmp_path.glob("wandb/offline-run-*")
    assert list(run.glob("files/media/images/slices/*.png"))


class _Client:
    """What MLflow's client is asked, written down."""

    def __init__(self, tracking_uri: str | None = None) -> None:
        self.uri, self.said = tracking_uri, []
        info = types.SimpleNamespace(experiment_id="7", run_id="r", run_name="n", status="RUNNING")
        data = types.SimpleNamespace(params={"known": "1"})
        self.run = types.SimpleNamespace(info=info, data=data)

    def get_experiment_by_name(self, _name: str) -> object:
        return types.SimpleNamespace(experiment_id="e", lifecycle_stage="active")

    def search_runs(self, _experiment: str) -> list[object]:
        return []

    def create_run(self, experiment_id: str, run_name: str) -> object:
        return self.run

    def get_run(self, _run: str) -> object:
        return self.run

    def __getattr__(self, name: str) -> object:
        return lambda *arguments, **options: self.said.append((name, *arguments[1:], *options.values()))


def test_mlflow_is_told_by_monais_handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With MLflow's client replaced: a real one is not among the packages of the tests."""
    from monai.handlers import mlflow_handler

    client = _Client()
    status = types.SimpleNamespace(FINISHED="FINISHED", to_string=str)
    stage = types.SimpleNamespace(ACTIVE="active")
    entities = types.SimpleNamespace(
        RunStatus=status, LifecycleStage=stage, Param=lambda key, value: (key, value)
    )
    fake = types.SimpleNamespace(MlflowClient=lambda tracking_uri: client, entities=entities)
    monkeypatch.setattr(mlflow_handler, "mlflow", fake)
    module = types.ModuleType("mlflow")
    module.__spec__ = importlib.machinery.ModuleSpec("mlflow", None, origin="here")
    monkeypatch.setitem(sys.modules, "mlflow", module)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.yaml").write_text("known: 2\noptimizer: {lr: 0.1}\n")
    logger = Loggers("mlflow", str(tmp_path))
    _trained(logger, 1, 2)
    assert [each for each in client.said if each[0] == "log_param"] == [("log_param", "optimizer/lr", "0.1")]
    assert ("log_metric", "loss", 2.0, 2) in client.said
    assert any(each[0] == "log_image" and each[2] == "slices/a/0000002.png" for each in client.said)
    assert client.said[-1][0] == "set_terminated"
    assert logger.links[0].startswith("MLflow, run ")
    assert logger.state_dict()["run"].startswith(tmp_path.name)


def test_a_process_that_does_not_write_leaves_the_files_alone(tmp_path: Path) -> None:
    logger = Loggers("tensorboard", str(tmp_path), writes=False)
    _trained(logger, 1, 2)
    logger.load_state_dict({"lines": 0, "run": ""})
    assert not logger.shows_pictures
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        Loggers("none", str(tmp_path)).numbers(1, {})


@pytest.mark.parametrize(
    ("uri", "page"),
    [
        (
            "https://me:secret@flow.example:5000/base/",
            "https://flow.example:5000/base/#/experiments/7/runs/abc",
        ),
        ("http://flow.example", "http://flow.example/#/experiments/7/runs/abc"),
        ("file:///srv/mlruns", "MLflow, run abc"),
        ("", "MLflow, run abc"),
    ],
)
def test_the_page_of_an_mlflow_run_holds_no_secret(
    monkeypatch: pytest.MonkeyPatch, uri: str, page: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert _mlflow_page("abc", "7") == page
