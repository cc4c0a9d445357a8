"""Folders of label maps: pairing, reading, checking and scoring, with bad files among good ones."""

import csv
import hashlib
import io
import json
import math
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from dsnet_med.errors import InputError
from dsnet_med.evaluate import score_case
from dsnet_med.evaluate.pairing import Pair, pair_folders
from dsnet_med.evaluate.results import write_results
from dsnet_med.evaluate.score_folders import evaluate_pairs, workers_for
from dsnet_med.evaluate.summary import COLUMNS, cases_csv, summarise
from dsnet_med.find import case_name
from dsnet_med.processes import on_cluster
from dsnet_med.volumes import read_labels

NAMES = {1: "ball", 2: "speck"}
AFFINE = np.diag((0.8, 0.9, 3.0, 1.0))


def write(path, voxels, affine=AFFINE, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(voxels, dtype), affine), path)


def ball(shift=0, speck=True):
    place = np.indices((16, 14, 6)) - np.array([8 + shift, 7, 3])[:, None, None, None]
    voxels = ((place * [[[[1]]], [[[1]]], [[[3]]]]) ** 2).sum(axis=0) < 30
    voxels = voxels.astype(np.uint8)
    voxels[1, 1, 1] = 2 * speck
    return voxels


@pytest.fixture
def folders(tmp_path):
    """Five cases: two good, a truncated file, another grid, a stray value."""
    prediction, reference = tmp_path / "prediction", tmp_path / "reference"
    for case in ("a", "b", "cut", "shape", "stray", "alone"):
        write(reference / f"{case}.nii.gz", ball())
    write(prediction / "a.nii.gz", ball(shift=1))
    write(prediction / "b.nii.gz", ball(speck=False))
    write(prediction / "cut.nii.gz", ball())
    whole = (prediction / "cut.nii.gz").read_bytes()
    (prediction / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    write(prediction / "shape.nii.gz", ball()[:-1])
    write(prediction / "stray.nii.gz", np.where(ball() == 2, 9, ball()))
    write(prediction / "orphan.nii.gz", ball())
    return prediction, reference


def evaluate(prediction, reference, protocols=("strict",), workers=1, rule="ignore", **options):
    pairs, missing, failures, orphans, _ = pair_folders(prediction, reference)
    scores = list(evaluate_pairs(pairs, NAMES, protocols=protocols, workers=workers, **options))
    counting = {"missing": missing, "failures": failures, "orphans": orphans, "rule": rule}
    return scores, summarise(scores, NAMES, protocols, **counting)


def test_pairing(folders):
    pairs, missing, failures, orphans, notes = pair_folders(*folders)
    assert [pair.case for pair in pairs] == ["a", "b", "cut", "shape", "stray"]
    assert pairs[0] == Pair("a", folders[0] / "a.nii.gz", folders[1] / "a.nii.gz")
    assert missing == {"alone": folders[1] / "alone.nii.gz"}
    assert list(orphans) == ["orphan"]
    assert "no reference" in orphans["orphan"]
    assert "which holds a.nii.gz, alone.nii.gz" in orphans["orphan"]
    assert (failures, notes) == ({}, [])


def test_pairing_by_names_of_the_data_set(tmp_path):
    write(tmp_path / "p" / "0001.nii.gz", ball())
    write(tmp_path / "r" / "label0001.nii.gz", ball())
    write(tmp_path / "r" / "other.nii.gz", ball())

    def reference_case(path):
        return case_name(path)[5:] if path.name.startswith("label") else None

    pairs, missing, failures, *_ = pair_folders(tmp_path / "p", tmp_path / "r", reference_case=reference_case)
    assert ([pair.case for pair in pairs], missing, failures) == (["0001"], {}, {})


def test_two_files_of_one_case_fail_that_case(folders):
    write(folders[0] / "a.nii", ball())
    pairs, missing, failures, *_ = pair_folders(*folders)
    assert "a" not in [pair.case for pair in pairs]
    assert "a" not in missing
    assert "two files" in failures["a"]


def test_two_single_files(folders):
    pairs, missing, failures, *_ = pair_folders(folders[0] / "a.nii.gz", folders[1] / "b.nii.gz")
    assert ([pair.case for pair in pairs], missing, failures) == (["a"], {}, {})
    assert next(evaluate_pairs(pairs, NAMES)).error is None


def test_missing_and_empty_folders(tmp_path, folders):
    with pytest.raises(InputError, match="no such folder"):
        pair_folders(tmp_path / "nowhere", folders[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \*.nii.gz"):
        pair_folders(folders[0], tmp_path / "empty")


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_cases_never_stop_the_others(folders, workers):
    scores, summary = evaluate(*folders, workers=workers)
    errors = {score.case: score.error for score in scores}
    assert [case for case, error in errors.items() if error is None] in (["a", "b"], ["b", "a"])
    assert str(folders[0] / "cut.nii.gz") in errors["cut"]
    assert "ended before" in errors["cut"]
    for words in (
        "shape (15, 14, 6) differs",
        str(folders[0] / "shape.nii.gz"),
        str(folders[1] / "shape.nii.gz"),
    ):
        assert words in errors["shape"]
    assert "label 9" in errors["stray"]
    assert [entry["case"] for entry in summary["failed"]] == ["cut", "orphan", "shape", "stray"]
    assert summary["cases"] == 2
    assert summary["references_without_prediction"] == ["alone"]


def test_an_unforeseen_error_fails_its_case_alone(folders, monkeypatch):
    def read(path, **_):
        if path == folders[0] / "a.nii.gz":
            raise RuntimeError("a surprise")
        return read_labels(path)

    monkeypatch.setattr("dsnet_med.segmentations.read_labels", read)
    scores, summary = evaluate(*folders)
    assert "RuntimeError: a surprise" in scores[0].error
    assert summary["cases"] == 1


def test_workers_change_nothing(folders):
    (one, first), (two, second) = evaluate(*folders), evaluate(*folders, workers=2)
    assert cases_csv(one, "strict") == cases_csv(two, "strict")
    assert first == second


def test_another_affine_is_an_error_that_names_both_files(folders):
    moved = AFFINE.copy()
    moved[:3, 3] = 5
    write(folders[0] / "a.nii.gz", ball(), moved)
    error = next(evaluate_pairs(pair_folders(*folders)[0], NAMES)).error
    assert "affine" in error
    assert all(str(folder / "a.nii.gz") in error for folder in folders)


def test_reference_map(folders):
    corner = np.zeros((16, 14, 6), np.uint8)
    corner[15, 13, 5] = 1
    write(
        folders[1] / "a.nii.gz",
        np.where(ball(shift=1) == 1, 6, 0) + 11 * (ball() == 2) + 40 * corner,
    )
    pairs = pair_folders(*folders)[0][:1]
    known = {0: 0, 6: 1, 11: 2, 40: 0}
    score = next(evaluate_pairs(pairs, NAMES, reference_map=lambda path: known))
    assert [row.dice for row in score.records()] == [1, 1]
    error = next(evaluate_pairs(pairs, NAMES, reference_map=lambda path: {0: 0, 6: 1})).error
    assert "label values 11" in error
    assert "a.nii.gz" in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocols": ["strikt"]}, "strict"),
        ({"workers": 0}, "workers"),
        ({"nsd_tolerance_mm": -1}, "tolerance"),
    ],
)
def test_wrong_arguments_are_refused_before_the_first_case(folders, options, words):
    with pytest.raises(InputError, match=words):
        evaluate_pairs(pair_folders(*folders)[0], NAMES, **options)


def test_the_summary_holds_the_means_of_the_cases(folders):
    _, summary = evaluate(*folders, protocols=("strict", "transunet", "monai"))
    plain = {
        case: score_case(ball(), mask, (0.8, 0.9, 3.0), NAMES)
        for case, mask in (("a", ball(shift=1)), ("b", ball(speck=False)))
    }
    for place, name in enumerate(NAMES.values()):
        values = [plain[case][place].dice for case in "ab"]
        found = summary["labels"][name]["dice"]
        assert found["mean"] == pytest.approx(np.mean(values))
        assert found["std"] == pytest.approx(np.std(values))
        assert (found["n"], found["median"]) == (2, pytest.approx(np.median(values)))
    means = [summary["labels"][name]["hd95_mm"]["mean"] for name in NAMES.values()]
    assert summary["mean"]["hd95_mm"] == pytest.approx(np.mean(means))
    assert (summary["missed"], summary["labels"]["speck"]["missed"]) == (1, 1)
    assert list(summary["protocols"]) == ["strict", "transunet", "monai"]
    # The missed speck: its diagonal under strict, 0 voxels under transunet, left out by monai.
    diagonal = math.sqrt((16 * 0.8) ** 2 + (14 * 0.9) ** 2 + (6 * 3) ** 2)
    assert max(plain["b"][1].hd95_mm, 0) == pytest.approx(diagonal)
    assert summary["protocols"]["transunet"]["labels"]["speck"]["hd95_voxels"]["mean"] == 0
    assert summary["protocols"]["monai"]["labels"]["speck"]["hd95_mm"]["n"] == 1


def test_the_summary_has_the_promised_shape(folders):
    _, summary = evaluate(*folders)
    assert {"protocol", "labels", "mean", "cases", "failed"} <= summary.keys()
    assert "protocols" not in summary
    for entry in summary["labels"].values():
        assert {"mean", "std", "n"} <= entry["dice"].keys() & entry["hd95_mm"].keys()
    assert {"dice", "hd95_mm"} <= summary["mean"].keys()
    hashes = summary["inputs"]["a"]
    assert len(hashes["prediction_sha256"]) == len(hashes["reference_sha256"]) == 64


def test_dpcnet_reproduces_the_reference_through_files(golden, tmp_path):
    case = np.load(golden / "metric_case.npz")
    expected = json.loads(str(case["meta"]))
    for name in "AB":
        for role, kind in (("p", "pred"), ("r", "gt")):
            # The reference's slices (D, H, W), inferior first, as a NIfTI volume (X, Y, Z).
            write(tmp_path / role / f"{name}.nii.gz", case[f"{kind}{name}"].transpose(2, 1, 0))
    names = {label: f"Dice ({letter})" for label, letter in enumerate("abcd", start=1)}
    pairs = pair_folders(tmp_path / "p", tmp_path / "r")[0]
    scores = list(evaluate_pairs(pairs, names, protocols=["dpcnet", "transunet"]))
    summary = summarise(scores, names, ["dpcnet", "transunet"])
    pooled = expected["pooled A+B (HEAD TestLoop)"]
    assert [summary["labels"][name]["dice"]["mean"] for name in names.values()] == pytest.approx(pooled["dice"])
    found = [summary["labels"][name]["hd95_voxels"]["mean"] for name in names.values()]
    assert found == pytest.approx(pooled["hd95"])
    per_case, published = summary["protocols"]["transunet"], expected["per-case mean (TestLoop before 1a889d2)"]
    # The reference rounds per-case values to two decimals first, so its means may be 0.01 off.
    assert 100 * per_case["mean"]["dice"] == pytest.approx(published["mDice"], abs=0.01)
    assert per_case["mean"]["hd95_voxels"] == pytest.approx(published["mHD95"], abs=0.01)
    for name in names.values():
        assert 100 * per_case["labels"][name]["dice"]["mean"] == pytest.approx(published[name], abs=0.01)


def test_dpcnet_refuses_slices_of_different_sizes(folders):
    write(folders[0] / "b.nii.gz", ball()[:-1])
    write(folders[1] / "b.nii.gz", ball()[:-1])
    _, summary = evaluate(*folders, protocols=("dpcnet",))
    assert summary["mean"]["dice"] is None
    assert "differ in size" in summary["note"]


def test_a_stack_knows_no_millimetres_not_even_of_what_is_missing(folders):
    _, summary = evaluate(*folders, protocols=("dpcnet",))
    assert summary["labels"]["speck"]["dice"]["mean"] is not None
    for metric in ("hd95_mm", "assd_mm", "nsd"):
        assert summary["mean"][metric] is None
        assert all(entry[metric]["mean"] is None for entry in summary["labels"].values())
    for case in "ab":  # missed everywhere, too
        write(folders[0] / f"{case}.nii.gz", np.zeros((16, 14, 6)))
    _, summary = evaluate(*folders, protocols=("dpcnet",))
    assert (summary["mean"]["hd95_mm"], summary["mean"]["nsd"]) == (None, None)
    assert (summary["mean"]["hd95_voxels"], summary["mean"]["dice"]) == (0, 0)


def test_cases_csv_has_the_promised_header(folders):
    scores, _ = evaluate(*folders)
    text = cases_csv(scores, "strict")
    assert (
        text.splitlines()[0]
        == "case,label,name,dice,hd95_mm,assd_mm,nsd,reference_voxels,prediction_voxels,note"
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["case"], row["label"]) for row in rows] == [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")]
    assert rows[3]["note"].startswith("missed")
    assert float(rows[3]["dice"]) == 0
    assert ",".join(COLUMNS) == text.splitlines()[0]


def test_a_run_in_which_every_case_fails_still_leaves_results(folders, tmp_path):
    for path in folders[0].iterdir():
        path.write_bytes(b"no")
    scores, summary = evaluate(*folders)
    write_results(tmp_path / "out", scores, summary, NAMES)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["mean"]["dice"] is None
    assert "Not scored" in (tmp_path / "out" / "report.html").read_text()


def assert_equals_medpy(row, reference, prediction, spacing):
    from medpy.metric import binary

    pair = prediction == row.label, reference == row.label
    assert (row.prediction_voxels, row.reference_voxels) == (pair[0].sum(), pair[1].sum())
    if pair[0].any() and pair[1].any():
        # medpy takes minutes on a whole volume; the crop leaves every border voxel and distance as it is.
        box = tuple(slice(places.min(), places.max() + 1) for places in np.nonzero(pair[0] | pair[1]))
        crop = pair[0][box], pair[1][box]
        assert row.hd95_mm == pytest.approx(binary.hd95(*crop, spacing), abs=1e-6)
        assert row.assd_mm == pytest.approx(binary.assd(*crop, spacing), abs=1e-6)
        assert row.dice == pytest.approx(binary.dc(*crop))


@pytest.mark.parametrize(("case", "shift"), [("prostate_00", (3, -2, 1)), ("prostate_24", (0, 9, 0))])
def test_real_anatomy_through_files_equals_medpy(volumes, tmp_path, case, shift):
    source = volumes / "prostate_labels" / "gt_segmentations" / f"{case}.nii.gz"
    image = nib.load(source)
    reference = np.asarray(image.dataobj).astype(np.uint8)
    prediction = np.roll(reference, shift, axis=(0, 1, 2))
    nib.save(nib.Nifti1Image(prediction, image.affine, image.header), tmp_path / f"{case}.nii.gz")
    pairs = pair_folders(tmp_path, source.parent)[0]
    score = next(evaluate_pairs(pairs, {1: "peripheral", 2: "transition"}))
    assert score.error is None
    assert sum(row.reference_voxels > 0 for row in score.records()) == len(np.unique(reference)) - 1
    for row in score.records():
        assert_equals_medpy(row, reference, prediction, score.spacing_mm)


def test_all_prostates_shifted_eroded_and_flipped_equal_medpy(volumes):
    from scipy.ndimage import grey_erosion

    files = sorted((volumes / "prostate_labels" / "gt_segmentations").glob("*.nii.gz"))
    assert len(files) == 16
    for path in files:
        volume = read_labels(path)
        reference = volume.voxels
        for prediction in (
            np.roll(reference, (5, -3, 1), (0, 1, 2)),
            grey_erosion(reference, 3),
            reference[::-1],
        ):
            for row in score_case(reference, prediction, volume.spacing_mm, {1: "peripheral", 2: "transition"}):
                assert_equals_medpy(row, reference, prediction, volume.spacing_mm)


def test_a_cluster_scores_the_same(folders):
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, processes=False, dashboard_address=None) as cluster:
        far, summary = evaluate(*folders, scheduler=cluster.scheduler_address)
    near, wanted = evaluate(*folders)
    assert summary == wanted
    assert cases_csv(far, "strict") == cases_csv(near, "strict")


