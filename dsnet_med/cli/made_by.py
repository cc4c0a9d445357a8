"""What lies beside predictions and says what made them: are they still that, and all of one model?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsnet_med.errors import cannot_read, first_of, one_line
from dsnet_med.evaluate.score_folders import RUN_FACTS
from dsnet_med.files import read_json, sha256
from dsnet_med.find import mask_case
from dsnet_med.inference.sidecar import ENDINGS, SIDECAR, Sidecar, is_as_written, read_sidecar
from dsnet_med.seal import SEAL, holds

_TABLES = ("labels.json", "statistics.csv")


@dataclass(frozen=True)
class Origin:
    """What `infer` wrote beside masks: which run made them, its files' hashes, and what is wrong."""

    run: Mapping[str, Any] | None
    beside: Mapping[str, Any]
    notes: list[str]


def origin_of(predictions: Path, files: Sequence[Path]) -> Origin:
    """What is known of the origin of these `files`. Raises InputError for a run.json that cannot be read."""
    folder = predictions if predictions.is_dir() else predictions.parent
    found = {folder / name for name in (RUN_FACTS, *_TABLES)}
    run, notes = _run_facts(folder / RUN_FACTS)
    models: dict[tuple[str, ...], list[str]] = {}
    changed, unknown = [], []
    for file in files:
        case = mask_case(file)
        sidecar = read_sidecar(folder, case)
        if sidecar is None:
            unknown.append(file.name)
            notes += _damaged(folder / f"{case}{SIDECAR}")
            continue
        found.add(folder / f"{case}{SIDECAR}")
        models.setdefault(tuple(map(str, sidecar["model"])), []).append(file.name)
        if not _is_as_written(folder, case, file, sidecar):
            changed.append(file.name)
    if changed:
        notes.append(f"not as `infer` wrote them, but changed since: {first_of(changed)}")
    if models and unknown:
        notes.append(f"of some masks nothing says what made them: {first_of(unknown)}")
    if len(models) > 1:
        each = "; ".join(f"{first_of(names, 4)} by {_short(model)}" for model, names in models.items())
        notes.append(f"the masks are of {len(models)} models (other weights or configurations): {each}")
    hashes = {file.name: sha256(file) for file in sorted(found) if file.is_file()}
    return Origin(run, {"folder": str(folder.absolute()), "files": hashes}, notes)


def _short(model: Sequence[str]) -> str:
    return " + ".join(each[:8] for each in model)


def _is_as_written(folder: Path, case: str, file: Path, sidecar: Sidecar) -> bool:
    ending = next((each for each in ENDINGS if file.name == f"{case}{each}"), None)
    return ending is None or ending not in sidecar["files"] or is_as_written(folder, case, ending, sidecar)


def _damaged(file: Path) -> list[str]:
    """A line on a sidecar that was one, and was changed since."""
    try:
        held = read_json(file) if file.is_file() else {}
    except (OSError, ValueError):
        return [f"{file.name} cannot be read: what made its mask is not known"]
    changed = isinstance(held, dict) and holds(held) is False
    return (
        [f"{file.name} was changed since `infer` wrote it: what made its mask is not known"] if changed else []
    )


def _run_facts(file: Path) -> tuple[Mapping[str, Any] | None, list[str]]:
    """What `infer` says of the run beside its masks, None where they come from elsewhere; and a line on it."""
    if not file.is_file():
        return None, []
    try:
        facts = read_json(file)
    except (OSError, ValueError) as error:
        reason = f"not readable as JSON ({one_line(error)}); remove it or infer again"
        raise cannot_read(file, error, reason) from error
    if not isinstance(facts, dict):
        return None, []
    notes = [f"{file.name} was changed since `infer` wrote it"] if holds(facts) is False else []
    return {name: value for name, value in facts.items() if name != SEAL}, notes
