"""The protocols: strict's promise, MONAI's and DPC-Net's results, and what score_case refuses."""

import json
import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_masks import border, grids, label_maps, masks, surface_distances

from dsnet_med.errors import InputError
from dsnet_med.evaluate import dice, hd95, score_case
from dsnet_med.evaluate.measurements import measure_case
from dsnet_med.evaluate.pooled_volumes import borders_of_case, measure_pooled, pooled_borders
from dsnet_med.evaluate.protocols import DPCNET, MONAI, STRICT, TRANSUNET, find_protocols, record
from dsnet_med.evaluate.score_folders import Pair, evaluate_pairs

NAMES = {1: "liver", 2: "spleen", 3: "aorta"}


def _records(reference, prediction, spacing, protocol, names=NAMES):
    measures = measure_case(reference, prediction, spacing, names, in_voxels=True).measures
    return [record(measure, protocol) for measure in measures]


def _means(records):
    return {metric: np.nanmean([getattr(row, metric) for row in records]) for metric in ("dice", "nsd")} | {
        metric: -np.nanmean([getattr(row, metric) for row in records]) for metric in ("hd95_mm", "assd_mm")
    }


@given(label_maps())
@settings(max_examples=60, deadline=None)
def test_score_case_equals_the_plain_functions(case):
    reference, prediction, spacing = case
    for row in score_case(reference, prediction, spacing, NAMES):
        pair = reference == row.label, prediction == row.label
        assert row.name == NAMES[row.label]
        assert (row.reference_voxels, row.prediction_voxels) == (pair[0].sum(), pair[1].sum())
        assert row.dice == pytest.approx(dice(*pair), nan_ok=True)
        if pair[0].any() and pair[1].any():
            assert row.hd95_mm == pytest.approx(hd95(*pair, spacing), abs=1e-9)


@given(label_maps(), st.sampled_from(list(NAMES)))
@settings(max_examples=80, deadline=None)
def test_missing_an_organ_never_improves_strict(case, organ):
    reference, prediction, spacing = case
    reference.flat[0] = organ
    without = np.where(prediction == organ, 0, prediction)
    before = _means(score_case(reference, prediction, spacing, NAMES))
    after = _means(score_case(reference, without, spacing, NAMES))
    for metric, mean in before.items():
        assert after[metric] <= mean + 1e-9, metric


@pytest.mark.parametrize(("protocol", "metric"), [(MONAI, "hd95_mm"), (TRANSUNET, "hd95_voxels")])
def test_missing_an_organ_improves_other_protocols(protocol, metric):
    # The reason why strict is the default: losing a badly segmented organ makes these means smaller.
    reference = np.zeros((1, 20, 20), np.uint8)
    reference[0, 2:6, 2:6], reference[0, 10:14, 2:6] = 1, 2
    found = np.where(reference == 2, 0, np.roll(reference, 1, axis=2))
    found[0, 10:14, 9:13] = 2
    lost = np.where(found == 2, 0, found)
    names = {1: "near", 2: "far"}
    means = [
        np.nanmean([getattr(row, metric) for row in _records(reference, mask, (1, 1, 1), protocol, names)])
        for mask in (found, lost)
    ]
    assert means[1] < means[0]


@pytest.mark.parametrize(
    ("protocol", "missed", "invented", "absent"),
    [
        (STRICT, (0, "diagonal"), (0, "diagonal"), (math.nan, math.nan)),
        (TRANSUNET, (0, 0), (1, 0), (0, 0)),
        (DPCNET, (0, 0), (1, 0), (0, 0)),
        (MONAI, (0, math.nan), (math.nan, math.nan), (math.nan, math.nan)),
    ],
)
def test_what_empty_masks_score(protocol, missed, invented, absent):
    reference, prediction = np.zeros((1, 3, 2), int), np.zeros((1, 3, 2), int)
    reference[0, 0, 0], prediction[0, 2, 0] = 1, 2
    rows = _records(reference, prediction, (12, 1, 2), protocol)
    diagonal = math.sqrt(12**2 + (3 * 1) ** 2 + (2 * 2) ** 2)
    for row, (overlap, distance) in zip(rows, (missed, invented, absent), strict=True):
        wanted = diagonal if distance == "diagonal" else distance
        assert (row.dice, row.nsd) == pytest.approx((overlap, overlap), nan_ok=True)
        assert (row.hd95_mm, row.assd_mm) == pytest.approx((wanted, wanted), nan_ok=True)
        assert ("not counted" in row.note) == math.isnan(overlap)
    assert [row.note.split()[0] for row in rows] == ["missed:", "invented:", "absent"]


