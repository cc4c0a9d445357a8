"""From raw volumes to a store, case by case, in parallel.

Each case is written whole or not at all and its entry last, so a killed run loses only the cases it was working
on. A finished case is reused when its source files (by SHA-256) and the recipe are still the same. One bad case
does not stop the others: it is listed in the manifest with its reason.
"""

import json
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dsnet_med import __version__
from dsnet_med.errors import InputError, one_line, unknown
from dsnet_med.files import remove_partial, require_writable, sha256, write_json, written_whole
from dsnet_med.geometry import SliceOrder
from dsnet_med.prepare.cases import RawCase, find_cases
from dsnet_med.prepare.doctor import source_findings, wanted_label
from dsnet_med.prepare.doctor_case import volume_findings
from dsnet_med.prepare.doctor_set import examine_set
from dsnet_med.prepare.doctor_store import stored_fingerprint
from dsnet_med.prepare.fingerprint import CaseFingerprint
from dsnet_med.prepare.labels import class_counts, class_table, value_counts
from dsnet_med.prepare.recipe import Recipe, for_source
from dsnet_med.prepare.splits import SPLITS, meant
from dsnet_med.prepare.store import MANIFEST, TOOL, Store
from dsnet_med.prepare.stored_case import (
    CASES,
    FORMAT,
    StoredCase,
    data_file,
    encode,
    encoding,
    entry_file,
    read_slices,
    require_whole,
)
from dsnet_med.processes import in_parallel, on_cluster
from dsnet_med.volumes import Volume, read_image, read_labels, require_same_grid


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


def convert(
    recipe: Recipe,
    source: Path,
    out: Path,
    *,
    workers: int,
    exclude: Collection[str] = (),
    scheduler: str | None = None,
) -> Iterator[CaseResult]:
    """Convert every case of `source` but those in `exclude` into the store `out`; yields as cases end.

    With more than one worker, cases run in processes of their own and end in any order; with the address of a
    Dask `scheduler` they run on its cluster, whose workers must see the same files. The manifest is written
    after the last case; until then `out` is no store. Raises InputError when the source, the recipe or `out`
    cannot be used at all, or a split list names something that is most likely misspelt; what is wrong with a
    single case is in its result.
    """
    recipe = for_source(recipe, source)
    every = find_cases(recipe, source)
    noted = source_findings(recipe, source, every)
    misspelt = [finding.message for finding in noted if (finding.severity, finding.kind) == ("error", "source")]
    if misspelt:
        raise InputError(f"{recipe.path.parent}: {misspelt[0]}")
    cases = _chosen(every, exclude)
    if workers < 1:
        raise InputError(f"{workers} workers, wanted at least 1")
    _claim(recipe, out)
    work = partial(convert_case, recipe, source, out)
    results = []
    for result in _results(work, cases, workers, scheduler):
        results.append(result)
        yield result
    results.sort(key=lambda result: result.case)
    stored = {result.case: result.stored for result in results if result.stored}
    in_set = examine_set(result.fingerprint for result in results if result.fingerprint)
    store = Store(
        path=out,
        tool_version=__version__,
        recipe=recipe.as_dict(),
        recipe_hash=recipe.hash,
        classes=recipe.classes,
        intensity=recipe.intensity,
        slice_axis=recipe.slice_axis,
        splits={split: [case.id for case in stored.values() if case.split == split] for split in SPLITS},
        cases=stored,
        failed={result.case: _within(source, out, result.error) for result in results if result.error},
        excluded=sorted(exclude),
        findings=(*noted, *in_set),
    )
    write_json(out / MANIFEST, store.model_dump(mode="json"))


def _within(source: Path, out: Path, reason: str) -> str:
    """`reason` without the names of this machine's folders."""
    return reason.replace(f"{source}{os.sep}", "").replace(f"{out}{os.sep}", "")


def convert_case(recipe: Recipe, source: Path, out: Path, raw: RawCase) -> CaseResult:
    """Convert one case into the store folder `out`, or find it finished there. Raises nothing."""
    try:
        reused, stored = _convert(recipe, source, out, raw)
        with data_file(out, raw.id).open("rb") as stream:
            fingerprint = stored_fingerprint(stored, read_slices(stream, stored))
        return CaseResult(raw.id, None, reused, stored, fingerprint)
    except InputError as error:
        reason = str(error)
    except MemoryError:
        reason = "not enough memory; use fewer workers"
    except Exception as error:  # the others must go on, whatever this case met
        reason = f"unexpected {type(error).__name__}: {one_line(str(error), None)}"
    return CaseResult(raw.id, reason)


def _results(
    work: Callable[[RawCase], CaseResult], cases: list[RawCase], workers: int, scheduler: str | None
) -> Iterator[CaseResult]:
    if scheduler is None and workers == 1:
        yield from map(work, cases)
        return
    ended = on_cluster(work, cases, scheduler) if scheduler else in_parallel(work, cases, workers)
    for case, result in ended:
        killed = "its process was killed, most likely for want of memory; use fewer workers"
        yield result or CaseResult(case.id, killed)


