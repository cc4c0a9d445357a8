"""What an evaluation leaves behind: cases.csv, summary.json and report.html in one folder."""

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from dsnet_med.evaluate.folders import CaseScore
from dsnet_med.evaluate.labels import label_names
from dsnet_med.evaluate.page import page_html
from dsnet_med.evaluate.protocols import PROTOCOLS
from dsnet_med.evaluate.summary import by_protocol, cases_csv
from dsnet_med.files import write_text
from dsnet_med.volumes import case_name, is_volume


def write_results(
    out: Path,
    scores: Sequence[CaseScore],
    summary: Mapping[str, Any],
    labels: Mapping[Any, Any],
    *,
    images: Path | Mapping[str, Path] | None = None,
    run: Mapping[str, Any] | None = None,
    overlays: int = 4,
) -> None:
    """Write cases.csv, summary.json and report.html to `out`, each whole or not at all.

    cases.csv holds the summary's first protocol. Every other protocol, and any that measures in voxels, has
    its own cases_<protocol>.csv, with the column hd95_voxels where it does. `images` (a folder, or
    case -> file) puts the scans beneath the report's pictures; `run` (method, seed, selection, ...) is shown
    in the report and kept in summary.json. Raises InputError when `out` cannot be written.
    """
    first = summary["protocol"]
    write_text(out / "cases.csv", cases_csv(scores, first))
    for name in by_protocol(summary):
        in_voxels = PROTOCOLS[name].unit == "voxels"
        if name != first or in_voxels:
            write_text(out / f"cases_{name}.csv", cases_csv(scores, name, in_voxels=in_voxels))
    facts = {"run": dict(run)} if run else {}
    for name in PROTOCOLS.keys() - by_protocol(summary).keys():
        (out / f"cases_{name}.csv").unlink(missing_ok=True)  # of an earlier evaluation
    (out / "comparison.json").unlink(missing_ok=True)
    content = json.dumps(_without_nan({**summary, **facts}), indent=2, allow_nan=False)
    write_text(out / "summary.json", content + "\n")
    shown = find_images(images, [score.case for score in scores]) if isinstance(images, Path) else images
    page = page_html(scores, summary, label_names(labels), images=shown, run=run, overlays=overlays)
    write_text(out / "report.html", page)


def find_images(folder: Path, cases: Sequence[str]) -> dict[str, Path]:
    """The image of each case in `folder`: the file of that name, else the only one whose name ends with it."""
    files = [path for path in sorted(folder.glob("*")) if is_volume(path)]
    found = {}
    for case in cases:
        exact = [path for path in files if case_name(path) in (case, f"{case}_0000")]
        ending = [path for path in files if case_name(path).endswith(case)]
        candidates = exact or ending
        if len(candidates) == 1:
            found[case] = candidates[0]
    return found


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
