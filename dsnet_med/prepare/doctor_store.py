"""The data doctor's look at a converted store: what its manifest says against what its files hold."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dsnet_med.errors import InputError
from dsnet_med.prepare.doctor_findings import Examined, Finding, Member
from dsnet_med.prepare.doctor_portrait import Portrait
from dsnet_med.prepare.store import CASES, MANIFEST, Store, StoredCase, entry_file, require_whole

_LISTED = 5


def open_unchecked(path: Path) -> Store:
    """The store even if data files are missing or cut short, which `Store.open` refuses. Raises InputError."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        cases = {entry["id"]: StoredCase.from_dict(entry) for entry in manifest["cases"]}
    except FileNotFoundError:
        return Store.open(path)  # which says what is missing
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path / MANIFEST}: damaged ({error!r}); run preprocess again") from error
    return Store(path, manifest, cases)


def examine_stored(store: Store, case: StoredCase) -> tuple[Examined, Member]:
    """The findings on one case, those of its source among them, and what the checks on the set need of it."""
    store = replace(store, cases={case.id: case})
    member = Member(case.id, case.subject, case.split, None)
    seen = [finding for finding in case.findings if finding.kind != "missing class"]  # which is looked for here
    try:
        require_whole(store.path, case)
        counts, finite, member = _read_through(store, case)
    except (InputError, OSError) as error:
        return Examined(case.id, (Finding("error", case.id, "damaged", str(error)), *seen)), member
    findings = [*_entry_findings(store, case), *_label_findings(store, case, counts), *seen]
    if not finite:
        findings.append(Finding("error", case.id, "damaged", "its image holds NaN or infinite values"))
    return Examined(case.id, tuple(findings)), member


def store_findings(store: Store) -> list[Finding]:
    """Files that no case owns, and what preprocess had to say of the source's names and lists."""
    noted = [Finding(**finding) for finding in store.manifest.get("findings", ())]
    told = [replace(finding, severity="warning") for finding in noted if finding.kind in ("source", "pair")]
    return [*_leftovers(store), *told]


def findings_of(store: Store) -> list[Finding]:
    """What preprocess found: in the source and the set as a whole, then in each case."""
    in_set = [Finding(**finding) for finding in store.manifest.get("findings", ())]
    return [*in_set, *(finding for case in store.cases.values() for finding in case.findings)]


def member_of(path: Path, case: StoredCase) -> Member:
    """What the checks on a whole set need of one case in the store folder `path`."""
    return _read_through(Store(path, {}, {case.id: case}), case)[2]


def _read_through(store: Store, case: StoredCase) -> tuple[dict[int, int], bool, Member]:
    """Voxels of each label value, whether the image is finite, and what the checks on the set need."""
    image, labels = store.read_case(case.id)
    totals = np.bincount(labels.ravel(), minlength=256)
    counts = {int(value): int(totals[value]) for value in np.flatnonzero(totals)}
    finite = bool(np.isfinite(image).all())
    digest = hashlib.blake2b(repr(case.shape).encode(), digest_size=16)
    digest.update(image.data)
    portrait = None
    names = tuple(case.label_voxels)
    if finite and max(counts) < max(len(names), 1):
        portrait = Portrait.of(image, labels if case.label_file else None, case.spacing_mm, names)
    return counts, finite, Member(case.id, case.subject, case.split, digest.hexdigest(), portrait)


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
    strays = [value for value in counts if value >= len(store.classes)]
    if strays:
        yield Finding(
            "error", case.id, "label values", f"label values {_listed(strays)} are no class of the store"
        )
    if not any(counts.get(class_id) for class_id in range(1, len(store.classes))):
        if not store.manifest["recipe"].get("allow_empty"):
            yield Finding("error", case.id, "empty label", "the label map is all background")
        return
    for class_id, name in enumerate(store.classes):
        got, told = counts.get(class_id, 0), case.label_voxels.get(name, 0)
        if got != told:
            message = f"{name} has {got} voxels, the manifest says {told}; run preprocess again"
            yield Finding("error", case.id, "label counts", message)
    missing = [name for class_id, name in enumerate(store.classes) if not counts.get(class_id)]
    if missing:
        yield Finding("warning", case.id, "missing class", f"holds no {', '.join(missing)}")


def _leftovers(store: Store) -> Iterator[Finding]:
    """Data files that no case of the manifest owns."""
    owned = {f"{case}{suffix}" for case in store.cases for suffix in (".bin", ".json")}
    extra = sorted(file.name for file in (store.path / CASES).glob("*") if file.name not in owned)
    if extra:
        message = f"{CASES} holds {_listed(extra)}, which the manifest does not name"
        yield Finding("warning", "", "leftover", message)


def _listed(values: list[Any]) -> str:
    more = f" and {len(values) - _LISTED} more" if len(values) > _LISTED else ""
    return ", ".join(str(value) for value in values[:_LISTED]) + more
