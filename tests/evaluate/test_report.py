"""report.html: whole, offline, small, honest about what failed, with pictures the right way round."""

import base64
import io
import json
import re

import nibabel as nib
import numpy as np
import pytest
from page_parser import read_page
from PIL import Image

from dsnet_med.errors import InputError
from dsnet_med.evaluate import overlay
from dsnet_med.evaluate.case_view import view_of
from dsnet_med.evaluate.pairing import find_images, pair_folders
from dsnet_med.evaluate.results import write_results
from dsnet_med.evaluate.score_folders import evaluate_pairs
from dsnet_med.evaluate.summary import summarise
from dsnet_med.evaluate.worst_place import worst_place
from dsnet_med.organs import organ_of

NAMES = {1: "left <b>kidney</b>", 2: "spleen"}
PROTOCOLS = ("strict", "transunet", "dpcnet", "monai")


def save(path, voxels, spacing=(0.5, 1.0, 4.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag((*spacing, 1.0))), path)


@pytest.fixture
def evaluated(tmp_path):
    """Three cases, one of them unreadable, scored under every protocol, with images for one."""
    rng = np.random.default_rng(0)
    for case in ("one", "two", "bad"):
        reference = np.zeros((40, 20, 5), np.uint8)
        reference[4:20, 3:12, 1:4], reference[24:30, 10:15, 2] = 1, 2
        save(tmp_path / "r" / f"{case}.nii.gz", reference)
        prediction = np.roll(reference, 2, axis=0)
        prediction[prediction == (2 if case == "two" else 99)] = 0
        save(tmp_path / "p" / f"{case}.nii.gz", prediction)
    save(tmp_path / "i" / "one.nii.gz", rng.normal(40, 9, (40, 20, 5)).astype(np.float32))
    (tmp_path / "p" / "bad.nii.gz").write_text("a text file")
    pairs, missing, failures, *_ = pair_folders(tmp_path / "p", tmp_path / "r")
    scores = list(evaluate_pairs(pairs, NAMES, protocols=PROTOCOLS))
    summary = summarise(scores, NAMES, PROTOCOLS, missing=missing, failures=failures, rule="ignore")
    return tmp_path, scores, summary


def parsed(out):
    return read_page((out / "report.html").read_text(encoding="utf-8"))


def test_the_report_is_one_offline_file(evaluated):
    tmp_path, scores, summary = evaluated
    out = tmp_path / "out"
    run = {"method": "fcn_dsm", "seed": 0, "learning_rate": float("nan")}
    write_results(out, scores, summary, NAMES, images=find_images(tmp_path / "i", ["one", "two"]), run=run)
    page = (out / "report.html").read_text(encoding="utf-8")
    without_pictures = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|//|@import|url\(", without_pictures)
    parser = parsed(out)
    pictures = [address for address in parser.addresses if address.startswith("data:image/png;base64,")]
    links = [address for address in parser.addresses if address not in pictures]
    assert len(pictures) == 2 * 5 + 2 * 3  # two cases, and the worst case of either organ
    assert {"cases.csv", "summary.json", "../p/one.nii.gz", "../r/two.nii.gz", "../i/one.nii.gz"} <= set(links)
    assert all((out / link).is_file() for link in links)
    words = " ".join(parser.words)
    for wanted in ("fcn_dsm", "bad", "not a readable NIfTI", "left <b>kidney</b>", "missed", *PROTOCOLS):
        assert wanted in words, wanted
    assert NAMES[1] not in page  # only escaped
    assert f"{summary['mean']['dice']:.3f}" in words
    assert len(page) < 400_000
    assert not list(out.glob(".*"))


def test_the_json_is_valid_and_null_stands_for_nothing(evaluated):
    tmp_path, scores, summary = evaluated
    write_results(tmp_path / "out", scores, summary, NAMES, run={"rate": float("nan"), "path": tmp_path})

    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads((tmp_path / "out" / "summary.json").read_text(), parse_constant=refuse)
    assert content["run"] == {"rate": None, "path": str(tmp_path)}
    assert content["protocols"]["dpcnet"]["mean"]["hd95_mm"] is None
    assert content["protocols"]["dpcnet"]["mean"]["hd95_voxels"] > 0


def test_one_csv_per_protocol(evaluated):
    tmp_path, scores, summary = evaluated
    write_results(tmp_path / "out", scores, summary, NAMES)
    heads = {path.name: path.read_text().splitlines()[0] for path in (tmp_path / "out").glob("*.csv")}
    voxels = {name for name, head in heads.items() if head.endswith(",note,hd95_voxels")}
    assert voxels == {"cases_transunet.csv", "cases_dpcnet.csv"}
    assert heads.keys() - voxels == {"cases.csv", "cases_monai.csv", "details.csv"}


@pytest.mark.parametrize("first", PROTOCOLS)
def test_every_protocol_can_lead_the_report(evaluated, first):
    tmp_path, scores, _ = evaluated
    summary = summarise(scores, NAMES, [first])
    write_results(tmp_path / "out", scores, summary, NAMES)
    assert first in " ".join(parsed(tmp_path / "out").words)


def test_an_image_on_another_grid_is_named_not_shown(evaluated):
    tmp_path, scores, _ = evaluated
    save(tmp_path / "i" / "one.nii.gz", np.zeros((40, 20, 4), np.float32))
    score = next(score for score in scores if score.case == "one")
    view = view_of([score], NAMES, tmp_path / "i" / "one.nii.gz")
    assert "image not shown" in view.note
    assert view.grey is None


def pixels(address):
    content = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), int)


