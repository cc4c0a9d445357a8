"""Warnings where organs lie on the wrong side, and none where they lie right."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dsnet_med.inference.anatomy import contradictions
from dsnet_med.inference.outputs import statistics
from dsnet_med.phantoms import make_acdc, make_synapse
from dsnet_med.prepare.recipe import load_recipe
from dsnet_med.volumes import Volume


def _phantom(folder: Path, recipe_id: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    if recipe_id == "synapse":
        list(make_synapse(folder, cases=2, seed=0, size=(96, 96, 32)))
        image = nib.load(next(folder.rglob("label*.nii.gz")))
    else:
        list(make_acdc(folder, cases=2, seed=0, size=(96, 96, 10)))
        image = nib.load(next(folder.rglob("*_gt.nii.gz")))
    recipe = load_recipe(recipe_id)
    table = np.zeros(256, np.uint8)
    for value, class_id in recipe.label_map.items():
        table[value] = class_id
    return table[np.asanyarray(image.dataobj)], image.affine, tuple(recipe.classes)


def _flipped(affine: np.ndarray, axis: int) -> np.ndarray:
    flip = np.eye(4)
    flip[axis, axis] = -1
    return flip @ affine


@pytest.mark.parametrize("recipe", ["synapse", "acdc"])
def test_an_upright_phantom_contradicts_nothing(recipe: str, tmp_path: Path) -> None:
    assert contradictions(*_phantom(tmp_path, recipe)) == []


@pytest.mark.parametrize("recipe", ["synapse", "acdc"])
def test_a_mirrored_one_is_noticed(recipe: str, tmp_path: Path) -> None:
    ids, affine, names = _phantom(tmp_path, recipe)
    (line,) = contradictions(ids, _flipped(affine, 0), names)
    assert line.startswith("this may be another kind of image than the network was trained on: ")
    assert ("weak evidence" in line) == (recipe == "acdc")  # which has one pair
    assert ("left and right are swapped, in " in line) == (recipe == "synapse")


@pytest.mark.parametrize(("axis", "way"), [(2, "below"), (1, "behind")])
def test_upside_down_and_back_to_front(axis: int, way: str, tmp_path: Path) -> None:
    ids, affine, names = _phantom(tmp_path, "synapse")
    lines = contradictions(ids, _flipped(affine, axis), names)
    assert lines
    assert all(f" {way} " in line for line in lines)
    assert all(line.startswith("this may be another kind of image") for line in lines)


def test_exchanged_kidneys(tmp_path: Path) -> None:
    ids, affine, names = _phantom(tmp_path, "synapse")
    left, right = names.index("left_kidney"), names.index("right_kidney")
    exchanged = np.where(ids == left, right, np.where(ids == right, left, ids)).astype(np.uint8)
    assert "left_kidney" in contradictions(exchanged, affine, names)[0]


def test_one_pair_of_organs_is_weak_evidence() -> None:
    ids = np.zeros((60, 9, 9), np.uint8)
    ids[5:10], ids[50:55] = 1, 2  # the stomach right of the liver, as in a brain that looks like both
    (line,) = contradictions(ids, np.diag((2.0, 2, 2, 1)), ("background", "liver", "stomach"))
    assert line == (
        "this may be another kind of image than the network was trained on: stomach lies 90 mm to the right of "
        "liver; one pair of organs of 1 is weak evidence that left and right are swapped"
    )


def test_nothing_found() -> None:
    assert "no organ was found" in contradictions(np.zeros((3, 3, 3), np.uint8), np.eye(4), ("b", "liver"))[0]


def test_statistics_by_hand() -> None:
    ids = np.zeros((4, 4, 4), np.uint8)
    ids[1:3, 1:3, 1] = 1
    voxels = np.arange(64, dtype=np.int16).reshape(4, 4, 4)
    image = Volume(Path("image"), ids.shape, np.diag([1.0, 1.0, 5.0, 1.0]), None, voxels)
    got = statistics(ids, image, ("background", "liver", "spleen"))
    assert got["liver"] == {"voxels": 4, "volume_ml": 0.02, "mean_intensity": float(voxels[ids == 1].mean())}
    assert got["spleen"] == {"voxels": 0, "volume_ml": 0.0, "mean_intensity": None}
