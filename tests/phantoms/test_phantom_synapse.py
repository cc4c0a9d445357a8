"""The synthetic abdomen: layout, labels, anatomy in the patient's millimetres, intensities."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from dsnet_med.errors import InputError
from dsnet_med.phantoms import make_synapse
from dsnet_med.phantoms.scanner import chosen_cases
from dsnet_med.prepare.recipe import load_recipe

SPLEEN, RIGHT_KIDNEY, LEFT_KIDNEY, GALLBLADDER, ESOPHAGUS, LIVER, STOMACH = range(1, 8)
AORTA, VENA_CAVA, PORTAL_VEIN, PANCREAS, RIGHT_ADRENAL, LEFT_ADRENAL = range(8, 14)
TRAINING = Path("RawData/Training")
CASES = chosen_cases("synapse", 4, (32, 32, 8), (32, 32, 8))
SIZES = ((64, 64, 16), (96, 80, 30))


def read(out: Path, case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, labels and affine of a case."""
    image = nib.load(out / TRAINING / "img" / f"img{case}.nii.gz")
    label = nib.load(out / TRAINING / "label" / f"label{case}.nii.gz")
    np.testing.assert_array_equal(image.affine, label.affine)
    return np.asarray(image.dataobj), np.asarray(label.dataobj), image.affine


def centroids(labels: np.ndarray, affine: np.ndarray) -> dict[int, np.ndarray]:
    return {
        organ: affine[:3, :3] @ np.argwhere(labels == organ).mean(axis=0) + affine[:3, 3]
        for organ in np.unique(labels)[1:]
    }


def require_anatomy(at: dict[int, np.ndarray]) -> None:
    """x grows to the patient's right, y to the front, z to the head."""
    assert at[LIVER][0] > at[AORTA][0] > at[SPLEEN][0]
    assert at[RIGHT_KIDNEY][0] - at[LEFT_KIDNEY][0] > 80
    assert at[RIGHT_ADRENAL][0] > at[LEFT_ADRENAL][0]
    assert at[VENA_CAVA][0] > at[AORTA][0] + 10
    assert at[GALLBLADDER][0] > 0 < at[LIVER][0] - at[STOMACH][0]
    assert at[STOMACH][0] < at[AORTA][0]
    for kidney in (RIGHT_KIDNEY, LEFT_KIDNEY):
        assert at[kidney][1] < min(at[LIVER][1], at[STOMACH][1], at[PANCREAS][1], at[AORTA][1])
    assert at[PANCREAS][1] > at[AORTA][1] < at[ESOPHAGUS][1]
    assert at[GALLBLADDER][2] < at[LIVER][2] < at[ESOPHAGUS][2]
    assert at[RIGHT_KIDNEY][2] < at[RIGHT_ADRENAL][2]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synapse")
    assert len(list(make_synapse(folder, cases=4, seed=3, size=(96, 96, 24)))) == 4
    return folder


def test_axes_are_named_as_nifti_names_them() -> None:
    assert nib.aff2axcodes(np.eye(4)) == ("R", "A", "S")


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_every_case_has_13_organs_where_they_belong(
    tmp_path: Path, size: tuple[int, int, int], oblique: bool
) -> None:
    for seed in (1, 2):
        for case in make_synapse(tmp_path, cases=4, seed=seed, size=size, oblique=oblique):
            image, labels, affine = read(tmp_path, case)
            assert labels.shape == image.shape == (size[1], size[0], size[2])
            assert image.dtype == np.int16 and labels.dtype == np.uint8
            assert list(np.unique(labels)) == list(range(14))
            origin = affine[:3, :3] @ ((np.array(labels.shape) - 1) / 2) + affine[:3, 3]
            require_anatomy({organ: place - origin for organ, place in centroids(labels, affine).items()})


def test_organs_touch_few_foreign_pieces(out: Path) -> None:
    """Every organ is one piece but for crumbs, as its largest component shows."""
    for case in CASES:
        _, labels, _ = read(out, case)
        for organ in (SPLEEN, RIGHT_KIDNEY, LEFT_KIDNEY, GALLBLADDER, LIVER, STOMACH, AORTA, PANCREAS):
            pieces, _ = ndimage.label(labels == organ, np.ones((3, 3, 3)))
            sizes = np.bincount(pieces.ravel())[1:]
            assert sizes.max() > 0.9 * sizes.sum(), organ


