"""What a bundle's own inference takes as inputs, and the one line where it cannot."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from dsnet_med.engine.predict import items, require
from dsnet_med.errors import InputError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for name in ("a.nii.gz", "below/b.nii"):
        nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.eye(4)), folder / name)
    return folder


def test_a_folder_a_file_a_pattern_or_a_list_of_them(images: Path) -> None:
    first, second = images / "a.nii.gz", images / "below" / "b.nii"
    item = {"image": str(second), "id": 7}
    forms: list[tuple[Any, list[Any]]] = [
        (str(images), [{"image": str(first)}, {"image": str(second)}]),
        (first, [{"image": str(first)}]),
        (f"{images}/*.gz", [{"image": str(first)}]),
        ([str(first), item], [{"image": str(first)}, item]),
    ]
    for inputs, wanted in forms:
        assert items(inputs) == wanted
        require(items(inputs), inputs)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ("none", "none: no such file or folder .*--dataset_dir"),
        ([], "an empty list"),
        (["none"], "none: no such file or folder"),
        ([{"label": "x"}], "an item without an image"),
        ([3], "got 3 as input"),
    ],
)
def test_what_is_not_there_is_told_when_it_runs(inputs: Any, told: str) -> None:
    assert items(inputs) == []
    with pytest.raises(InputError, match=told):
        require([], inputs)


def test_nothing_is_passed_over(images: Path) -> None:
    (images / "c.nrrd").write_bytes(b"NRRD0004\n")
    assert items(str(images)) == []
    with pytest.raises(InputError, match=r"c\.nrrd: no \.nii .*dsnet-med infer"):
        require(items(str(images)), str(images))
    require([{"image": "mine"}], str(images))  # whoever hands over items of their own