def test_the_picture_is_radiological_and_in_proportion(tmp_path):
    # x grows to the patient's right and y to the front; a radiologist sees the patient's right at the left.
    labels = np.zeros((40, 20, 3), np.uint8)
    labels[30:38, 15:19, 1], labels[2:4, 1:3, 1] = 1, 2
    for role in "pr":
        save(tmp_path / role / "c.nii.gz", labels)
    score = next(evaluate_pairs(pair_folders(tmp_path / "p", tmp_path / "r")[0], NAMES))
    view = view_of([score], NAMES)
    place = view.worst()
    assert view.position(0, place) == "axial slice 2 of 3"
    panels = overlay.panels_of(view)
    assert [panel.words for panel in panels][:2] == ["Reference", "Prediction"]
    picture = pixels(overlay.drawn(view, panels[0], place, overlay.colours_of(NAMES)).picture)
    assert picture.shape[0] == picture.shape[1]  # 40 x 0.5 mm by 20 x 1 mm
    places = [
        np.argwhere((picture == organ_of(name).colour).all(axis=2)).mean(axis=0) for name in NAMES.values()
    ]
    # Label 1 lies to the right and in front of label 2: to the left of it and above it in the picture.
    assert places[0][0] < places[1][0]
    assert places[0][1] < places[1][1]


def test_the_difference_tells_the_kinds_apart():
    reference, prediction = np.array([[1, 1, 0, 2]]), np.array([[1, 0, 1, 1]])
    kinds, colours = overlay._difference(reference, prediction)
    assert kinds.tolist() == [[0, 1, 2, 3]]
    assert [colours[kind] for kind in (1, 2, 3)] == list(overlay.DIFFERENCES.values())


def test_the_worst_place():
    reference = np.zeros((4, 30, 30), np.uint8)
    reference[1, :4, :2], reference[3, 10:20, 10:20] = 1, 2

    def worst(prediction, only=None, plane=0):
        a, b = (each if only is None else each == only for each in (reference, prediction))
        return worst_place(a != b, a > 0, (4, 1, 1), plane)

    assert worst(reference)[0] == 3  # nothing differs: where most is labelled
    assert worst(reference, only=1)[0] == 1
    lacking = np.where(reference == 2, 0, reference)
    k, row, column = worst(lacking)
    assert k == 3
    assert 10 < row < 19 and 10 < column < 19  # amid what is missing
    assert worst(lacking, only=1)[0] == 1  # label 1 is right
    lacking[1] = 0
    assert worst(lacking, only=1)[0] == 1
    assert 10 <= worst(lacking, plane=2)[2] < 20
    assert worst(np.zeros_like(reference) + reference.max(), plane=1)[1] in range(30)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1), (1, -1, 1)])
def test_a_view_is_the_same_whichever_way_the_file_lies(tmp_path, flips):
    labels = np.zeros((24, 20, 12), np.uint8)
    labels[4:9, 3:8, 2:5], labels[14:20, 10:16, 6:11] = 1, 2
    affine = np.diag((1.0, 1.0, 3.0, 1.0))
    turned = labels[:: flips[0], :: flips[1], :: flips[2]]
    own = affine @ np.diag((*flips, 1.0))
    own[:3, 3] = [
        (n - 1) * affine[a, a] if flip < 0 else 0
        for a, (n, flip) in enumerate(zip(labels.shape, flips, strict=True))
    ]
    for role in "pr":
        (tmp_path / role).mkdir()
        nib.save(nib.Nifti1Image(turned, own), tmp_path / role / "c.nii.gz")
    score = next(evaluate_pairs(pair_folders(tmp_path / "p", tmp_path / "r")[0], NAMES))
    view = view_of([score], NAMES)
    z, y, x = (start + np.arange(n) for start, n in zip(view.start, view.shape, strict=True))
    # from inferior, from anterior, from the patient's right
    wanted = labels[::-1, ::-1].transpose(2, 1, 0)[np.ix_(z, y, x)]
    assert np.array_equal(view.maps[0], wanted)
    assert view.whole == (12, 20, 24)
    assert view.spacing_mm == (3, 1, 1)


def test_a_file_that_changed_since_is_not_drawn(evaluated):
    tmp_path, scores, summary = evaluated
    save(tmp_path / "p" / "one.nii.gz", np.zeros((40, 20, 5), np.uint8))
    write_results(tmp_path / "out", scores, summary, NAMES)
    assert "not shown: one: its files changed since they were scored" in " ".join(
        parsed(tmp_path / "out").words
    )


def test_strips_show_every_counted_case(evaluated):
    tmp_path, scores, _ = evaluated
    write_results(tmp_path / "out", scores, summarise(scores, NAMES, ["monai"]), NAMES)
    page = (tmp_path / "out" / "report.html").read_text()
    strips = re.findall(r'<svg class="strip".*?</svg>', page, re.DOTALL)
    marks = [re.findall(r'class="(dot[ a-z]*)" (?:c?x="([\d.]+)"|d=)', strip) for strip in strips]
    # Dice of either organ, and HD95: the organ missed in one case has none there.
    assert [len(each) for each in marks] == [2, 2, 2, 1]
    assert [sum("bad" in kind for kind, _ in each) for each in marks] == [0, 0, 1, 0]


def test_images_are_found_by_the_end_of_their_names(tmp_path):
    for name in ("img0001.nii.gz", "0002.nii.gz", "a0003.nii.gz", "b0003.nii.gz", "0004_0000.nii.gz"):
        (tmp_path / name).touch()
    found = find_images(tmp_path, ["0001", "0002", "0003", "0004", "0005"])
    assert {case: path.name for case, path in found.items()} == {
        "0001": "img0001.nii.gz",
        "0002": "0002.nii.gz",
        "0004": "0004_0000.nii.gz",
    }


def test_an_output_that_cannot_be_written(evaluated):
    tmp_path, scores, summary = evaluated
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="cannot write"):
        write_results(tmp_path / "out", scores, summary, NAMES)