@given(masks(ndim=3), st.sampled_from(("as drawn", "missed", "invented", "absent")))
@settings(max_examples=60, deadline=None)
def test_monai_protocol_equals_monai(case, what):
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance

    reference, prediction, spacing = case[0].astype(np.uint8), case[1].astype(np.uint8), case[2]
    reference = reference * (what not in ("invented", "absent"))
    prediction = prediction * (what not in ("missed", "absent"))
    row = _records(reference, prediction, spacing, MONAI, {1: "organ"})[0]
    tensors = [torch.from_numpy(mask.astype(np.float32)[None, None]) for mask in (prediction, reference)]
    distance = compute_hausdorff_distance(
        *tensors, include_background=True, percentile=95, spacing=list(spacing)
    )
    assert row.dice == pytest.approx(float(compute_dice(*tensors, include_background=True)), nan_ok=True)
    assert row.hd95_mm == pytest.approx(float(distance), rel=1e-5, nan_ok=True)


@pytest.fixture(scope="module")
def reference(golden):
    case = np.load(golden / "metric_case.npz")
    names = {label: f"({letter})" for label, letter in enumerate("abcd", start=1)}
    return case, json.loads(str(case["meta"])), names


@pytest.mark.parametrize("name", ["A", "B"])
def test_transunet_reproduces_the_reference_per_case(reference, name):
    case, expected, names = reference
    rows = _records(case[f"gt{name}"], case[f"pred{name}"], (3, 0.7, 0.8), TRANSUNET, names)
    wanted = expected[f"case{name}"]
    assert [row.dice for row in rows] == pytest.approx(wanted["dice"], abs=1e-12)
    assert [row.hd95_voxels for row in rows] == pytest.approx(wanted["hd95"], abs=1e-9)
    assert round(100 * np.mean([row.dice for row in rows]), 2) == wanted["reported"]["mDice"]
    assert round(np.mean([row.hd95_voxels for row in rows]), 2) == wanted["reported"]["mHD95"]


