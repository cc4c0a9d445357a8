"""Does a summary.json still hold: the same files, scored again by the same rules, give the same numbers?

Its seal vouches for every key, hashes for every file that it names, scoring again for the numbers.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isclose
from pathlib import Path
from typing import Any

from dsnet_med.csv_cells import unshielded
from dsnet_med.errors import InputError, one_line, shown, want_of_means
from dsnet_med.evaluate.arrays import tolerance
from dsnet_med.evaluate.comparison import compare
from dsnet_med.evaluate.labels import LARGEST_LABEL, Labels, labels_of, labels_of_regions
from dsnet_med.evaluate.pairing import Pair
from dsnet_med.evaluate.protocols import PROTOCOLS, find_protocols
from dsnet_med.evaluate.results import laid_out, without_nan
from dsnet_med.evaluate.score_folders import CaseScore, Missing, evaluate_pairs, missing_rule, volume_sha256
from dsnet_med.evaluate.summary import cases_csv, summarise
from dsnet_med.files import parse_json, read_text
from dsnet_med.regions import Region
from dsnet_med.seal import holds

# Another processor or library version may add in another order; nothing else may change a number.
_SAME = 1e-9
_COMPARED = ("protocol", "hd95", "labels", "mean", "mean_ci95", "missed", "cases", "note", "headline")
_SINCE_VOLUMES = ("volumes", "nsd_at_mm", "ignored_voxels")  # not in earlier summaries
_INPUTS = ("shape", "spacing_mm")
_SINCE_SEALS = {"beside", "compared_labels"}  # a key of every summary and comparison that has a seal


@dataclass
class Claim:
    """What a summary says of how it was made.

    `broken` says why it is itself not as it was written, `sealed` whether that can be told. `absent` are files
    that it names and that are not there, as far as they have been looked for; `predictions` and `images` the
    folders that they lie in now.
    """

    path: Path
    content: dict[str, Any]
    labels: Labels
    protocols: tuple[str, ...]
    nsd_tolerance_mm: float
    rule: Missing
    missing: list[str]
    failures: dict[str, str]
    left_out: dict[str, str]
    pairs: list[Pair] = field(default_factory=list)
    maps: dict[Path, dict[int, int]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    sealed: bool = True
    absent: list[str] = field(default_factory=list)
    predictions: Path | None = None
    images: Path | None = None


def read_claim(
    path: Path, *, prediction: Path | None = None, reference: Path | None = None, images: Path | None = None
) -> Claim:
    """The claim of a summary.json. `prediction`, `reference` and `images`: where the files moved to.

    Raises InputError when it is not a summary of this program, or says too little to be scored again.
    """
    try:
        text = read_text(path)
        claim = _claim(path, parse_json(text))
        claim.broken, claim.sealed = broken(path, text, claim.content), holds(claim.content) is not None
        claim.predictions = prediction if prediction is None or prediction.is_dir() else prediction.parent
        claim.images = images
        for case, entry in claim.content["inputs"].items():
            predicted = None if entry["prediction"] is None else _moved(entry["prediction"], prediction)
            masks = tuple(
                (str(name), _moved_below(file, reference))
                for name, file in dict(entry.get("reference_masks", {})).items()
            )
            truth = masks[0][1] if masks else _moved(entry["reference"], reference)
            pair = Pair(case, predicted, truth, masks)
            claim.pairs.append(pair)
            for role, file in (("reference", pair.reference), ("prediction", predicted)):
                if file is not None and f"{role}_map" in entry:
                    claim.maps[file] = _label_map(entry[f"{role}_map"])
        _named(claim)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no("summary", path, error) from error
    if not claim.pairs:
        raise InputError(f"{path}: names no scored case; there is nothing to verify")
    return claim


def _no(kind: str, path: Path, error: Exception) -> InputError:
    if means := want_of_means(error):
        return InputError(f"{path}: cannot be read: {means}")
    reason = f"{type(error).__name__}: {one_line(error)}"
    return InputError(f"{path}: not a {kind}.json of `dsnet-med evaluate` ({reason})")


def broken(path: Path, text: str, content: Mapping[str, Any]) -> list[str]:
    """Why a summary.json or comparison.json is not as it was written: a line, or none."""
    if holds(content) is False or (holds(content) is None and _SINCE_SEALS & content.keys()):
        return [f"{path}: was changed since it was written; its seal does not hold"]
    if holds(content) and text != laid_out(content):
        return [f"{path}: was laid out otherwise, or changed, since it was written"]
    return []


@dataclass
class Comparison:
    """What a comparison.json says, and the claims of the summaries that it rests on, by name."""

    path: Path
    content: dict[str, Any]
    claims: dict[str, Claim]
    broken: list[str]


def read_comparison(path: Path, *, reference: Path | None = None, images: Path | None = None) -> Comparison:
    """The claims of a comparison.json and of the summaries in the folders beside it. Raises InputError."""
    try:
        text = read_text(path)
        content = parse_json(text)
        names = {name: path.parent / _plain(name) / "summary.json" for name in content["predictions"]}
        dict(content["left_out"]), dict(content["files"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no("comparison", path, error) from error
    claims = {name: read_claim(file, reference=reference, images=images) for name, file in names.items()}
    return Comparison(path, content, claims, broken(path, text, content))


def compared_otherwise(comparison: Comparison, scores: Mapping[str, Sequence[CaseScore]]) -> list[str]:
    """What comparing scores again gives otherwise, and the files beside it that were changed."""
    content, path = comparison.content, comparison.path
    found = list(comparison.broken)
    for name, digest in content["files"].items():
        file = path.parent / _plain(name)
        if file.is_file() and volume_sha256(file) != digest:
            found.append(f"{file}: is not as it was (another SHA-256)")
    first = next(iter(comparison.claims.values()))
    for each in content.get("images", {}).values():
        file = _moved(each["image"], first.images)
        if file.is_file() and volume_sha256(file) != each["image_sha256"]:
            found.append(f"{file}: is not as it was (another SHA-256)")
    again = compare(scores, first.labels, first.protocols, left_out=content["left_out"])
    before, after = (
        leaves({key: each[key] for key in again if key in each}) for each in (content, without_nan(again))
    )
    return found + [
        f"{path}: {place[1:]}: {shown(before.get(place))}, {shown(after.get(place))} when compared again"
        for place in sorted(after | before)
        if not same(before.get(place), after.get(place))
    ]


def _claim(path: Path, content: Any) -> Claim:
    protocols = content.get("protocols", {content["protocol"]: {}})
    find_protocols(protocols)
    for entry in protocols.values():
        dict(entry)
    counting = dict(content.get("missing", {"rule": "ignore"}))  # older summaries left out what failed
    elsewhere = {*counting.get("counted_as_missed", ()), *content.get("predictions_without_reference", ())}
    failed = {str(entry["case"]): str(entry["reason"]) for entry in content.get("failed", ())}
    return Claim(
        path,
        content,
        _labels(content),
        tuple(protocols),
        tolerance(float(content["nsd_tolerance_mm"])),
        missing_rule(counting["rule"]),
        list(content.get("references_without_prediction", ())),
        {case: why for case, why in failed.items() if case not in elsewhere},
        dict(counting.get("left_out", {})),
    )


def _labels(content: Mapping[str, Any]) -> Labels:
    """What was scored, as the summary says it."""
    ignored = [(str(name), int(value)) for name, value in (content.get("ignored_label") or {}).items()]
    if "regions" not in content:
        return replace(labels_of(content["label_values"]), ignored=next(iter(ignored), None))
    regions = [
        Region(str(name), tuple(map(int, each["of"])), int(each["value"]))
        for name, each in dict(content["regions"]).items()
    ]
    classes = {int(value): str(name) for name, value in dict(content["class_values"]).items()}
    return labels_of_regions(regions, classes, next(iter(ignored), None))


def score_again(claim: Claim, *, workers: int = 1) -> Iterator[CaseScore]:
    """Score the claim's files by its rules; yields each case as it finishes."""
    return evaluate_pairs(
        claim.pairs,
        claim.labels,
        protocols=claim.protocols,
        workers=workers,
        reference_map=claim.maps.get,
        prediction_map=claim.maps.get,
        nsd_tolerance_mm=claim.nsd_tolerance_mm,
        resample=bool(claim.content.get("resampled")),
        drop_outside=bool(claim.content.get("resampled")),
        missing=claim.rule,
    )