def test_nrrd_and_metaimage_among_nifti(folders):
    import SimpleITK as sitk

    wanted, _ = evaluate(*folders)
    for case, suffix in (("a", ".nrrd"), ("b", ".mha")):
        for folder in folders:
            path = folder / f"{case}.nii.gz"
            sitk.WriteImage(sitk.ReadImage(str(path)), str(folder / f"{case}{suffix}"))
            path.unlink()
    scores, _ = evaluate(*folders)
    assert cases_csv(scores, "strict") == cases_csv(wanted, "strict")
    assert {path.prediction.suffix for path in scores if path.error is None} == {".nrrd", ".mha"}


def test_workers_are_as_many_as_cases_and_memory_allow(folders):
    pairs = pair_folders(*folders)[0]
    assert workers_for(pairs, 64) == len(pairs)
    assert workers_for(pairs, 2) == 2
    assert workers_for([], 2) == 1
    with (folders[1] / "a.nii").open("wb") as stream:
        stream.truncate(2**42)  # sparse
    assert workers_for([*pairs, Pair("huge", None, folders[1] / "a.nii")], 64) == 1
    assert workers_for([Pair("gone", None, folders[1] / "gone.nii.gz")], 64) == 1


def test_memory_is_said(folders):
    scores, _ = evaluate(*folders)
    assert all(score.peak_memory_bytes > 10**7 for score in scores if score.error is None)


