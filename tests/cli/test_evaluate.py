"""What `evaluate` counts, what it takes values for, and whose files it replaces; called as the command does."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from dsnet_med.cli import scoring
from dsnet_med.errors import CasesFailedError, InputError

AFFINE = np.diag((2.0, 2.0, 2.0, 1.0))
DIAGONAL = float(np.linalg.norm([24, 20, 16]))


def save(path: Path, voxels, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(voxels, np.uint8), affine), path)


def organs(*values):
    """A box for each value, apart from each other."""
    voxels = np.zeros((12, 10, 8), np.uint8)
    for place, value in enumerate(values):
        voxels[3 * place : 3 * place + 2, 2:7, 2:6] = value
    return voxels


@pytest.fixture
def four(tmp_path, monkeypatch):
    """Four cases of two organs: three predicted as they are, one where nothing was found (mean Dice 0.75)."""
    monkeypatch.chdir(tmp_path)
    for case in "abcd":
        save(Path(f"ref/{case}.nii.gz"), organs(1, 2))
        save(Path(f"pred/{case}.nii.gz"), organs(*() if case == "d" else (1, 2)))
    Path("labels.json").write_text('{"1": "liver", "2": "spleen"}')
    return tmp_path


def run(*predictions, labels="labels.json", out="out", images=None, cases=None, overwrite=False, **options):
    scoring.evaluate(
        [Path(folder) for folder in predictions or ("pred",)],
        Path("ref"),
        labels,
        Path(out),
        images=images,
        cases=cases,
        overwrite=overwrite,
        options=scoring.Options(workers=1, **options),
    )


def evaluate(*predictions, out="out", **how):
    run(*predictions, out=out, **how)
    return summary(out)


def summary(out="out"):
    return json.loads((Path(out) / "summary.json").read_text())


def holds(out="out"):
    scoring.verify(Path(out) / "summary.json", prediction=None, reference=None, workers=1)


def test_a_missing_prediction_never_improves_a_strict_score(four, capsys):
    whole = evaluate()["mean"]
    assert (whole["dice"], whole["hd95_mm"]) == (0.75, DIAGONAL / 4)
    Path("pred/d.nii.gz").unlink()
    with pytest.raises(
        InputError, match=r"1 of 4 references .* no prediction in pred: d; .*--cases.*--missing"
    ):
        evaluate()
    zero = evaluate(missing="zero")
    assert zero["mean"] == whole
    assert (zero["cases"], zero["labels"]["liver"]["dice"]["n"], zero["missed"]) == (4, 4, 2)
    assert zero["missing"]["counted_as_missed"] == {"d": "no prediction"}
    assert "all 4 cases; 1 of them without a usable prediction" in zero["headline"]
    assert Path("out/cases.csv").read_text().count("\nd,") == 2
    holds()
    capsys.readouterr()
    ignored = evaluate(missing="ignore")
    assert (ignored["mean"]["dice"], ignored["cases"]) == (1, 3)
    assert ignored["headline"] == "3 of 4 cases; left out, in no mean: d"
    assert "3 of 4 cases" in capsys.readouterr().out
    assert "counting 3 of 4 cases; left out, in no mean: d" in Path("out/report.html").read_text()
    holds()


@pytest.mark.parametrize("damage", ["cut", "link", "grid", "value", "twice"])
def test_a_prediction_that_cannot_be_scored_never_improves_one_either(four, damage, capsys):
    file = Path("pred/d.nii.gz")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    elif damage == "link":
        file.unlink()
        file.symlink_to("not/fetched.nii.gz")
    elif damage == "grid":
        save(file, organs(1, 2), AFFINE * 1.5)
    elif damage == "value":
        save(file, organs(1, 2, 9))
    else:
        save(Path("pred/d.nii"), organs(1, 2))
    with pytest.raises(CasesFailedError) as failed:
        evaluate()
    assert list(failed.value.failures) == ["d"]
    refused = summary()
    assert refused["cases"] == 3
    assert all(value is None for value in refused["mean"].values())
    assert all(entry["dice"]["mean"] is None for entry in refused["labels"].values())
    assert refused["headline"].startswith("no mean: 1 case was not scored (d)")
    assert "no mean" in capsys.readouterr().out
    assert Path("out/cases.csv").read_text().count("\na,") == 2  # what is finished is kept
    holds()
    with pytest.raises(CasesFailedError):
        evaluate(missing="ignore")
    assert (summary()["mean"]["dice"], summary()["cases"]) == (1, 3)
    holds()
    with pytest.raises(CasesFailedError) as failed:
        evaluate(missing="zero")
    assert list(failed.value.failures) == ["d"]
    if damage != "twice":
        assert summary()["mean"]["dice"] == 0.75
    holds()


def test_a_reference_that_cannot_be_read_counts_nowhere_unless_told(four):
    Path("ref/d.nii.gz").write_bytes(b"no volume")
    for rule, mean in (("refuse", None), ("zero", None), ("ignore", 1)):
        with pytest.raises(CasesFailedError):
            evaluate(missing=rule)
        assert summary()["mean"]["dice"] == mean
        holds()


def test_the_cases_that_count(four):
    Path("pred/d.nii.gz").unlink()
    Path("test.txt").write_text("a\nb\n")
    found = evaluate(cases=Path("test.txt"))
    assert (found["cases"], found["mean"]["dice"], found["headline"]) == (2, 1, "all 2 cases")
    assert "2 cases of --cases" in found["notes"][0]
    Path("test.txt").write_text("a\nd\n")
    with pytest.raises(InputError, match="1 of 2 references"):
        evaluate(cases=Path("test.txt"))
    holds()


def test_a_prediction_without_a_reference_leaves_the_mean_alone(four):
    save(Path("pred/stray.nii.gz"), organs(1))
    with pytest.raises(CasesFailedError, match=r"no reference for case 'stray' in ref, which holds a.nii.gz"):
        evaluate()
    assert summary()["mean"]["dice"] == 0.75
    holds()


def test_a_comparison_counts_the_same_cases_everywhere(four, capsys):
    for case in "abcd":
        save(Path(f"other/{case}.nii.gz"), organs(1))
    Path("pred/d.nii.gz").unlink()
    Path("other/a.nii.gz").unlink()
    with pytest.raises(InputError, match="1 of 4 references"):
        evaluate("pred", "other", out="both")
    run("pred", "other", out="both", missing="ignore")
    for name in ("pred", "other"):
        own = summary(f"both/{name}")
        assert (own["cases"], sorted(own["missing"]["left_out"])) == (2, ["a", "d"])
        assert set(own["inputs"]) == {"b", "c"}
        holds(f"both/{name}")
    comparison = json.loads(Path("both/comparison.json").read_text())
    assert comparison["left_out"] == {"a": "no prediction in other", "d": "no prediction in pred"}
    assert "a, no prediction in other" in capsys.readouterr().out
    assert "no prediction in pred" in Path("both/report.html").read_text()
    Path("other/b.nii.gz").write_bytes(b"no volume")
    with pytest.raises(CasesFailedError, match="comparison: not made"):
        run("pred", "other", out="refused", cases=_file("b\nc\n"))
    assert summary("refused/other")["mean"]["dice"] is None


def _file(text):
    Path("cases.txt").write_text(text)
    return Path("cases.txt")


def test_the_ignored_label_of_nnunet_counts_for_nothing(four):
    for case in "abcd":
        half = organs(1, 2)
        save(Path(f"pred/{case}.nii.gz"), half)
        half[:, 4:] = 7
        save(Path(f"ref/{case}.nii.gz"), half)
    Path("labels.json").write_text('{"labels": {"background": 0, "liver": 1, "spleen": 2, "ignore": 7}}')
    found = evaluate()
    assert list(found["labels"]) == ["liver", "spleen"]
    assert found["mean"]["dice"] == 1
    assert any("value 7 ('ignore') count for nothing" in note for note in found["notes"])
    holds()
    save(Path("pred/a.nii.gz"), organs(2, 1))  # wrong where it counts
    assert evaluate()["mean"]["dice"] == 0.75


RECIPE = """
id: mine
title: Mine
source: here
licence: mine
modality: CT
layout: pairs
image: images/{case}.nii.gz
label: labels/{case}.nii.gz
classes: [background, liver, spleen]
label_map: {background: [0, 3], liver: 2, spleen: 1}
intensity: {window: [-125, 275]}
splits: {seed: 0, val: 0.1, test: 0.2}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A data set whose own values, 2 liver and 1 spleen, are class ids the other way round."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    return "mine.yaml"