def differences(claim: Claim, scores: Sequence[CaseScore]) -> list[str]:
    """Everything that no longer holds, a line each: changed files, cases that fail, numbers."""
    found = [*claim.broken, *(f"{score.case}: {score.error}" for score in scores if score.error)]
    found += [line for score in scores if not score.error for line in _changed_files(claim, score)]
    if any(score.error for score in scores):
        return found
    found += _changed_beside(claim, scores)
    again = summarise(
        scores,
        claim.labels,
        claim.protocols,
        missing=claim.missing,
        failures=claim.failures,
        left_out=claim.left_out,
        rule=claim.rule,
        nsd_tolerance_mm=claim.nsd_tolerance_mm,
    )
    if "headline" not in claim.content:  # nor in older summaries
        again.pop("headline")
    then_and_now: list[tuple[str, Any, Any, tuple[str, ...]]] = [
        (claim.protocols[0], claim.content, again, _COMPARED)
    ]
    if "protocols" in claim.content:
        parts = claim.content["protocols"], again["protocols"]
        then_and_now += [(name, parts[0][name], parts[1][name], _COMPARED) for name in claim.protocols]
    for case, entry in again["inputs"].items():
        then_and_now.append((case, claim.content["inputs"][case], entry, _INPUTS))
    for name, then, now, keys in then_and_now:
        for key in (*keys, *(key for key in _SINCE_VOLUMES if key in then)):
            before, after = leaves(then.get(key)), leaves(now.get(key))
            for place in after | before:
                a, b = before.get(place), after.get(place)
                if not same(a, b):
                    found.append(
                        f"{name}: {key}{place}: {shown(a)} in the summary, {shown(b)} when scored again"
                    )
    return found


