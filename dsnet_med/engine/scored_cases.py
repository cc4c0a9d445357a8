"""The cases that a trial scores, as files: images for `infer`, and references on the grid of the source.

They come out of the store where it holds raw intensities. What was resampled, or normalised by a mean, is read
from the source again, and must be what the store was made of: scores count the source's own voxels.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError
from dsnet_med.evaluate.labels import Labels, labels_of_regions
from dsnet_med.files import read_text
from dsnet_med.prepare.cases import RawCase
from dsnet_med.prepare.convert import SOURCE
from dsnet_med.prepare.convert_case import digests_of
from dsnet_med.prepare.reading import read_images, read_label
from dsnet_med.prepare.recipe import Recipe
from dsnet_med.prepare.store import Store
from dsnet_med.prepare.stored_case import StoredCase
from dsnet_med.regions import IGNORED
from dsnet_med.volumes import Grid, write_image, write_labels

_IN_16_BITS = 2**15


def labels_of_store(store: Store) -> Labels:
    """What is scored of a store's cases: its regions, else its classes."""
    ignored = ("ignore", IGNORED) if store.ignore else None
    classes = {number: name for number, name in enumerate(store.classes) if number}
    if not store.regions:
        return Labels(classes, ignored)
    return labels_of_regions(store.regions, {} if overlaps(store) else classes, ignored)


def overlaps(store: Store) -> bool:
    """Whether structures of the store share voxels freely, of which one label map cannot hold all."""
    return bool(store.recipe.get("overlapping"))


def image_files(folder: Path, case: str, store: Store) -> list[Path]:
    """Where the images of a case lie in `folder`, one for each channel."""
    if len(store.channels) == 1:
        return [folder / f"{case}.nii.gz"]
    return [folder / f"{case}_{channel:04d}.nii.gz" for channel in range(len(store.channels))]


def write_scored_case(store: Store, case: StoredCase, images: Path, label: Path) -> None:
    """The images of a case in the folder `images`, and its stored label values in the file `label`.

    Raises InputError where the source is not there any more, or has changed.
    """
    voxels, labels = _from_source(store, case) if _is_made_over(store) else _from_store(store, case)
    affine = np.array(case.affine)
    for file, channel in zip(image_files(images, case.id, store), voxels, strict=True):
        write_image(file, channel, affine)
    write_labels(label, labels, Grid(label, case.native_shape, affine, None))


def _is_made_over(store: Store) -> bool:
    """Whether the store does not hold the cases' raw intensities on their own grids."""
    return store.spacing_mm is not None or any(rule.kind == "zscore" for rule in store.intensities)


def _from_store(store: Store, case: StoredCase) -> tuple[list[NDArray[Any]], NDArray[np.uint8]]:
    """As the store holds it, clipped, on its source's grid: of which inference makes the same."""
    images, labels = store.read_case(case.id)
    voxels = []
    for image, slope, (low, high) in zip(images, case.slope, case.clip, strict=True):
        raw = image / np.float32(slope) if slope else image
        raw += np.float32(low)
        volume: NDArray[Any] = case.order.to_volume(raw)
        if case.dtype == "uint16":
            kind = np.int16 if low >= -_IN_16_BITS and high < _IN_16_BITS else np.int32
            volume = np.rint(volume).astype(kind)
        voxels.append(volume)
    return voxels, case.order.to_volume(labels)


def _from_source(store: Store, case: StoredCase) -> tuple[list[NDArray[Any]], NDArray[np.uint8]]:
    source = _source_of(store)
    images, labels = (tuple(source / name for name in own) for own in (case.image_files, case.label_files))
    raw = RawCase(case.id, case.subject, case.split, images, labels)
    if (digests_of(images), digests_of(labels)) != (case.image_sha256, case.label_sha256):
        raise InputError(
            f"{raw.image}: case '{case.id}' has changed since the store {store.path} was made of it"
        )
    recipe = Recipe.model_construct(
        classes=store.classes,
        channels=store.channels,
        label=store.recipe["label"],
        overlapping=overlaps(store),
        resample_channels=True,
    )
    label = read_label(recipe, raw)
    if label is None:
        raise InputError(f"{raw.image}: case '{case.id}' has no label to score against")
    table = np.zeros(1 + int(label.voxels.max(initial=0)), np.uint8)
    for value, code in store.recipe["label_map"].items():
        if int(value) < len(table):
            table[int(value)] = code
    return [image.voxels for image in read_images(recipe, raw)], table[label.voxels]


def _source_of(store: Store) -> Path:
    """Where the raw data of a store lie on this machine."""
    try:
        return Path(read_text(store.path / SOURCE).strip())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{store.path / SOURCE}: cannot be read; masks are scored against the raw data that the store was "
            "made of: run the same preprocess command again, which writes where they lie"
        ) from error
