"""One run, trained in three ways, is one network; its folder is a bundle that goes on, infers and evaluates."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.bundle.properties import InferProperties, TrainProperties
from monai.engines import SupervisedTrainer
from narrow import NARROW

from dsnet_med.engine.overrides import from_anywhere
from dsnet_med.engine.plugin_choice import PluginChoice
from dsnet_med.engine.run import prepare, reopen, train
from dsnet_med.errors import InputError, root_cause
from dsnet_med.inference import Predictor
from dsnet_med.methods import method_row, published_ids

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "models" / "model.pt", weights_only=True)


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_a_run_leaves_everything_behind(run: Path, store: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["method"]["id"] == "fcn_dsm"
    assert summary["select_on"] == "val"
    found = json.loads((store / "manifest.json").read_text())["findings"]
    assert summary["store_findings"] == found
    assert any("of the split list are not in the source" in finding["message"] for finding in found)
    assert summary["best"]["iteration"] in (3, 6)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if "val_mean_dice" in line]
    assert [line["iteration"] for line in validations] == [3, 6]
    assert set(validations[0]["val_dice"]) >= {"aorta", "stomach"}
    assert not list(run.rglob("*partial*"))


@pytest.mark.parametrize(
    "command",
    [
        [str(BIN / "monai"), "bundle", "run", "training"],
        [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", "configs/train.yaml"],
        [str(BIN / "dsnet-med"), "bundle", "run", "training"],
    ],
    ids=["monai", "python -m monai.bundle", "dsnet-med bundle"],
)
def test_every_way_to_type_it_trains_the_same_network(command: list[str], run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "configs", tmp_path / "configs")
    done = _command(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert _same(_weights(tmp_path), _weights(run))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "trainning"], "did you mean 'training'"),
        (["run", "training", "--iteration", "5"], "did you mean 'iterations'"),
        (["run", "training", "--config_file", "configs/none.yaml"], "configs/none.yaml: no such file"),
    ],
)
def test_monai_refuses_what_does_not_exist(arguments: list[str], message: str, run: Path) -> None:
    done = _command(str(BIN / "monai"), "bundle", *arguments, cwd=run)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_two_seeds_differ_and_one_seed_repeats(run: Path, store: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        prepare("fcn_dsm", store, tmp_path / str(seed), {**NARROW, "seed": seed})
        train(tmp_path / str(seed), {})
    assert _same(_weights(tmp_path / "0"), _weights(run))
    assert not _same(_weights(tmp_path / "1"), _weights(run))


@pytest.mark.parametrize("method", published_ids())
def test_every_row_trains_by_its_recipe_and_segments(method: str, store: Path, tmp_path: Path) -> None:
    recipe = method_row(method)
    prepare(method, store, tmp_path, {**NARROW, "iterations": 2, "validate_every": 2})
    summary = train(tmp_path, {})
    assert summary["method"]["id"] == method
    assert summary["best"]["iteration"] == 2
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["parts"]["optimizer"]
    adam = "laid_over" in recipe
    assert ("betas" if adam else "momentum") in state["param_groups"][0]
    image = np.random.default_rng(0).normal(40, 100, (40, 50, 3)).astype(np.float32)
    mask = Predictor.from_run(tmp_path).predict(image, np.eye(4))
    assert mask.shape == image.shape
    assert mask.voxels.max() <= 8


class Killed(Exception):
    """What stands for a kill."""


def _killed_at(iteration: int, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train `run` until its step `iteration`, which never ends."""
    step = SupervisedTrainer._iteration

    def killed(trainer, engine, batch):
        if engine.state.iteration == iteration:
            raise Killed
        return step(trainer, engine, batch)

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTrainer, "_iteration", killed)
        with pytest.raises(Exception) as stopped:
            train(run, {"resume": (run / "checkpoints").exists()})
    assert isinstance(root_cause(stopped.value), Killed)


