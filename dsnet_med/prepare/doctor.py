"""The data doctor: everything that looks wrong in a raw data set, or in a store, one line each.

Nothing is changed, and a bad case never stops the others.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import TypeVar

from dsnet_med.errors import InputError
from dsnet_med.geometry import same_grid
from dsnet_med.prepare.cases import RawCase, case_of_label, find_cases, stray_labels
from dsnet_med.prepare.doctor_checks import content_digest, odd_intensities, swapped_sides
from dsnet_med.prepare.doctor_findings import Examined, Finding, Member, Severity, examine_set
from dsnet_med.prepare.doctor_store import examine_store
from dsnet_med.prepare.labels import class_counts, class_table, value_counts
from dsnet_med.prepare.recipe import Recipe, for_source
from dsnet_med.volumes import Grid, Volume, case_name, read_grid, read_image, read_labels, require_same_grid

__all__ = ["Examined", "Finding", "examine_source", "examine_store"]

_FORMS_AGREE_MM = 1.0
_Report = Callable[[Severity, str, str], None]
T = TypeVar("T")


def examine_source(recipe: Recipe, source: Path, *, workers: int = 1) -> Iterator[Examined]:
    """Examine the raw data set under `source`: one result per case of `find_cases`, then one for the whole set.

    Holds one case in memory per worker. Raises InputError when `source` holds no such data set at all.
    """
    recipe = for_source(recipe, source)
    cases = find_cases(recipe, source)
    strays = [_stray(recipe, source, label) for label in stray_labels(recipe, source)]
    members = []
    for examined, member in _each(partial(examine_case, recipe, source), cases, workers):
        members.append(member)
        yield examined
    yield Examined("", (*strays, *examine_set(members)))


def examine_case(recipe: Recipe, source: Path, case: RawCase) -> tuple[Examined, Member]:
    """The findings on one case, and what the checks on the whole set need of it."""
    findings: list[Finding] = []

    def report(severity: Severity, kind: str, message: str) -> None:
        text = message.replace(f"{source}/", "")
        findings.append(Finding(severity, case.id, kind, text))

    digest = _examine_image(recipe, case, report)
    _examine_label(recipe, case, report)
    member = Member(case.id, case.subject, case.split, digest)
    return Examined(case.id, tuple(findings)), member


def _examine_image(recipe: Recipe, case: RawCase, report: _Report) -> str | None:
    """Report on the image; returns the digest of its content, None when it cannot be read."""
    if not case.image.is_file():
        report("error", "pair", f"{case.image}: the image is missing")
        return None
    image = _try(lambda: read_image(case.image), "unreadable", report)
    if image is None:
        return None
    for severity, message in odd_intensities(image.voxels, recipe.modality):
        report(severity, "intensity", message)
    _examine_forms(image, report)
    return content_digest(image.voxels, image.affine)


def _examine_forms(image: Grid, report: _Report) -> None:
    """Report a header that places the volume twice, differently."""
    sform, qform = image.header.get_sform(coded=True), image.header.get_qform(coded=True)
    if sform[1] and qform[1] and not same_grid(image.shape, sform[0], image.shape, qform[0], _FORMS_AGREE_MM):
        report("warning", "geometry", "sform and qform of the image disagree by more than 1 mm; sform is used")


def _examine_label(recipe: Recipe, case: RawCase, report: _Report) -> None:
    if case.label is None:
        if case.split != "extra":
            report("error", "pair", f"{case.image}: the image has no label file")
        return
    label_file = case.label
    label = _try(lambda: read_labels(label_file), "unreadable", report)
    if label is None:
        return
    # An unreadable image has been reported; the label's own checks go on without it.
    image = _try(lambda: read_grid(case.image), "", lambda *_: None)
    if image is not None:
        _try(lambda: require_same_grid(image, label), "geometry", report)
    _examine_classes(recipe, label, report)


def _examine_classes(recipe: Recipe, label: Volume, report: _Report) -> None:
    """Report on the values of a label map and on where the classes lie."""
    values = value_counts(label.voxels)
    _try(lambda: class_counts(recipe, values), "label values", report)
    counts = class_counts(recipe, {raw: n for raw, n in values.items() if raw in recipe.label_map})
    missing = [name for name in recipe.classes[1:] if not counts[name]]
    if len(missing) == len(recipe.classes) - 1:
        report("error", "empty label", f"{label.path}: the label map is all background")
        return
    if missing:
        report("warning", "missing class", f"{label.path}: holds no {', '.join(missing)}")
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


def _each(
    examine: Callable[[RawCase], tuple[Examined, Member]], cases: list[RawCase], workers: int
) -> Iterator[tuple[Examined, Member]]:
    """`examine` on each case in turn, in processes when there are several workers."""
    if workers <= 1:
        yield from map(examine, cases)
        return
    # Not forked: the caller may hold threads and a GPU.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(examine, case) for case in cases]
        try:
            for case, future in zip(cases, futures, strict=True):
                try:
                    yield future.result()
                except BrokenProcessPool:
                    yield _lost(case)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _lost(case: RawCase) -> tuple[Examined, Member]:
    message = "not examined: a worker was killed, most likely for want of memory; use fewer workers"
    finding = Finding("error", case.id, "unreadable", message)
    return Examined(case.id, (finding,)), Member(case.id, case.subject, case.split, None)