def test_dpcnet_reproduces_the_reference_pooled(reference):
    case, expected, names = reference
    cases = []
    for name in "AB":
        arrays = case[f"gt{name}"], case[f"pred{name}"]
        measures = measure_case(*arrays, (1, 1, 1), names, in_voxels=True).measures
        cases.append((measures, borders_of_case(*arrays)))
    rows = [record(measure, DPCNET) for measure in measure_pooled(*zip(*cases, strict=True))]
    wanted = expected["pooled A+B (HEAD TestLoop)"]
    assert [row.dice for row in rows] == pytest.approx(wanted["dice"], abs=1e-12)
    assert [row.hd95_voxels for row in rows] == pytest.approx(wanted["hd95"], abs=1e-9)
    assert round(100 * np.mean([row.dice for row in rows]), 2) == wanted["reported"]["mDice"]
    assert round(np.mean([row.hd95_voxels for row in rows]), 2) == wanted["reported"]["mHD95"]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_the_stack_equals_the_volume_it_stands_for(depths, seed):
    rng = np.random.default_rng(seed)
    volumes = [rng.choice(4, (2, depth, 5, 4), p=(0.4, 0.3, 0.2, 0.1)).astype(np.uint8) for depth in depths]
    cases = [
        (measure_case(*pair, (1, 1, 1), NAMES, in_voxels=True).measures, borders_of_case(*pair))
        for pair in volumes
    ]
    whole = measure_case(*np.concatenate(volumes, axis=1), (1, 1, 1), NAMES, in_voxels=True).measures
    per_case = {"diagonal_mm": 0, "hd95_pooled_mm": 0, "hd95_max_mm": 0, "assd_mm": 0, "nsd": 0, "nsd_at": ()}
    for stacked, real in zip(measure_pooled(*zip(*cases, strict=True)), whole, strict=True):
        assert stacked.hd95_pooled_voxels == pytest.approx(real.hd95_pooled_voxels, abs=1e-9, nan_ok=True)
        assert replace(stacked, hd95_pooled_voxels=0, **per_case) == replace(
            real, hd95_pooled_voxels=0, **per_case
        )


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 2**32 - 1), st.floats(0.1, 0.98))
@settings(max_examples=60, deadline=None)
def test_border_voxels_of_the_stack(depths, seed, filled):
    rng = np.random.default_rng(seed)
    volumes = [(rng.random((depth, 5, 4)) < filled).astype(np.uint8) for depth in depths]
    borders = [borders_of_case(volume, volume).reference for volume in volumes]
    places = pooled_borders(borders, depths).get(1, np.empty((0, 3)))
    found = {tuple(place) for place in places}
    assert places.tolist() == sorted(places.tolist())  # the kernel wants them in the order of memory
    assert found == {tuple(place) for place in np.argwhere(border(np.concatenate(volumes) > 0))}


@given(label_maps())
@settings(max_examples=40, deadline=None)
def test_layout_and_integer_type_do_not_matter(case):
    reference, prediction, spacing = case
    plain = _records(reference, prediction, spacing, TRANSUNET)
    fortran = np.asfortranarray(reference.astype(np.int64)), prediction.astype(np.uint16), spacing
    turned = *(array.transpose(2, 0, 1)[::-1] for array in (reference, prediction)), spacing[2:] + spacing[:2]
    for same in (fortran, turned):
        for a, b in zip(plain, _records(*same, TRANSUNET), strict=True):
            assert (a.dice, a.hd95_mm, a.hd95_voxels, a.assd_mm, a.nsd) == pytest.approx(
                (b.dice, b.hd95_mm, b.hd95_voxels, b.assd_mm, b.nsd), abs=1e-9, nan_ok=True
            )


@given(label_maps(), grids(3))
@settings(max_examples=80)
def test_a_sheared_case_by_brute_force(case, steps):
    reference, prediction, _ = case
    longest = np.array(list(np.ndindex(2, 2, 2))) * reference.shape @ steps.T
    diagonal = np.linalg.norm(longest[:, None] - longest[None], axis=-1).max()
    by_monai, in_voxels = (_records(reference, prediction, steps, protocol) for protocol in (MONAI, TRANSUNET))
    for row, other, third in zip(
        score_case(reference, prediction, steps, NAMES), by_monai, in_voxels, strict=True
    ):
        pair = reference == row.label, prediction == row.label
        if row.note:
            penalty = diagonal if pair[0].any() or pair[1].any() else math.nan
            assert row.hd95_mm == pytest.approx(penalty, rel=1.1e-5, nan_ok=True)
            continue
        a, b = surface_distances(*pair, steps)
        both = np.concatenate([a, b])
        assert row.hd95_mm == pytest.approx(np.percentile(both, 95), rel=1.1e-5)
        assert row.assd_mm == pytest.approx(both.mean(), rel=1.1e-5)
        assert other.hd95_mm == pytest.approx(max(np.percentile(a, 95), np.percentile(b, 95)), rel=1.1e-5)
        assert row.hd95_mm <= diagonal
        if np.abs(both - 1).min() > 1e-4:
            assert row.nsd == pytest.approx((both <= 1).mean())
        assert third.hd95_voxels == pytest.approx(hd95(*pair, (1, 1, 1)))