def test_a_cluster_that_goes_away_loses_its_cases_alone(monkeypatch):
    from concurrent.futures import CancelledError

    import distributed

    class Future:
        def __init__(self, value):
            self.value = value

        def result(self):
            if isinstance(self.value, Exception):
                raise self.value
            return self.value

    class Client:
        def __init__(self, *arguments, **options): ...
        def __enter__(self):
            return self

        def __exit__(self, *details): ...
        def submit(self, work, item, pure):
            return Future(work(item))

    monkeypatch.setattr(distributed, "Client", Client)
    monkeypatch.setattr(distributed, "as_completed", list)
    outcomes = [1, CancelledError("scheduler-connection-lost"), OSError("closed"), 4]
    found = [result for _, result in on_cluster(lambda place: outcomes[place], range(4), "tcp://far")]
    assert found == [1, None, None, 4]


def test_the_hash_in_a_score_is_that_of_what_was_read(tmp_path, monkeypatch):
    """The prediction is exchanged as soon as it has been read."""
    prediction, reference = tmp_path / "prediction" / "a.nii.gz", tmp_path / "reference" / "a.nii.gz"
    write(prediction, ball(shift=1))
    write(reference, ball())
    then = hashlib.sha256(prediction.read_bytes()).hexdigest()

    def exchanging(path, **options):
        volume = read_labels(path, **options)
        write(path, ball(shift=2))
        return volume

    monkeypatch.setattr("dsnet_med.segmentations.read_labels", exchanging)
    (score,) = evaluate_pairs([Pair("a", prediction, reference)], NAMES)
    assert score.error is None
    assert score.prediction_sha256 == then


