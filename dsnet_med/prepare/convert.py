"""From raw volumes to a store, case by case, in parallel.

Each case is written whole or not at all and its entry last, so a killed run loses only the cases it was working
on. A finished case is reused when its source files (by SHA-256) and the recipe are still the same and its
slices are as they were stored; else it is made anew. One bad case does not stop the others: it is listed in the
manifest with its reason.
"""

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med import __version__
from dsnet_med.errors import InputError, cannot_read, first_of, one_line, shown, unknown, want_of_means
from dsnet_med.files import (
    locked,
    output_error,
    read_json,
    remove_partial,
    require_writable,
    sha256,
    synchronise,
)
from dsnet_med.geometry import SliceOrder
from dsnet_med.prepare.case_file import Slices, read_slices, read_tables, write_case
from dsnet_med.prepare.cases import RawCase, find_cases
from dsnet_med.prepare.doctor import source_findings, wanted_label
from dsnet_med.prepare.doctor_case import volume_findings
from dsnet_med.prepare.doctor_set import examine_set
from dsnet_med.prepare.doctor_store import stored_fingerprint
from dsnet_med.prepare.findings import Finding
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
    read_entry,
    require_whole,
    write_entry,
)
from dsnet_med.processes import in_parallel, on_cluster
from dsnet_med.seal import holds
from dsnet_med.volumes import Volume, files_of, read_image, read_labels, require_same_grid


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
    require_geometry: bool = False,
) -> Iterator[CaseResult]:
    """Convert every case of `source` but those in `exclude` into the store `out`; yields as cases end.

    With more than one worker, cases run in processes of their own and end in any order; with the address of a
    Dask `scheduler` they run on its cluster, whose workers must see the same files. With `require_geometry` a
    case fails whose headers leave out where it lies or how large it is. The manifest is written after the last
    case; until then `out` is no store. What it lists is what lies in `out` by then, on the disk and not in a
    cache of the system; a case that something else has changed meanwhile is converted, and comes, once more.
    Raises InputError when the source, the recipe or `out` cannot be used at all, another process works in
    `out`, or a split list names something that is most likely misspelt; what is wrong with a single case is in
    its result.
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
    with locked(out, "preprocesses into"), ThreadPoolExecutor(1) as disk:  # waits for the disk beside the work
        _claim(recipe, out)
        work = partial(convert_case, recipe, source, out, require_geometry=require_geometry)
        done: dict[str, CaseResult] = {}
        written = []
        try:
            for _ in range(2):  # once more what something else has changed meanwhile
                todo = [case for case in cases if case.id not in done or not _lies(out, done[case.id])]
                for result in _results(work, todo, workers, scheduler):
                    done[result.case] = result
                    try:
                        written.append(disk.submit(_to_disk, out, result))
                    except RuntimeError:  # no more threads may be started
                        _to_disk(out, result)
                    yield result
            for each in written:
                each.result()
        finally:
            disk.shutdown(cancel_futures=True)
        results = [done[case.id] for case in cases]
        _described(recipe, source, out, results, noted=noted, excluded=sorted(exclude)).write()


def convert_given(recipe: Recipe, source: Path, out: Path, cases: list[RawCase]) -> Store:
    """The store `out` of these cases, whose files lie anywhere under `source`; as `convert`, in this process.

    Raises InputError where `out` or one of the cases cannot be used.
    """
    with locked(out, "preprocesses into"):
        _claim(recipe, out)
        results = [convert_case(recipe, source, out, case) for case in cases]
        if failed := [f"{result.case}: {result.error}" for result in results if result.error]:
            raise InputError(first_of(failed, 1))
        store = _described(recipe, source, out, results, noted=[], excluded=[])
        store.write()
    return store


def _lies(out: Path, result: CaseResult) -> bool:
    """Whether `out` holds what a result says."""
    try:
        if result.stored:
            require_whole(out, result.stored)
            return read_entry(out, result.case) == result.stored
    except InputError:
        return False
    return True


def _to_disk(out: Path, result: CaseResult) -> None:
    """Have the system write the files of a case that has been converted to the disk. Raises InputError."""
    if result.reused or result.error:
        return
    for file in (data_file(out, result.case), entry_file(out, result.case), out / CASES):
        try:
            synchronise(file)
        except FileNotFoundError:  # which `_lies` notices
            return
        except OSError as error:
            raise output_error(file, error) from error


def _described(
    recipe: Recipe,
    source: Path,
    out: Path,
    results: list[CaseResult],
    *,
    noted: list[Finding],
    excluded: list[str],
) -> Store:
    """The store that the results make."""
    stored = {result.case: result.stored for result in results if result.stored}
    fingerprints = [result.fingerprint for result in results if result.fingerprint]
    return Store(
        path=out,
        tool_version=__version__,
        recipe=recipe.as_dict(),
        recipe_hash=recipe.hash,
        classes=recipe.classes,
        intensities=(recipe.intensity,),
        slice_axis=recipe.slice_axis,
        splits={split: [case.id for case in stored.values() if case.split == split] for split in SPLITS},
        cases=stored,
        failed={result.case: _within(source, out, result.error) for result in results if result.error},
        excluded=excluded,
        findings=(*noted, *examine_set(fingerprints)),
    )


def _within(source: Path, out: Path, reason: str) -> str:
    """`reason` without the names of this machine's folders."""
    return reason.replace(f"{source}{os.sep}", "").replace(f"{out}{os.sep}", "")


