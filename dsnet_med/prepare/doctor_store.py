"""The data doctor's look at a converted store: what its manifest says against what its files hold."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dsnet_med.errors import InputError
from dsnet_med.prepare.doctor_findings import Examined, Finding, Member, examine_set
from dsnet_med.prepare.store import CASES, MANIFEST, Store, StoredCase, entry_file, require_whole

_LISTED = 5


def examine_store(path: Path) -> Iterator[Examined]:
    """Examine every case of the store in the folder `path`, then the failed ones, then the store as a whole.

    Reads one slice at a time. Raises InputError when `path` holds no readable manifest.
    """
    store = _open_unchecked(path)
    members = []
    for case in store.cases.values():
        findings, digest = _examine_stored(store, case)
        members.append(Member(case.id, case.subject, case.split, digest))
        yield Examined(case.id, tuple(findings))
    for name, reason in store.failed.items():
        yield Examined(name, (Finding("error", name, "failed", f"was not converted: {reason}"),))
    yield Examined("", (*_leftovers(store), *examine_set(members)))


def _open_unchecked(path: Path) -> Store:
    """The store even if data files are missing or cut short, which `Store.open` refuses."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        cases = {entry["id"]: StoredCase.from_dict(entry) for entry in manifest["cases"]}
    except FileNotFoundError:
        return Store.open(path)  # which says what is missing
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path / MANIFEST}: damaged ({error!r}); run preprocess again") from error
    return Store(path, manifest, cases)


def _examine_stored(store: Store, case: StoredCase) -> tuple[list[Finding], str | None]:
    try:
        require_whole(store.path, case)
        counts, finite, digest = _read_through(store, case)
    except (InputError, OSError) as error:
        return [Finding("error", case.id, "damaged", str(error))], None
    findings = [*_entry_findings(store, case), *_label_findings(store, case, counts)]
    if not finite:
        findings.append(Finding("error", case.id, "damaged", "its image holds NaN or infinite values"))
    return findings, digest


def _read_through(store: Store, case: StoredCase) -> tuple[dict[int, int], bool, str]:
    """Voxels of each label value, whether the image is finite, and a digest of the image."""
    totals = np.zeros(256, np.int64)
    finite = True
    digest = hashlib.blake2b(repr(case.shape).encode(), digest_size=16)
    for index in range(case.shape[0]):
        image, label = store.read_slice(case.id, index)
        totals += np.bincount(label.ravel(), minlength=256)
        finite = finite and bool(np.isfinite(image).all())
        digest.update(image.data)
    return {int(value): int(totals[value]) for value in np.flatnonzero(totals)}, finite, digest.hexdigest()


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
