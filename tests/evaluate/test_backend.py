"""The compiled passes and SciPy's, against each other and against brute force."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from random_masks import SPACINGS, border, grids

from dsnet_med.evaluate import backend, backend_scipy, hd95
from dsnet_med.evaluate.measurements import measure_case

ROOT = Path(__file__).parents[2]
# Without a C compiler there is one form; `.ci/run wheel` fails where the kernel does not compile.
_FORMS = {backend.NAME: backend.BACKEND, "scipy": backend_scipy}
FORMS = pytest.mark.parametrize("form", _FORMS.values(), ids=_FORMS)
NAMES = {1: "a", 2: "b", 300: "c"}


@st.composite
def volumes(draw, labels=(0, 1, 2)):
    """A pair of label maps (I, J, K): specks in a volume of one value, rows; sometimes values above 255."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 40)))
    wide = draw(st.booleans())
    values = st.sampled_from([*labels, 300] if wide else labels)
    pair = []
    for _ in range(2):
        # Filled with a label, single voxels carved out: border voxels that only one neighbour makes so.
        volume = draw(hnp.arrays(np.uint16, shape, elements=values, fill=st.just(draw(values))))
        low, high = sorted(draw(st.tuples(st.integers(0, shape[2]), st.integers(0, shape[2]))))
        volume[draw(st.integers(0, shape[0] - 1)), :, low:high] = draw(values)
        pair.append(volume if wide else volume.astype(np.uint8))
    return pair[0], pair[1]


@FORMS
@given(pair=volumes())
@settings(max_examples=80)
def test_survey_counts(form, pair):
    a, b = pair
    survey = form.survey(a, b)
    for label in NAMES:
        wanted = (a == label).sum(), (b == label).sum(), ((a == label) & (b == label)).sum()
        found = survey.voxels[label] if label < len(survey.voxels) else (0, 0, 0)
        assert tuple(found) == wanted
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        assert survey.differing[axis].tolist() == (a != b).sum(axis=others).tolist()
    within = np.zeros(a.shape, bool)
    for i, j in np.ndindex(a.shape[:2]):
        within[i, j, slice(*survey.extents[i, j])] = True
    assert within[(a > 0) | (b > 0)].all()


@FORMS
@given(pair=volumes(), planar=st.booleans())
@settings(max_examples=80)
def test_borders_of_every_label(form, pair, planar):
    a, b = (volume[:1] for volume in pair) if planar else pair
    survey = form.survey(a, b)
    rooms = survey.voxels[:, 0].copy()
    rooms[0] = 0
    places = form.borders(a, rooms, survey.extents, planar)
    assert len(places) == len(rooms)
    for label, found in enumerate(places):
        mask = a == label
        wanted = np.argwhere(border(mask[0])[None] if planar else border(mask)) if label else np.empty((0, 3))
        assert found.dtype == np.int32
        assert found.tolist() == wanted.tolist()  # in the order of memory, too


@FORMS
def test_labels_that_are_not_wanted_have_no_borders(form):
    volume = np.array([[[1, 2, 2, 3]]], np.uint8)
    survey = form.survey(volume, volume)
    rooms = np.array([0, 0, 2, 0])
    assert [len(places) for places in form.borders(volume, rooms, survey.extents, False)] == [0, 0, 2, 0]


@st.composite
def point_sets(draw):
    """Two sets of voxels (N, 3) in order, near each other or worlds apart, and a spacing."""
    shape = draw(st.sampled_from([(1, 30, 30), (4, 40, 9), (60, 7, 50), (2, 2, 600)]))
    sets = []
    for _ in range(2):
        corner = [draw(st.integers(0, n - 1)) for n in shape]
        size = [draw(st.integers(1, n - c)) for c, n in zip(corner, shape, strict=True)]
        count = draw(st.integers(1, 60))
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        points = np.column_stack([rng.integers(c, c + s, count) for c, s in zip(corner, size, strict=True)])
        sets.append(np.unique(points, axis=0).astype(np.int32))
    return sets[0], sets[1], tuple(draw(SPACINGS) for _ in range(3))


@FORMS
@given(case=point_sets())
@settings(max_examples=150)
def test_nearest_by_brute_force(form, case):
    points, targets, spacing = case
    between = np.linalg.norm((points[:, None] - targets[None]) * np.asarray(spacing), axis=2)
    np.testing.assert_allclose(form.nearest(points, targets, spacing), between.min(axis=1), rtol=0, atol=1e-9)


