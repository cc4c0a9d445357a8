"""`evaluate` and `verify` as a user types them."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typed import refused, run

from dsnet_med.cli.guard import INTERRUPTED, guarded
from dsnet_med.cli.scoring import short_names
from dsnet_med.errors import InputError
from dsnet_med.files import sha256, write_json
from dsnet_med.seal import sealed

AFFINE = np.diag((0.8, 0.8, 3.0, 1.0))
CASES = 7


def write(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.uint8), affine), path)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """References, a method that is a little off, and one that is right in all cases but for a missed organ."""
    rng = np.random.default_rng(0)
    for number in range(CASES):
        reference = np.zeros((24, 20, 6), np.uint8)
        start = rng.integers(2, 6)
        reference[start : start + 9, 3:12, 1:4], reference[16:20, 14:18, 2:5] = 1, 2
        write(tmp_path / "reference" / f"c{number}.nii.gz", reference)
        write(tmp_path / "near" / "masks" / f"c{number}.nii.gz", np.roll(reference, 1 + number % 2, axis=1))
        write(tmp_path / "right" / "masks" / f"c{number}.nii.gz", reference)
    (tmp_path / "labels.json").write_text('{"1": "liver", "2": "spleen"}')
    return tmp_path


def evaluate(scans: Path, *more: str | Path):
    fixed = ["--reference", scans / "reference", "--labels", scans / "labels.json", "--out", scans / "out"]
    return run("evaluate", *fixed, *more)


def near(scans: Path) -> list[str | Path]:
    return ["--prediction", scans / "near" / "masks"]


def test_one_folder(scans: Path) -> None:
    done = evaluate(scans, *near(scans), "--protocol", "strict", "--protocol", "transunet")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    summary = json.loads((scans / "out" / "summary.json").read_text())
    assert (
        lines[0]
        == f"7 cases, strict: Dice {summary['mean']['dice']:.4f}, HD95 {summary['mean']['hd95_mm']:.2f} mm"
    )
    assert lines[1].startswith("7 cases, transunet: Dice") and lines[1].endswith("voxels")
    assert "a worker held at most" in lines[-1]
    assert "7/7" in done.stderr  # the bar
    for entry in summary["labels"].values():
        assert {"mean", "std", "median", "n", "ci95"} <= entry["dice"].keys()
        low, high = entry["dice"]["ci95"]
        assert low <= entry["dice"]["mean"] <= high
    assert summary["mean_ci95"]["dice"][0] <= summary["mean"]["dice"] <= summary["mean_ci95"]["dice"][1]


def test_verify_after_evaluate(scans: Path) -> None:
    evaluate(scans, *near(scans), "--nsd-tolerance", "2")
    file = scans / "out" / "summary.json"
    done = run("verify", file)
    assert done.returncode == 0, done.stderr
    assert "summary.json holds:" in done.stdout
    content = json.loads(file.read_text())
    assert content["nsd_tolerance_mm"] == 2
    content["mean"]["dice"] += 0.001
    file.write_text(json.dumps(content))
    assert "does not hold" in refused(done := run("verify", file), 1)
    assert "strict: mean.dice: " in done.stderr
    gone = run("verify", file, "--prediction", scans / "nowhere")
    refused(gone, 1)
    assert "c0.nii.gz: no such file" in gone.stderr
    assert "not a summary" in refused(run("verify", scans / "labels.json"))


def test_two_folders_are_compared(scans: Path) -> None:
    done = evaluate(scans, *near(scans), "--prediction", scans / "right" / "masks")
    assert done.returncode == 0, done.stderr
    out = scans / "out"
    for name in ("near-masks", "right-masks"):
        for file in ("cases.csv", "summary.json", "report.html"):
            assert (out / name / file).stat().st_size > 100
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["predictions"] == ["near-masks", "right-masks"]
    assert comparison["protocols"]["strict"]["metrics"]["dice"]["mean"]["winner"] == "right-masks"
    page = (out / "report.html").read_text()
    assert "right-masks significantly best" in page
    assert "right-masks is significantly better" in done.stdout
    assert "by Dice: right-masks > near-masks under strict" in done.stdout
    assert run("verify", out / "near-masks" / "summary.json").returncode == 0
    done = run("verify", out / "comparison.json")
    assert done.returncode == 0 and "of 7 cases" in done.stdout, done.stderr
    assert "--prediction" in refused(run("verify", out / "comparison.json", "--prediction", scans))
    text = (out / "comparison.json").read_text()
    (out / "comparison.json").write_text(text.replace('"cases": 7', '"cases": 8', 1))
    done = run("verify", out / "comparison.json")
    assert done.returncode == 1 and "its seal does not hold" in done.stderr
    (out / "comparison.json").write_text(text.replace('"near-masks",', '"nearer-masks",', 1))
    assert "nearer-masks" in refused(run("verify", out / "comparison.json"))
    content = json.loads(text)
    content["protocols"]["strict"]["metrics"]["dice"]["mean"]["winner"] = "near-masks"
    (out / "comparison.json").write_text(json.dumps(sealed(content), indent=2) + "\n")  # by who knows of seals
    done = run("verify", out / "comparison.json")
    assert done.returncode == 1 and "winner: 'near-masks', 'right-masks' when compared again" in done.stderr


def test_resample_has_to_be_asked_for(scans: Path) -> None:
    file = scans / "near" / "masks" / "c0.nii.gz"
    voxels = np.asarray(nib.load(file).dataobj)
    write(file, voxels[:, :, ::2], AFFINE @ np.diag((1, 1, 2, 1)))
    done = evaluate(scans, *near(scans))
    last = refused(done, 1)
    assert "--resample" in last and "c0.nii.gz" in last
    assert "6 cases, strict" in done.stdout
    done = evaluate(scans, *near(scans), "--resample")
    assert done.returncode == 0, done.stderr
    assert "c0: resampled from 24 x 20 x 3 voxels" in done.stdout
    assert "c0" in json.loads((scans / "out" / "summary.json").read_text())["resampled"]
    assert "Resampled" in (scans / "out" / "report.html").read_text()
    assert run("verify", scans / "out" / "summary.json").returncode == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--protocol", "strikt"], "did you mean 'strict'"),
        (["--nsd-tolerance", "-1"], "tolerance"),
        (["--nsd-tolerance", "nan"], "tolerance"),
        (["--workers", "0"], "--workers"),
        (["--missing", "zeros"], "did you mean 'zero'"),
        (["--drop-outside"], "--resample"),
        (["--images", "nowhere"], "nowhere"),
        (["--scheduler", "not-an-address"], "no Dask scheduler"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_options(scans: Path, more: list[str], words: str) -> None:
    assert words in refused(evaluate(scans, *near(scans), *more))
    assert not (scans / "out" / "summary.json").exists()


def test_one_folder_twice(scans: Path) -> None:
    assert "twice" in refused(evaluate(scans, *near(scans), *near(scans)))


def test_nothing_that_can_be_scored(scans: Path) -> None:
    for file in (scans / "near" / "masks").iterdir():
        file.write_bytes(b"no volume")
    done = evaluate(scans, *near(scans))
    assert "no case could be scored" in refused(done)


def test_what_made_the_masks_is_told_from_what_changed_since(scans: Path) -> None:
    masks = scans / "near" / "masks"
    for number in range(CASES - 1):
        case = {"case": f"c{number}", "model": [f"{number > 3:064x}"]}
        case |= {"labels": {}, "input": {}, "settings": {}}
        files = {".nii.gz": sha256(masks / f"c{number}.nii.gz")}
        write_json(masks / f"c{number}.json", sealed({**case, "files": files}))
    write_json(masks / "run.json", sealed({"method": "FCN", "weights": "as trained"}))
    done = evaluate(scans, *near(scans))
    assert done.returncode == 0, done.stderr
    notes = json.loads((scans / "out" / "summary.json").read_text())["notes"]
    assert notes[0] == "of some masks nothing says what made them: c6.nii.gz"
    assert "the masks are of 2 models" in notes[1] and "c5.nii.gz by 00000000" in notes[1]
    assert "weights" in (scans / "out" / "report.html").read_text()
    assert run("verify", scans / "out" / "summary.json").returncode == 0
    for name in ("c1.json", "run.json"):
        file = masks / name
        whole = file.read_text()
        file.write_text(whole.replace("0", "1", 1).replace("FCN", "FCM"))
        done = run("verify", scans / "out" / "summary.json")
        assert done.returncode == 1 and f"{file}: is not as it was" in done.stderr
        evaluate(scans, *near(scans))
        notes = json.loads((scans / "out" / "summary.json").read_text())["notes"]
        assert any(note.startswith(f"{name} was changed since `infer` wrote it") for note in notes)
        file.write_text(whole)
        evaluate(scans, *near(scans))
    write(masks / "c2.nii.gz", np.zeros((24, 20, 6)))
    evaluate(scans, *near(scans))
    notes = json.loads((scans / "out" / "summary.json").read_text())["notes"]
    assert notes[0] == "not as `infer` wrote them, but changed since: c2.nii.gz"


def test_names_like_formulas_are_none_and_read_back(scans: Path) -> None:
    for folder in (scans / "near" / "masks", scans / "reference"):
        (folder / "c0.nii.gz").rename(folder / "=c0.nii.gz")
    (scans / "labels.json").write_text('{"1": "-liver", "2": "@spleen"}')
    assert evaluate(scans, *near(scans)).returncode == 0
    text = (scans / "out" / "cases.csv").read_text()
    assert "'=c0,1,'-liver,0." in text and ",'@spleen," in text
    assert run("verify", scans / "out" / "summary.json").returncode == 0
    done = evaluate(scans, *near(scans), "--cases", scans / "out" / "cases.csv")
    assert done.returncode == 0 and "7 cases" in done.stdout


@pytest.mark.parametrize("content", ["{", "[" * 100_000])
def test_facts_of_a_run_that_cannot_be_read_are_refused_before_scoring(scans: Path, content: str) -> None:
    (scans / "near" / "masks" / "run.json").write_text(content)
    done = evaluate(scans, *near(scans))
    assert "run.json" in refused(done)
    assert "7 cases" not in done.stdout
    assert not (scans / "out").exists()


def test_a_folder_that_cannot_be_paired_is_refused_before_the_others_are_scored(scans: Path) -> None:
    (scans / "empty").mkdir()
    assert "empty" in refused(evaluate(scans, *near(scans), "--prediction", scans / "empty"))
    assert not (scans / "out").exists()


def test_folders_without_a_case_in_common(scans: Path) -> None:
    for number in range(CASES):
        method = "near" if number < 4 else "right"
        (scans / method / "masks" / f"c{number}.nii.gz").unlink()
    both = [*near(scans), "--prediction", scans / "right" / "masks"]
    assert "4 of 7 references" in refused(evaluate(scans, *both))
    assert "no case is in every one of" in refused(evaluate(scans, *both, "--missing", "ignore"))
    assert not (scans / "out").exists()


def test_a_folder_of_damaged_files_does_not_lose_the_others(scans: Path) -> None:
    for number in range(CASES):
        (scans / "bad").mkdir(exist_ok=True)
        (scans / "bad" / f"c{number}.nii.gz").write_bytes(b"no volume")
    both = [*near(scans), "--prediction", scans / "bad"]
    assert "nothing to compare" in refused(evaluate(scans, *both), 1)
    assert (scans / "out" / "masks" / "summary.json").is_file()
    done = evaluate(scans, *both, "--prediction", scans / "right" / "masks")
    assert "bad: all cases" in refused(done, 1)
    comparison = json.loads((scans / "out" / "comparison.json").read_text())
    assert comparison["predictions"] == ["near-masks", "right-masks"]


def test_what_an_earlier_evaluation_left_is_gone(scans: Path) -> None:
    evaluate(scans, *near(scans), "--protocol", "strict", "--protocol", "monai")
    assert (scans / "out" / "cases_monai.csv").is_file()
    evaluate(scans, *near(scans))
    left = {path.name for path in (scans / "out").iterdir()}
    assert left == {"cases.csv", "details.csv", "summary.json", "report.html"}


def test_a_file_name_that_is_no_text(scans: Path) -> None:
    for folder in (scans / "near" / "masks", scans / "reference"):
        (folder / "c0.nii.gz").rename(folder / "c\udcff.nii.gz")
    done = evaluate(scans, *near(scans))
    assert done.returncode == 0, done.stderr
    assert "c\\udcff" in (scans / "out" / "cases.csv").read_text()
    assert run("verify", scans / "out" / "summary.json").returncode == 0


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise KeyboardInterrupt

    for interrupted in (command, lambda: INTERRUPTED):  # as we see Ctrl-C, and as typer hands it on
        assert guarded(interrupted) == INTERRUPTED
        assert "dsnet-med: interrupted" in capsys.readouterr().err


def test_short_names_tell_folders_apart(tmp_path: Path) -> None:
    assert short_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert short_names([tmp_path / "x" / "m", tmp_path / "y" / "m"]) == ["x-m", "y-m"]
    assert short_names([tmp_path / "x" / "m", tmp_path / "y" / "m", tmp_path / "z"]) == [
        "x-m",
        "y-m",
        f"{tmp_path.name}-z",
    ]
    with pytest.raises(InputError, match="twice"):
        short_names([tmp_path / "a", tmp_path / "b" / ".." / "a"])
