"""One raw case into a store: read, checked, resampled where asked for, written; or found finished there.

A case appears whole or not at all, its entry last. A finished one is reused when its source files (by SHA-256)
and the recipe are still the same and its slices are as they were stored; else it is made anew.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError, one_line, want_of_means
from dsnet_med.files import sha256
from dsnet_med.geometry import SliceOrder
from dsnet_med.prepare.case_file import Slices, read_slices, read_tables, write_case
from dsnet_med.prepare.cases import RawCase
from dsnet_med.prepare.doctor import wanted_label
from dsnet_med.prepare.doctor_case import volume_findings
from dsnet_med.prepare.doctor_store import stored_fingerprint
from dsnet_med.prepare.fingerprint import CaseFingerprint
from dsnet_med.prepare.intensity import Scaling
from dsnet_med.prepare.labels import class_table, stored_counts
from dsnet_med.prepare.reading import read_images, read_label
from dsnet_med.prepare.recipe import Recipe, Spacing
from dsnet_med.prepare.stored_case import (
    FORMAT,
    StoredCase,
    data_file,
    encode,
    encoding,
    entry_file,
    read_entry,
    require_whole,
    write_entry,
)
from dsnet_med.resampling import new_shape, resampled, resampled_labels
from dsnet_med.volumes import Volume, files_of, require_same_grid

_AS_IT_IS = Scaling(0.0, 0.0, 1.0)  # of a channel that is stored as the network sees it


@dataclass(frozen=True)
class CaseResult:
    """How one case went: `stored` is its entry, or `error` why there is none; `reused` if it was there before.

    `fingerprint` is what the data doctor's checks on the whole set need of it.
    """

    case: str
    error: str | None = None
    reused: bool = False
    stored: StoredCase | None = None
    fingerprint: CaseFingerprint | None = None


def convert_case(
    recipe: Recipe, source: Path, out: Path, raw: RawCase, *, require_geometry: bool = False
) -> CaseResult:
    """Convert one case into the store folder `out`, or find it finished there. Raises nothing."""
    try:
        reused, stored, slices = _stored(recipe, source, out, raw, require_geometry=require_geometry)
        structures = recipe.regions if recipe.overlapping else ()
        fingerprint = stored_fingerprint(stored, slices, recipe.channels, structures)
        return CaseResult(raw.id, None, reused, stored, fingerprint)
    except InputError as error:
        reason = str(error)
    except Exception as error:  # the others must go on, whatever this case met
        reason = want_of_means(error) or f"unexpected {type(error).__name__}: {one_line(str(error), None)}"
    return CaseResult(raw.id, reason)


def _stored(
    recipe: Recipe, source: Path, out: Path, raw: RawCase, *, require_geometry: bool
) -> tuple[bool, StoredCase, Slices]:
    """Bring a case into the store; whether it was there already, its entry, its slices. Raises InputError."""
    if raw.problem:
        raise InputError(raw.problem)
    if not raw.labels and raw.split != "extra":
        raise InputError(
            f"{raw.image}: case '{raw.id}' has no label file{wanted_label(raw)}; "
            "add it, exclude the case or make it 'extra'"
        )
    origin: dict[str, Any] = {
        "id": raw.id,
        "subject": raw.subject,
        "split": raw.split,
        "image_files": tuple(file.relative_to(source).as_posix() for file in raw.images),
        "label_files": tuple(file.relative_to(source).as_posix() for file in raw.labels),
        "recipe_hash": recipe.hash,
    }
    entry, slices = _kept(out, origin, raw) or (None, None)
    reused = entry is not None
    if entry is None:
        entry = _converted(recipe, source, out, raw, origin)
    if require_geometry and entry.unstated:
        entry_file(out, raw.id).unlink(missing_ok=True)
        said = "; ".join(entry.unstated)
        raise InputError(f"{raw.image}: {said}; correct the header, or leave out --require-geometry")
    # Of a kept one, the split and the names of its files may have changed around it.
    written, entry = entry, entry.model_copy(update=origin)
    if not reused or entry != written:
        write_entry(out, entry)
    return reused, entry, slices or _read_back(out, entry)


def _kept(out: Path, origin: dict[str, Any], raw: RawCase) -> tuple[StoredCase, Slices] | None:
    """The entry and the slices of a case that an earlier run made of the same, as it stored them, else None."""
    try:
        entry = read_entry(out, raw.id)
        if (entry.format, entry.recipe_hash) != (FORMAT, origin["recipe_hash"]):
            return None
        require_whole(out, entry)
        digests = [digests_of(files) for files in (raw.images, raw.labels)]
        same = digests == [entry.image_sha256, entry.label_sha256]
        return (entry, _read_back(out, entry)) if same else None
    except (InputError, OSError):  # damaged, or not there; why a source cannot be read is told when converted
        return None


def _read_back(out: Path, entry: StoredCase) -> Slices:
    with data_file(out, entry.id).open("rb", buffering=0) as stream:
        return read_slices(stream, entry, read_tables(stream, entry))


def _converted(recipe: Recipe, source: Path, out: Path, raw: RawCase, origin: dict[str, Any]) -> StoredCase:
    """Read a case, write its data file, and give its entry. Raises InputError."""
    entry_file(out, raw.id).unlink(missing_ok=True)
    images, label = read_images(recipe, raw, hashed=True), read_label(recipe, raw, hashed=True)
    if label is not None:
        require_same_grid(images[0], label)
    findings = list(volume_findings(recipe, raw.id, images, label))
    if unusable := [finding for finding in findings if finding.kind in ("label values", "empty label")]:
        raise InputError(f"{raw.labels[0]}: {unusable[0].message}")
    volumes = (*images, *((label,) if label else ()))
    facts: dict[str, Any] = {
        "image_sha256": _digests(raw.images, images),
        "label_sha256": _digests(raw.labels, (label,) if label else ()),
        "unstated": tuple(dict.fromkeys(note for volume in volumes for note in volume.unstated)),
        "findings": tuple(finding.within(source) for finding in findings),
    }
    order = SliceOrder.of(images[0].affine, recipe.slice_axis)
    scalings = [rule.fit(image.voxels) for rule, image in zip(recipe.intensities, images, strict=True)]
    classes = _classes(recipe, order, label)
    spacing, shape = order.spacing_mm(images[0].affine), order.to_slices(images[0].voxels).shape
    whole: NDArray[np.float32] | None = None
    wanted = recipe.grid_mm
    if wanted and (smaller := new_shape(shape, spacing, wanted)) != shape:
        whole = np.stack(
            [
                scaling.apply(order.to_slices(image.voxels))
                for scaling, image in zip(scalings, images, strict=True)
            ]
        )
        whole = resampled(whole, spacing, wanted)
        classes = None if classes is None else _resampled_classes(recipe, classes, spacing, wanted, smaller)
        shape, spacing = smaller, wanted
    dtype, base, slope = _encoding(recipe, images, scalings, done=whole is not None)
    entry = StoredCase(
        **origin,
        **facts,
        shape=shape,
        spacing_mm=spacing,
        native_shape=images[0].shape,
        affine=images[0].affine.tolist(),
        order=order,
        label_voxels={} if classes is None else stored_counts(recipe, classes),
        dtype=dtype,
        base=base,
        slope=slope,
        clip=tuple((scaling.low, scaling.high) for scaling in scalings),
    )
    planes = _planes(recipe, entry, images, scalings) if whole is None else np.moveaxis(whole, 0, 1)
    labels = np.broadcast_to(np.uint8(0), shape) if classes is None else classes
    return write_case(data_file(out, raw.id), entry, zip(planes, labels, strict=True))


def digests_of(files: Sequence[Path]) -> tuple[str, ...]:
    """The SHA-256 of each of a case's images or labels, as its entry has them."""
    return tuple(_joined(map(sha256, files_of(file))) for file in files)