def scored(recipe, prediction, reference, where="ref", beside=None):
    for case in "ab":
        save(Path(f"pred/{case}.nii.gz"), organs(*prediction))
        save(Path(f"{where}/{case}.nii.gz"), organs(*reference))
    for role, labels in (beside or {}).items():
        (Path(role) / "labels.json").write_text(json.dumps(labels))
    scoring.evaluate(
        [Path("pred")], Path(where), recipe, Path("out"), images=None, options=scoring.Options(workers=1)
    )
    return summary()


CLASSES, RAW = {0: "background", 1: "liver", 2: "spleen"}, {2: "liver", 1: "spleen"}


def test_what_a_folder_says_of_itself_decides(recipe):
    for labels, reference in ((CLASSES, (1, 2)), (RAW, (2, 1))):
        found = scored(recipe, (1, 2), reference, beside={"ref": labels})
        assert found["mean"]["dice"] == 1
        assert any("references in ref" in note and "labels.json" in note for note in found["notes"])
    assert found["inputs"]["a"]["reference_map"] == {"0": 0, "1": 2, "2": 1, "3": 0}
    holds()
    assert scored(recipe, (2, 1), (2, 1), beside={"pred": RAW})["mean"]["dice"] == 1
    holds()
    with pytest.raises(InputError, match="calls the value 1 'kidney'"):
        scored(recipe, (1, 2), (1, 2), beside={"ref": {1: "kidney"}})


