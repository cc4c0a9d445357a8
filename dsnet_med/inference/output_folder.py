"""The files of a folder of masks that are about all of them, and what else lies in such a folder.

labels.json names the classes, run.json says which run made the masks, statistics.csv what is in them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsnet_med.csv_cells import csv_text
from dsnet_med.errors import InputError
from dsnet_med.evaluate.score_folders import RUN_FACTS
from dsnet_med.files import read_bytes, write_json, write_text
from dsnet_med.find import case_name, is_volume
from dsnet_med.inference.itk_snap import LABEL_FILE, label_descriptions
from dsnet_med.inference.mask import labels_of
from dsnet_med.inference.sidecar import ENDINGS, FORMATS, HELP, SIDECAR, read_json, read_sidecar, vouched
from dsnet_med.seal import SEAL, sealed

LABELS, STATISTICS = "labels.json", "statistics.csv"
_HEAD = ["case", "label", "name", "voxels", "volume_ml", "mean_intensity"]
_NAMES = ("recipe", "seed", "iterations", "width", "parameters", "select_on", "device", "weights")
_TITLE, _SELECTED = "method", "selected at iteration"
_FACTS = {_TITLE, *_NAMES, _SELECTED, SEAL}


def claim(out: Path, class_names: Sequence[str], *, statistics: bool, label_file: bool = False) -> None:
    """Raise InputError where a file names other classes, or one of the others is not one of ours."""
    _require(out / LABELS, read_json(out / LABELS) in (None, labels_of(class_names)), "names other classes")
    if label_file and (out / LABEL_FILE).exists():
        held = read_bytes(out / LABEL_FILE).decode(errors="replace")
        _require(out / LABEL_FILE, held == label_descriptions(class_names), "names other labels or colours")
    foreign = "was not written by infer"
    _require(out / RUN_FACTS, _is_run_facts(read_json(out / RUN_FACTS)), foreign)
    if statistics and (out / STATISTICS).is_file():
        with (out / STATISTICS).open(encoding="utf-8", errors="replace") as stream:
            _require(out / STATISTICS, stream.readline().rstrip("\r\n") == ",".join(_HEAD), foreign)


def _require(path: Path, holds: bool, why: str) -> None:
    if path.exists() and not holds:
        raise InputError(f"{path} is there already and {why}; {HELP}")


def _is_run_facts(held: Any) -> bool:
    return isinstance(held, dict) and held.keys() <= _FACTS


def name_classes(out: Path, class_names: Sequence[str]) -> None:
    """Write labels.json beside masks, unless it is there."""
    labels = labels_of(class_names)
    if read_json(out / LABELS) != labels:
        write_json(out / LABELS, labels)


def conclude(out: Path, class_names: Sequence[str], *, statistics: bool) -> dict[str, set[str]]:
    """Write what is about all masks in the folder, from their sidecars; nothing where there is none.

    The result has for each case the endings of the files that are there, as they were written.
    """
    there = {path.name.removesuffix(SIDECAR) for path in out.glob(f"*{SIDECAR}")}
    known = {case: sidecar for case in sorted(there) if (sidecar := read_sidecar(out, case))}
    whole = {case: set(vouched(out, case, sidecar)) for case, sidecar in known.items()}
    masks = {case: set(sidecar["files"]) & set(FORMATS.values()) for case, sidecar in known.items()}
    cases = [sidecar for case, sidecar in known.items() if masks[case] and masks[case] <= whole[case]]
    if cases:
        _write_tables(out, cases, class_names, statistics=statistics)
    return whole


def _write_tables(
    out: Path, cases: Sequence[Mapping[str, Any]], class_names: Sequence[str], *, statistics: bool
) -> None:
    name_classes(out, class_names)
    known = [case["run"] for case in cases if isinstance(case.get("run"), dict)]
    names = dict.fromkeys(name for facts in known for name in facts)
    agreed = {name: _agreed([facts.get(name) for facts in known if facts]) for name in names}
    write_json(out / RUN_FACTS, sealed(agreed))
    if statistics:
        write_text(out / STATISTICS, csv_text([_HEAD, *(row for case in cases for row in _rows(case))]))


def _rows(sidecar: Mapping[str, Any]) -> Iterator[list[Any]]:
    for label, name in list(sidecar["labels"].items())[1:]:
        organ = sidecar.get("statistics", {}).get(name)
        if isinstance(organ, dict):
            yield [sidecar["case"], label, name, *organ.values()]


def run_facts(title: str, summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the summaries of one or several runs agree on, and all values in words where they do not.

    `title` is that of the method; without any summary the result is empty.
    """
    if not any(summaries):
        return {}
    best = [summary.get("best") for summary in summaries]
    selected = _agreed([each.get("iteration") if isinstance(each, dict) else None for each in best])
    facts = {name: _agreed([summary.get(name) for summary in summaries]) for name in _NAMES}
    return {_TITLE: title, **facts, _SELECTED: selected}


def _agreed(values: Sequence[Any]) -> Any:
    """The one value, or all different ones in words."""
    different = list(dict.fromkeys(map(str, values)))
    return values[0] if len(different) == 1 else ", ".join(different)


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
    files = frozenset(file for file in files if is_volume(file) or file.suffix == FORMATS["dicom-seg"])
    if files and _is_bundle_output(folder.resolve()):
        return Masks(files, frozenset())
    written = frozenset(file for file in files if _is_written(file.resolve() if file.is_symlink() else file))
    if not written and not (files and _is_output_folder(folder)):
        files = frozenset(file for file in files if read_sidecar(folder, case_name(file)))
    return Masks(written, files - written)


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
    configs = [folder.parent / "configs" / f"inference.{kind}" for kind in ("json", "yaml")]
    return folder.name == "predictions" and any(config.is_file() for config in configs)


def _is_output_folder(folder: Path) -> bool:
    labels = read_json(folder / LABELS)
    return isinstance(labels, dict) and "0" in labels and _is_run_facts(read_json(folder / RUN_FACTS))
