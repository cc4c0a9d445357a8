"""`infer` as it is typed: exit codes, options, interruption."""

import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import made
import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from typed import run, started

import dsnet_med
from dsnet_med.cli.app import app
from dsnet_med.cli.guard import guarded
from dsnet_med.errors import InputError
from dsnet_med.inference.output_folder import conclude
from dsnet_med.methods import build_network

ORGANS = ["background", "aorta", "gallbladder", "left_kidney", "right_kidney", "liver"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow FCN with random weights, as a run."""
    folder = tmp_path_factory.mktemp("runs") / "fcn"
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    small = {"backbone": {"layers": [1, 1, 1, 1]}}
    config = {
        "class_names": ORGANS,
        "intensity": {"window": [-125, 275]},
        "slice_axis": "superior",
        "size": [64, 64],
        "fit": "resize",
        "slice_network": {
            "_target_": "dsnet_med.build_network",
            "method": "fcn",
            "num_classes": "@num_classes",
            "width": 0.125,
            **small,
        },
    }
    (folder / "configs" / "inference.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(1)
    network = build_network("fcn", num_classes=len(ORGANS), width=0.125, **small)
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three volumes of noise in blobs."""
    folder = tmp_path / "images"
    folder.mkdir()
    for seed, name in enumerate("abc"):
        noise = np.random.default_rng(seed).normal(50, 200, (12, 10, 4)).astype(np.int16)
        voxels = noise.repeat(4, 0).repeat(4, 1).repeat(3, 2)
        nib.save(nib.Nifti1Image(voxels, np.diag((0.8, 0.8, 3, 1))), folder / f"{name}.nii.gz")
    return folder


def _infer(*arguments: object) -> int:
    return guarded(lambda: app(["infer", *map(str, arguments)], standalone_mode=False))


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text.strip().splitlines()[-1]


def test_masks_of_a_folder(run_folder: Path, images: Path, tmp_path: Path) -> None:
    assert _infer("--model", run_folder, images, "--out", tmp_path / "out", "--statistics", "--preview") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"{case}{end}" for case in "abc" for end in (".nii.gz", ".json", ".png")} | {
        "labels.json",
        "run.json",
        "statistics.csv",
    }
    predictor = dsnet_med.Predictor.from_run(run_folder)
    for case in "abc":
        mask = nib.load(tmp_path / "out" / f"{case}.nii.gz")
        np.testing.assert_array_equal(mask.dataobj, predictor.predict(images / f"{case}.nii.gz"))
        assert np.unique(mask.dataobj).size > 1
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert labels == {str(k): name for k, name in enumerate(ORGANS)}