def test_a_run_that_was_stopped_twice_ends_as_one_that_was_not(
    run: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare("fcn_dsm", store, tmp_path, {**NARROW, "checkpoint_every": 1})
    _killed_at(3, tmp_path, monkeypatch)
    _killed_at(5, tmp_path, monkeypatch)
    summary = train(tmp_path, {"resume": True})
    for name in ("models/model.pt", "checkpoints/last.pt"):
        if name != "checkpoints/last.pt":  # which holds how often the log was written, too
            assert (tmp_path / name).read_bytes() == (run / name).read_bytes()
    assert summary["best"] == json.loads((run / "summary.json").read_text())["best"]
    assert _without_seconds(tmp_path) == _without_seconds(run)
    with pytest.raises(InputError, match="has done all 6 iterations"):
        train(tmp_path, {"resume": True})


def _without_seconds(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_a_finished_run_goes_on_where_more_iterations_are_asked_for(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    reopen(tmp_path / "run", {"iterations": 8, "workers": 1})
    summary = train(tmp_path / "run", {"resume": True})
    assert summary["iterations"] == 8
    lines = _without_seconds(tmp_path / "run")
    assert [line["iteration"] for line in lines if "val_mean_dice" in line] == [3, 6, 8]


@pytest.mark.parametrize(
    ("settings", "more", "words"),
    [
        ({"seed": 1}, {}, "got seed=1 with --resume"),
        ({"iterations": 2}, {}, "more are possible, not fewer"),
        ({"optimizer#lr": 0.5}, {}, "optimizer#lr=0.5"),
        ({"itertions": 9}, {}, "did you mean 'iterations'"),
        ({}, {"method": "fcn"}, "--method fcn"),
        ({}, {"data": Path("nowhere")}, "nowhere"),
    ],
)
def test_a_run_does_not_go_on_as_another_one(
    settings: dict[str, object], more: dict[str, object], words: str, run: Path
) -> None:
    before = (run / "configs" / "train.yaml").read_bytes()
    with pytest.raises(InputError, match=words):
        reopen(run, settings, **more)
    reopen(run, {"seed": 0, "iterations": 6}, method="fcn_dsm")  # said again, and as it is
    assert (run / "configs" / "train.yaml").read_bytes() == before


def test_weights_to_start_from_are_found_from_any_folder(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "weights.pth").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    whole = {"pretrained": str(tmp_path / "weights.pth"), "seed": 1}
    assert from_anywhere({"pretrained": "weights.pth", "seed": 1}) == whole
    for other in ({"pretrained": True}, {"pretrained": "resnet50.tv_in1k"}, {}):
        assert from_anywhere(other) == other


def test_a_folder_with_a_run_is_not_overwritten(run: Path, store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="already holds a run"):
        prepare("fcn_dsm", store, run, NARROW)
    with pytest.raises(InputError, match="nothing to resume"):
        train(tmp_path, {"resume": True})


@pytest.mark.parametrize("folder", ["checkout", "run"])
@pytest.mark.parametrize(
    ("name", "wanted", "run_ids"),
    [("train", TrainProperties, {"run", "training"}), ("inference", InferProperties, {"run", "inference"})],
)
def test_configurations_have_the_properties_that_monai_requires(
    folder: str, name: str, wanted: dict[str, object], run_ids: set[str], run: Path, raw: Path, store: Path
) -> None:
    root = ROOT if folder == "checkout" else run
    config = str(root / "configs" / f"{name}.yaml")
    data = store if name == "train" else raw / "RawData" / "Training" / "img"
    small = {"dataset_dir": str(data), "bundle_root": str(run), "width": 0.125}
    workflow = ConfigWorkflow(config, workflow_type=name, logging_file=False, **small)
    workflow.initialize()
    assert set(workflow.properties) >= set(wanted)
    assert workflow.check_properties() == []
    assert run_ids <= set(workflow.parser.config)


def test_a_value_of_the_wrong_kind_is_bad_input_and_can_be_corrected(store: Path, tmp_path: Path) -> None:
    prepare("fcn", store, tmp_path, {**NARROW, "lr_scheduler#power": "$1 / 0"})
    with pytest.raises(InputError, match="check what --set changed"):
        train(tmp_path, {})
    prepare("fcn", store, tmp_path, {**NARROW, "iterations": 1})
    assert train(tmp_path, {})["best"]["iteration"] == 1


@pytest.mark.parametrize("name", ["exp#1", "$x", "@store", "%a"])
def test_a_run_lies_where_it_was_asked_for_and_is_read_there(
    name: str, store: Path, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    (tmp_path / name).mkdir()
    shutil.copytree(store, tmp_path / name / name)
    file = tmp_path / name / f"{name}.py"
    file.write_text("from torch.nn import Identity\n\n\nclass Mine(Identity):\n    pass\n")
    run = Path(name) / "run"
    settings = {**NARROW, "iterations": 2, "validate_every": 2}
    prepare("fcn", Path(name) / name, run, settings, plugin=PluginChoice(f"{name}/{name}.py:Mine"))
    assert train(run, {})["best"]["iteration"] == 2
    assert {each.name for each in tmp_path.iterdir()} == {name, "home"}
    assert (run / "models" / "model.pt").is_file() and (run / "metrics.jsonl").is_file()
    shutil.rmtree(tmp_path / name / name)
    image = raw / "RawData" / "Training" / "img" / "img0001.nii.gz"
    assert Predictor.from_run(run).predict(image).voxels.shape == (64, 64, 16)


def test_metadata_names_the_channels(run: Path) -> None:
    for root in (ROOT, run):
        metadata = json.loads((root / "configs" / "metadata.json").read_text())
        pred = metadata["network_data_format"]["outputs"]["pred"]
        assert pred["num_channels"] == len(pred["channel_def"]) == 9
        assert pred["channel_def"]["5"] == "liver"
        assert len(metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]) == 3


def test_the_bundle_infers_what_infer_does(run: Path, raw: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(raw / "RawData" / "Training" / "img" / "img0001.nii.gz", images)
    config = str(run / "configs" / "inference.yaml")
    workflow = ConfigWorkflow(
        config,
        workflow_type="inference",
        run_id="inference",
        bundle_root=str(run),
        dataset_dir=str(images),
        output_dir=str(tmp_path / "masks"),
    )
    workflow.initialize()
    workflow.run()
    image = nib.load(images / "img0001.nii.gz")
    wanted = Predictor.from_run(run).predict(np.asanyarray(image.dataobj), image.affine)
    mask = nib.load(tmp_path / "masks" / "img0001.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), wanted)
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)


def test_the_bundle_evaluates_its_best_checkpoint(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    files = str([f"configs/{name}.yaml" for name in ("train", "evaluate")])
    done = _command(
        str(BIN / "monai"), "bundle", "run", "evaluating", "--config_file", files, cwd=tmp_path / "run"
    )
    assert done.returncode == 0, done.stderr
    assert "mean_dice" in json.loads((tmp_path / "run" / "test_dice.json").read_text())


def test_a_run_shows_itself_in_tensorboard(store: Path, tmp_path: Path) -> None:
    prepare("fcn", store, tmp_path, {**NARROW, "iterations": 2, "validate_every": 2, "loggers": "tensorboard"})
    train(tmp_path, {})
    assert list(tmp_path.glob("tensorboard/events*"))
    assert (tmp_path / "curves.png").is_file()


def test_a_damaged_checkpoint_is_one_clear_line(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    weights = tmp_path / "run" / "models" / "model.pt"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="it is damaged, or no PyTorch checkpoint"):
        Predictor.from_run(tmp_path / "run")