def test_a_sheared_file_is_scored_on_its_own_grid(tmp_path):
    steps = np.array([[-1, 0, 0], [0, 1, 2.5], [0, 0, 18.75**0.5]])
    maps = np.zeros((2, 40, 60, 20), np.uint8)
    maps[0, 10:30, 10:50, 8] = maps[1, 10:30, 10:50, 9] = 1
    maps[0, 0, 0, 0] = 2
    for role, voxels in zip("rp", maps, strict=True):
        nib.save(nib.Nifti1Image(voxels, nib.affines.from_matvec(steps, (5, 6, 7))), tmp_path / f"{role}.nii")
    pair = Pair("a", tmp_path / "p.nii", tmp_path / "r.nii")
    (score,) = evaluate_pairs([pair], NAMES, protocols=("strict", "monai", "transunet"), nsd_tolerance_mm=4.5)
    plate, missed, _ = score.records("strict")
    assert (plate.hd95_mm, plate.nsd) == (pytest.approx(4.370, abs=5e-4), 0.95)
    assert score.records("monai")[0].hd95_mm == pytest.approx(plate.hd95_mm)
    assert score.records("transunet")[0].hd95_voxels == 1
    assert missed.hd95_mm == pytest.approx(np.linalg.norm(steps @ (-40, 60, 20)))


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (3.0, 0.7, 0.7)])
def test_voxel_distances_do_not_know_the_spacing(spacing):
    reference, prediction = np.zeros((2, 4, 9, 9), np.uint8)
    reference[1:3, 2:5, 2:5] = prediction[1:4, 3:6, 5:9] = 1
    row = _records(reference, prediction, spacing, TRANSUNET, {1: "organ"})[0]
    assert row.hd95_voxels == pytest.approx(hd95(reference, prediction, (1, 1, 1)))
    assert row.hd95_mm == pytest.approx(hd95(reference, prediction, spacing))


@pytest.mark.parametrize(
    ("reference", "prediction", "words"),
    [
        ([[0, 1]], [[0, 9]], "prediction holds label 9, which is none of 1, 2, 3"),
        ([[0, 7]], [[0, 1]], "reference holds label 7"),
        ([[0, 1]], [[0, -1]], "prediction holds the label -1"),
        ([[0, 1]], [[0, 70000]], "prediction holds the label 70000"),
        ([[0, 1]], [[0.0, 1.0]], "prediction is float64, wanted integers"),
        ([[0, 1]], [[0, 1], [0, 1]], "shape"),
        ([0, 1], [0, 1], "2-D or 3-D"),
    ],
)
def test_score_case_refuses(reference, prediction, words):
    with pytest.raises(InputError, match=words):
        score_case(np.array(reference), np.array(prediction), (1, 1), NAMES)


@pytest.mark.parametrize(
    "labels", [{}, {0: "background"}, {1: "a", 2: "a"}, {1: "a", "1": "b"}, {1: 2}, {-1: "a"}]
)
def test_labels_that_make_no_sense(labels):
    with pytest.raises(InputError, match="label"):
        score_case(np.zeros((2, 2), int), np.zeros((2, 2), int), (1, 1), labels)


@pytest.mark.parametrize("labels", [{1: "a"}, {"1": "a", "0": "background"}, {"a": 1, "background": 0}])
def test_labels_in_any_of_their_forms(labels):
    assert [row.name for row in score_case(np.eye(2, dtype=int), np.eye(2, dtype=bool), (1, 1), labels)] == [
        "a"
    ]


def test_unknown_protocol():
    with pytest.raises(InputError, match="did you mean 'strict'"):
        find_protocols(["strikt"])
    with pytest.raises(InputError, match="no protocol"):
        find_protocols([])
    assert find_protocols(["monai", "strict", "monai"]) == (MONAI, STRICT)
