"""`CASE.json`, the sidecar: what made the files of a case, and the hash of each.

By it is known which files `infer` wrote, that they are unchanged, and what need not be done again. A file that
no sidecar vouches for is somebody's work and never replaced unasked.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsnet_med.errors import InputError, cannot_read, want_of_means
from dsnet_med.evaluate.pairing import REGRIDDED
from dsnet_med.files import parse_json, read_text, sha256
from dsnet_med.find import FORMS
from dsnet_med.seal import holds

SIDECAR = ".json"
FORMATS = FORMS
PROBABILITIES, PREVIEW = ".npz", ".png"
ENDINGS = (PROBABILITIES, PREVIEW, REGRIDDED, *FORMATS.values())
HELP = "choose another --out, or replace it with --overwrite"
_FORM = {"labels": dict, "input": dict, "model": list, "settings": dict, "files": dict}
_OTHERS = {
    "case": "of another case",
    "labels": "with other labels",
    "input": "of another input",
    "model": "by another model",
    "settings": "with other settings",
}
Identity = dict[str, Any]  # what makes one result another; the keys are those of _OTHERS
Sidecar = dict[str, Any]


def read_json(path: Path) -> Any:
    """What a JSON file holds, None where there is none, Ellipsis for what is none.

    Raises InputError where it is there and means are wanting to read it.
    """
    try:
        if not path.is_file():
            return ... if path.exists() else None
        return parse_json(read_text(path))
    except (OSError, ValueError) as error:
        if want_of_means(error):
            raise cannot_read(path, error, str(error)) from error
        return ...


def read_sidecar(out: Path, case: str) -> Sidecar | None:
    """A case's sidecar, or None where there is none that `write_case` wrote, or it was changed since."""
    sidecar = read_json(out / f"{case}{SIDECAR}")
    if not isinstance(sidecar, dict) or sidecar.get("case") != case or holds(sidecar) is False:
        return None
    known = all(isinstance(sidecar.get(name), kind) for name, kind in _FORM.items())
    if not known or not isinstance(sidecar.get("statistics", {}), dict):
        return None
    # The endings become names of files that may be replaced.
    files = sidecar["files"].items()
    return sidecar if all(ending in ENDINGS and isinstance(digest, str) for ending, digest in files) else None


def input_of(digests: Mapping[Path, str]) -> dict[str, Any]:
    """The input in an identity: the hash of a file, as `sha256sum` prints it; of several each by name.

    Those of one name in several folders have their folder's before it.
    """
    if len(digests) == 1:
        return {"files": 1, "sha256": next(iter(digests.values()))}
    alike = Counter(file.name for file in digests)
    named = {
        file.name if alike[file.name] == 1 else f"{file.parent.name}/{file.name}": digest
        for file, digest in digests.items()
    }
    return {"files": len(digests), "sha256": named}


def differences(sidecar: Sidecar, wanted: Identity) -> list[str]:
    """The parts of an identity that a sidecar has otherwise; of an input the contents count, not the names."""
    return [name for name, value in wanted.items() if not _agrees(sidecar.get(name), value)]


def _agrees(held: Any, wanted: Any) -> bool:
    if not isinstance(held, dict) or not isinstance(wanted, dict) or "sha256" not in wanted:
        return bool(held == wanted)
    old, new = _hashes(held), _hashes(wanted)
    # The first versions wrote one hash of all the files' hashes.
    return old in (new, [hashlib.sha256("".join(new).encode()).hexdigest()])


def _hashes(digests: Mapping[str, Any]) -> list[str]:
    held = digests.get("sha256")
    return [str(each) for each in (held.values() if isinstance(held, dict) else [held])]


def is_as_written(out: Path, case: str, ending: str, sidecar: Sidecar) -> bool:
    """Whether a file of a case is the one that its sidecar vouches for."""
    path = out / f"{case}{ending}"
    return path.is_file() and sidecar["files"].get(ending) == sha256(path)


def vouched(out: Path, case: str, sidecar: Sidecar) -> dict[str, str]:
    """The files of a case that are as they were written: ending and hash."""
    files: Mapping[str, str] = sidecar["files"]
    return {ending: files[ending] for ending in files if is_as_written(out, case, ending, sidecar)}


def require_free(out: Path, case: str, endings: Sequence[str]) -> None:
    """Raise InputError for a file of these endings that `infer` did not write, where a case has no sidecar."""
    for ending in (SIDECAR, *endings):
        if os.path.lexists(out / f"{case}{ending}"):
            raise _refused(out / f"{case}{ending}", "and was not written by infer")


def is_finished(out: Path, wanted: Identity, endings: Sequence[str], sidecar: Sidecar) -> bool:
    """Whether all files of a case are there, as its `sidecar` says that they were written.

    Raises InputError for files that were not written here, were changed since, or are those of another model,
    other settings or another input.
    """
    case = str(wanted["case"])
    present = [ending for ending in ENDINGS if os.path.lexists(out / f"{case}{ending}")]
    if other := differences(sidecar, wanted):
        if there := [ending for ending in present if ending in (*sidecar["files"], *endings)]:
            raise _refused(out / f"{case}{there[0]}", _OTHERS[other[0]])
        return False
    for ending in present:
        if ending in endings and not is_as_written(out, case, ending, sidecar):
            raise _refused(out / f"{case}{ending}", "and was changed since, or not written by infer")
    return all(ending in present for ending in endings)


def _refused(path: Path, why: str) -> InputError:
    return InputError(f"{path} is there already, {why}; {HELP}")
