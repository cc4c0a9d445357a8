"""The data doctor: everything that looks wrong in a raw data set, or in a store, one line each.

Nothing is changed, and a bad case never stops the others. `preprocess` says the same of what it converts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from dsnet_med.errors import InputError, one_line
from dsnet_med.geometry import SliceOrder, cut_across
from dsnet_med.prepare import decathlon
from dsnet_med.prepare.cases import RawCase, case_of_label, find_cases, stray_labels
from dsnet_med.prepare.doctor_checks import content_digest, odd_intensities, odd_spacing, swapped_sides
from dsnet_med.prepare.doctor_findings import (
    Examined,
    Finding,
    Member,
    Severity,
    examine_set,
    examine_split_list,
)
from dsnet_med.prepare.doctor_portrait import Portrait
from dsnet_med.prepare.doctor_store import examine_stored, open_unchecked, store_findings
from dsnet_med.prepare.labels import class_counts, class_table, value_counts
from dsnet_med.prepare.recipe import Recipe, for_source
from dsnet_med.volumes import Volume, case_name, read_image, read_labels, require_same_grid
from dsnet_med.workers import in_parallel

__all__ = ["Examined", "Finding", "examine_source", "examine_store", "source_findings", "volume_findings"]

_KILLED = "not examined: a worker was killed, most likely for want of memory; use fewer workers"
_Report = Callable[[Severity, str, str], None]
Item = TypeVar("Item")
T = TypeVar("T")


def examine_source(recipe: Recipe, source: Path, *, workers: int = 1) -> Iterator[Examined]:
    """Examine the raw data set under `source`: one result per case of `find_cases`, then one for the whole set.

    Holds one case in memory per worker. Raises InputError when `source` holds no such data set at all.
    """
    recipe = for_source(recipe, source)
    cases = find_cases(recipe, source)
    members = []
    for case, result in _each(partial(examine_case, recipe, source), cases, workers):
        examined, member = result or (_lost(case.id), Member(case.id, case.subject, case.split, None))
        members.append(member)
        yield examined
    yield Examined("", (*source_findings(recipe, source, cases), *examine_set(members)))


def examine_store(path: Path, *, workers: int = 1) -> Iterator[Examined]:
    """Examine every case of the store in the folder `path`, then the failed ones, then the store as a whole.

    Raises InputError when `path` holds no readable manifest.
    """
    store = open_unchecked(path)
    members = []
    cases = list(store.cases.values())
    # The manifest without its cases: every worker gets one with each case.
    lean = replace(store, cases={}, manifest=store.manifest | {"cases": []})
    for case, result in _each(partial(examine_stored, lean), cases, workers):
        examined, member = result or (_lost(case.id), Member(case.id, case.subject, case.split, None))
        members.append(member)
        yield examined
    for name, reason in store.failed.items():
        yield Examined(name, (Finding("error", name, "failed", f"was not converted: {reason}"),))
    yield Examined("", (*store_findings(store), *examine_set(members)))


def source_findings(recipe: Recipe, source: Path, cases: Sequence[RawCase]) -> list[Finding]:
    """What names and lists alone say about a data set: labels without images, splits that do not fit."""
    strays = [_stray(recipe, source, label) for label in stray_labels(recipe, source)]
    notes = [*recipe.notes, *_miscounted(recipe, source, cases)]
    listed = {case.subject: case.split for case in cases if not _unlabelled_by_design(recipe, case)}
    unlabelled = {case.subject for case in cases if _unlabelled_by_design(recipe, case)}
    return [
        *strays,
        *(Finding("warning", "", "source", note) for note in notes),
        *examine_split_list(recipe.splits, listed, unlabelled, published=recipe.is_published),
    ]


def _unlabelled_by_design(recipe: Recipe, case: RawCase) -> bool:
    return recipe.layout == "decathlon" and case.wanted is None and not case.problem


def _miscounted(recipe: Recipe, source: Path, cases: Sequence[RawCase]) -> Iterator[str]:
    """A dataset.json that counts other cases than there are."""
    if recipe.layout != "decathlon" or not (source / decathlon.FILE_NAME).is_file():
        return
    told = decathlon.read_dataset_json(source).get("numTraining")
    found = sum(not _unlabelled_by_design(recipe, case) for case in cases)
    if isinstance(told, int) and told != found:
        yield f"{decathlon.FILE_NAME} counts {told} training cases (numTraining), the source has {found}"


def examine_case(recipe: Recipe, source: Path, case: RawCase) -> tuple[Examined, Member]:
    """The findings on one case, and what the checks on the whole set need of it. Raises nothing."""
    findings: list[Finding] = []
    member = Member(case.id, case.subject, case.split, None)

    def report(severity: Severity, kind: str, message: str) -> None:
        findings.append(Finding(severity, case.id, kind, message.replace(f"{source}/", "")))

    try:
        if case.problem:
            report("error", "unreadable", case.problem)
        else:
            digest, portrait = _examine_files(recipe, case, report)
            member = replace(member, content=digest, portrait=portrait)
    except Exception as error:  # the others must go on, whatever this case met
        report("error", "unreadable", f"unexpected {type(error).__name__}: {one_line(str(error), None)}")
    return Examined(case.id, tuple(findings)), member


def _examine_files(recipe: Recipe, case: RawCase, report: _Report) -> tuple[str | None, Portrait | None]:
    """Report on the files of a case; returns its image's digest and its portrait, None where unreadable."""
    image = label = None
    if case.image.exists():
        image = _try(lambda: read_image(case.image), "unreadable", report)
    else:
        report("error", "pair", f"{case.image}: the image is missing")
    label_file = case.label
    if label_file is not None:
        label = _try(lambda: read_labels(label_file), "unreadable", report)
    elif case.split != "extra":
        report("error", "pair", f"{case.image}: the image has no label file{wanted_label(case)}")
    if image is not None and label is not None:
        pair = image, label
        _try(lambda: require_same_grid(*pair), "geometry", report)
    volume_findings(recipe, image, label, report)
    if image is None:
        return None, None
    return content_digest(image.voxels, image.affine), _portrait(recipe, image, label)


