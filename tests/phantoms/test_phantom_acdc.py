"""The synthetic heart: layout, rings, contraction, and where the ventricles lie."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from dsnet_med.errors import InputError
from dsnet_med.phantoms import make_acdc
from dsnet_med.prepare.cases import find_cases
from dsnet_med.prepare.recipe import load_recipe

RIGHT_VENTRICLE, MYOCARDIUM, LEFT_VENTRICLE = 1, 2, 3


@pytest.fixture(scope="module", params=[False, True], ids=["straight", "oblique"])
def out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("acdc")
    done = list(make_acdc(folder, cases=5, seed=0, size=(128, 144, 10), oblique=request.param))
    assert done == ["patient001", "patient002", "patient004", "patient005", "patient089"]
    return folder


def label_files(out: Path) -> list[Path]:
    files = sorted(out.glob("training/patient*/*_gt.nii.gz"))
    assert len(files) == 10
    return files


def read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    volume = nib.load(file)
    return np.asarray(volume.dataobj), volume.affine


def place(labels: np.ndarray, affine: np.ndarray, organ: int) -> np.ndarray:
    return affine[:3, :3] @ np.argwhere(labels == organ).mean(axis=0) + affine[:3, 3]


def test_the_recipe_finds_both_phases_of_every_patient_in_all_splits(out: Path) -> None:
    cases = find_cases(load_recipe("acdc"), out)
    assert len(cases) == 10 and {case.split for case in cases} == {"train", "val", "test"}
    assert all(case.image.is_file() and case.labels for case in cases)


def test_info_has_the_lines_of_the_challenge(out: Path) -> None:
    for file in out.glob("training/*/Info.cfg"):
        wanted = r"ED: 1\nES: \d+\nGroup: (NOR|DCM|HCM|MINF|RV)\nHeight: \d+\.0\nNbFrame: \d+\nWeight: \d+\.0\n"
        assert re.fullmatch(wanted, file.read_text())


def test_the_myocardium_is_a_closed_ring(out: Path) -> None:
    for file in label_files(out):
        labels, _ = read(file)
        rings = 0
        for k in range(labels.shape[2]):
            cavity, wall = labels[..., k] == LEFT_VENTRICLE, labels[..., k] == MYOCARDIUM
            if cavity.any():
                rings += 1
                # Through the eight neighbours, the cavity meets nothing but wall.
                assert not (ndimage.binary_dilation(cavity, np.ones((3, 3))) & ~cavity & ~wall).any()
                assert ndimage.label(cavity)[1] == ndimage.label(wall, np.ones((3, 3)))[1] == 1
        assert rings >= 5


def test_the_right_ventricle_lies_to_the_right_and_front(out: Path) -> None:
    for file in label_files(out):
        labels, affine = read(file)
        offset = place(labels, affine, RIGHT_VENTRICLE) - place(labels, affine, LEFT_VENTRICLE)
        assert offset[0] > 15
        straight = nib.aff2axcodes(affine) == ("L", "P", "S") and affine[0, 1] == 0
        assert straight or offset[1] > 8
        # A crescent: its hull holds part of the left heart.
        assert not (labels == RIGHT_VENTRICLE)[labels == MYOCARDIUM].any()


def test_systole_has_a_smaller_cavity_and_a_thicker_wall(out: Path) -> None:
    for folder in sorted(out.glob("training/*")):
        diastole, systole = (read(file)[0] for file in sorted(folder.glob("*_gt.nii.gz")))
        middle = diastole.shape[2] // 2 + 1
        areas = [
            [(phase[..., middle] == organ).sum() for organ in (LEFT_VENTRICLE, MYOCARDIUM)]
            for phase in (diastole, systole)
        ]
        inner = [np.sqrt(cavity / np.pi) for cavity, _ in areas]
        wall = [np.sqrt((cavity + muscle) / np.pi) - np.sqrt(cavity / np.pi) for cavity, muscle in areas]
        assert inner[1] < 0.95 * inner[0]
        assert wall[1] > wall[0]
        assert (systole == RIGHT_VENTRICLE).sum() < (diastole == RIGHT_VENTRICLE).sum()


def test_spacing_and_direction_are_those_of_short_axis_stacks(out: Path) -> None:
    for file in label_files(out):
        image = nib.load(str(file).replace("_gt", ""))
        assert image.get_data_dtype() == np.int16 and int(image.header["sform_code"]) == 1
        in_plane, _, between = image.header.get_zooms()
        assert 1.3 < in_plane < 1.75 and 8 <= between <= 10.5
        axes = image.affine[:3, :3] / image.header.get_zooms()
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-5)
        straight = np.allclose(axes, np.diag([-1, -1, 1]), atol=1e-6)
        # Double-oblique: no axis of the stack lies along one of the patient's.
        assert straight or np.abs(axes).max(axis=0)[[0, 2]].max() < 0.95


def test_blood_is_brighter_than_muscle_and_the_coil_is_uneven(out: Path) -> None:
    for file in label_files(out):
        labels, _ = read(file)
        image = np.asarray(nib.load(str(file).replace("_gt", "")).dataobj).astype(float)
        assert image.min() >= 0
        blood, muscle = (np.median(image[labels == organ]) for organ in (LEFT_VENTRICLE, MYOCARDIUM))
        assert blood > 1.6 * muscle


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for run in "ab":
        list(make_acdc(tmp_path / run, cases=2, seed=7, size=(48, 48, 6)))
    first, second = (sorted(path for path in (tmp_path / run).rglob("*") if path.is_file()) for run in "ab")
    assert len(first) == 10
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_more_patients_than_the_split_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wanted 2 to 100"):
        next(make_acdc(tmp_path, cases=101, seed=0))
