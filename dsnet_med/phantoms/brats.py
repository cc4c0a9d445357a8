"""A synthetic data set in the raw layout of Decathlon Task01_BrainTumour: four MR sequences of a brain tumour.

Solids lie in head millimetres (x right, y anterior, z superior; origin mid-brain). As in BraTS, the brain is
stripped of its skull: whatever is no brain is 0 in every sequence. Labels are those of the task: 1 oedema,
2 tumour that does not enhance, 3 tumour that does. An enhancing rim lies around a dead middle (2) and within
the rest of the core (2), and the core within its oedema, so that the three regions of BraTS are nested.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError, unknown
from dsnet_med.files import write_json
from dsnet_med.phantoms import scanner
from dsnet_med.phantoms.scanner import Affine, Generator, Pose, Size, Tissue, Waves
from dsnet_med.phantoms.solids import Solid, ellipsoid, union

LAYOUTS = ("decathlon", "nnunet")
_SEQUENCES = ("FLAIR", "T1w", "t1gd", "T2w")
_LABELS = ("background", "edema", "non-enhancing tumor", "enhancing tumour")
_REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}
_OEDEMA, _CORE, _ENHANCING, _BRAIN = range(1, 5)
_SMALLEST, _MOST_CASES = (24, 24, 16), 484
_ACROSS_MM, _LENGTH_MM = 192.0, 144.0
_SIGNALS = {  # of FLAIR, T1w, t1gd, T2w in arbitrary units
    "grey": (190, 160, 165, 170),
    "white": (150, 220, 225, 120),
    "fluid": (40, 60, 62, 380),
    "oedema": (330, 155, 160, 290),
    "core": (225, 85, 95, 235),
    "rim": (260, 140, 420, 230),
    "dead": (160, 75, 85, 340),
}


def make_brats(
    out: Path, *, cases: int, seed: int, size: Size = (64, 64, 48), layout: str = "decathlon"
) -> Iterator[str]:
    """Write `cases` patients of `size` (H, W, D) voxels with their label maps under the task folder `out`.

    `decathlon`: imagesTr/BRATS_NNN.nii.gz is 4-D, one volume a sequence, and dataset.json names the labels;
    `nnunet`: imagesTr/BRATS_NNN_000C.nii.gz, and dataset.json (version 2) has the regions. Both hold the same
    voxels. A patient depends on `seed` and its number alone. Yields each case id when its files are whole.
    Raises InputError.
    """
    if layout not in LAYOUTS:
        raise unknown("layout of a brats phantom", layout, LAYOUTS)
    if any(n < least for n, least in zip(size, _SMALLEST, strict=True)):
        got, wanted = ("x".join(map(str, each)) for each in (size, _SMALLEST))
        raise InputError(f"a phantom of {got} voxels (HxWxD); wanted at least {wanted}")
    if not 2 <= cases <= _MOST_CASES:
        raise InputError(f"a brats phantom of {cases} cases; wanted 2 to {_MOST_CASES}")
    if others := [
        file for file in (out / "imagesTr").glob("BRATS_*") if _is_channel(file) != (layout == "nnunet")
    ]:
        raise InputError(
            f"{others[0]}: is of the other layout, wanted none beside {layout}; choose another --out"
        )
    names = [f"BRATS_{number:03d}" for number in range(1, cases + 1)]
    for number, name in enumerate(names, start=1):
        images, labels, affine = _patient(np.random.default_rng([seed, number]), size)
        if layout == "decathlon":
            scanner.write_volume(out / "imagesTr" / f"{name}.nii.gz", images, affine)
        else:
            for channel, image in enumerate(images):
                scanner.write_volume(out / "imagesTr" / f"{name}_{channel:04d}.nii.gz", image, affine)
        scanner.write_volume(out / "labelsTr" / f"{name}.nii.gz", labels, affine)
        yield name
    write_json(out / "dataset.json", _described(names) if layout == "decathlon" else _described_nnunet(names))


def _is_channel(file: Path) -> bool:
    return file.name.count("_") > 1


def _described(names: list[str]) -> dict[str, object]:
    pairs = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    return {
        "name": "BRATS",
        "description": "Synthetic brain tumours, made by dsnet-med phantom",
        "tensorImageSize": "4D",
        "modality": {str(number): name for number, name in enumerate(_SEQUENCES)},
        "labels": {str(number): name for number, name in enumerate(_LABELS)},
        "numTraining": len(names),
        "numTest": 0,
        "training": pairs,
        "test": [],
    }


def _described_nnunet(names: list[str]) -> dict[str, object]:
    return {
        "name": "BRATS",
        "channel_names": {str(number): name for number, name in enumerate(_SEQUENCES)},
        "labels": _REGIONS,
        "regions_class_order": [_OEDEMA, _CORE, _ENHANCING],
        "numTraining": len(names),
        "file_ending": ".nii.gz",
    }


def _patient(rng: Generator, size: Size) -> tuple[NDArray[np.int16], NDArray[np.uint8], Affine]:
    """Images (4, D, H, W), labels (D, H, W) and the affine of one patient."""
    turn = np.radians(rng.normal(0, 3, 3).clip(-6, 6))
    scale = rng.uniform(0.94, 1.04) * rng.uniform(0.98, 1.02, 3)
    pose = Pose(
        (np.eye(3) + np.cross(np.eye(3), turn)) * scale,
        rng.normal(0, 3, 3).clip(-6, 6),
        [Waves.draw(rng, 1.5, 70, 200) for _ in range(3)],
    )
    height, width, depth = size
    in_plane, between = _ACROSS_MM / min(height, width), _LENGTH_MM / depth
    affine = scanner.centred(np.diag((-in_plane, -in_plane, between)), size)  # LPS, as the task's files
    parts = _anatomy(rng)
    images = np.zeros((len(_SEQUENCES), depth, height, width), np.int16)
    for channel in range(len(_SEQUENCES)):
        tissues = [
            Tissue(solid, _SIGNALS[name][channel] * rng.uniform(0.95, 1.05), label)
            for solid, name, label in parts
        ]
        image, labels = scanner.render(tissues, pose, affine, size, 0.0)
        image *= np.exp(Waves.draw(rng, 0.08, 200, 500, 6).on(affine, (0, 0, 0), image.shape))
        image = scanner.rician(rng, image, 9.0) * np.float32(rng.uniform(0.5, 2.0))
        images[channel] = np.where(labels > 0, np.rint(image).clip(1, None), 0)
    return images, np.where(labels == _BRAIN, 0, labels).astype(np.uint8), affine


def _anatomy(rng: Generator) -> list[tuple[Solid, str, int]]:
    """Each part of a brain with a tumour, its name in _SIGNALS and its label, in painting order."""
    brain = ellipsoid((0, 0, 0), (66, 82, 60))
    ventricles = union(
        *(ellipsoid((side * 14, 4, 8), (8, 30, 12), (10, 0, side * 12)) for side in (1, -1)),
        ellipsoid((0, -4, -10), (4, 12, 10)),
        blend_mm=4,
    ).moved(rng.normal(0, 1, 3), rng.uniform(0.9, 1.1))
    side = rng.choice((-1, 1))
    middle = np.array((side * rng.uniform(24, 34), rng.uniform(-34, 36), rng.uniform(-14, 24)))
    inner = brain.grown(-3)
    core = _lump(rng, middle, rng.uniform(19, 24))
    oedema = (union(_lump(rng, middle, rng.uniform(29, 35)), core.grown(6), blend_mm=8)) & inner
    core &= inner
    rim = core.grown(-4)
    return [
        (brain, "grey", _BRAIN),
        (brain.grown(-10), "white", _BRAIN),
        (ventricles, "fluid", _BRAIN),
        (oedema, "oedema", _OEDEMA),
        (core, "core", _CORE),
        (rim, "rim", _ENHANCING),
        (rim.grown(-9), "dead", _CORE),
    ]


def _lump(rng: Generator, middle: NDArray[np.float64], radius_mm: float) -> Solid:
    """An ellipsoid with a bulge, about `middle`."""
    bulge = middle + rng.normal(0, 0.25 * radius_mm, 3)
    return union(
        ellipsoid(middle, radius_mm * rng.uniform(0.85, 1.15, 3), rng.uniform(0, 90, 3)),
        ellipsoid(bulge, radius_mm * rng.uniform(0.6, 0.8, 3), rng.uniform(0, 90, 3)),
        blend_mm=radius_mm / 3,
    )