def test_the_aorta_runs_before_the_spine(out: Path) -> None:
    for case in CASES:
        image, labels, _ = read(out, case)
        at = np.median(np.argwhere(labels == AORTA), axis=0).astype(int)
        # In LAS files the second axis runs to the front: bone lies at lower indices than the aorta.
        column = image[at[0] - 2 : at[0] + 1, : at[1] - 2, at[2]].max(axis=0)
        assert column.max() > 350


@pytest.mark.parametrize(
    ("organ", "low", "high"),
    [
        (LIVER, 90, 130),
        (SPLEEN, 105, 150),
        (RIGHT_KIDNEY, 155, 210),
        (AORTA, 205, 295),
        (GALLBLADDER, -10, 30),
        (STOMACH, -5, 60),
        (PANCREAS, 65, 110),
    ],
)
def test_organs_have_their_hounsfield_units(out: Path, organ: int, low: float, high: float) -> None:
    for case in CASES:
        image, labels, _ = read(out, case)
        inner = ndimage.binary_erosion(labels == organ, np.ones((3, 3, 1)))
        assert low < np.median(image[inner]) < high


def test_it_looks_like_a_ct(out: Path) -> None:
    for case in CASES:
        image, _, affine = read(out, case)
        assert nib.aff2axcodes(affine) == ("L", "A", "S")
        assert image.min() >= -1024 and image.max() > 400
        assert np.median(image[:3]) == pytest.approx(-1000, abs=5)
        assert np.mean((image > -130) & (image < -80)) > 0.05  # fat
        corner = image[:12, :12].astype(float)
        assert 5 < corner.std() < 20  # noise
        header = nib.load(out / TRAINING / "img" / f"img{case}.nii.gz").header
        assert int(header["sform_code"]) == int(header["qform_code"]) == 1


def test_slices_cover_the_upper_abdomen_whatever_their_number(tmp_path: Path) -> None:
    for depth in (16, 60):
        case = next(make_synapse(tmp_path, cases=2, seed=0, size=(64, 64, depth)))
        _, labels, affine = read(tmp_path, case)
        assert 210 < depth * affine[2, 2] < 250
        assert 330 < labels.shape[0] * -affine[0, 0] < 380


def test_a_case_depends_on_seed_and_id_alone(tmp_path: Path, out: Path) -> None:
    more = list(make_synapse(tmp_path, cases=7, seed=3, size=(96, 96, 24)))
    common = [case for case in more if (out / TRAINING / "img" / f"img{case}.nii.gz").exists()]
    assert common
    for case in common:
        for file in (f"img/img{case}.nii.gz", f"label/label{case}.nii.gz"):
            assert (tmp_path / TRAINING / file).read_bytes() == (out / TRAINING / file).read_bytes()
    first, second = (read(out, case)[1] for case in CASES[:2])
    assert (first != second).mean() > 0.01


def test_an_oblique_grid_shows_the_same_patient(tmp_path: Path) -> None:
    """Distances between organs stay; only the way the grid cuts them changes."""
    shapes = {}
    for oblique in (False, True):
        out = tmp_path / str(oblique)
        case = next(make_synapse(out, cases=2, seed=5, size=(128, 128, 60), oblique=oblique))
        _, labels, affine = read(out, case)
        assert np.allclose(affine[:3, :3], np.diag(np.diag(affine))[:3, :3]) != oblique
        at = centroids(labels, affine)
        shapes[oblique] = [
            at[organ] - at[PANCREAS] for organ in (SPLEEN, RIGHT_KIDNEY, LEFT_KIDNEY, GALLBLADDER)
        ]
    np.testing.assert_allclose(shapes[True], shapes[False], atol=1.0)


@pytest.mark.parametrize("count", range(2, 31))
def test_every_number_of_cases_has_the_published_ratio(count: int) -> None:
    splits = load_recipe("synapse").splits
    chosen = chosen_cases("synapse", count, (32, 32, 8), (32, 32, 8))
    assert len(set(chosen)) == count == len(chosen)
    test = sum(splits[case] == "test" for case in chosen)
    assert 1 <= test < count
    assert abs(test - count * 12 / 30) <= 0.8


@pytest.mark.parametrize("cases", [1, 31])
def test_a_wrong_number_of_cases_is_named(tmp_path: Path, cases: int) -> None:
    with pytest.raises(InputError, match=f"of {cases} cases; wanted 2 to 30"):
        next(make_synapse(tmp_path, cases=cases, seed=0))


def test_a_tiny_volume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"16x64x16 voxels.*at least 32x32x8"):
        next(make_synapse(tmp_path, cases=2, seed=0, size=(16, 64, 16)))
    assert not list(tmp_path.iterdir())
