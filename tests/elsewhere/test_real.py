"""MONAI Label and MONAI Deploy themselves, in environments of their own, which `.ci/run elsewhere` makes."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from volumes import GRIDS

from dsnet_med import Predictor

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
EXTENSIONS = (".nii.gz", ".nrrd")


def _run(what: str, job: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    python = os.environ.get(f"DSNET_MED_{what.upper()}_PYTHON")
    if not python:
        pytest.skip(f"no environment with MONAI {what} is named; .ci/run elsewhere makes one")
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    command = [python, str(HERE / f"in_monai_{what}.py"), str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def _said(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "job.said.json").read_text())


def _masks(run: Path, volumes: dict[str, Path]) -> dict[str, np.ndarray]:
    predictor = Predictor.from_run(run, device="cpu")
    return {grid: predictor.predict(volumes[grid]).voxels for grid in GRIDS}


@pytest.mark.parametrize("place", ["run", "bundle"])
def test_monai_label_segments_as_infer_does(
    place: str, run: Path, bundle: Path, volumes: dict[str, Path], tmp_path: Path
) -> None:
    folder, wanted = {"run": run, "bundle": bundle}[place], _masks(run, volumes)
    files = [(grid, end, tmp_path / f"{grid}{end}") for grid in GRIDS for end in EXTENSIONS]
    jobs = [[str(volumes[grid]), end, str(file)] for grid, end, file in files]
    done = _run("label", {"bundle": str(folder), "infer": jobs}, tmp_path)
    assert done.returncode == 0, done.stderr
    said = _said(tmp_path)
    names = Predictor.from_run(run, device="cpu").class_names
    assert said["labels"] == {name: k for k, name in enumerate(names) if k}
    assert said["dimension"] == 3
    for grid, _, file in files:
        mask, image = sitk.ReadImage(str(file)), sitk.ReadImage(str(volumes[grid]))
        voxels = sitk.GetArrayFromImage(mask).T
        assert voxels.dtype == np.uint8
        np.testing.assert_array_equal(voxels, wanted[grid], str(file))
        for part in ("Origin", "Spacing", "Direction"):
            got, want = (getattr(each, f"Get{part}")() for each in (mask, image))
            np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("place", ["run", "bundle"])
def test_monai_label_trains_and_then_segments_by_it(
    place: str, run: Path, bundle: Path, volumes: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree({"run": run, "bundle": bundle}[place], tmp_path / "model")
    items = []
    for grid, mask in _masks(run, volumes).items():
        label, affine = tmp_path / f"{grid}_label.nii.gz", nibabel.load(volumes[grid]).affine
        nibabel.save(nibabel.Nifti1Image(mask, affine), label)
        items.append({"image": str(volumes[grid]), "label": str(label)})
    request = {"max_epochs": 2, "val_split": 0.34, "pretrained": True}
    out = tmp_path / "out.nii.gz"
    job = {"bundle": str(folder), "train": {"items": items, "request": request}}
    job["infer"] = [[str(volumes["axial"]), ".nii.gz", str(out)]]
    before = (folder / "models" / "model.pt").read_bytes()
    done = _run("label", job, tmp_path)
    assert done.returncode == 0, done.stderr
    assert _said(tmp_path)["models"] == ["model.pt"]
    assert json.loads((folder / "summary.json").read_text())["recipe"] == "handed_over"
    assert (folder / "models" / "model.pt").read_bytes() != before
    wanted = Predictor.from_run(folder, device="cpu", trust=True).predict(volumes["axial"])
    np.testing.assert_array_equal(np.asarray(nibabel.load(out).dataobj), wanted.voxels)


@pytest.mark.parametrize("place", ["run", "bundle", "bundle/models/model.ts"])
def test_monai_deploy_segments_as_infer_does(
    place: str, run: Path, bundle: Path, volumes: dict[str, Path], tmp_path: Path
) -> None:
    where = run.parent / place
    jobs = [[str(volumes[grid]), str(tmp_path / f"{grid}.npy")] for grid in GRIDS]
    done = _run("deploy", {"bundle": str(where), "as": "dicom", "infer": jobs}, tmp_path)
    assert done.returncode == 0, done.stderr
    for grid, wanted in _masks(run, volumes).items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{grid}.npy"), wanted, grid)


def test_monai_deploy_stops_where_it_would_be_wrong(
    bundle: Path, volumes: dict[str, Path], tmp_path: Path
) -> None:
    job = {"bundle": str(bundle), "as": "array", "infer": [[str(volumes["axial"]), str(tmp_path / "a.npy")]]}
    done = _run("deploy", job, tmp_path)
    assert done.returncode != 0
    assert "without an affine" in done.stderr
    renamed = shutil.copy(bundle / "models" / "model.ts", tmp_path / "renamed.ts")  # it finds no settings then
    done = _run("deploy", job | {"bundle": str(renamed), "as": "dicom"}, tmp_path)
    assert done.returncode != 0
    assert not (tmp_path / "a.npy").exists()
