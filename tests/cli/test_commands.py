"""The command line as a user meets it: exit codes, one clear line, nothing finished lost."""

import gzip
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import typer
from typed import refused, run

from dsnet_med.cli.app import app
from dsnet_med.cli.guard import guarded

FOLDER = Path("RawData") / "Training"


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "raw"
    done = run("phantom", "synapse", "--out", folder, "--cases", "4", "--size", "64x64x16", "--seed", "1")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def raw(phantom: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(phantom, tmp_path / "raw")
    return tmp_path / "raw"


def _preprocess(raw: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
    return run("preprocess", "synapse", "--source", raw, "--out", raw.parent / "store", *more)


def _image(raw: Path, case: str = "0005") -> Path:
    return raw / FOLDER / "img" / f"img{case}.nii.gz"


def _label(raw: Path, case: str = "0005") -> Path:
    return raw / FOLDER / "label" / f"label{case}.nii.gz"


def _rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None) -> None:
    image = nib.load(path)
    voxels = change(np.asanyarray(image.dataobj).copy())
    nib.save(nib.Nifti1Image(voxels, image.affine if affine is None else affine), path)


def _truncate(raw: Path) -> None:
    content = _image(raw).read_bytes()
    _image(raw).write_bytes(content[: len(content) // 2])


def _with_nan(raw: Path) -> None:
    def change(voxels: np.ndarray) -> np.ndarray:
        voxels = voxels.astype(np.float32)
        voxels[3, 4, 5] = np.nan
        return voxels

    _rewrite(_image(raw), change)


def _stray(raw: Path) -> None:
    def change(voxels: np.ndarray) -> np.ndarray:
        voxels = voxels.astype(np.int16)
        voxels[10, 10, 5:8] = 281
        return voxels

    _rewrite(_label(raw), change)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing label": (lambda raw: _label(raw).unlink(), "0005"),
    "label of another shape": (lambda raw: _rewrite(_label(raw), lambda voxels: voxels[:-1]), "shape"),
    "label elsewhere": (lambda raw: _rewrite(_label(raw), lambda v: v, np.eye(4)), "affine"),
    "truncated gzip": (_truncate, "img0005"),
    "a text file": (lambda raw: _image(raw).write_text("hello"), "img0005"),
    "gzipped text": (lambda raw: _image(raw).write_bytes(gzip.compress(b"hello")), "img0005"),
    "an empty file": (lambda raw: _image(raw).write_bytes(b""), "img0005"),
    "4-D": (lambda raw: _rewrite(_image(raw), lambda voxels: np.stack([voxels, voxels], -1)), "4-D"),
    "NaN": (_with_nan, "NaN"),
    "all background": (lambda raw: _rewrite(_label(raw), np.zeros_like), "background"),
    "a stray label": (_stray, "281"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_bad_case_is_named_and_the_others_are_finished(damage: str, raw: Path) -> None:
    spoil, word = DAMAGES[damage]
    spoil(raw)
    done = _preprocess(raw)
    assert refused(done, 1) == "dsnet-med: 1 failed: 0005; the others are finished"
    assert word in done.stderr
    finished = sorted(path.stem for path in (raw.parent / "store" / "cases").glob("*.json"))
    assert finished == ["0001", "0002", "0006"]
    checked = run("check", "--source", raw, "--recipe", "synapse")
    assert checked.returncode == 2
    assert any("0005" in line and line.startswith("error") for line in checked.stdout.splitlines())


def test_an_incomplete_store_is_mended_by_running_again(raw: Path, phantom: Path) -> None:
    _truncate(raw)
    _preprocess(raw)
    assert "0005" in refused(
        run("train", "--method", "fcn", "--data", raw.parent / "store", "--out", raw.parent / "run")
    )
    shutil.copy(_image(phantom), _image(raw))
    done = _preprocess(raw)
    assert done.returncode == 0, done.stderr
    assert "3 already done" in done.stdout


def test_two_files_for_one_case(raw: Path) -> None:
    (raw / FOLDER / "img" / "img0005.nii").write_bytes(gzip.decompress(_image(raw).read_bytes()))
    assert "0005" in refused(_preprocess(raw), 1)


def test_nothing_is_called_finished_where_all_failed(raw: Path) -> None:
    for case in ("0001", "0002", "0005", "0006"):
        _label(raw, case).unlink()
    done = _preprocess(raw)
    assert refused(done).startswith("dsnet-med: none of 4 cases could be converted; the reasons are above")
    assert done.stderr.count("has no label file") == 4


def test_what_the_doctor_finds_is_said_by_preprocess_and_kept_in_the_store(raw: Path) -> None:
    _rewrite(_label(raw), lambda voxels: np.flip(voxels, 2).copy())
    absent = "26 of the 30 subjects of the split list are not in the source: 0003, 0004, 0007"
    done = _preprocess(raw)
    assert done.returncode == 0, done.stderr
    checked = [run("check", raw.parent / "store"), run("check", "--source", raw, "--recipe", "synapse")]
    assert [each.returncode for each in checked] == [0, 0]
    for text in (done.stderr, *(each.stdout for each in checked)):
        assert f"warning: {absent}" in text
        assert "warning: 0005: the label map fits its image better with its slices mirrored" in text
    assert ": :" not in checked[0].stdout + checked[1].stdout


def test_output_below_a_file(raw: Path) -> None:
    (raw.parent / "store").write_text("in the way")
    assert "file lies where a folder is wanted" in refused(_preprocess(raw))


@pytest.mark.parametrize(("options", "words"), [("size=400k", "space"), ("size=1m,ro", "read-only")])
def test_full_and_read_only_disks(options: str, words: str, raw: Path, mounted: Callable[[str], Path]) -> None:
    done = run("preprocess", "synapse", "--source", raw, "--out", mounted(options) / "store")
    refused(done, done.returncode if done.returncode in (1, 2) else 2)
    assert words in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "Did you mean 'train'"),
        (["preprocess", "synapes", "--source", ".", "--out", "x"], "did you mean 'synapse'"),
        (["preprocess", "missing/recipe.yaml", "--source", ".", "--out", "x"], "no such recipe"),
        (["preprocess", "synapse", "--source", "nowhere", "--out", "x"], "nowhere"),
        (["phantom", "synaps", "--out", "x"], "did you mean 'synapse'"),
        (["phantom", "synapse", "--out", "x", "--size", "64x64"], "rows x columns x slices"),
        (["train", "--method", "fcn_dms", "--data", ".", "--out", "x"], "did you mean 'fcn_dsm'"),
        (["train", "--method", "fcn", "--data", ".", "--out", "x"], "preprocess"),
        (["train", "--method", "fcn", "--out", "x"], "--data"),
        (["train", "--out", "x", "--resume"], "nothing to resume"),
        (["infer", "nothing.nii.gz", "--model", ".", "--out", "x"], "no such file"),
        (
            ["evaluate", "--prediction", "a", "--reference", "b", "--labels", "synapse", "--out", "x"],
            "no such folder",
        ),
        (["evaluate", "--prediction", "a", "--reference", "b", "--labels", "x.json", "--out", "x"], "x.json"),
        (["check"], "--source with --recipe"),
        (["train", "--nope"], "--nope"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_arguments(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refused(run(*arguments))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("command", ["methods", "datasets"])
def test_lists(command: str) -> None:
    table, listed = run(command), run(command, "--json")
    assert table.returncode == listed.returncode == 0
    rows = json.loads(listed.stdout)
    assert rows
    assert all(row["id"] in table.stdout for row in rows)


def test_clean_data_passes_the_doctor(phantom: Path, tmp_path: Path) -> None:
    assert run("check", "--source", phantom, "--recipe", "synapse").returncode == 0
    run("preprocess", "synapse", "--source", phantom, "--out", tmp_path / "store")
    checked = run("check", tmp_path / "store", "--json", "--workers", "1")
    assert checked.returncode == 0
    # 26 of the published cases are not there.
    assert [each["kind"] for each in json.loads(checked.stdout)] == ["source"]


def test_scoring_the_reference_against_itself_is_perfect(phantom: Path, tmp_path: Path) -> None:
    labels = phantom / FOLDER / "label"
    masks = tmp_path / "masks"
    masks.mkdir()
    classes = {8: 1, 4: 2, 3: 3, 2: 4, 6: 5, 11: 6, 1: 7, 7: 8}
    for file in labels.iterdir():
        image = nib.load(file)
        raw = np.asanyarray(image.dataobj)
        mapped = sum((raw == value) * np.uint8(label) for value, label in classes.items())
        nib.save(
            nib.Nifti1Image(mapped.astype(np.uint8), image.affine), masks / file.name.replace("label", "img")
        )
    arguments = ["evaluate", "--prediction", masks, "--reference", labels, "--labels", "synapse"]
    done = run(*arguments, "--out", tmp_path / "out", "--protocol", "strict", "--protocol", "transunet")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["mean"]["dice"], summary["mean"]["hd95_mm"]) == (1.0, 0.0)
    assert summary["cases"] == 4
    assert set(summary["protocols"]) == {"strict", "transunet"}
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000


def test_debugging_shows_the_traceback() -> None:
    done = run("preprocess", "synapes", "--source", ".", "--out", "x", DSNET_MED_DEBUG="1")
    assert "Traceback" in done.stderr


_OUT_COMMANDS = {
    "phantom": ["synapse"],
    "preprocess": ["synapse", "--source", "x"],
    "train": ["--method", "fcn", "--data", "x"],
    "infer": ["x.nii", "--model", "x"],
    "evaluate": ["--prediction", "x", "--reference", "x", "--labels", "synapse"],
    "quickstart": [],
    "compare": ["--scores", "scores.csv"],
    "export": ["x"],
    "explain": ["x.nii", "--model", "x"],
}


@pytest.mark.parametrize("command", _OUT_COMMANDS)
@pytest.mark.parametrize("name", ["mask.nii.gz", "a.NII", "scores.csv", "run.zip"])
def test_an_out_that_is_called_like_a_file(
    command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [command, *_OUT_COMMANDS[command], "--out", str(tmp_path / name)]
    assert guarded(lambda: app(arguments, standalone_mode=False)) == 2
    assert f"{name}, the name of a file, wanted a folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_command_that_writes_a_folder_looks_at_its_name() -> None:
    """So that a new one is not forgotten."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    with_out = {name for name, one in commands.items() if any("--out" in option.opts for option in one.params)}
    assert with_out == {*_OUT_COMMANDS, "import-checkpoint", "plan"}  # which write a file


@pytest.mark.parametrize("name", ["v1.2", "results.2024", "out", "a.b c", "was.nii.gz"])
def test_folders_with_dots_are_folders(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "was.nii.gz").mkdir()
    arguments = ["phantom", "synapse", "--out", str(tmp_path / name), "--size", "8"]
    assert guarded(lambda: app(arguments, standalone_mode=False)) == 2
    assert "got --size 8" in capsys.readouterr().err
