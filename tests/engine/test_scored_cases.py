"""What a trial scores are the source's own voxels, however the store holds them."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dsnet_med.engine.scored_cases import image_files, labels_of_store, write_scored_case
from dsnet_med.errors import InputError
from dsnet_med.evaluate.pairing import Pair
from dsnet_med.evaluate.protocols import score_case
from dsnet_med.evaluate.score_folders import evaluate_pairs
from dsnet_med.phantoms import make_brats
from dsnet_med.prepare.convert import SOURCE, convert
from dsnet_med.prepare.recipe import load_recipe
from dsnet_med.prepare.store import Store
from dsnet_med.regions import IGNORED, of_structures


@pytest.fixture(scope="module", params=[None, (12.0, 9.0, 10.0)])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store]:
    place = tmp_path_factory.mktemp("made")
    list(make_brats(place / "raw", cases=3, seed=0, size=(24, 24, 16), layout="nnunet"))
    recipe = load_recipe("nnunet").model_copy(update={"spacing_mm": request.param})
    assert [result.error for result in convert(recipe, place / "raw", place / "store", workers=1)] == [None] * 3
    return place / "raw", Store.open(place / "store")


def test_a_case_comes_from_the_source_voxel_by_voxel(made: tuple[Path, Store], tmp_path: Path) -> None:
    raw, store = made
    case = store.cases["BRATS_001"]
    write_scored_case(store, case, tmp_path, tmp_path / "label.nii.gz")
    files = image_files(tmp_path, case.id, store)
    assert [file.name for file in files] == [f"BRATS_001_000{channel}.nii.gz" for channel in range(4)]
    for file in files:
        ours, theirs = nib.load(file), nib.load(raw / "imagesTr" / file.name)
        assert np.array_equal(ours.get_fdata(), theirs.get_fdata())
        assert np.allclose(ours.affine, theirs.affine)
    truth = nib.load(raw / "labelsTr" / "BRATS_001.nii.gz")
    label = nib.load(tmp_path / "label.nii.gz")
    assert np.array_equal(label.get_fdata(), truth.get_fdata())
    assert label.shape != tuple(case.shape) or store.spacing_mm is None
    labels = labels_of_store(store)
    (score,) = evaluate_pairs(
        [Pair("a", tmp_path / "label.nii.gz", raw / "labelsTr" / "BRATS_001.nii.gz")], labels
    )
    assert [each.name for each in score.measures] == list(store.targets)
    assert [row.dice for row in score.records()] == [1, 1, 1]


def test_a_source_that_changed_or_went_is_told(made: tuple[Path, Store], tmp_path: Path) -> None:
    store = made[1]
    case = store.cases["BRATS_002"]
    other = case.model_copy(update={"label_sha256": ("0" * 64,)})
    with pytest.raises(InputError, match="case 'BRATS_002' has changed since"):
        write_scored_case(store, other, tmp_path, tmp_path / "l.nii.gz")
    gone = case.model_copy(update={"label_files": ("labelsTr/none.nii.gz",)})
    with pytest.raises(InputError, match=r"none\.nii\.gz: no such file"):
        write_scored_case(store, gone, tmp_path, tmp_path / "l.nii.gz")
    (store.path / SOURCE).rename(tmp_path / SOURCE)
    try:
        with pytest.raises(InputError, match="run the same preprocess command again"):
            write_scored_case(store, case, tmp_path, tmp_path / "l.nii.gz")
    finally:
        (tmp_path / SOURCE).rename(store.path / SOURCE)


def test_what_is_scored_of_a_store(made: tuple[Path, Store]) -> None:
    store = made[1]
    assert labels_of_store(store).names == {1: "whole_tumor", 2: "tumor_core", 3: "enhancing_tumor"}
    plain = store.model_copy(update={"regions": (), "ignore": True})
    labels = labels_of_store(plain)
    assert list(labels.names) == [1, 2, 3]
    assert labels.ignored == ("ignore", IGNORED)
    bits = {"classes": ("background", "a", "b"), "regions": of_structures(["a", "b"])}
    free = store.model_copy(update={**bits, "recipe": store.recipe | {"overlapping": True}})
    stored, only_a = np.array([[1, 3, 2, 0]]), np.array([[1, 1, 0, 0]])
    assert [row.dice for row in score_case(stored, only_a, (1, 1), labels_of_store(free))] == [1, 0]
