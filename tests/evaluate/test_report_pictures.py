"""What reports show of cases: views, slices packed into a page, volumes, axes that fit, pairs."""

import base64
import io
import json
import re
import zlib
from math import nan

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from dsnet_med.cli.scoring import Looks, Options, evaluate, parsed_window
from dsnet_med.errors import InputError
from dsnet_med.evaluate import nsd
from dsnet_med.evaluate.agreement import agreement
from dsnet_med.evaluate.case_view import CaseView, view_of
from dsnet_med.evaluate.comparison import compare
from dsnet_med.evaluate.measurements import TOLERANCES_MM, measure_case
from dsnet_med.evaluate.pairing import pair_folders
from dsnet_med.evaluate.plots import paired
from dsnet_med.evaluate.results import write_comparison, write_results
from dsnet_med.evaluate.score_folders import CaseScore, evaluate_pairs
from dsnet_med.evaluate.stacks import size_of, stack_of
from dsnet_med.evaluate.strips import distance_axis, share_axis, strip
from dsnet_med.evaluate.summary import summarise
from dsnet_med.evaluate.verify import compared_otherwise, differences, read_claim, read_comparison

NAMES = {1: "liver", 2: "spleen"}


def decoded(address):
    return base64.b64decode(address.split(",")[1])


def a_view(shape=(9, 70, 60), plane=0):
    rng = np.random.default_rng(0)
    maps = [np.kron(rng.integers(0, 3, [-(-n // 10) for n in shape]), np.ones((10, 10, 10))) for _ in "ab"]
    maps = [each[tuple(map(slice, shape))].astype(np.uint8) for each in maps]
    grey = np.broadcast_to(np.linspace(0, 255, shape[0]).astype(np.uint8)[:, None, None], shape)
    return CaseView(tuple(maps), grey, (1.0, 1.0, 1.0), (0, 2, 3), shape, plane)


@pytest.mark.parametrize("plane", [0, 1, 2])
def test_a_stack_holds_every_slice(plane):
    view = a_view(plane=plane)
    stack = stack_of(view, 1e6)
    assert stack["shape"] == list(view.shape)  # nothing is larger than the page's pixels
    labels = np.frombuffer(zlib.decompress(decoded(stack["labels"])), np.uint8)
    turned = [np.moveaxis(each, plane, 0) for each in view.maps]
    assert np.array_equal(labels.reshape(2, *turned[0].shape), turned)
    sheet = np.asarray(Image.open(io.BytesIO(decoded(stack["sheets"][0]))), int)
    height, width = turned[0].shape[1:]
    for place, wanted in enumerate(np.moveaxis(view.grey, plane, 0)):
        y, x = place // stack["columns"] * stack["tile"][0], place % stack["columns"] * stack["tile"][1]
        assert np.abs(sheet[y : y + height, x : x + width] - wanted).mean() < 4


def test_a_stack_takes_no_more_than_it_may():
    whole = size_of(stack_of(a_view((40, 300, 200)), 1e9))
    for share in (0.5, 0.2):
        stack = stack_of(a_view((40, 300, 200)), share * whole)
        assert size_of(stack) <= share * whole
        assert stack["shape"][0] == 40  # fewer pixels, never fewer slices
        assert stack["shape"][1] < 288
    assert stack_of(a_view((40, 300, 200)), 100) is None
    assert stack_of(a_view(), 0) is None


def save(path, voxels, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag((2.0, 2.0, 5.0, 1.0)) if affine is None else affine), path)


@pytest.fixture
def scored(tmp_path):
    """Two predictions of six cases, with images: `a` errs by one voxel, `b` by two and misses one spleen."""
    for n in range(6):
        reference = np.zeros((30, 24, 5), np.uint8)
        reference[4 : 12 + n, 4:14, 1:4], reference[22:28, 15:21, 2] = 1, 2
        save(tmp_path / "r" / f"c{n}.nii.gz", reference)
        save(tmp_path / "a" / f"c{n}.nii.gz", np.roll(reference, 1, axis=0))
        missed = np.where(reference == 2, 0, reference) if n == 3 else reference
        save(tmp_path / "b" / f"c{n}.nii.gz", np.roll(missed, 2, axis=1))
        save(tmp_path / "i" / f"c{n}.nii.gz", 100 * reference.astype(np.int16) - 50)
    return {
        name: list(evaluate_pairs(pair_folders(tmp_path / name, tmp_path / "r")[0], NAMES))
        for name in ("a", "b")
    }


def test_the_window_is_what_was_asked_for(scored, tmp_path):
    (score, *_), image = scored["a"], tmp_path / "i" / "c0.nii.gz"
    view = view_of([score], NAMES, image, (-50, 150))
    assert set(np.unique(view.grey).tolist()) == {0, 127, 255}  # background, liver, spleen
    assert view.window == "window -50 to 150"
    assert "by the labelled voxels" in view_of([score], NAMES, image).window


@pytest.mark.parametrize("text", ["", "5", "a,b", "1,1", "2,1", "0,inf", "nan,1", "1,2,3"])
def test_a_window_is_two_numbers(text):
    assert parsed_window("-125,275") == (-125, 275)
    with pytest.raises(InputError, match="wanted the intensities shown black and white"):
        parsed_window(text)


def test_volumes_agree_as_bland_and_altman_have_it(scored):
    # A voxel is 0.02 ml. The spleen of `b` is missed once: its 36 voxels are 0.72 ml.
    found = agreement(scored["b"], NAMES)
    assert found["liver"]["bias_ml"] == 0
    spleen = found["spleen"]
    assert spleen["n"] == 6
    assert spleen["reference_ml"] == pytest.approx(0.72)
    assert spleen["bias_ml"] == pytest.approx(-0.12)
    deviation = 0.72 / 6**0.5  # of one value among six, over n - 1
    assert spleen["sd_ml"] == pytest.approx(deviation)
    assert spleen["limits_ml"] == pytest.approx((-0.12 - 1.96 * deviation, -0.12 + 1.96 * deviation))
    assert agreement(scored["b"][:1], NAMES)["spleen"]["limits_ml"] is None
    assert agreement([], NAMES)["spleen"] | {"n": 0} == agreement([], NAMES)["liver"]


def test_nsd_at_several_tolerances():
    rng = np.random.default_rng(1)
    reference = (rng.random((20, 20, 9)) > 0.8).astype(np.uint8)
    reference[2:12, 2:12, 2:6] = 1
    prediction = np.roll(reference, 3, axis=0)
    (measure, missed) = measure_case(reference, prediction, (0.7, 0.9, 2.5), NAMES).measures
    wanted = [nsd(reference == 1, prediction == 1, (0.7, 0.9, 2.5), each) for each in TOLERANCES_MM]
    assert measure.nsd_at == pytest.approx(wanted)
    assert list(measure.nsd_at) == sorted(measure.nsd_at)
    assert missed.nsd_at == ()


def test_what_is_new_in_a_summary_is_verified(scored, tmp_path):
    summary = summarise(scored["b"], NAMES)
    at = summary["nsd_at_mm"]
    assert at["1"]["labels"]["spleen"] == pytest.approx(summary["labels"]["spleen"]["nsd"]["mean"])
    assert at["1"]["mean"] == pytest.approx(summary["mean"]["nsd"])
    assert at["10"]["labels"]["spleen"] == pytest.approx(5 / 6)  # missed once: 0 at any tolerance
    write_results(tmp_path / "out", scored["b"], summary, NAMES)
    rows = (tmp_path / "out" / "details.csv").read_text().splitlines()
    assert rows[0] == (
        "case,label,name,reference_ml,prediction_ml,difference_ml,nsd_1mm,nsd_2mm,nsd_3mm,nsd_5mm,nsd_10mm"
    )
    assert len(rows) == 13
    claim = read_claim(tmp_path / "out" / "summary.json")
    assert differences(claim, scored["b"]) == []
    claim.content["volumes"]["spleen"]["bias_ml"] += 0.1
    claim.content["nsd_at_mm"]["3"]["mean"] += 0.1
    found = differences(claim, scored["b"])
    assert len(found) == 2
    assert "volumes.spleen.bias_ml" in found[0]


def test_a_comparison_shows_where_predictions_differ(scored, tmp_path):
    comparison = compare(scored, NAMES)
    images = {f"c{n}": tmp_path / "i" / f"c{n}.nii.gz" for n in range(6)}
    for name, own in scored.items():
        write_results(tmp_path / "out" / name, own, summarise(own, NAMES), NAMES)
    write_comparison(tmp_path / "out", comparison, {}, scored, NAMES, images=images, window=(-50, 150))
    page = (tmp_path / "out" / "report.html").read_text()
    side_by_side = page[page.index("Side by side") : page.index("Protocol strict")]
    shown = re.findall(r"<h3>(c\d)</h3>", side_by_side)
    assert shown[0] == "c3"  # the spleen that only `b` missed
    assert len(shown) == 4
    plots = re.findall(r"<polyline", page[page.index("Protocol strict") :])
    assert len(plots) == 3 * 3 * 6  # measures, organs and their mean, cases
    stacks = re.findall(r'<script type="application/json" id="stack-\d">(.*?)</script>', page)
    assert [json.loads(each)["maps"] for each in stacks] == [3] * 4
    content = read_comparison(tmp_path / "out" / "comparison.json")
    assert set(content.content["images"]) == set(shown)
    assert compared_otherwise(content, scored) == []
    save(images["c3"], np.zeros((30, 24, 5), np.int16))
    (changed,) = compared_otherwise(content, scored)
    assert "c3.nii.gz: is not as it was" in changed


def test_a_page_without_room_has_pictures_alone(scored, tmp_path):
    write_results(tmp_path / "out", scored["a"], summarise(scored["a"], NAMES), NAMES, page_mb=0)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Pictures alone: 0 MB have no room" in page
    assert "data-stack" not in page
    assert page.count("<img") == 4 * 5 + 2 * 3


def test_axes_fit_the_values():
    axis = share_axis([0.91, 0.93, 0.955, 0.92])
    assert 0.85 <= axis.low <= 0.91 and 0.955 <= axis.high <= 1
    assert axis.ticks[0] == axis.low and axis.ticks[-1] == axis.high
    far = share_axis([0.91, 0.93, 0.92, 0.925, 0.915, 0.0])
    assert far.low > 0.8
    assert [dot["side"] for dot in strip([0.93, 0.0], far, zero_is_bad=True)["dots"]] == [0, -1]
    assert share_axis([0.91, 0.0], whole=True).low == 0
    for values in ([], [nan], [0.0], [1.0], [0.5, 0.5], [0.9999, 1.0]):
        axis = share_axis(values)
        assert 0 <= axis.low < axis.high <= 1
        axis = distance_axis([100 * value for value in values])
        assert 0 <= axis.low < axis.high
    axis = distance_axis([2.2, 3.1, 4.0, 2.6])
    assert (axis.low, axis.high) == (2.0, 5.0) or (axis.low, axis.high) == (2.0, 7.0)
    assert len({label["words"] for label in axis.labels}) == len(axis.labels) >= 2


def test_lines_from_prediction_to_prediction():
    values = {"one-masks": [0.8, 0.7, nan, 0.5], "two-masks": [0.9, 0.6, 0.9, 0.5]}
    plot = paired(values, ["a", "b", "c", "d"], higher_is_better=True)
    assert [line["kind"] for line in plot["lines"]] == ["gain", "loss", "same"]  # c has no value under one
    assert plot["words"] == "two-masks better in 1, worse in 1, 1 equal"
    assert [short for _, short, _ in plot["columns"]] == ["one", "two"]
    assert paired(values, "abcd", higher_is_better=False)["lines"][0]["kind"] == "loss"
    assert paired({"a": [nan], "b": [1.0]}, ["c"], higher_is_better=True) == {}


def test_a_case_without_files_has_a_line_not_a_picture(tmp_path):
    measures = measure_case(np.eye(4, dtype=int)[None], np.eye(4, dtype=int)[None], (1, 1, 1), NAMES).measures
    scores = [CaseScore("c", tmp_path, tmp_path, measures=measures, shape=(1, 4, 4))]
    write_results(tmp_path / "out", scores, summarise(scores, NAMES), NAMES)
    assert "not shown: c: was not scored from files" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("labels", "given", "said"),
    [
        ("synapse", None, "window -125 to 275"),
        ('{"1": "aorta", "2": "gallbladder"}', None, "by the labelled voxels"),
        ('{"1": "aorta", "2": "gallbladder"}', {"recipe": "synapse"}, "window -125 to 275"),
        ('{"1": "aorta", "2": "gallbladder"}', {"recipe": "of my own"}, "by the labelled voxels"),
        ("synapse", (-10, 30), "window -10 to 30"),
    ],
)
def test_the_window_is_the_recipes(scored, tmp_path, labels, given, said):
    if isinstance(given, dict):
        (tmp_path / "a" / "run.json").write_text(json.dumps(given))
    for role in "ra":
        (tmp_path / role / "labels.json").write_text('{"1": "aorta", "2": "gallbladder"}')
    looks = Looks(given) if isinstance(given, tuple) else None
    args = ([tmp_path / "a"], tmp_path / "r", labels, tmp_path / "out")
    evaluate(*args, images=tmp_path / "i", options=Options(workers=1), looks=looks)
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"; {said}</span>" in re.sub(r"greys from \S+ to \S+, ", "", page)
