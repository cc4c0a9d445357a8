"""The files of a folder of masks that are about all of them: labels.json, run.json and statistics.csv."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsnet_med.errors import InputError
from dsnet_med.evaluate.score_folders import RUN_FACTS
from dsnet_med.files import write_json, write_text
from dsnet_med.inference.mask import labels_of
from dsnet_med.inference.run_facts import FACTS, agreed
from dsnet_med.inference.sidecar import FORMATS, LABELS, SIDECAR, is_as_written, read_json, read_sidecar

STATISTICS = "statistics.csv"
_HEAD = ["case", "label", "name", "voxels", "volume_ml", "mean_intensity"]
_HELP = "choose another --out, or replace it with --overwrite"


def claim(out: Path, class_names: Sequence[str], *, statistics: bool, overwrite: bool) -> None:
    """Raise InputError where labels.json names other classes, or one of the three files is not one of ours,
    unless they are to be overwritten.
    """
    labels = labels_of(class_names)
    if not overwrite:
        _require(out / LABELS, read_json(out / LABELS) in (None, labels), "names other classes")
        run = read_json(out / RUN_FACTS)
        _require(out / RUN_FACTS, run is None or (isinstance(run, dict) and run.keys() <= FACTS), _FOREIGN)
        if statistics:
            _require(out / STATISTICS, _first_line(out / STATISTICS) in (None, ",".join(_HEAD)), _FOREIGN)


_FOREIGN = "was not written by infer"


def name_classes(out: Path, class_names: Sequence[str]) -> None:
    """Write labels.json beside masks, unless it is there."""
    labels = labels_of(class_names)
    if read_json(out / LABELS) != labels:
        write_json(out / LABELS, labels)


def _require(path: Path, holds: bool, why: str) -> None:
    if path.exists() and not holds:
        raise InputError(f"{path} is there already and {why}; {_HELP}")


def _first_line(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as stream:
        return stream.readline().rstrip("\r\n")


def conclude(out: Path, class_names: Sequence[str], *, statistics: bool) -> None:
    """Write what is about all masks in the folder, from their sidecars; nothing where there is none."""
    cases = list(_cases(out))
    if cases:
        name_classes(out, class_names)
        write_json(out / RUN_FACTS, _agreed([case.get("run") for case in cases]))
    if cases and statistics:
        rows = [row for case in cases for row in _rows(case)]
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows([_HEAD, *rows])
        write_text(out / STATISTICS, stream.getvalue())


def _cases(out: Path) -> Iterator[dict[str, Any]]:
    """The sidecars in the folder whose files are there, by case."""
    for path in sorted(out.glob(f"*{SIDECAR}")):
        case = path.name.removesuffix(SIDECAR)
        sidecar = read_sidecar(out, case)
        masks = [ending for ending in sidecar["files"] if ending in FORMATS.values()] if sidecar else []
        if sidecar and masks and all(is_as_written(out, case, ending, sidecar) for ending in masks):
            yield sidecar


def _rows(sidecar: Mapping[str, Any]) -> Iterator[list[Any]]:
    for label, name in list(sidecar["labels"].items())[1:]:
        organ = sidecar.get("statistics", {}).get(name)
        if isinstance(organ, dict):
            yield [sidecar["case"], label, name, *organ.values()]


def _agreed(facts: Sequence[Any]) -> dict[str, Any]:
    """What the runs behind the masks have in common; where they differ, all values in words."""
    known = [fact for fact in facts if isinstance(fact, dict) and fact]
    names = dict.fromkeys(name for fact in known for name in fact)
    return {name: agreed([fact.get(name) for fact in known]) for name in names}
