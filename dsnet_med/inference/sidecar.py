"""`CASE.json`, the sidecar: by it is known which files `infer` wrote, and that they are unchanged."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsnet_med.evaluate.pairing import REGRIDDED
from dsnet_med.evaluate.score_folders import RUN_FACTS
from dsnet_med.files import sha256
from dsnet_med.inference.run_facts import FACTS
from dsnet_med.volumes import case_name, is_volume

SIDECAR, LABELS = ".json", "labels.json"
FORMATS = {"nifti": ".nii.gz", "dicom-seg": ".dcm"}
PROBABILITIES, PREVIEW = ".npz", ".png"
ENDINGS = (PROBABILITIES, PREVIEW, REGRIDDED, *FORMATS.values())
_FORM = {"labels": dict, "input": dict, "model": list, "settings": dict, "files": dict}


def read_json(path: Path) -> Any:
    """What a JSON file holds, None where there is none, Ellipsis for what cannot be read as one."""
    try:
        if not path.is_file():
            return ... if path.exists() else None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ...


def read_sidecar(out: Path, case: str) -> dict[str, Any] | None:
    """A case's sidecar, or None where there is none that `write_case` wrote for it."""
    sidecar = read_json(out / f"{case}{SIDECAR}")
    return sidecar if isinstance(sidecar, dict) and _is_ours(sidecar, case) else None


def _is_ours(sidecar: dict[str, Any], case: str) -> bool:
    """Whether a JSON file has the form of a case's sidecar; the names of its files become paths."""
    if sidecar.get("case") != case or not all(
        isinstance(sidecar.get(name), kind) for name, kind in _FORM.items()
    ):
        return False
    known = all(ending in ENDINGS and isinstance(digest, str) for ending, digest in sidecar["files"].items())
    return known and isinstance(sidecar.get("statistics", {}), dict)


def is_as_written(out: Path, case: str, ending: str, sidecar: dict[str, Any]) -> bool:
    """Whether a file of a case is the one that its sidecar vouches for."""
    path = out / f"{case}{ending}"
    return path.is_file() and sidecar["files"].get(ending) == sha256(path)


@dataclass(frozen=True)
class Masks:
    """Of the files in a folder: the masks that `infer` wrote, and what lies among them and may be one."""

    written: frozenset[Path]
    doubtful: frozenset[Path]


def masks_among(folder: Path, files: Iterable[Path]) -> Masks:
    """The masks among these files of one folder.

    `doubtful` are other files with a sidecar, and all others where the folder is one that `infer` wrote to.
    All are masks where a bundle writes its predictions.
    """
    files = [file for file in files if is_volume(file) or file.suffix == FORMATS["dicom-seg"]]
    if not files or _is_bundle_output(folder.resolve()):
        return Masks(frozenset(files), frozenset())
    written = frozenset(file for file in files if _is_written(file.resolve() if file.is_symlink() else file))
    if written or _is_output_folder(folder):
        return Masks(written, frozenset(files) - written)
    return Masks(written, frozenset(file for file in files if read_sidecar(folder, case_name(file))))


def _is_written(file: Path) -> bool:
    """Whether a sidecar beside a file names it."""
    for ending in ENDINGS:
        if file.name.endswith(ending) and (case := file.name.removesuffix(ending)):
            sidecar = read_sidecar(file.parent, case)
            if sidecar and ending in sidecar["files"]:
                return True
    return False


def _is_bundle_output(folder: Path) -> bool:
    """Whether it is where the inference workflow of a run or a bundle writes to."""
    configs = folder.parent / "configs"
    return folder.name == "predictions" and any(
        (configs / f"inference.{kind}").is_file() for kind in ("json", "yaml")
    )


def _is_output_folder(folder: Path) -> bool:
    labels, run = read_json(folder / LABELS), read_json(folder / RUN_FACTS)
    return isinstance(labels, dict) and "0" in labels and isinstance(run, dict) and run.keys() <= FACTS