def count_numbers(claim: Claim) -> int:
    """How many numbers of the protocols are compared."""
    entries = claim.content.get("protocols", {claim.protocols[0]: claim.content}).values()
    keys = (*_COMPARED, *_SINCE_VOLUMES)
    found = [leaf for entry in entries for key in keys for leaf in leaves(entry.get(key)).values()]
    return sum(isinstance(leaf, (int, float)) for leaf in found)


def _moved(stored: str, folder: Path | None) -> Path:
    if folder is None:
        return Path(stored)
    return folder if folder.is_file() else folder / Path(stored).name


def _moved_below(stored: str, folder: Path | None) -> Path:
    """Where a file lies whose folders below a moved one are of its case."""
    if folder is None:
        return Path(stored)
    parts = Path(stored).parts
    found = (folder.joinpath(*parts[-depth:]) for depth in range(min(len(parts) - 1, 6), 0, -1))
    return next((file for file in found if file.is_file()), folder / parts[-1])


def _label_map(entry: Mapping[str, Any]) -> dict[int, int]:
    table = {int(raw): int(label) for raw, label in entry.items()}
    if not all(0 <= value <= LARGEST_LABEL for pair in table.items() for value in pair):
        raise ValueError("reference_map holds values outside 0 to 65535")
    return table


def _changed_files(claim: Claim, score: CaseScore) -> list[str]:
    entry = claim.content["inputs"][score.case]
    return [
        f"{score.case}: {path} is not the file that was scored (another SHA-256)"
        for role, path, digest in (
            ("prediction", score.prediction, score.prediction_sha256),
            ("reference", score.reference, score.reference_sha256),
        )
        if entry.get(f"{role}_sha256") != digest and path is not None
    ]


def _changed_beside(claim: Claim, scores: Sequence[CaseScore]) -> list[str]:
    """Of the files that the summary names and nothing is scored from, those that are not as they were."""
    found = []
    for file, digest in _named(claim).items():
        if not file.is_file():
            claim.absent.append(str(file))
            continue
        rows = _unequal_rows(claim, file, scores) if file in _tables(claim) else []
        if not rows and digest and volume_sha256(file) != digest:
            rows = [f"{file}: is not as it was (another SHA-256)"]
        found += rows
    return found


def _named(claim: Claim) -> dict[Path, str]:
    """Every such file, and its SHA-256; of tables of earlier versions, nothing."""
    content, folder = claim.content, claim.path.parent
    named = {file: "" for file in _tables(claim) if file.is_file()}
    named |= {folder / _plain(name): str(digest) for name, digest in content.get("files", {}).items()}
    beside = content.get("beside") or {"folder": "", "files": {}}
    place = claim.predictions or Path(beside["folder"])
    named |= {place / _plain(name): str(digest) for name, digest in beside["files"].items()}
    for entry in content["inputs"].values():
        if "image" in entry:
            file = _moved(entry["image"], claim.images)
            named[file] = str(entry["image_sha256"])
    return named


def _plain(name: str) -> str:
    if name in ("", ".", "..") or Path(name).name != name:
        raise InputError(f"{shown(name)} is no name of a file beside it")
    return name


def _tables(claim: Claim) -> dict[Path, str]:
    """The tables of scores, and the protocol of each."""
    first, folder = claim.protocols[0], claim.path.parent
    return {folder / f"cases_{name}.csv": name for name in claim.protocols} | {folder / "cases.csv": first}


def _unequal_rows(claim: Claim, table: Path, scores: Sequence[CaseScore]) -> list[str]:
    """What a table holds otherwise than scoring again gives."""
    protocol = _tables(claim)[table]
    in_voxels = table.name != "cases.csv" and PROTOCOLS[protocol].unit == "voxels"
    try:
        then = list(_rows(table.read_bytes()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [f"{table}: cannot be read ({one_line(error)})"]
    written = cases_csv(scores, protocol, in_voxels=in_voxels).encode("utf-8", errors="backslashreplace")
    now = list(_rows(written))
    if len(then) != len(now):
        return [f"{table}: {len(then) - 1} rows, {len(now) - 1} when scored again"]
    return [
        f"{table}: the row {one_line(','.join(row))} is not what scoring again gives"
        for row, other in zip(then, now, strict=True)
        if len(row) != len(other)
        or not all(a == b or same(_cell(a), _cell(b)) for a, b in zip(row, other, strict=True))
    ]


def _rows(content: bytes) -> Iterator[list[str]]:
    return csv.reader(io.StringIO(content.decode("utf-8"), newline=""))


def _cell(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return unshielded(text)


def leaves(value: Any, place: str = "") -> dict[str, Any]:
    """What a part of a summary holds, by its place in it."""
    if isinstance(value, Mapping):
        inner = [(f"{place}.{key}", item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        inner = [(f"{place}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {place: value}
    return {name: leaf for at, item in inner for name, leaf in leaves(item, at).items()}


def same(then: Any, now: Any) -> bool:
    """Whether two leaves are equal, but for the order in which a number's parts were added."""
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (then, now))
    return bool(then == now or (numbers and isclose(then, now, rel_tol=_SAME, abs_tol=_SAME)))
