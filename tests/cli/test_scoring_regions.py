"""`evaluate` of regions, from the command's arguments to its files, and `verify` of them."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dsnet_med.cli import scoring
from dsnet_med.errors import CasesFailedError
from dsnet_med.evaluate import dice

REGIONS = '{"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}'


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name in "ab":
        reference = np.zeros((14, 13, 6), np.uint8)
        reference[2:12, 2:11, 1:5], reference[4:9, 4:9, 1:5], reference[5:7, 5:8, 2:4] = 1, 2, 3
        prediction = np.roll(reference, random.integers(-1, 2, 3), (0, 1, 2))
        reference[10:, 9:] = 4
        for folder, voxels in (("ref", reference), ("pred", prediction)):
            Path(folder).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.diag([1, 1, 2, 1])), f"{folder}/{name}.nii.gz")
    return tmp_path


def evaluate(labels=REGIONS, protocols=("strict",)):
    options = scoring.Options(protocols=protocols, workers=1)
    scoring.evaluate([Path("pred")], Path("ref"), labels, Path("out"), images=None, options=options)
    return json.loads(Path("out/summary.json").read_text())


def test_regions_have_a_row_each_and_hold_when_scored_again(place, capsys):
    summary = evaluate(protocols=("strict", "transunet", "dpcnet", "monai"))
    rows = list(csv.DictReader(Path("out/cases.csv").read_text().splitlines()))
    assert [(row["case"], row["label"], row["name"]) for row in rows[:3]] == [
        ("a", "1", "whole"),
        ("a", "2", "core"),
        ("a", "3", "enhancing"),
    ]
    maps = [nib.load(f"{folder}/a.nii.gz").get_fdata() for folder in ("ref", "pred")]
    kept = maps[0] != 4
    for row, low in zip(rows, (1, 2, 3), strict=False):
        assert float(row["dice"]) == dice((maps[0] >= low) & kept, (maps[1] >= low) & kept)
    assert [each["of"] for each in summary["regions"].values()] == [[1, 2, 3], [2, 3], [3]]
    many = int(np.count_nonzero(~kept))
    assert summary["ignored_voxels"] == {"a": many, "b": many}
    assert any(f"count for nothing: {2 * many}" in note for note in summary["notes"])
    page = Path("out/report.html").read_text()
    assert "3 organs" in page and '"bits": true' in page and "enhancing" in page
    scoring.verify(Path("out/summary.json"))
    assert "holds" in capsys.readouterr().out
    nib.save(nib.Nifti1Image(maps[0].astype(np.uint8), np.diag([1, 1, 2, 1])), "pred/a.nii.gz")
    with pytest.raises(CasesFailedError):
        scoring.verify(Path("out/summary.json"))


def test_regions_of_named_classes(place):
    named = {"labels": {"oedema": 1, "necrosis": 2, "enhancing": 3}, "ignore": 4}
    named["regions"] = {"whole": ["oedema", "necrosis", 3], "core": [2, "enhancing"], "enhancing": [3]}
    of_names = evaluate(json.dumps(named))
    assert of_names["labels"] == evaluate()["labels"]
    assert of_names["class_values"] == {"oedema": 1, "necrosis": 2, "enhancing": 3}


def test_regions_of_a_recipe(place):
    """Raw values that differ from class ids, several that are ignored, and a region written as 9."""
    Path("recipe.yaml").write_text("""
id: made
title: made
source: made
licence: made
modality: MR
layout: pairs
image: "images/{case}.nii.gz"
label: "ref/{case}.nii.gz"
classes: [background, oedema, necrosis, enhancing]
label_map: {background: 0, oedema: 10, necrosis: 20, enhancing: 30}
ignore: [4, 5]
regions:
  whole: {of: [oedema, necrosis, enhancing], value: 9}
  core: [necrosis, enhancing]
  enhancing: [enhancing]
