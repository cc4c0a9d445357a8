"""The whole path on real CT and oblique cardiac MR: every mask on its input's exact grid."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from narrow import NARROW

from dsnet_med.engine.predict import items, require
from dsnet_med.engine.run import prepare, train
from dsnet_med.errors import InputError
from dsnet_med.inference import Predictor
from dsnet_med.inference.segment import segment_cases
from dsnet_med.inference.sources import find_sources
from dsnet_med.prepare.convert import convert
from dsnet_med.prepare.recipe import Recipe, load_recipe
from dsnet_med.prepare.store import Store

BIN = Path(sys.executable).parent / "dsnet-med"

SUNNYBROOK = {
    "id": "sunnybrook",
    "title": "Sunnybrook Cardiac Data, ED and ES",
    "source": "https://www.cardiacatlas.org/sunnybrook-cardiac-data/",
    "licence": "CC0 1.0",
    "modality": "MR",
    "layout": "table",
    "cases": "cases.csv",
    "classes": ["background", "right_ventricle", "myocardium", "left_ventricle"],
    "slice_axis": "coarsest",
    "intensity": {"unit_variance": [0.5, 99.5]},
    "splits": "splits.csv",
}


def _converted(recipe: Recipe, source: Path, out: Path) -> Store:
    errors = [result.error for result in convert(recipe, source, out, workers=1) if result.error]
    assert errors == []
    return Store.open(out)


def _path_to_masks(store: Store, images: Path, folder: Path) -> None:
    """Train a few steps, segment every image, and check that each mask has the grid of its image."""
    prepare("fcn_dsm", store.path, folder / "run", NARROW)
    train(folder / "run", {})
    sources = find_sources([images])
    results = list(segment_cases(Predictor.from_run(folder / "run"), sources, folder / "masks"))
    assert [result.error for result in results] == [None] * len(sources)
    for file in (source.where for source in sources):
        image, mask = nib.load(file), nib.load(folder / "masks" / file.name)
        assert mask.shape == image.shape
        np.testing.assert_array_equal(mask.affine, image.affine)
        assert nib.aff2axcodes(mask.affine) == nib.aff2axcodes(image.affine)


def _evaluated(folder: Path, reference: Path, labels: str) -> dict:  # type: ignore[type-arg]
    arguments = ["evaluate", "--prediction", folder / "masks", "--reference", reference]
    arguments += ["--labels", labels, "--out", folder / "report"]
    done = subprocess.run([BIN, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report" / "summary.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture
def abdomen(shared: Path, tmp_path: Path) -> Path:
    """Two CT volumes with TotalSegmentator's labels, under a case name each."""
    files = shared / "data" / "abdomen_ct_totalseg" / "tests" / "reference_files"
    names = {
        "example_ct": "images/whole",
        "example_ct_sm": "images/part",
        "example_seg_fast_force_split": "labels/whole",
        "example_seg": "labels/part",
    }
    for name, place in names.items():
        (tmp_path / "abdomen" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(files / f"{name}.nii.gz", tmp_path / "abdomen" / f"{place}.nii.gz")
    return tmp_path / "abdomen"


def _own_recipe(folder: Path, recipe: dict[str, object], splits: dict[str, str]) -> Recipe:
    folder.mkdir(exist_ok=True)
    lines = ["subject,split", *(f"{subject},{split}" for subject, split in splits.items())]
    (folder / "splits.csv").write_text("\n".join(lines) + "\n")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"splits": "splits.csv"}))
    return load_recipe(str(folder / "recipe.yaml"))


def test_abdominal_ct(abdomen: Path, tmp_path: Path) -> None:
    shipped = load_recipe("totalsegmentator")
    content = yaml.safe_load(shipped.path.read_text())
    recipe = _own_recipe(tmp_path / "recipe", content, {"whole": "train", "part": "val"})
    store = _converted(recipe, abdomen, tmp_path / "store")
    label = np.asanyarray(nib.load(abdomen / "labels" / "whole.nii.gz").dataobj)
    for organ, raw in {"liver": 5, "spleen": 1, "left_kidney": 3, "right_kidney": 2, "aorta": 52}.items():
        assert store.cases["whole"].label_voxels[organ] == (label == raw).sum()
    _path_to_masks(store, abdomen / "images", tmp_path)
    summary = _evaluated(tmp_path, abdomen / "labels", str(tmp_path / "recipe" / "recipe.yaml"))
    assert summary["cases"] == 2
    assert set(summary["labels"]) == set(store.classes[1:])


def test_oblique_cardiac_mr(volumes: Path, tmp_path: Path) -> None:
    source = volumes / "cardiac_sunnybrook" / "nifti"
    cases = [f"SC-HF-I-{patient}_{phase}" for patient in (1, 2) for phase in ("ED", "ES")]
    rows = [f"{case},{case[:-3]},{case}.nii.gz,{case}_gt.nii.gz" for case in cases]
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "cases.csv").write_text("\n".join(["case,subject,image,label", *rows]) + "\n")
    recipe = _own_recipe(tmp_path / "recipe", SUNNYBROOK, {"SC-HF-I-1": "train", "SC-HF-I-2": "val"})
    store = _converted(recipe, source, tmp_path / "store")
    for case in store.cases.values():
        assert case.shape[0] == min(case.native_shape)  # the short axis is the stack's, whatever the tilt
        assert case.spacing_mm[0] == pytest.approx(10.0, abs=0.01)
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder, ending in ((images, ""), (labels, "_gt")):
        folder.mkdir()
        for case in cases:
            shutil.copy(source / f"{case}{ending}.nii.gz", folder / f"{case}.nii.gz")
    _path_to_masks(store, images, tmp_path)
    names = tmp_path / "labels.json"
    names.write_text(json.dumps(dict(enumerate(store.classes))))
    assert _evaluated(tmp_path, labels, str(names))["cases"] == 4


def test_a_bundle_is_given_no_two_images_of_one_name(tmp_path: Path) -> None:
    for name in ("a.nii", "b.nii"):
        (tmp_path / name).touch()
    assert items(str(tmp_path)) == [{"image": str(tmp_path / name)} for name in ("a.nii", "b.nii")]
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(InputError, match="two inputs are called 'a'"):
        require(items(str(tmp_path)), str(tmp_path))