def _chosen(cases: list[RawCase], exclude: Collection[str]) -> list[RawCase]:
    ids = [case.id for case in cases]
    for name in exclude:
        if name not in ids:
            near = meant(name, ids)
            raise unknown("case to exclude", name, [near] if near else ids)
    chosen = [case for case in cases if case.id not in exclude]
    if not chosen:
        raise InputError("every case is excluded; leave at least one")
    return chosen


def _claim(recipe: Recipe, out: Path) -> None:
    """Make `out` ready to be written: from here on it is unfinished until its manifest is back."""
    require_writable(out / CASES)
    manifest = out / MANIFEST
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        foreign = not isinstance(content, dict) or content.get("tool") != TOOL
        owner = recipe.id if foreign else content["recipe"]["id"]
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ):  # none, or a damaged one: to be made anew
        foreign, owner = False, recipe.id
    if owner != recipe.id:
        raise InputError(f"{out}: holds a store of recipe '{owner}', not '{recipe.id}'; choose another folder")
    if foreign:
        raise InputError(
            f"{manifest} is there already, and was not written by preprocess; choose another --out"
        )
    manifest.unlink(missing_ok=True)
    for folder in (out, out / CASES):
        remove_partial(folder)


def _convert(recipe: Recipe, source: Path, out: Path, raw: RawCase) -> tuple[bool, StoredCase]:
    """Bring one case into the store; whether it was there already, and its entry. Raises InputError."""
    if raw.problem:
        raise InputError(raw.problem)
    if raw.label is None and raw.split != "extra":
        raise InputError(
            f"{raw.image}: case '{raw.id}' has no label file{wanted_label(raw)}; "
            "add it, exclude the case or make it 'extra'"
        )
    digests = _digest(raw.image), _digest(raw.label) if raw.label else ""
    origin: dict[str, Any] = {
        "id": raw.id,
        "subject": raw.subject,
        "split": raw.split,
        "image_file": raw.image.relative_to(source).as_posix(),
        "image_sha256": digests[0],
        "label_file": raw.label.relative_to(source).as_posix() if raw.label else "",
        "label_sha256": digests[1],
        "recipe_hash": recipe.hash,
    }
    finished = _finished(out, raw.id)
    if finished and (finished.image_sha256, finished.label_sha256, finished.recipe_hash) == (
        *digests,
        recipe.hash,
    ):
        # Its split and the names of its files may have changed around it.
        entry = finished.model_copy(update=origin)
        if entry != finished:
            write_json(entry_file(out, raw.id), entry.model_dump(mode="json"))
        return True, entry
    entry_file(out, raw.id).unlink(missing_ok=True)
    image = read_image(raw.image)
    label = read_labels(raw.label) if raw.label else None
    if label is not None:
        require_same_grid(image, label)
    findings = list(volume_findings(recipe, raw.id, image, label))
    if unusable := [finding for finding in findings if finding.kind in ("label values", "empty label")]:
        raise InputError(f"{raw.label}: {unusable[0].message}")
    origin["findings"] = tuple(finding.within(source) for finding in findings)
    entry = _entry(recipe, image, label, origin)
    _write_slices(data_file(out, raw.id), entry, recipe, image, label)
    write_json(entry_file(out, raw.id), entry.model_dump(mode="json"))
    return False, entry


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _finished(out: Path, case: str) -> StoredCase | None:
    """The entry of a case that an earlier run finished and whose data file is whole."""
    try:
        stored = StoredCase.model_validate_json(entry_file(out, case).read_bytes())
        require_whole(out, stored)
    except (OSError, ValueError):  # of pydantic and InputError, too
        return None
    known = stored.format == FORMAT and "findings" in stored.model_fields_set
    return stored if known else None


def _entry(recipe: Recipe, image: Volume, label: Volume | None, origin: dict[str, Any]) -> StoredCase:
    """What the manifest says of a case."""
    scaling = recipe.intensity.fit(image.voxels)
    dtype, base = encoding(image.voxels.dtype, scaling)
    order = SliceOrder.of(image.affine, recipe.slice_axis)
    return StoredCase(
        **origin,
        shape=order.to_slices(image.voxels).shape,
        spacing_mm=order.spacing_mm(image.affine),
        native_shape=image.shape,
        affine=image.affine.tolist(),
        order=order,
        label_voxels=class_counts(recipe, value_counts(label.voxels)) if label else {},
        dtype=dtype,
        base=base,
        slope=scaling.slope,
        clip=(scaling.low, scaling.high),
    )


def _write_slices(path: Path, entry: StoredCase, recipe: Recipe, image: Volume, label: Volume | None) -> None:
    images = entry.order.to_slices(image.voxels)
    blank = np.zeros(entry.shape[1:], np.uint8)
    labels = entry.order.to_slices(label.voxels) if label else np.broadcast_to(blank, entry.shape)
    table = class_table(recipe, labels.dtype)
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        for picture, classes in zip(images, labels, strict=True):
            stream.write(np.ascontiguousarray(encode(picture, entry)).data)
            # Most slices of a scan hold no organ, and looking is far cheaper than mapping.
            mapped = table[classes] if classes.any() else np.full_like(blank, table[0])
            stream.write(np.ascontiguousarray(mapped).data)
