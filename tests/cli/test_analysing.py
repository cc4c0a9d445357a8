"""`verify` of a trial's folder, and the analysis of scores from anywhere, as a user types them."""

from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typed import refused, run

from dsnet_med.cli.analysing import analyse_file
from dsnet_med.errors import InputError
from dsnet_med.evaluate import analyse
from dsnet_med.evaluate.pairing import pair_folders
from dsnet_med.evaluate.results import write_results
from dsnet_med.evaluate.score_folders import evaluate_pairs
from dsnet_med.evaluate.summary import summarise
from dsnet_med.evaluate.trial_output import run_place, write_trial


def scores(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = ["method,seed,case,label,dice"]
    for arm, effect in {"fcn": 0.0, "fcn_se": 0.1}.items():
        for seed in range(3):
            lines += [
                f"{arm},{seed},c{case},1,{0.5 + 0.03 * case + effect + rng.normal(0, 0.01):.5f}"
                for case in range(10)
            ]
    file = folder / "mine.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_folder_holds_until_a_score_changes(tmp_path: Path, capsys) -> None:
    analyse_file(scores(tmp_path), tmp_path / "out", "fcn")
    assert "fcn_se is better" in capsys.readouterr().out
    done = run("verify", tmp_path / "out")
    assert done.returncode == 0 and "holds" in done.stdout and "2 methods and 6 runs" in done.stdout
    table = tmp_path / "out" / "scores.csv"
    first = table.read_text().splitlines()[1].split(",")[-1]
    table.write_text(table.read_text().replace(first, "0.99", 1))
    done = run("verify", tmp_path / "out" / "results.json")
    assert done.returncode == 1 and "scores.csv" in done.stderr and "Traceback" not in done.stderr
    assert "results.json" in refused(run("verify", tmp_path, "--masks"))
    (tmp_path / "out" / "trial.yaml").write_text("arms: []\n")
    with pytest.raises(InputError, match="holds a trial"):
        analyse_file(scores(tmp_path), tmp_path / "out")


def trial_of_masks(folder: Path) -> None:
    """A trial's folder as `compare` leaves it, of two arms and two seeds; nothing was trained."""
    rng, names, rows = np.random.default_rng(0), {1: "liver", 2: "spleen"}, []
    reference = np.zeros((12, 10, 4), np.uint8)
    reference[2:7, 2:8, 1:3], reference[8:11, 3:7, 1] = 1, 2
    for case in "ab":
        save(folder / "cases" / "labels" / f"{case}.nii.gz", reference)
    for arm, seed in product(("fcn", "fcn+SE@layer4.*.act2"), (0, 1)):
        run = folder / run_place(arm, seed)
        for case in "ab":
            save(run / "masks" / f"{case}.nii.gz", np.where(rng.random(reference.shape) < 0.1, 0, reference))
        pairs = pair_folders(run / "masks", folder / "cases" / "labels").pairs
        scores = list(evaluate_pairs(pairs, names, protocols=("strict", "monai")))
        write_results(run / "scores", scores, summarise(scores, names, ("strict", "monai")), names)
        rows += [
            {"method": arm, "seed": seed, "case": score.case, "label": strict.label, "name": strict.name}
            | {"dice": strict.dice, "hd95_mm": strict.hd95_mm, "hd95_mm_monai": monai.hd95_mm}
            for score in scores
            for strict, monai in zip(score.records(), score.records("monai"), strict=True)
        ]
    write_trial(folder, rows, analyse(rows, "fcn"), html="<p>report</p>")


def save(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.uint8), np.diag((1.0, 1.5, 3.0, 1.0))), path)


def test_masks_are_scored_again_wherever_the_folder_lies(tmp_path: Path) -> None:
    trial_of_masks(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    done = run("verify", tmp_path / "there", "--masks")
    assert done.returncode == 0, done.stderr
    assert "8 masks scored again" in done.stdout
    masks = tmp_path / "there" / "runs" / "fcn" / "seed-1" / "masks"
    (masks / "a.nii.gz").write_bytes((masks / "b.nii.gz").read_bytes())
    assert run("verify", tmp_path / "there").returncode == 0
    done = run("verify", tmp_path / "there", "--masks")
    assert done.returncode == 1 and "not the file that was scored" in done.stderr
    assert "fcn, seed 1, a, label 1: dice" in done.stderr
    (tmp_path / "there" / "runs").rename(tmp_path / "elsewhere")
    assert "--masks needs the folders" in refused(run("verify", tmp_path / "there", "--masks"))
    assert "--prediction" in refused(run("verify", tmp_path / "there", "--prediction", masks))
