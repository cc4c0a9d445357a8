"""From raw volumes to a store, case by case, in parallel.

Each case is written whole or not at all and its entry last, so a killed run loses only the cases it was working
on, and finished ones are kept (convert_case.py). One bad case does not stop the others: it is listed in the
manifest with its reason.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from dsnet_med import __version__
from dsnet_med.errors import InputError, cannot_read, first_of, shown, unknown
from dsnet_med.files import (
    locked,
    output_error,
    read_json,
    remove_partial,
    require_writable,
    synchronise,
    write_text,
)
from dsnet_med.prepare.cases import RawCase, find_cases
from dsnet_med.prepare.convert_case import CaseResult, convert_case
from dsnet_med.prepare.doctor import source_findings
from dsnet_med.prepare.doctor_set import examine_set
from dsnet_med.prepare.findings import Finding
from dsnet_med.prepare.recipe import Recipe, for_source, with_folds
from dsnet_med.prepare.splits import SPLITS, FoldedSplit, fold_subjects, meant
from dsnet_med.prepare.store import MANIFEST, TOOL, Store
from dsnet_med.prepare.stored_case import (
    CASES,
    StoredCase,
    data_file,
    entry_file,
    read_entry,
    require_whole,
)
from dsnet_med.prepare.target_spacing import with_grid
from dsnet_med.processes import in_parallel, on_cluster
from dsnet_med.seal import holds

SOURCE = "source.txt"  # of a resampled store, where the raw data lie: masks are scored on their own grid


def convert(
    recipe: Recipe,
    source: Path,
    out: Path,
    *,
    workers: int,
    exclude: Collection[str] = (),
    scheduler: str | None = None,
    require_geometry: bool = False,
    folds: int = 0,
) -> Iterator[CaseResult]:
    """Convert every case of `source` but those in `exclude` into the store `out`; yields as cases end.

    With more than one worker, cases run in processes of their own and end in any order; with the address of a
    Dask `scheduler` they run on its cluster, whose workers must see the same files. With `require_geometry` a
    case fails whose headers leave out where it lies or how large it is. The manifest is written after the last
    case; until then `out` is no store. What it lists is what lies in `out` by then, on the disk and not in a
    cache of the system; a case that something else has changed meanwhile is converted, and comes, once more.
    `folds` divides the subjects to learn from, in place of what the recipe says.
    Raises InputError when the source, the recipe or `out` cannot be used at all, another process works in
    `out`, or a split list names something that is most likely misspelt; what is wrong with a single case is in
    its result.
    """
    recipe = with_folds(for_source(recipe, source), folds)
    every = find_cases(recipe, source)
    divided = _folds(recipe, every, folds)
    noted = source_findings(recipe, source, every)
    misspelt = [finding.message for finding in noted if (finding.severity, finding.kind) == ("error", "source")]
    if misspelt:
        raise InputError(f"{recipe.path.parent}: {misspelt[0]}")
    cases = _chosen(every, exclude)
    recipe = with_grid(recipe, cases)
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
        store = _described(recipe, source, out, results, noted=noted, excluded=sorted(exclude), folds=divided)
        if recipe.grid_mm or any(rule.kind == "zscore" for rule in recipe.intensities):
            write_text(out / SOURCE, f"{source.absolute()}\n")
        store.write()


def convert_given(recipe: Recipe, source: Path, out: Path, cases: list[RawCase]) -> Store:
    """The store `out` of these cases, whose files lie anywhere under `source`; as `convert`, in this process.

    Raises InputError where `out` or one of the cases cannot be used.
    """
    recipe = with_grid(recipe, cases)
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
    folds: tuple[tuple[str, ...], ...] = (),
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
        channels=recipe.channels,
        intensities=recipe.intensities,
        slice_axis=recipe.slice_axis,
        spacing_mm=recipe.grid_mm,
        regions=recipe.regions,
        ignore=bool(recipe.ignore),
        splits={split: [case.id for case in stored.values() if case.split == split] for split in SPLITS},
        folds=_of_stored(folds, stored.values()),
        cases=stored,
        failed={result.case: _within(source, out, result.error) for result in results if result.error},
        excluded=excluded,
        findings=(*noted, *examine_set(fingerprints)),
    )


def _folds(recipe: Recipe, cases: list[RawCase], count: int) -> tuple[tuple[str, ...], ...]:
    """The folds of the subjects to learn from; none where neither the command nor the recipe asks for some."""
    subjects = {case.subject for case in cases if case.split in ("train", "val")}
    if isinstance(recipe.splits, FoldedSplit):
        return fold_subjects(subjects, recipe.splits.folds, recipe.splits.seed)
    return fold_subjects(subjects, count) if count else ()


def _of_stored(folds: tuple[tuple[str, ...], ...], cases: Iterable[StoredCase]) -> tuple[tuple[str, ...], ...]:
    """The folds without subjects of which no case was converted."""
    subjects = {case.subject for case in cases}
    return tuple(tuple(name for name in fold if name in subjects) for fold in folds)


def _within(source: Path, out: Path, reason: str) -> str:
    """`reason` without the names of this machine's folders."""
    return reason.replace(f"{source}{os.sep}", "").replace(f"{out}{os.sep}", "")


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