intensity: {window: [0, 1]}
splits: {seed: 0, val: 0.2, test: 0.2}
""")
    before = evaluate()
    for file in Path("ref").iterdir():
        voxels = nib.load(file).get_fdata().astype(np.uint8)
        raw = np.array([0, 10, 20, 30, 4], np.uint8)[voxels]
        raw[0, 0, 0] = 5
        nib.save(nib.Nifti1Image(raw, np.diag([1, 1, 2, 1])), file)
    for file in Path("pred").iterdir():
        voxels = nib.load(file).get_fdata().astype(np.uint8)
        nib.save(nib.Nifti1Image(np.where(voxels == 1, 9, voxels), np.diag([1, 1, 2, 1])), file)
    after = evaluate("recipe.yaml")
    assert after["labels"] == before["labels"]
    assert after["ignored_voxels"]["a"] == before["ignored_voxels"]["a"] + 1
    assert after["ignored_label"] == {"ignore": 255}
    scoring.verify(Path("out/summary.json"))


@pytest.mark.parametrize("reference", ["raw", "raw/labels"])
def test_a_mask_file_for_each_structure(place, reference):
    """They may overlap: each is scored whole, against a label map as far as that goes."""
    Path("recipe.yaml").write_text("""
id: made
title: made
source: made
licence: made
modality: MR
layout: pairs
image: "images/{case}.nii.gz"
label: {liver: "labels/{case}/liver.nii.gz", lesion: "labels/{case}/lesion.nii.gz"}
overlapping: true
classes: [background, liver, lesion]
intensity: {window: [0, 1]}
splits: {seed: 0, val: 0.2, test: 0.2}
""")
    liver, lesion = np.zeros((2, 9, 8, 7), np.uint8)
    liver[1:7, 1:7, 1:6], lesion[3:5, 3:5, 2:4] = 1, 255
    Path("raw/labels/a").mkdir(parents=True)
    for name, mask in (("liver", liver), ("lesion", lesion)):
        nib.save(nib.Nifti1Image(mask, np.eye(4)), f"raw/labels/a/{name}.nii.gz")
    for file in Path("pred").iterdir():
        file.unlink()
    nib.save(nib.Nifti1Image(np.where(lesion, 2, liver).astype(np.uint8), np.eye(4)), "pred/a.nii.gz")
    options = scoring.Options(workers=1)
    given = ([Path("pred")], Path(reference), "recipe.yaml", Path("out"))
    scoring.evaluate(*given, images=None, options=options)
    summary = json.loads(Path("out/summary.json").read_text())
    found = {name: each["dice"]["mean"] for name, each in summary["labels"].items()}
    assert found == {"liver": dice(liver > 0, (liver > 0) & (lesion == 0)), "lesion": 1}
    assert list(summary["inputs"]["a"]["reference_masks"]) == ["liver", "lesion"]
    scoring.verify(Path("out/summary.json"))
    Path("raw").rename("moved")
    scoring.verify(Path("out/summary.json"), reference=Path("moved/labels"))
    Path("moved/labels/b").mkdir()
    nib.save(nib.Nifti1Image(liver, np.eye(4)), "moved/labels/b/liver.nii.gz")
    nib.save(nib.Nifti1Image(liver, np.eye(4)), "pred/b.nii.gz")
    with pytest.raises(CasesFailedError, match="case 'b' has no mask of lesion"):
        scoring.evaluate([Path("pred")], Path("moved"), "recipe.yaml", Path("o"), images=None, options=options)
    assert json.loads(Path("o/summary.json").read_text())["cases"] == 1


def test_which_of_several_channels_is_shown(place):
    """A file for each channel, and a 4-D one."""
    Path("images").mkdir()
    scan = np.arange(14 * 13 * 6, dtype=np.int16).reshape(14, 13, 6)
    affine = np.diag([1, 1, 2, 1])
    for channel in range(2):
        nib.save(nib.Nifti1Image(scan * (channel + 1), affine), f"images/a_000{channel}.nii.gz")
    nib.save(nib.Nifti1Image(np.stack([scan, scan], axis=-1), affine), "images/b.nii.gz")
    given = ([Path("pred")], Path("ref"), REGIONS, Path("out"))
    options = scoring.Options(workers=1)
    scoring.evaluate(*given, images=Path("images"), options=options, channel=1)
    page = Path("out/report.html").read_text()
    assert "the first of 2 channels" in page and "image not shown" not in page
    inputs = json.loads(Path("out/summary.json").read_text())["inputs"]
    assert [Path(inputs[case]["image"]).name for case in "ab"] == ["a_0001.nii.gz", "b.nii.gz"]
