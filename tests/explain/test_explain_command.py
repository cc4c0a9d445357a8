"""`explain` as it is typed: a run, images, references; exit codes and what is written."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from dsnet_med.cli.app import app
from dsnet_med.cli.guard import guarded
from dsnet_med.errors import InputError
from dsnet_med.methods import build_network

ORGANS = ["background", "aorta", "liver", "spleen"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow FCN+DSM with random weights, as a run."""
    folder = tmp_path_factory.mktemp("runs") / "fcn_dsm"
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    network = {"method": "fcn_dsm", "width": 0.125, "backbone": {"layers": [1, 1, 1, 1]}}
    config = {
        "class_names": ORGANS,
        "intensity": {"window": [-125, 275]},
        "slice_axis": "superior",
        "size": [64, 64],
        "fit": "resize",
        "slice_network": {"_target_": "dsnet_med.build_network", "num_classes": "@num_classes", **network},
    }
    (folder / "configs" / "inference.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(1)
    built = build_network(num_classes=len(ORGANS), **network)
    for norm in built.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    torch.save(built.state_dict(), folder / "models" / "model.pt")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two volumes of noise in blobs, and label maps whose values are 10, 20 and 30."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for seed, name in enumerate("ab"):
        blobs = np.random.default_rng(seed).normal(50, 200, (8, 7, 3)).astype(np.int16)
        voxels = blobs.repeat(4, 0).repeat(4, 1).repeat(2, 2)
        labels = (np.digitize(voxels, [-50, 80, 200]) * 10).astype(np.uint8)
        for folder, each in (("images", voxels), ("labels", labels)):
            nib.save(nib.Nifti1Image(each, np.diag((0.8, 0.8, 3, 1))), tmp_path / folder / f"{name}.nii.gz")
    (tmp_path / "names.json").write_text(json.dumps({"10": "aorta", "20": "liver", "30": "spleen"}))
    return tmp_path


def explain(*arguments: object) -> int:
    return guarded(lambda: app(["explain", *map(str, arguments)], standalone_mode=False))


def test_a_run_its_images_and_references(
    run_folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = data / "out"
    arguments = ["--model", run_folder, data / "images", "--reference", data / "labels", "--out", out]
    assert explain(*arguments, "--labels", data / "names.json", "--shuffles", 2, "--organ", "liver") == 0
    assert "DSM" in capsys.readouterr().out
    content = json.loads((out / "explain.json").read_text())
    assert content["cases"] == ["a", "b"]
    assert content["labels"] == {"1": "aorta", "2": "liver", "3": "spleen"}
    assert content["images"] == 12
    (run,) = content["runs"]
    kinds = [(entry["plugin"], entry["kind"], entry["draws"]) for entry in run["interventions"]]
    assert kinds == [("all", "identity", 1), ("all", "mean", 1), ("all", "other", 1), ("all", "shuffled", 2)]
    assert run["scores"]["labels"]["liver"]["dice"]["n"] == 2
    assert run["attribution"]["label"] == "liver"
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert written == {"explain.json", *content["files"]}
    assert {"scores.csv", "where.csv", "pictures/000.png"} <= written
    assert guarded(lambda: app(["verify", str(out)], standalone_mode=False)) == 0

    before = (out / "scores.csv").read_bytes()
    assert explain(*arguments, "--labels", data / "names.json", "--shuffles", 2) == 0  # its own are replaced
    assert (out / "scores.csv").read_bytes() == before
    (out / "scores.csv").write_text("mine")
    assert explain(*arguments, "--labels", data / "names.json") == 2
    assert (out / "scores.csv").read_text() == "mine"


def test_values_that_nothing_names_are_refused(
    run_folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", run_folder, data / "images", "--reference", data / "labels", "--out", data / "out"]
    assert explain(*arguments) == 2  # 10, 20 and 30 are no classes of the run
    assert "10" in capsys.readouterr().err
    (data / "names.json").write_text(json.dumps({"10": "kidney", "20": "liver"}))
    assert explain(*arguments, "--labels", data / "names.json") == 2
    assert "kidney" in capsys.readouterr().err
    assert not (data / "out").exists()


def test_json_alone_on_stdout_and_a_failed_case_in_the_exit_code(
    run_folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(data / "names.json", data / "images" / "c.nii.gz")
    arguments = ["--model", run_folder, data / "images", "--out", data / "out", "--interventions", "none"]
    assert explain(*arguments, "--json") == 1
    content = json.loads(capsys.readouterr().out)
    assert [entry["case"] for entry in content["failed"]] == ["c"]
    assert content["reference"] is False
    assert content["runs"][0]["interventions"] == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--labels", "synapse"], "--reference"),
        (["--organ", "livr"], "liver"),
        (["--interventions", "identity,none"], "none"),
    ],
)
def test_options_that_cannot_be_honoured(
    more: list[str], words: str, run_folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain("--model", run_folder, data / "images", "--out", data / "out", *more) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()  # and no bar that has not moved
    assert words in line
    assert InputError.__name__ not in line
