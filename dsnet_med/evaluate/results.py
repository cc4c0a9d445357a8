"""What an evaluation leaves behind: cases.csv, summary.json and report.html in one folder.

summary.json (and comparison.json, and a trial's results.json) vouches for the files beside it by their hashes.
What nothing vouches for is somebody's, or was changed since, and is not replaced unasked.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path
from typing import Any

from dsnet_med.errors import InputError
from dsnet_med.evaluate.agreement import details_csv
from dsnet_med.evaluate.case_view import Window
from dsnet_med.evaluate.labels import Labels, label_names
from dsnet_med.evaluate.protocols import PROTOCOLS
from dsnet_med.evaluate.report import comparison_and_images, report_and_images
from dsnet_med.evaluate.score_folders import CaseScore
from dsnet_med.evaluate.stacks import PAGE_MB
from dsnet_med.evaluate.summary import by_protocol, cases_csv
from dsnet_med.files import output_error, read_json, remove_partial, sha256, staging, synchronise, write_text
from dsnet_med.seal import holds, sealed

_SUMMARY, _COMPARISON, _PAGE, _CASES = "summary.json", "comparison.json", "report.html", "cases.csv"
_DETAILS = "details.csv"


@dataclass(frozen=True)
class Kind:
    """What one command writes: the JSON files that vouch, by keys that tell them from others, and all names.

    `patterns` are names in folders of its own, such as pictures/*.png.
    """

    command: str
    forms: Mapping[str, set[str]]
    names: tuple[str, ...]
    otherwise: str
    patterns: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        """Whether a file of this name may be its own."""
        return name in self.names or any(fnmatchcase(name, pattern) for pattern in self.patterns)


EVALUATION = Kind(
    "evaluate",
    {_SUMMARY: {"protocol", "inputs", "files"}, _COMPARISON: {"predictions", "ranking", "files"}},
    (_SUMMARY, _COMPARISON, _PAGE, _CASES, _DETAILS, *(f"cases_{name}.csv" for name in PROTOCOLS)),
    "replace it with --overwrite",
)


def write_results(
    out: Path,
    scores: Sequence[CaseScore],
    summary: Mapping[str, Any],
    labels: Mapping[Any, Any] | Labels,
    *,
    images: Mapping[str, Path] | None = None,
    run: Mapping[str, Any] | None = None,
    beside: Mapping[str, Any] | None = None,
    overlays: int = 4,
    window: Window | None = None,
    page_mb: float = PAGE_MB,
) -> None:
    """Write cases.csv, details.csv, summary.json and report.html to `out`, and remove what an earlier
    evaluation left there.

    cases.csv holds the summary's first protocol. Every other protocol, and any that measures in voxels, has
    its own cases_<protocol>.csv, with the column hd95_voxels where it does. `images` (case -> file) puts the
    scans beneath the report's pictures, shown in the `window` of intensities where one is given; pictures take
    `page_mb` megabytes at most (see `pictures_of`). `run` (method, seed, selection, ...) is shown in the report
    and kept in summary.json, as is `beside` (what lies with the predictions: a folder, and the hashes of files
    in it). Raises InputError when `out` cannot be written.
    """
    first = summary["protocol"]
    content = {**summary, **({"run": dict(run)} if run else {}), "beside": dict(beside or {})}
    with together(out, _SUMMARY, content) as made:
        write_text(made / _CASES, cases_csv(scores, first))
        for name in by_protocol(summary):
            in_voxels = PROTOCOLS[name].unit == "voxels"
            if name != first or in_voxels:
                write_text(made / f"cases_{name}.csv", cases_csv(scores, name, in_voxels=in_voxels))
        write_text(made / _DETAILS, details_csv(scores, first))
        page, shown = report_and_images(
            scores,
            summary,
            label_names(labels),
            images=images,
            run=run,
            overlays=overlays,
            window=window,
            page_mb=page_mb,
            out=out,
            files=[*sorted(file.name for file in made.iterdir()), _SUMMARY],
        )
        write_text(made / _PAGE, page)
        with_images = _images(images or {}, shown)
        content["inputs"] = {case: each | with_images.get(case, {}) for case, each in summary["inputs"].items()}


def write_comparison(
    out: Path,
    comparison: Mapping[str, Any],
    links: Mapping[str, str],
    scores: Mapping[str, Sequence[CaseScore]] | None = None,
    labels: Mapping[Any, Any] | Labels | None = None,
    *,
    images: Mapping[str, Path] | None = None,
    window: Window | None = None,
    page_mb: float = PAGE_MB,
) -> None:
    """Write comparison.json and report.html as `write_results` does; `links` lead to the reports of each.

    With the `scores` of each and their `labels` the report has plots and pictures of cases.
    """
    content = dict(comparison)
    names = label_names(labels) if labels else {}
    with together(out, _COMPARISON, content) as made:
        page, shown = comparison_and_images(
            comparison, links, scores, names, images=images, window=window, page_mb=page_mb
        )
        write_text(made / _PAGE, page)
        content["images"] = _images(images or {}, shown)


def _images(images: Mapping[str, Path], shown: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The images that a page shows, and their hashes."""
    return {
        case: {"image": str(images[case].absolute()), "image_sha256": digest} for case, digest in shown.items()
    }


def require_replaceable(out: Path, *, overwrite: bool = False, kind: Kind = EVALUATION) -> None:
    """Raise InputError where `out` holds a file that the command would replace and that is not its own."""
    vouched = _vouched(out, kind)
    for name in kind.names:
        if not overwrite and (out / name).exists() and name not in vouched:
            raise InputError(
                f"{out / name} is there already, and was not written by {kind.command} or was changed since; "
                f"choose another --out, or {kind.otherwise}"
            )


@contextmanager
def together(out: Path, name: str, content: Mapping[str, Any], kind: Kind = EVALUATION) -> Iterator[Path]:
    """A folder whose files come to lie in `out` at the end, beside the JSON file that vouches for them."""
    remove_partial(out)
    with staging(out) as made:
        yield made
        files = {
            file.relative_to(made).as_posix(): sha256(file)
            for file in sorted(made.rglob("*"))
            if file.is_file()
        }
        write_text(made / name, laid_out(sealed(without_nan({**content, "files": files}))))
        try:
            # first: no old file may lie beside a new summary; and what vouches for the others last of them
            for earlier in sorted(_vouched(out, kind), key=lambda file: file in kind.forms):
                (out / earlier).unlink()
            for new in (name, *files):
                synchronise(made / new)
                (out / new).parent.mkdir(exist_ok=True)
                (made / new).replace(out / new)
            synchronise(out)
        except OSError as error:
            raise output_error(out / name, error) from error


def laid_out(content: Mapping[str, Any]) -> str:
    """How the JSON files of results are written."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _vouched(out: Path, kind: Kind) -> set[str]:
    """The files in `out` that are as the command wrote them."""
    found: set[str] = set()
    for name, keys in kind.forms.items():
        try:
            content = read_json(out / name)
            files = dict(content["files"]) if keys <= content.keys() else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if holds(content) is False:
            continue
        own = {file for file in files if kind.has(file) and (out / file).is_file()}
        found |= {file for file in own if sha256(out / file) == files[file]} | ({name} if files else set())
    return found


def without_nan(value: Any) -> Any:
    """`value` as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