def _portrait(recipe: Recipe, image: Volume, label: Volume | None) -> Portrait:
    order = SliceOrder.of(image.affine, recipe.slice_axis)
    classes = None
    if label is not None and label.shape == image.shape:
        classes = class_table(recipe, label.voxels.dtype)[order.to_slices(label.voxels)]
    pictures = recipe.intensity.fit(image.voxels).apply(order.to_slices(image.voxels))
    return Portrait.of(pictures, classes, order.spacing_mm(image.affine), recipe.classes)


def wanted_label(case: RawCase) -> str:
    """Where the label file of a case was looked for, in words after `no label file`."""
    return f", wanted {case.wanted}" if case.wanted else ""


def volume_findings(recipe: Recipe, image: Volume | None, label: Volume | None, report: _Report) -> None:
    """Report on the volumes of a case in memory, of which either may be missing."""
    if image is not None:
        for severity, message in odd_intensities(image.voxels, recipe.modality):
            report(severity, "intensity", message)
        for note in image.notes:
            report("warning", "geometry", f"{image.path}: {note}")
        spacing = odd_spacing(image.spacing_mm)
        if spacing:
            report("warning", "geometry", spacing)
        across = cut_across(image.affine, recipe.slice_axis)
        if across:
            report("warning", "slices", across)
    if label is not None:
        _examine_classes(recipe, label, report)


def _examine_classes(recipe: Recipe, label: Volume, report: _Report) -> None:
    """Report on the values of a label map and on where the classes lie."""
    values = value_counts(label.voxels)
    _try(lambda: class_counts(recipe, values), "label values", report)
    counts = class_counts(recipe, {raw: n for raw, n in values.items() if raw in recipe.label_map})
    missing = [name for name in recipe.classes[1:] if not counts[name]]
    if len(missing) == len(recipe.classes) - 1:
        if not recipe.allow_empty:
            report("error", "empty label", f"{label.path}: the label map is all background")
        return
    if missing:
        report("warning", "missing class", f"the label map holds no {', '.join(missing)}")
    ids = {name: class_id for class_id, name in enumerate(recipe.classes)}
    left, right = ({name: ids[name] for name in names} for names in (recipe.left, recipe.right))
    if left and right:
        classes = class_table(recipe, label.voxels.dtype)[label.voxels]
        swapped = swapped_sides(classes, label.affine, left, right)
        if swapped:
            report("error", "sides", swapped)


def _try(step: Callable[[], T], kind: str, report: _Report) -> T | None:
    """The result of `step`; what it cannot do is reported as an error of this kind."""
    try:
        return step()
    except InputError as error:
        report("error", kind, str(error))
    except MemoryError:
        report("error", kind, "not enough memory to examine it; use fewer workers")
    return None


def _stray(recipe: Recipe, source: Path, label: Path) -> Finding:
    case = case_of_label(recipe, label) or case_name(label)
    return Finding("error", case, "pair", f"{label.relative_to(source)}: the label has no image file")


def _each(examine: Callable[[Item], T], items: Sequence[Item], workers: int) -> Iterator[tuple[Item, T | None]]:
    """Each item in turn with what `examine` made of it, in processes when there are several workers."""
    if workers <= 1 or len(items) < 2:
        yield from ((item, examine(item)) for item in items)
        return
    early: dict[int, tuple[Item, T | None]] = {}
    wanted = iter(items)
    awaited = next(wanted, None)
    for item, result in in_parallel(examine, items, workers):
        early[id(item)] = item, result
        while awaited is not None and id(awaited) in early:
            yield early.pop(id(awaited))
            awaited = next(wanted, None)


def _lost(case: str) -> Examined:
    return Examined(case, (Finding("error", case, "unreadable", _KILLED),))