@pytest.mark.parametrize(
    ("inputs", "removed", "lines"),
    [
        ("abc", "a", ["failed: a: ", "dsnet-med: 1 failed: a; the others are finished"]),
        ("a", "a", ["failed: a: ", "dsnet-med: none of 1 masks is there any more; the reasons are above"]),
        ("ab", "ab", ["failed: b: ", "dsnet-med: none of 2 masks is there any more; the reasons are above"]),
    ],
)
def test_masks_that_are_gone_at_the_end_are_not_counted(
    inputs: str,
    removed: str,
    lines: list[str],
    run_folder: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"

    def removing(*arguments: Any, **options: Any) -> Any:
        for case in removed:
            (out / f"{case}.nii.gz").unlink()
        return conclude(*arguments, **options)

    monkeypatch.setattr("dsnet_med.inference.segment.conclude", removing)
    assert _infer("--model", run_folder, *(images / f"{case}.nii.gz" for case in inputs), "--out", out) == 1
    said = capsys.readouterr()
    assert "masks in" not in said.out
    told = [line for line in said.err.splitlines() if line.startswith(("failed", "dsnet-med"))]
    assert told[-2:] == [told[-2], lines[1]]
    assert told[-2].startswith(lines[0])
    assert "was removed or changed while infer worked; run the same command again" in told[-2]
    monkeypatch.undo()
    assert _infer("--model", run_folder, images, "--out", out) == 0
    assert len(list(out.glob("*.nii.gz"))) == 3


def test_what_concerns_all_cases_hides_none(
    run_folder: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A disk that is full when run.json is written."""
    (images / "bad.nii.gz").write_text("text")

    def full(*_: Any, **__: Any) -> Any:
        raise InputError("cannot write run.json: no space left on the device")

    monkeypatch.setattr("dsnet_med.inference.segment.conclude", full)
    assert _infer("--model", run_folder, images, "--out", tmp_path / "out") == 2
    *_, failed, last = capsys.readouterr().err.splitlines()
    assert failed.startswith("failed: bad: ")
    assert last == "dsnet-med: cannot write run.json: no space left on the device"


def test_headers_have_to_state_their_geometry(
    run_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = nib.load(images / "a.nii.gz")
    bare = nib.Nifti1Image(np.asanyarray(image.dataobj), None)
    bare.set_sform(None, 0)
    bare.set_qform(None, 0)
    nib.save(bare, images / "a.nii.gz")
    assert _infer("--model", run_folder, images, "--out", tmp_path / "out") == 0
    assert "note: a: the header has neither sform nor qform" in capsys.readouterr().err
    assert _infer("--model", run_folder, images, "--out", tmp_path / "new", "--require-geometry") == 1
    assert "failed: a: " in capsys.readouterr().err
    assert sorted(file.name for file in (tmp_path / "new").glob("*.nii.gz")) == ["b.nii.gz", "c.nii.gz"]


def test_some_fail_and_the_others_are_finished(
    run_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "bad.nii.gz").write_text("text")
    assert _infer("--model", run_folder, images, "--out", tmp_path / "out") == 1
    text = capsys.readouterr().err
    assert "failed: bad: " in text
    assert text.strip().splitlines()[-1] == "dsnet-med: 1 failed: bad; the others are finished"
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 3
    assert _infer("--model", run_folder, images / "bad.nii.gz", "--out", tmp_path / "out") == 2
    assert "not a readable NIfTI file" in _error(capsys)


def test_names_that_clash_links_that_lead_nowhere_and_earlier_masks(
    run_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(images / "a.nii.gz", images / "A.nii.gz")
    (images / "d.nii.gz").symlink_to("../.git/annex/objects/x")
    for model in ("one", "two"):
        capsys.readouterr()
        assert _infer("--model", run_folder, images, "--out", images / model) == 1
        text = capsys.readouterr().err
        assert text.strip().splitlines()[-1] == "dsnet-med: 3 failed: A, a, d; the others are finished"
        assert "two inputs are called 'A' and 'a', which is one file on some disks" in text
        assert "d.nii.gz: no such file, it is a link to ../.git/annex/objects/x, which is not there;" in text
        assert sorted(path.name for path in (images / model).glob("*.nii.gz")) == ["b.nii.gz", "c.nii.gz"]
    assert "note: passed over 2 masks that infer wrote, in " in text
    assert _infer("--model", run_folder, images / "one", "--out", tmp_path / "three") == 2
    assert "holds nothing but masks that infer wrote, wanted images" in _error(capsys)


def test_finished_ones_are_kept(
    run_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("--model", run_folder, images, "--out", tmp_path / "out")
    assert _infer(*command) == 0
    first = (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns
    capsys.readouterr()
    assert _infer(*command) == 0
    assert "3 were there already" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns == first
    assert _infer(*command, "--tta") == 2
    assert "none of 3 cases" in _error(capsys)
    assert _infer(*command, "--tta", "--overwrite") == 0


def test_an_ensemble_and_a_zip(run_folder: Path, images: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "fcn.zip", "w") as archive:
        for file in run_folder.rglob("*"):
            archive.write(file, Path("fcn") / file.relative_to(run_folder))
    (tmp_path / "out").mkdir()
    assert _infer("--model", tmp_path / "fcn.zip", images, "--out", tmp_path / "zip") == 0
    assert _infer("--model", run_folder, images, "--out", tmp_path / "one") == 0
    assert _infer("--model", run_folder, "--model", run_folder, images, "--out", tmp_path / "two") == 0
    for folder in ("zip", "two"):
        for case in "abc":
            one, other = (
                np.asanyarray(nib.load(tmp_path / name / f"{case}.nii.gz").dataobj) for name in ("one", folder)
            )
            assert (one == other).mean() >= 0.9999


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "nift"], "did you mean 'nifti'"),
        (["--format", "dicom-seg"], "none of 3 cases"),
        (["--device", "cuda:7"], "device 'cuda:7'"),
        (["--device", "tpu"], "unknown device"),
        (["--precision", "half"], "unknown precision"),
        (["--keep-largest", "livr"], "did you mean 'liver'"),
        (["--remove-smaller", "-1"], "0 or more"),
        (["--batch", "0"], "--batch"),
        (["--volume-index", "3"], "none of 3 cases"),
        (["--series", "3"], "none of 3 cases"),
        (["--modle", "x"], "No such option"),
    ],
)
def test_wrong_arguments(
    arguments: list[str],
    message: str,
    run_folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _infer("--model", run_folder, images, "--out", tmp_path / "out", *arguments) == 2
    assert message in _error(capsys)
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_an_output_folder_that_is_none(
    run_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert _infer("--model", run_folder, images, "--out", tmp_path / "file") == 2
    assert "a file lies where a folder is wanted" in _error(capsys)
    assert _infer("--model", run_folder, images, "--out", images) == 2
    capsys.readouterr()


def test_post_processing(run_folder: Path, images: Path, tmp_path: Path) -> None:
    command = ("--model", run_folder, images, "--out", tmp_path / "out")
    assert (
        _infer(*command, "--keep-largest", "all", "--fill-holes", "liver,aorta", "--remove-smaller", "0.01")
        == 0
    )
    settings = json.loads((tmp_path / "out" / "a.json").read_text())["settings"]
    assert settings["keep_largest"] == ORGANS[1:]
    assert settings["fill_holes"] == ["aorta", "liver"]


def test_a_dicom_series_both_ways(run_folder: Path, volumes: Path, tmp_path: Path) -> None:
    folder = volumes / "dicom" / "torchio_ct17"
    assert _infer("--model", run_folder, folder, "--out", tmp_path, "--format", "nifti,dicom-seg") == 0
    assert (tmp_path / "torchio_ct17.dcm").read_bytes()[128:132] == b"DICM"
    assert nib.load(tmp_path / "torchio_ct17.nii.gz").shape == (88, 128, 17)


def _many(images: Path, count: int) -> None:
    for number in range(count):
        shutil.copy(images / "a.nii.gz", images / f"case{number:03d}.nii.gz")


def test_one_format_of_two(run_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The mask is there, and the segmentation is a failure that is told."""
    made.write(tmp_path / "ct", made.images(4, PatientName="no caret", StudyInstanceUID="1.2"))
    capfd.readouterr()
    options = ["--model", str(run_folder), str(tmp_path / "ct"), "--format", "nifti,dicom-seg"]
    assert guarded(lambda: app(["infer", *options, "--out", str(tmp_path / "m")], standalone_mode=False)) == 1
    told = capfd.readouterr().err
    assert "failed: ct: " in told
    assert "has no FrameOfReferenceUID" in told
    assert "Warning" not in told
    assert (tmp_path / "m" / "ct.nii.gz").is_file()
    options = ["--model", str(run_folder), str(tmp_path / "ct"), "--format", "dicom-seg"]
    assert guarded(lambda: app(["infer", *options, "--out", str(tmp_path / "n")], standalone_mode=False)) == 2
    assert not (tmp_path / "n").exists()


def test_interrupted(run_folder: Path, images: Path, tmp_path: Path) -> None:
    _many(images, 300)
    process = started("infer", "--model", run_folder, images, "--out", tmp_path / "out", "--probabilities")
    deadline = time.monotonic() + 600
    while len(list((tmp_path / "out").glob("*.nii.gz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=600)
    assert process.returncode == 130, text
    assert "Traceback" not in text
    files = list((tmp_path / "out").iterdir())
    assert 3 <= sum(file.suffix == ".gz" for file in files) < 303
    assert not [file for file in files if file.name.startswith(".")]
    for file in files:
        if file.suffix == ".gz":
            np.asanyarray(nib.load(file).dataobj)  # whole


@pytest.mark.slow
def test_killed_twenty_times(run_folder: Path, images: Path, tmp_path: Path) -> None:
    """The command itself; tests/inference/test_killed.py does it faster in forked processes."""
    _many(images, 120)
    options = ("--statistics", "--preview", "--probabilities")
    command = ("infer", "--model", run_folder, images, "--out")
    assert run(*command, tmp_path / "whole", *options).returncode == 0  # with as many threads as the others
    random = np.random.default_rng(0)
    struck = 0
    for _ in range(20):
        process = started(*command, tmp_path / "out", *options)
        before = len(list((tmp_path / "out").glob("*"))) if (tmp_path / "out").is_dir() else 0
        deadline = time.monotonic() + 600
        while (
            process.poll() is None
            and time.monotonic() < deadline
            and len(list((tmp_path / "out").glob("*"))) <= before
        ):
            time.sleep(0.005)
        time.sleep(float(random.uniform(0, 0.3)))
        struck += process.poll() is None
        process.kill()
        process.communicate()
    assert struck >= 15
    assert run(*command, tmp_path / "out", *options).returncode == 0
    whole, got = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "out")
    )
    assert whole.keys() == got.keys()
    assert whole == got


def test_the_import_of_inference_leaves_monai_alone() -> None:
    code = (
        "import sys, dsnet_med.inference.segment; sys.exit('monai' in sys.modules or 'ignite' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