def test_geometry_that_was_guessed_for_a_mask_is_noted(tmp_path):
    prediction, reference = tmp_path / "prediction" / "a.nii.gz", tmp_path / "reference" / "a.nii.gz"
    write(prediction, ball(shift=1))
    write(reference, ball())
    for held, notes in (
        ({"unstated": ["the header gives no spacing: a guess"]}, 1),
        ({"unstated": []}, 0),
        ({"unstated": "text"}, 0),
        ({}, 0),
        ([], 0),
    ):
        prediction.with_name("a.json").write_text(json.dumps(held))
        (score,) = evaluate_pairs([Pair("a", prediction, reference)], NAMES)
        assert score.error is None
        assert len(score.notes) == notes
    prediction.with_name("a.json").write_text(json.dumps({"unstated": ["no spacing"]}))
    (score,) = evaluate_pairs([Pair("a", prediction, reference)], NAMES)
    assert score.notes == ("a.nii.gz: made of an image of which no spacing",)


def test_what_a_killed_evaluate_left_is_removed(folders, tmp_path):
    scores, summary = evaluate(*folders)
    leaving = "import os, sys; from pathlib import Path; from dsnet_med.files import staging\n"
    leaving += "with staging(Path(sys.argv[1])) as made: (made / 'cases.csv').touch(); os._exit(0)"
    subprocess.run([sys.executable, "-c", leaving, tmp_path / "out"], check=True)
    assert len(list((tmp_path / "out").iterdir())) == 1
    write_results(tmp_path / "out", scores, summary, NAMES)
    assert not list((tmp_path / "out").glob(".*"))