def test_the_whole_template_decides(recipe):
    found = scored(recipe, (1, 2), (2, 1), where="data/labels")
    assert found["mean"]["dice"] == 1
    assert any("mapped to its classes: a.nii.gz is the name" in note for note in found["notes"])


def test_values_decide_where_only_one_kind_has_them(recipe):
    assert scored(recipe, (1, 2), (2, 1, 3))["mean"]["dice"] == 1


def test_refused_where_nothing_tells(recipe):
    with pytest.raises(InputError, match="cannot tell whether these references hold class ids"):
        scored(recipe, (1, 2), (1, 2))


def test_the_same_values_on_both_sides_are_never_mapped_on_one(recipe):
    with pytest.raises(InputError, match=r"agrees with .* value for value \(mean Dice 1.00\)"):
        scored(recipe, (2, 1), (2, 1), where="data/labels")


def test_recipes_with_names_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(Path("ref/label0001.nii.gz"), organs(6, 1))  # Synapse's own numbers: liver and spleen
    save(Path("pred/img0001.nii.gz"), organs(5, 7))
    assert evaluate(labels="synapse")["mean"]["dice"] == 1
    save(Path("ref/img0001.nii.gz"), organs(5, 7))
    Path("ref/label0001.nii.gz").unlink()
    assert evaluate(labels="synapse")["mean"]["dice"] == 1


def test_files_of_others_are_not_replaced_unasked(four):
    out = Path("out")
    out.mkdir()
    for name in ("summary.json", "cases.csv", "report.html", "comparison.json"):
        (out / name).write_text('{"foreground_mean": {"Dice": 0.9}}')
        with pytest.raises(InputError, match=rf"{name} is there already"):
            evaluate()
        assert [path.name for path in out.iterdir()] == [name]
        (out / name).unlink()
    evaluate()
    evaluate()  # its own are
    (out / "cases.csv").write_text((out / "cases.csv").read_text() + "a note of somebody\n")
    with pytest.raises(InputError, match=r"cases.csv is there already, and was not written by evaluate or was"):
        evaluate()
    evaluate(overwrite=True)
    run("pred", "ref", out="out")
    assert {path.name for path in out.iterdir()} == {"pred", "ref", "comparison.json", "report.html"}
    evaluate()


def test_images_that_belong_to_no_case_are_refused(four):
    save(Path("scans/x.nii.gz"), organs(1))
    with pytest.raises(InputError, match=r"--images holds the image of no case .but x.nii.gz.*a_0000"):
        evaluate(images=Path("scans"))
    save(Path("scans/a_0000.nii.gz"), organs(1))
    evaluate(images=Path("scans"))


def test_doubts_about_the_files_are_said(four):
    for folder in ("ref", "pred"):
        image = nib.load(f"{folder}/a.nii.gz")
        image = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header)
        image.header["sform_code"] = image.header["qform_code"] = 0
        nib.save(image, f"{folder}/a.nii.gz")
    notes = evaluate()["notes"]
    assert any(note.startswith("a.nii.gz: ") and "neither sform nor qform" in note for note in notes)
    assert "neither sform nor qform" in Path("out/report.html").read_text()


