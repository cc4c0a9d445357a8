"""Small data sets on disk for the tests of preparation."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

RECIPE: dict[str, Any] = {
    "id": "tiny",
    "title": "Tiny",
    "source": "nowhere",
    "licence": "none",
    "modality": "CT",
    "layout": "pairs",
    "image": "img/img{case}.nii.gz",
    "label": "label/label{case}.nii.gz",
    "classes": ["background", "liver", "spleen"],
    "label_map": {"background": [0, "7-9"], "liver": 6, "spleen": 1},
    "intensity": {"window": [-125, 275]},
    "sides": {"left": ["spleen"], "right": ["liver"]},
    "splits": "splits.csv",
}
SPLITS = "subject,split\n0001,train\n0002,val\n0003,test\n"
AFFINE = np.array(
    [[-0.8, 0.0, 0.0, 30.0], [0.0, -0.7, 0.0, 20.0], [0.0, 0.0, 3.0, -10.0], [0.0, 0.0, 0.0, 1.0]]
)
SHAPE = (7, 6, 5)


def write_recipe(folder: Path, *, split_list: str = SPLITS, **changes: Any) -> Path:
    """A recipe file with `changes` to RECIPE, where None leaves a key out, and its splits.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = {key: value for key, value in (RECIPE | changes).items() if value is not None}
    (folder / "splits.csv").write_text(split_list)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(keys))
    return path


def write_volume(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def voxels_of(seed: int, shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """A CT-like image (int16) and raw labels (uint8) with both organs and values that count as background."""
    random = np.random.default_rng(seed)
    image = random.integers(-1024, 1500, shape, dtype=np.int16)
    label = random.choice(np.array([0, 1, 6, 7, 8, 9], np.uint8), shape)
    return image, label


def write_source(folder: Path, cases: tuple[str, ...] = ("0001", "0002", "0003")) -> Path:
    """A source folder that the recipe of `write_recipe` describes."""
    for case in cases:
        image, label = voxels_of(int(case))
        write_volume(folder / f"img/img{case}.nii.gz", image)
        write_volume(folder / f"label/label{case}.nii.gz", label)
    return folder