@FORMS
@pytest.mark.parametrize("spacing", [(3.0, 0.76, 0.76), (0.1, 5.0, 1.0), (1.0, 1.0, 1.0)])
def test_nearest_far_beyond_the_columns_that_are_walked(form, spacing):
    # Thousands of targets around each of the tree's levels, hundreds of voxels away from the points.
    rng = np.random.default_rng(0)
    targets = np.unique(rng.integers((0, 0, 0), (20, 60, 60), (9000, 3)), axis=0).astype(np.int32)
    points = np.unique(rng.integers((0, 300, 300), (150, 512, 512), (300, 3)), axis=0).astype(np.int32)
    both = np.concatenate([targets[::40] + np.int32(1), points])
    both = np.unique(both, axis=0)
    between = np.linalg.norm((both[:, None] - targets[None]) * np.asarray(spacing), axis=2).min(axis=1)
    np.testing.assert_allclose(form.nearest(both, targets, spacing), between, rtol=0, atol=1e-9)


@given(point_sets(), grids(3))
@settings(max_examples=100)
def test_nearest_by_steps_by_brute_force(case, steps):
    points, targets, _ = case
    between = np.linalg.norm((points[:, None] - targets[None]) @ steps.T, axis=2)
    found = backend_scipy.nearest_by_steps(points, targets, steps)
    np.testing.assert_allclose(found, between.min(axis=1), rtol=0, atol=1e-9)


@given(volumes(), st.tuples(SPACINGS, SPACINGS, SPACINGS) | grids(3))
@settings(max_examples=120)
def test_both_forms_measure_the_same(pair, spacing):
    results = []
    for form in (backend.BACKEND, backend_scipy):  # without a C compiler one form, twice
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backend, "BACKEND", form)
            results.append(measure_case(*pair, spacing, NAMES, in_voxels=True))
    for a, b in zip(results[0].measures, results[1].measures, strict=True):
        assert (a.reference_voxels, a.prediction_voxels, a.shared_voxels) == (
            b.reference_voxels,
            b.prediction_voxels,
            b.shared_voxels,
        )
        for key in ("hd95_pooled_mm", "hd95_max_mm", "hd95_pooled_voxels", "assd_mm", "nsd"):
            assert getattr(a, key) == pytest.approx(getattr(b, key), abs=1e-9, nan_ok=True), key
    for a, b in zip(results[0].differing, results[1].differing, strict=True):
        assert a.tolist() == b.tolist()


@given(volumes(), st.tuples(SPACINGS, SPACINGS, SPACINGS))
@settings(max_examples=30)
def test_threads_change_nothing(pair, spacing):
    one, four = (measure_case(*pair, spacing, NAMES, threads=threads) for threads in (1, 4))
    assert [repr(measure) for measure in one.measures] == [repr(measure) for measure in four.measures]


@pytest.mark.parametrize("lean", [0.0, 1.2])
def test_a_whole_volume_with_far_islands(lean):
    # Real size: the first voxel of the volume against its last, and an organ between.
    reference, prediction = (np.zeros((512, 512, 148), np.uint8, order="F") for _ in range(2))
    reference[200:260, 240:300, 60:90] = prediction[202:262, 240:300, 60:90] = 1
    reference[0, 0, 0] = prediction[511, 511, 147] = 2
    steps = np.array([[0.76, 0, 0], [0, 0.76, lean], [0, 0, 3.0]])
    organ, island = measure_case(reference, prediction, steps, {1: "organ", 2: "island"}).measures
    assert island.hd95_max_mm == pytest.approx(np.linalg.norm(steps @ (511, 511, 147)))
    assert island.diagonal_mm == pytest.approx(np.linalg.norm(steps @ (512, 512, 148)))
    assert organ.hd95_pooled_mm == pytest.approx(2 * 0.76)


def test_without_the_kernel_scipy_takes_over():
    code = (
        "import sys; sys.modules['dsnet_med.evaluate.kernel'] = None\n"
        "import numpy as np\n"
        "from dsnet_med.evaluate import backend, hd95\n"
        "a = np.zeros((9, 9), bool); b = a.copy(); a[2:5, 2:5] = b[2:5, 3:7] = True\n"
        "print(backend.NAME, hd95(a, b, (1, 2)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    a, b = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    a[2:5, 2:5] = b[2:5, 3:7] = True
    assert run.stdout.split() == ["scipy", str(hd95(a, b, (1, 2)))]