def _digests(files: Sequence[Path], volumes: Sequence[Volume]) -> tuple[str, ...]:
    """The SHA-256 of each of a case's images or labels."""
    known = {file: digest for volume in volumes for file, digest in volume.digests.items()}
    return tuple(_joined(known[part] for part in files_of(file)) for file in files)


def _joined(digests: Iterable[str]) -> str:
    """The SHA-256 of a volume's file; of several files, that of theirs."""
    every = list(digests)
    return every[0] if len(every) == 1 else hashlib.sha256("".join(every).encode()).hexdigest()


def _encoding(
    recipe: Recipe, images: Sequence[Volume], scalings: Sequence[Scaling], *, done: bool
) -> tuple[str, tuple[float, ...], tuple[float, ...]]:
    """Stored type, and base and slope of each channel; `done` where they are normalised already."""
    ready = [done or rule.kind == "zscore" for rule in recipe.intensities]
    kinds = [
        np.dtype(np.float32) if done else image.voxels.dtype for done, image in zip(ready, images, strict=True)
    ]
    told = [_AS_IT_IS if done else scaling for done, scaling in zip(ready, scalings, strict=True)]
    dtype, base = encoding(kinds, told)
    return dtype, base, tuple(scaling.slope for scaling in told)


def _planes(
    recipe: Recipe, entry: StoredCase, images: Sequence[Volume], scalings: Sequence[Scaling]
) -> Iterator[list[NDArray[Any]]]:
    """The images of each slice as they are stored: a z-score normalised, the others raw."""
    stacks = [entry.order.to_slices(image.voxels) for image in images]
    ready = [rule.kind == "zscore" for rule in recipe.intensities]
    for pictures in zip(*stacks, strict=True):
        yield [
            scalings[channel].apply(picture) if ready[channel] else encode(picture, entry, channel)
            for channel, picture in enumerate(pictures)
        ]


def _classes(recipe: Recipe, order: SliceOrder, label: Volume | None) -> NDArray[np.uint8] | None:
    """The stored labels of a label map, as slices (D, H, W)."""
    if label is None:
        return None
    raw = order.to_slices(label.voxels)
    table = class_table(recipe, raw.dtype)
    classes = np.full(raw.shape, table[0], np.uint8)
    for into, values in zip(classes, raw, strict=True):
        if values.any():  # most slices of a scan hold no organ, and looking is far cheaper than mapping
            into[...] = table[values]
    return classes


def _resampled_classes(
    recipe: Recipe, classes: NDArray[np.uint8], spacing: Spacing, wanted: Spacing, shape: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Stored labels at another spacing: structures that overlap one by one, else by vote of the classes."""
    if not recipe.overlapping:
        return resampled_labels(classes, spacing, wanted, shape)
    together = np.zeros(shape, np.uint8)
    for bit in range(len(recipe.masks)):
        own = resampled_labels(classes >> bit & 1, spacing, wanted, shape)
        together |= own << bit
    return together