def test_a_segmentation_that_names_its_values_otherwise(four):
    for case in "abcd":
        Path(f"pred/{case}.nii.gz").unlink()
        image = sitk.ReadImage(f"ref/{case}.nii.gz")
        for place, (value, name) in enumerate({1: "Liver", 2: "Milz"}.items()):
            image.SetMetaData(f"Segment{place}_LabelValue", str(value))
            image.SetMetaData(f"Segment{place}_Name", name)
        sitk.WriteImage(image, f"pred/{case}.seg.nrrd")
    found = evaluate()
    assert found["mean"]["dice"] == 1
    assert any("calls its value 2 'Milz', scored as 'spleen'" in note for note in found["notes"])
    assert not any("Liver" in note for note in found["notes"])
    image.SetMetaData("Segment1_Name", "liver")
    sitk.WriteImage(image, "pred/d.seg.nrrd")
    with pytest.raises(CasesFailedError, match="calls its value 2 'liver', the labels call it 'spleen'"):
        evaluate()


def test_a_folder_against_itself_is_said(four):
    assert any("scored against itself" in note for note in evaluate("ref")["notes"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.json", '{"1": "liver", "2": "spleen"}'),
        ("L.JSON", '\ufeff{"liver": 1, "spleen": 2}'),
        ("l.txt", "# organs\n1 liver\n2 spleen\n"),
        ("l.csv", "value,name\n1,liver\n2,spleen\n"),
        ("l.tsv", "1\tliver\n2\tspleen\n"),
        (None, '{"1": "liver", "2": "spleen"}'),
    ],
)
def test_labels_as_people_give_them(four, name, content):
    if name:
        Path(name).write_text(content, encoding="utf-8")
    assert list(evaluate(labels=name or content)["labels"]) == ["liver", "spleen"]
    if name:
        Path(name).write_bytes(content.removeprefix("\ufeff").encode("utf-16"))
        assert list(evaluate(labels=name)["labels"]) == ["liver", "spleen"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("1=liver", "labels.json"),
        ("liver,spleen", "labels.json"),
        ("ref", "labels.json"),
        ("l.txt", "labels.json"),
        ("Synapse", "did you mean 'synapse'"),
        ('{"1": "liver", "1": "spleen"}', "given twice"),
        ('{"liver": [1, 2], "ignore": 2}', "region 'liver' has the value 2, which is ignored"),
        ('{"liver": [], "spleen": 2}', "wanted a list of values"),
        ('{"labels": {"liver": 1}, "regions": {"whole": [1, 3]}}', "the value 3, which is none of 1"),
        ('{"labels": {"liver": 1}, "regions": {"whole": ["lever"]}}', "did you mean 'liver'"),
        ('{"labels": {"liver": 1}, "ignore": 1}', "the labels have 'liver'"),
        ('{"liver": 1, "background": 2}', "always 0"),
    ],
)
def test_labels_that_are_none(four, labels, words):
    Path("l.txt").write_text("liver\nspleen\n")
    with pytest.raises(InputError, match=words):
        evaluate(labels=labels)


def test_slices_of_several_sizes_are_told_on_the_spot(four, capsys):
    for folder in ("pred", "ref"):
        save(Path(f"{folder}/a.nii.gz"), organs(1, 2)[:, :-1])
    evaluate(protocols=("strict", "dpcnet"))
    assert "dpcnet: the slices of the cases differ in size" in capsys.readouterr().out


def test_label_files_of_the_data_set_on_both_sides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("ref", "pred"):
        save(Path(f"{folder}/label0001.nii.gz"), organs(6, 13))
    assert evaluate(labels="synapse13")["mean"]["dice"] == 1  # values that are class ids
    assert evaluate(labels="synapse", overwrite=True)["mean"]["dice"] == 1  # 13 is no class: raw values
    assert any("predictions in pred: taken as raw values" in note for note in summary()["notes"])


def test_the_hash_of_a_volume_of_two_files_covers_both(four):
    for case in "abcd":
        Path(f"pred/{case}.nii.gz").unlink()
        nib.save(nib.Nifti1Pair(organs(1, 2), AFFINE), f"pred/{case}.img")
    evaluate()
    voxels = bytearray(Path("pred/a.img").read_bytes())
    voxels[0] = 1
    Path("pred/a.img").write_bytes(voxels)
    with pytest.raises(CasesFailedError):
        holds()
