"""A predictor small enough for any test, whose masks show every mistake of orientation."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import nn

from dsnet_med.inference import Predictor
from dsnet_med.inference.postprocess import PostProcess
from dsnet_med.inference.slice_model import SliceModel
from dsnet_med.prepare.intensity import Intensity

CLASSES = ("background", "a", "b", "c")


def network(seed: int = 3, classes: int = len(CLASSES)) -> nn.Module:
    """A kernel without symmetry: a slice that arrives mirrored or turned would give another mask."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, classes, 5, padding=2)]
    return nn.Sequential(*layers).eval().requires_grad_(False)


def model(seed: int = 3, fit: str = "resize", net: nn.Module | None = None) -> SliceModel:
    """One network that takes slices of 32x32."""
    return SliceModel(net or network(seed), (32, 32), fit, (Intensity.from_dict({"zscore": [0.5, 99.5]}),))


def predictor(*models: SliceModel, **changes: Any) -> Predictor:
    """A predictor of these models; of one with seed 3, if none is given."""
    fields: dict[str, Any] = {
        "models": models or (model(),),
        "slice_axis": "superior",
        "class_names": CLASSES,
        "device": torch.device("cpu"),
        "batch_size": 4,
        "postprocess": PostProcess(),
        "fingerprints": ("tiny",),
    }
    return Predictor(**(fields | changes))


def volume(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Smooth noise (28, 22, 12) and a RAS affine with three different spacings."""
    noise = np.random.default_rng(seed).normal(size=(28, 22, 12)).astype(np.float32)
    return np.cumsum(noise, axis=0), np.array([[0.8, 0, 0, -9], [0, 0.9, 0, 4], [0, 0, 3.0, 7], [0, 0, 0, 1.0]])


def write_images(folder: Path, names: str = "abc") -> list[Path]:
    """One file for each letter of `names`, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        nib.save(nib.Nifti1Image(*volume(seed)), folder / f"{name}.nii.gz")
    return [folder / f"{name}.nii.gz" for name in names]
