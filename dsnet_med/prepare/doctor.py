"""The data doctor: everything that looks wrong in a raw data set, one line each; doctor_store.py for stores.

Nothing is changed, and a bad case never stops the others. `preprocess` says the same of what it converts.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from dsnet_med.errors import InputError, first_of, one_line, want_of_means
from dsnet_med.find import case_name
from dsnet_med.geometry import SliceOrder
from dsnet_med.prepare import decathlon
from dsnet_med.prepare.cases import RawCase, case_of_label, find_cases, stray_labels
from dsnet_med.prepare.doctor_case import volume_findings
from dsnet_med.prepare.doctor_set import examine_set
from dsnet_med.prepare.findings import Examined, Finding
from dsnet_med.prepare.fingerprint import CaseFingerprint, content_digest
from dsnet_med.prepare.labels import class_ids, class_table
from dsnet_med.prepare.reading import read_images, read_label
from dsnet_med.prepare.recipe import TASK_FOLDERS, Recipe, for_source
from dsnet_med.prepare.splits import meant
from dsnet_med.prepare.stored_case import StoredCase
from dsnet_med.processes import in_parallel
from dsnet_med.volumes import Volume, require_same_grid

_KILLED = "not examined: a worker was killed, most likely for want of memory; use fewer workers"
AnyCase = TypeVar("AnyCase", RawCase, StoredCase)


def examine_source(recipe: Recipe, source: Path, *, workers: int = 1) -> Iterator[Examined]:
    """Examine the raw data set under `source`: one result per case of `find_cases`, then one for the whole set.

    Holds one case in memory per worker. Raises InputError when `source` holds no such data set at all.
    """
    recipe = for_source(recipe, source)
    cases = find_cases(recipe, source)
    fingerprints = []
    for examined, fingerprint in in_order(partial(_examine_case, recipe, source), cases, workers):
        fingerprints.append(fingerprint)
        yield examined
    yield Examined("", (*source_findings(recipe, source, cases), *examine_set(fingerprints)))


def in_order(
    examine: Callable[[AnyCase], tuple[Examined, CaseFingerprint]], cases: Sequence[AnyCase], workers: int
) -> Iterator[tuple[Examined, CaseFingerprint]]:
    """What `examine` makes of each case in turn, in processes when there are several workers."""
    if workers <= 1 or len(cases) < 2:
        yield from map(examine, cases)
        return
    awaited, early = [case.id for case in cases], {}
    for case, result in in_parallel(examine, cases, workers):
        early[case.id] = result or (_killed(case.id), CaseFingerprint(case.id, case.subject, case.split))
        while awaited and awaited[0] in early:
            yield early.pop(awaited.pop(0))


def _killed(case: str) -> Examined:
    return Examined(case, (Finding("error", case, "unreadable", _KILLED),))


def _examine_case(recipe: Recipe, source: Path, case: RawCase) -> tuple[Examined, CaseFingerprint]:
    """The findings on one case, and what the checks on the whole set need of it. Raises nothing."""
    found: list[Finding] = []
    fingerprint = CaseFingerprint(case.id, case.subject, case.split)
    try:
        images, label = _read(recipe, case, found)
        found += volume_findings(recipe, case.id, images, label)
        if images:
            fingerprint = _fingerprint(recipe, fingerprint, images, label)
    except InputError as error:
        found.append(Finding("error", case.id, "unreadable", str(error)))
    except Exception as error:  # the others must go on, whatever this case met
        said = f"unexpected {type(error).__name__}: {one_line(str(error), None)}"
        message = want_of_means(error) or said
        found.append(Finding("error", case.id, "unreadable", message))
    return Examined(case.id, tuple(finding.within(source) for finding in found)), fingerprint


def _read(recipe: Recipe, case: RawCase, found: list[Finding]) -> tuple[tuple[Volume, ...], Volume | None]:
    """The volumes of a case, as far as they can be read; what cannot is `found`."""

    def report(kind: str, message: str) -> None:
        found.append(Finding("error", case.id, kind, message))

    @contextmanager
    def reported(kind: str) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            report(kind, str(error))
        except MemoryError:
            report(kind, "not enough memory to examine it; use fewer workers")

    images: tuple[Volume, ...] = ()
    label = None
    if case.problem:
        report("unreadable", case.problem)
        return (), None
    missing = [image for image in case.images if not image.exists()]
    for image in missing:
        report("pair", f"{image}: the image is missing")
    if not missing:
        with reported("unreadable"):
            images = read_images(recipe, case)
    if case.labels:
        with reported("unreadable"):
            label = read_label(recipe, case)
    elif case.split != "extra":
        report("pair", f"{case.image}: the image has no label file{wanted_label(case)}")
    if images and label is not None:
        with reported("geometry"):
            require_same_grid(images[0], label)
    return images, label


def _fingerprint(
    recipe: Recipe, fingerprint: CaseFingerprint, images: Sequence[Volume], label: Volume | None
) -> CaseFingerprint:
    image = images[0]  # where cases are compared by their looks
    order, classes = SliceOrder.of(image.affine, recipe.slice_axis), None
    if label is not None and label.shape == image.shape:
        stored = class_table(recipe, label.voxels.dtype)[order.to_slices(label.voxels)]
        classes = class_ids(stored, recipe.regions if recipe.overlapping else ())
    slices = order.to_slices(image.voxels)
    upright = SliceOrder.of(image.affine)
    content = content_digest(*(upright.to_slices(each.voxels) for each in images))
    pictures = recipe.intensities[0].fit(image.voxels).apply(slices)
    seen = replace(fingerprint, content=content).with_features(
        pictures, classes, order.spacing_mm(image.affine), recipe.classes
    )
    stacks = [order.to_slices(each.voxels) for each in images]
    return seen.with_contrasts(recipe.channels, stacks, classes, recipe.classes)


def wanted_label(case: RawCase) -> str:
    """Where the label file of a case was looked for, in words after `no label file`."""
    return f", wanted {case.wanted}" if case.wanted else ""


def source_findings(recipe: Recipe, source: Path, cases: Sequence[RawCase]) -> list[Finding]:
    """What names and lists alone say about a data set: labels without images, splits that do not fit."""
    unlabelled = [case for case in cases if _unlabelled_by_design(recipe, case)]
    labelled = [case for case in cases if case not in unlabelled]
    found = []
    for label in stray_labels(recipe, source):
        message = f"{label.relative_to(source)}: the label has no image file"
        found.append(Finding("error", case_of_label(recipe, label) or case_name(label), "pair", message))
    notes = [*recipe.notes, *_miscounted(recipe, source, len(labelled))]
    found += (Finding("warning", "", "source", note) for note in notes)
    return [*found, *_split_list_findings(recipe, labelled, {case.subject for case in unlabelled})]


def _unlabelled_by_design(recipe: Recipe, case: RawCase) -> bool:
    return recipe.layout in TASK_FOLDERS and case.wanted is None and not case.problem


def _miscounted(recipe: Recipe, source: Path, found: int) -> Iterator[str]:
    """A dataset.json that counts other cases than there are."""
    if recipe.layout in TASK_FOLDERS and (source / decathlon.FILE_NAME).is_file():
        told = decathlon.read_dataset_json(source).training_cases
        if isinstance(told, int) and told != found:
            yield f"{decathlon.FILE_NAME} counts {told} training cases (numTraining), the source has {found}"


def _split_list_findings(recipe: Recipe, cases: Sequence[RawCase], unlabelled: set[str]) -> Iterator[Finding]:
    """Whether a split list and the subjects of a source name each other.

    A name that matches nothing beside a subject that it most likely means is an error: the subject would
    quietly be `extra`. Without such a subject the data may just not be there, which is worth a warning. The
    subjects in `unlabelled` are extra whatever a list says.
    """
    splits = recipe.splits
    if not isinstance(splits, dict):
        return
    subjects = {case.subject for case in cases}
    absent = [name for name in splits if name not in subjects | unlabelled]
    unlisted = sorted(subjects - splits.keys())
    means = {name: subject for name in absent if (subject := meant(name, unlisted))}
    if means:
        pairs = first_of(f"'{name}' (did you mean '{subject}'?)" for name, subject in means.items())
        todo = "correct the list or rename the files"
        message = f"the split list names {pairs}, which the source does not hold; {todo}"
        yield Finding("error", "", "source", message)
    absent = [name for name in absent if name not in means]
    unlisted = [subject for subject in unlisted if subject not in means.values()]
    kept_out = [subject for subject in sorted(unlabelled) if splits.get(subject, "extra") != "extra"]
    told = {
        f"{len(absent)} of the {len(splits)} subjects of the split list are not in the source: "
        f"{first_of(absent)}": absent,
        f"the split list does not name {first_of(unlisted)}: extra, neither trained nor tested on": unlisted,
        f"the split list names {first_of(kept_out)}, which come without labels: extra": kept_out,
    }
    yield from (Finding("warning", "", "source", message) for message, names in told.items() if names)