def convert_case(
    recipe: Recipe, source: Path, out: Path, raw: RawCase, *, require_geometry: bool = False
) -> CaseResult:
    """Convert one case into the store folder `out`, or find it finished there. Raises nothing."""
    try:
        reused, stored, slices = _stored(recipe, source, out, raw, require_geometry=require_geometry)
        return CaseResult(raw.id, None, reused, stored, stored_fingerprint(stored, slices))
    except InputError as error:
        reason = str(error)
    except Exception as error:  # the others must go on, whatever this case met
        reason = want_of_means(error) or f"unexpected {type(error).__name__}: {one_line(str(error), None)}"
    return CaseResult(raw.id, reason)


def _results(
    work: Callable[[RawCase], CaseResult], cases: list[RawCase], workers: int, scheduler: str | None
) -> Iterator[CaseResult]:
    if not cases:
        return
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
    manifest, begun = out / MANIFEST, (out / CASES).is_dir()
    require_writable(out / CASES)
    try:
        content = read_json(manifest)
        damaged = isinstance(content, dict) and holds(content) is False
        foreign = not damaged and (not isinstance(content, dict) or content.get("tool") != TOOL)
        owner = recipe.id if foreign or damaged else content["recipe"]["id"]
    except FileNotFoundError:
        foreign, owner = False, recipe.id
    except (ValueError, KeyError, TypeError):  # damaged, where there are cases: to be made anew
        foreign, owner = not begun, recipe.id
    except OSError as error:
        raise cannot_read(manifest, error, "cannot be read") from error
    if owner != recipe.id:
        raise InputError(
            f"{out}: holds a store of recipe {shown(owner)}, not '{recipe.id}'; choose another folder"
        )
    if foreign:
        raise InputError(
            f"{manifest} is there already, and was not written by preprocess; choose another --out"
        )
    try:
        manifest.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(manifest, error) from error
    for folder in (out, out / CASES):
        remove_partial(folder)


