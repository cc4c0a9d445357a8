"""Networks with plug-ins whose effect is known, predictors of them, and volumes to explain them on."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor, nn

from dsnet_med.inference import Predictor
from dsnet_med.inference.postprocess import PostProcess
from dsnet_med.inference.slice_model import SliceModel
from dsnet_med.networks import attach
from dsnet_med.prepare.intensity import Intensity

CLASSES = ("background", "low", "middle", "high")
SIZE = (16, 16)


class Bands(nn.Module):
    """(B, 1, *spatial) -> 4 logits that tell four bands of intensity apart, after a map that plug-ins follow.

    `features` has a channel for each band: 10 times how well a voxel fits it.
    """

    def __init__(self, dims: int = 2) -> None:
        super().__init__()
        self.register_buffer("centres", torch.tensor([0.0, 0.35, 0.65, 1.0]).view(1, 4, *[1] * dims))
        self.features = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.features(10 - 10 * (images - self.centres).abs())


def predictor(plugin: Any = None, *, dims: int = 2, title: str = "tiny", **changes: Any) -> Predictor:
    """Of `Bands` with a plug-in after its features; `plugin` is a module, or what makes one of channels."""
    network = Bands(dims).eval()
    size = SIZE if dims == 2 else (8, 8, 8)
    if plugin is not None:
        make = (lambda _channels: plugin) if isinstance(plugin, nn.Module) else plugin
        attach(network, make, at="features", example=torch.rand(1, 1, *size))
    network.requires_grad_(False)
    model = SliceModel(network, size, changes.pop("fit", "resize"), (Intensity.from_dict({"window": [0, 1]}),))
    fields: dict[str, Any] = {
        "models": (model,),
        "slice_axis": "superior",
        "class_names": CLASSES,
        "device": torch.device("cpu"),
        "batch_size": 4,
        "postprocess": PostProcess(),
        "fingerprints": ("tiny",),
        "title": title,
    }
    return Predictor(**(fields | changes))


def volume(seed: int, shape: tuple[int, int, int] = (16, 16, 6)) -> tuple[np.ndarray, np.ndarray]:
    """A volume of three boxes of the three organs, with noise, and the label map of them."""
    generator = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    for label in (1, 2, 3):
        x, y = generator.integers(0, 10, 2)
        labels[x : x + 6, y : y + 5, 1 : 2 + label] = label
    voxels = np.array([0.0, 0.35, 0.65, 1.0], np.float32)[labels]
    return voxels + generator.normal(0, 0.05, shape).astype(np.float32), labels


AFFINE = np.diag([1.0, 1.5, 3.0, 1.0])


def write_cases(folder: Path, count: int = 3, affine: np.ndarray = AFFINE) -> tuple[Path, Path]:
    """Folders of images and of their label maps."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for seed in range(count):
        voxels, labels = volume(seed)
        nib.save(nib.Nifti1Image(voxels, affine), folder / "images" / f"case{seed}.nii.gz")
        nib.save(nib.Nifti1Image(labels, affine), folder / "labels" / f"case{seed}.nii.gz")
    return folder / "images", folder / "labels"
