"""Stores of made-up voxels: of several channels, and as version 2 of the format had them."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.geometry import SliceOrder
from dsnet_med.prepare.case_file import write_case
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.prepare.store import Store
from dsnet_med.prepare.stored_case import StoredCase, data_file, write_entry
from dsnet_med.seal import sealed

AFFINE = np.diag([-0.8, -0.7, 3.0, 1.0])
CODES = (0, 1, 2, 3)


def voxels_of(shape: tuple[int, ...], channels: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Stored images (C, D, H, W), uint16, and labels (D, H, W) of the values 0 to 3, most of them 0."""
    random = np.random.default_rng(seed)
    labels = np.where(random.random(shape) < 0.2, random.integers(1, 4, shape), 0).astype(np.uint8)
    labels[0] = 0
    return random.integers(0, 401, (channels, *shape)).astype(np.uint16), labels


def store_of(
    folder: Path,
    images: NDArray[Any],
    labels: NDArray[np.uint8],
    cases: tuple[str, ...] = ("a",),
    **changes: Any,
) -> Store:
    """A store whose cases all have these images (C, D, H, W) and labels (D, H, W), of slope 1 / 400."""
    channels, shape = len(images), labels.shape
    stored = {}
    for case in cases:
        entry = StoredCase(
            id=case,
            subject=case,
            split="train",
            shape=shape,
            spacing_mm=(3.0, 0.7, 0.8),
            native_shape=shape[::-1],
            affine=AFFINE.tolist(),
            order=SliceOrder.of(AFFINE),
            image_files=tuple(f"{case}_{k}.nii.gz" for k in range(channels)),
            image_sha256=("0" * 64,) * channels,
            label_files=(f"{case}_label.nii.gz",),
            label_sha256=("1" * 64,),
            label_voxels={},
            dtype=str(images.dtype),
            base=(0.0,) * channels,
            slope=(1 / 400,) * channels,
            clip=((-125.0, 275.0),) * channels,
            recipe_hash="2" * 64,
        )
        slices = zip(images.swapaxes(0, 1), labels, strict=True)
        stored[case] = write_case(data_file(folder, case), entry, slices)
        write_entry(folder, stored[case])
    facts: dict[str, Any] = {
        "tool_version": "0",
        "recipe": {"id": "made"},
        "recipe_hash": "2" * 64,
        "classes": ("background", "edema", "core", "enhancing"),
        "channels": tuple(f"c{k}" for k in range(channels)),
        "intensities": (Intensity("window", -125, 275),) * channels,
        "slice_axis": "superior",
        "splits": {"train": list(cases), "val": [], "test": [], "extra": []},
        "cases": stored,
        "failed": {},
        "excluded": [],
    }
    Store(path=folder, **(facts | changes)).write()
    return Store.open(folder)


def store_of_before(folder: Path, images: NDArray[np.uint16], labels: NDArray[np.uint8]) -> Path:
    """A store of format 2 with one case, images and labels (D, H, W), as its version wrote it."""
    planes = [
        (image.astype("<u2").tobytes(), label.tobytes()) for image, label in zip(images, labels, strict=True)
    ]
    sums = ["".join(f"{zlib.crc32(plane):08x}" for plane in each) for each in zip(*planes, strict=True)]
    entry = {
        "format": 2,
        "id": "a",
        "subject": "a",
        "split": "train",
        "shape": list(images.shape),
        "spacing_mm": [3.0, 0.7, 0.8],
        "native_shape": list(images.shape[::-1]),
        "affine": AFFINE.tolist(),
        "order": {"axes": [2, 1, 0], "reversed": [False, False, False]},
        "image_file": "img/a.nii.gz",
        "image_sha256": "0" * 64,
        "label_file": "label/a.nii.gz",
        "label_sha256": "1" * 64,
        "label_voxels": {"background": 100, "liver": 20},
        "dtype": "uint16",
        "base": 0.0,
        "slope": 0.0025,
        "clip": [-125.0, 275.0],
        "image_crc32": sums[0],
        "label_crc32": sums[1],
        "recipe_hash": "2" * 64,
        "unstated": [],
        "findings": [],
    }
    manifest = {
        "format": 2,
        "tool": "dsnet-med",
        "tool_version": "0.1.0",
        "recipe": {"id": "made"},
        "recipe_hash": "2" * 64,
        "classes": ["background", "edema", "core", "enhancing"],
        "intensity": {"window": [-125.0, 275.0]},
        "slice_axis": "superior",
        "splits": {"train": ["a"], "val": [], "test": [], "extra": []},
        "cases": [entry],
        "failed": {},
        "excluded": [],
        "findings": [],
    }
    (folder / "cases").mkdir(parents=True)
    (folder / "cases" / "a.bin").write_bytes(b"".join(plane for each in planes for plane in each))
    (folder / "cases" / "a.json").write_text(json.dumps(sealed(entry)))
    (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))
    return folder