def _stored(
    recipe: Recipe, source: Path, out: Path, raw: RawCase, *, require_geometry: bool
) -> tuple[bool, StoredCase, Slices]:
    """Bring a case into the store; whether it was there already, its entry, its slices. Raises InputError."""
    if raw.problem:
        raise InputError(raw.problem)
    if raw.label is None and raw.split != "extra":
        raise InputError(
            f"{raw.image}: case '{raw.id}' has no label file{wanted_label(raw)}; "
            "add it, exclude the case or make it 'extra'"
        )
    origin: dict[str, Any] = {
        "id": raw.id,
        "subject": raw.subject,
        "split": raw.split,
        "image_files": (raw.image.relative_to(source).as_posix(),),
        "label_files": (raw.label.relative_to(source).as_posix(),) if raw.label else (),
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


def _converted(recipe: Recipe, source: Path, out: Path, raw: RawCase, origin: dict[str, Any]) -> StoredCase:
    """Read a case, write its data file, and give its entry. Raises InputError."""
    entry_file(out, raw.id).unlink(missing_ok=True)
    image = read_image(raw.image, hashed=True)
    label = read_labels(raw.label, hashed=True) if raw.label else None
    if label is not None:
        require_same_grid(image, label)
    findings = list(volume_findings(recipe, raw.id, image, label))
    if unusable := [finding for finding in findings if finding.kind in ("label values", "empty label")]:
        raise InputError(f"{raw.label}: {unusable[0].message}")
    facts = {
        "image_sha256": (_joined(image.digests.values()),),
        "label_sha256": (_joined(label.digests.values()),) if label else (),
        "unstated": tuple(dict.fromkeys((*image.unstated, *(label.unstated if label else ())))),
        "findings": tuple(finding.within(source) for finding in findings),
    }
    entry = _entry(recipe, image, label, origin | facts)
    return write_case(data_file(out, raw.id), entry, _slices(entry, recipe, image, label))


def _joined(digests: Iterable[str]) -> str:
    """The SHA-256 of a volume's file; of several files, that of theirs."""
    every = list(digests)
    return every[0] if len(every) == 1 else hashlib.sha256("".join(every).encode()).hexdigest()


def _kept(out: Path, origin: dict[str, Any], raw: RawCase) -> tuple[StoredCase, Slices] | None:
    """The entry and the slices of a case that an earlier run made of the same, as it stored them, else None."""
    try:
        entry = read_entry(out, raw.id)
        if (entry.format, entry.recipe_hash) != (FORMAT, origin["recipe_hash"]):
            return None
        require_whole(out, entry)
        digests = [_joined(map(sha256, files_of(path))) for path in (raw.image, raw.label) if path]
        same = digests == [*entry.image_sha256, *entry.label_sha256]
        return (entry, _read_back(out, entry)) if same else None
    except (
        InputError,
        OSError,
    ):  # damaged, or not there; why a source cannot be read is told when converted
        return None


def _read_back(out: Path, entry: StoredCase) -> Slices:
    with data_file(out, entry.id).open("rb", buffering=0) as stream:
        return read_slices(stream, entry, read_tables(stream, entry))


def _entry(recipe: Recipe, image: Volume, label: Volume | None, origin: dict[str, Any]) -> StoredCase:
    """What the manifest says of a case."""
    scaling = recipe.intensity.fit(image.voxels)
    dtype, base = encoding([image.voxels.dtype], [scaling])
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
        slope=(scaling.slope,),
        clip=((scaling.low, scaling.high),),
    )


def _slices(
    entry: StoredCase, recipe: Recipe, image: Volume, label: Volume | None
) -> Iterator[tuple[list[NDArray[Any]], NDArray[np.uint8]]]:
    """A case's slices as they are stored: the image of every channel and the classes."""
    images = entry.order.to_slices(image.voxels)
    blank = np.zeros(entry.shape[1:], np.uint8)
    labels = entry.order.to_slices(label.voxels) if label else np.broadcast_to(blank, entry.shape)
    table = class_table(recipe, labels.dtype)
    for picture, classes in zip(images, labels, strict=True):
        # Most slices of a scan hold no organ, and looking is far cheaper than mapping.
        yield [encode(picture, entry)], table[classes] if classes.any() else np.full_like(blank, table[0])
