"""The data doctor's look at a converted store: what its manifest says against what its files hold."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from dsnet_med.errors import InputError, first_of
from dsnet_med.prepare.case_file import Slices
from dsnet_med.prepare.doctor import in_order
from dsnet_med.prepare.doctor_set import examine_set
from dsnet_med.prepare.findings import Examined, Finding
from dsnet_med.prepare.fingerprint import CaseFingerprint, content_digest
from dsnet_med.prepare.labels import class_ids
from dsnet_med.prepare.store import Store
from dsnet_med.prepare.stored_case import CASES, StoredCase, entry_file, read_entry, require_whole
from dsnet_med.regions import Region


def examine_store(path: Path, *, workers: int = 1) -> Iterator[Examined]:
    """Examine every case of the store in the folder `path`, then the failed ones, then the store as a whole.

    Raises InputError when `path` holds no readable manifest.
    """
    store = Store.described(path)
    work = partial(_examine_case, store.model_copy(update={"cases": {}}))  # every worker gets it with each case
    fingerprints = []
    for examined, fingerprint in in_order(work, list(store.cases.values()), workers):
        fingerprints.append(fingerprint)
        yield examined
    for name, reason in store.failed.items():
        yield Examined(name, (Finding("error", name, "failed", f"was not converted: {reason}"),))
    noted = [finding for finding in store.findings if finding.kind in ("source", "pair")]
    told = [replace(finding, severity="warning") for finding in noted]
    yield Examined("", (*_leftovers(store), *told, *examine_set(fingerprints)))


def stored_fingerprint(
    case: StoredCase, slices: Slices, channels: Sequence[str], structures: Sequence[Region] = ()
) -> CaseFingerprint:
    """What the checks on a whole set need of a stored case, whose labels may hold bits of `structures`."""
    image, labels = slices[0], class_ids(slices[1], structures)
    fingerprint = CaseFingerprint(case.id, case.subject, case.split, content_digest(*image))
    names = tuple(case.label_voxels)
    if not np.isfinite(image).all() or labels.max() >= max(len(names), 1):
        return fingerprint
    classes = labels if case.label_files else None
    seen = fingerprint.with_features(image[0], classes, case.spacing_mm, names)
    return seen.with_contrasts(channels, list(image), classes, names)


def _examine_case(store: Store, case: StoredCase) -> tuple[Examined, CaseFingerprint]:
    """The findings on one case, those of its source among them, and what the checks on the set need of it."""
    seen = [finding for finding in case.findings if finding.kind != "missing class"]  # which is looked for here
    try:
        require_whole(store.path, case)
        image, labels = store.model_copy(update={"cases": {case.id: case}}).read_case(case.id)
    except InputError as error:
        damaged = Finding("error", case.id, "damaged", str(error))
        return Examined(case.id, (damaged, *seen)), CaseFingerprint(case.id, case.subject, case.split)
    findings = [*_entry_findings(store, case), *_label_findings(store, case), *seen]
    if not np.isfinite(image).all():
        findings.append(Finding("error", case.id, "damaged", "its image holds NaN or infinite values"))
    structures = store.regions if store.recipe.get("overlapping") else ()
    return Examined(case.id, tuple(findings)), stored_fingerprint(
        case, (image, labels), store.channels, structures
    )


def _entry_findings(store: Store, case: StoredCase) -> Iterator[Finding]:
    """Whether the case's own entry and recipe agree with the manifest."""
    try:
        if read_entry(store.path, case.id) != case:
            file = entry_file(store.path, case.id)
            yield Finding(
                "error", case.id, "damaged", f"{file}: differs from the manifest; run preprocess again"
            )
    except InputError as error:
        yield Finding("error", case.id, "damaged", str(error))
    if case.recipe_hash != store.recipe_hash:
        message = "was converted with another version of the recipe; run preprocess again"
        yield Finding("error", case.id, "damaged", message)


def _label_findings(store: Store, case: StoredCase) -> Iterator[Finding]:
    missing = [name for name in store.classes if not case.label_voxels.get(name)]
    if (
        case.label_files and missing and not set(store.classes[1:]) <= set(missing)
    ):  # which is allowed, or refused
        yield Finding("warning", case.id, "missing class", f"holds no {', '.join(missing)}")


def _leftovers(store: Store) -> Iterator[Finding]:
    """Data files that no case of the manifest owns."""
    owned = {f"{case}{suffix}" for case in store.cases for suffix in (".bin", ".json")}
    extra = sorted(file.name for file in (store.path / CASES).glob("*") if file.name not in owned)
    if extra:
        message = f"{CASES} holds {first_of(extra)}, which the manifest does not name"
        yield Finding("warning", "", "leftover", message)
