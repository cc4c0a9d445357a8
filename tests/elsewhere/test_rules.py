"""Bundles in MONAI Label and MONAI Deploy, by their rules; with the packages themselves in test_real.py."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from rules import by_deploy, by_label
from volumes import GRIDS

from dsnet_med import Predictor
from dsnet_med.errors import InputError


@pytest.mark.parametrize("grid", GRIDS)
def test_all_of_them_segment_as_infer_does(
    run: Path, bundle: Path, volumes: dict[str, Path], grid: str
) -> None:
    wanted = Predictor.from_run(run, device="cpu").predict(volumes[grid])
    assert len(np.unique(wanted.voxels)) > 4
    image = nibabel.load(volumes[grid])
    said = {"affine": image.affine, "original_affine": image.affine, "spacing": np.ones(3)}
    found = {where.name: by_deploy(where, np.asarray(image.dataobj), said) for where in (run, bundle)}
    found["model.ts"] = by_deploy(bundle / "models" / "model.ts", np.asarray(image.dataobj), said)
    for where in (run, bundle):
        found[f"label {where.name}"], names = by_label(where, str(volumes[grid]))
        assert names == {name: k for k, name in enumerate(wanted.class_names) if k}
    for name, voxels in found.items():
        assert voxels.dtype == np.uint8, name
        assert (voxels != wanted.voxels).mean() <= 1e-4, name  # where two classes are equal to seven digits


def test_weights_of_another_network_are_refused(bundle: Path, tmp_path: Path, volumes: dict[str, Path]) -> None:
    other = shutil.copytree(bundle, tmp_path / "other")
    weights = torch.load(other / "models" / "model.pt")
    for wrong in ({}, {f"net.{name}": value for name, value in weights.items()}, {"state_dict": weights}):
        torch.save(wrong, other / "models" / "model.pt")
        with pytest.raises(InputError, match="weights"):
            by_label(other, str(volumes["axial"]))


def test_images_that_cannot_be_right_are_refused(
    bundle: Path, tmp_path: Path, volumes: dict[str, Path]
) -> None:
    image = nibabel.load(volumes["axial"])
    voxels = np.asarray(image.dataobj)
    with pytest.raises(RuntimeError) as raised:  # of MONAI Deploy's NIfTI loader, which gives the array alone
        by_deploy(bundle, voxels, {})
    assert "without an affine" in str(raised.value.__cause__)
    for name, wrong in (("NaN", np.full((8, 8, 2), np.nan)), ("one channel", np.ones((8, 8, 2, 3)))):
        nibabel.save(nibabel.Nifti1Image(wrong, image.affine), tmp_path / "wrong.nii.gz")
        with pytest.raises(InputError, match=name):
            by_label(bundle, str(tmp_path / "wrong.nii.gz"))


def test_a_bundle_names_nothing_of_the_machine(bundle: Path) -> None:
    for file in (bundle / "configs").glob("*.json"):
        assert str(bundle.parents[1]) not in json.dumps(json.loads(file.read_text())), file
