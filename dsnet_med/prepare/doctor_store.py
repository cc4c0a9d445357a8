"""The data doctor's look at a converted store: what its manifest says against what its files hold."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from dsnet_med.errors import InputError, first_of
from dsnet_med.prepare.doctor import in_order
from dsnet_med.prepare.doctor_set import examine_set
from dsnet_med.prepare.findings import Examined, Finding
from dsnet_med.prepare.fingerprint import CaseFingerprint, content_digest
from dsnet_med.prepare.labels import value_counts
from dsnet_med.prepare.store import CASES, Store, StoredCase, entry_file, require_whole


def examine_store(path: Path, *, workers: int = 1) -> Iterator[Examined]:
    """Examine every case of the store in the folder `path`, then the failed ones, then the store as a whole.

    Raises InputError when `path` holds no readable manifest.
    """
    store = Store.open(path, whole=False)
    # The manifest without its cases: every worker gets one with each case.
    lean = replace(store, cases={}, manifest=store.manifest | {"cases": []})
    fingerprints = []
    for examined, fingerprint in in_order(partial(_examine_case, lean), list(store.cases.values()), workers):
        fingerprints.append(fingerprint)
        yield examined
    for name, reason in store.failed.items():
        yield Examined(name, (Finding("error", name, "failed", f"was not converted: {reason}"),))
    noted = [finding for finding in store.findings if finding.kind in ("source", "pair")]
    told = [replace(finding, severity="warning") for finding in noted]
    yield Examined("", (*_leftovers(store), *told, *examine_set(fingerprints)))


def fingerprint_of(path: Path, case: StoredCase) -> CaseFingerprint:
    """What the checks on a whole set need of one case in the store folder `path`."""
    return _read_through(Store(path, {}, {case.id: case}), case)[2]


def _examine_case(store: Store, case: StoredCase) -> tuple[Examined, CaseFingerprint]:
    """The findings on one case, those of its source among them, and what the checks on the set need of it."""
    store = replace(store, cases={case.id: case})
    fingerprint = CaseFingerprint(case.id, case.subject, case.split)
    seen = [finding for finding in case.findings if finding.kind != "missing class"]  # which is looked for here
    try:
        require_whole(store.path, case)
        counts, finite, fingerprint = _read_through(store, case)
    except (InputError, OSError) as error:
        return Examined(case.id, (Finding("error", case.id, "damaged", str(error)), *seen)), fingerprint
    findings = [*_entry_findings(store, case), *_label_findings(store, case, counts), *seen]
    if not finite:
        findings.append(Finding("error", case.id, "damaged", "its image holds NaN or infinite values"))
    return Examined(case.id, tuple(findings)), fingerprint


def _read_through(store: Store, case: StoredCase) -> tuple[dict[int, int], bool, CaseFingerprint]:
    """Voxels of each label value, whether the image is finite, and what the checks on the set need."""
    image, labels = store.read_case(case.id)
    counts = value_counts(labels)
    finite = bool(np.isfinite(image).all())
    fingerprint = CaseFingerprint(case.id, case.subject, case.split, content_digest(image))
    names = tuple(case.label_voxels)
    if finite and max(counts) < max(len(names), 1):
        classes = labels if case.label_file else None
        fingerprint = fingerprint.with_features(image, classes, case.spacing_mm, names)
    return counts, finite, fingerprint


def _entry_findings(store: Store, case: StoredCase) -> Iterator[Finding]:
    """Whether the case's own entry and recipe agree with the manifest."""
    file = entry_file(store.path, case.id)
    try:
        entry = StoredCase.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield Finding("warning", case.id, "damaged", f"{file}: cannot be read ({type(error).__name__})")
        return
    if entry != case:
        yield Finding("error", case.id, "damaged", f"{file}: differs from the manifest; run preprocess again")
    if case.recipe_hash != store.manifest.get("recipe_hash", case.recipe_hash):
        message = "was converted with another version of the recipe; run preprocess again"
        yield Finding("error", case.id, "damaged", message)


def _label_findings(store: Store, case: StoredCase, counts: dict[int, int]) -> Iterator[Finding]:
    if not case.label_file:
        return
    if strays := [value for value in counts if value >= len(store.classes)]:
        message = f"label values {first_of(strays)} are no class of the store"
        yield Finding("error", case.id, "label values", message)
    if not any(counts.get(class_id) for class_id in range(1, len(store.classes))):
        if not store.manifest["recipe"].get("allow_empty"):
            yield Finding("error", case.id, "empty label", "the label map is all background")
        return
    for class_id, name in enumerate(store.classes):
        got, told = counts.get(class_id, 0), case.label_voxels.get(name, 0)
        if got != told:
            message = f"{name} has {got} voxels, the manifest says {told}; run preprocess again"
            yield Finding("error", case.id, "label counts", message)
    if missing := [name for class_id, name in enumerate(store.classes) if class_id not in counts]:
        yield Finding("warning", case.id, "missing class", f"holds no {', '.join(missing)}")


def _leftovers(store: Store) -> Iterator[Finding]:
    """Data files that no case of the manifest owns."""
    owned = {f"{case}{suffix}" for case in store.cases for suffix in (".bin", ".json")}
    extra = sorted(file.name for file in (store.path / CASES).glob("*") if file.name not in owned)
    if extra:
        message = f"{CASES} holds {first_of(extra)}, which the manifest does not name"
        yield Finding("warning", "", "leftover", message)
