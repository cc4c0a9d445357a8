"""The synthetic brain tumour: both layouts hold the same, sequences differ, regions are nested."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from dsnet_med.errors import InputError
from dsnet_med.phantoms import make_brats

OEDEMA, CORE, ENHANCING = 1, 2, 3


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("brats")
    for layout in ("decathlon", "nnunet"):
        done = list(make_brats(folder / layout, cases=2, seed=3, size=(40, 44, 32), layout=layout))
        assert done == ["BRATS_001", "BRATS_002"]
    return folder


def read(file: Path) -> np.ndarray:
    return np.asarray(nib.load(file).dataobj)


def test_both_layouts_hold_the_same_voxels(out: Path) -> None:
    for case in ("BRATS_001", "BRATS_002"):
        together = read(out / f"decathlon/imagesTr/{case}.nii.gz")
        assert together.shape == (44, 40, 32, 4) and together.dtype == np.int16
        for channel in range(4):
            alone = read(out / f"nnunet/imagesTr/{case}_{channel:04d}.nii.gz")
            assert np.array_equal(alone, together[..., channel])
        labels = [read(out / layout / f"labelsTr/{case}.nii.gz") for layout in ("decathlon", "nnunet")]
        assert np.array_equal(*labels) and set(np.unique(labels[0])) == {0, 1, 2, 3}
    decathlon, nnunet = (
        json.loads((out / layout / "dataset.json").read_text()) for layout in ("decathlon", "nnunet")
    )
    assert decathlon["modality"] == nnunet["channel_names"]
    assert nnunet["labels"]["tumor core"] == [CORE, ENHANCING] and "training" not in nnunet


def test_each_part_shows_in_the_sequence_that_it_shows_in(out: Path) -> None:
    images = read(out / "decathlon/imagesTr/BRATS_001.nii.gz").astype(float)
    labels = read(out / "decathlon/labelsTr/BRATS_001.nii.gz")
    brain = (images > 0).all(axis=-1)
    assert np.array_equal(brain, (images > 0).any(axis=-1))  # stripped alike, and 0 outside
    assert not labels[~brain].any()

    def mean(label: int, sequence: int) -> float:
        inside = images[..., sequence][brain & (labels == label)]
        return float(inside.mean() / images[..., sequence][brain].mean())

    flair, t1, t1gd, _ = range(4)
    assert mean(OEDEMA, flair) > 1.4 * mean(0, flair)
    assert mean(OEDEMA, t1) < mean(0, t1)
    assert mean(ENHANCING, t1gd) > 1.5 * max(mean(label, t1gd) for label in (0, OEDEMA, CORE))


def test_the_core_lies_in_the_whole_tumour_and_is_one_piece(out: Path) -> None:
    labels = read(out / "decathlon/labelsTr/BRATS_002.nii.gz")
    for inner in (labels > 0, labels > OEDEMA):
        assert ndimage.label(inner)[1] == 1
    around = ndimage.binary_dilation(labels == ENHANCING) & (labels != ENHANCING)
    assert labels[around].min() >= OEDEMA and (labels[around] == CORE).mean() > 0.6


def test_a_patient_depends_on_the_seed_alone(tmp_path: Path, out: Path) -> None:
    list(make_brats(tmp_path / "same", cases=3, seed=3, size=(40, 44, 32)))
    for file in ("imagesTr/BRATS_002.nii.gz", "labelsTr/BRATS_002.nii.gz"):
        assert (tmp_path / "same" / file).read_bytes() == (out / "decathlon" / file).read_bytes()


def test_one_folder_holds_one_layout(out: Path) -> None:
    for layout, other in (("decathlon", "nnunet"), ("nnunet", "decathlon")):
        with pytest.raises(InputError, match="is of the other layout"):
            next(make_brats(out / layout, cases=2, seed=3, layout=other))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"cases": 1}, "2 to 484"),
        ({"size": (8, 40, 32)}, "wanted at least 24x24x16"),
        ({"layout": "nnunett"}, "did you mean 'nnunet'"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path: Path, given: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        next(make_brats(tmp_path, **({"cases": 2, "seed": 0} | given)))
