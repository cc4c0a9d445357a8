"""Does a summary.json still hold: the same files, scored again by the same rules, give the same numbers?"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from typing import Any

from dsnet_med.errors import InputError, one_line
from dsnet_med.evaluate import arrays
from dsnet_med.evaluate.labels import LARGEST_LABEL, label_names
from dsnet_med.evaluate.pairing import Pair
from dsnet_med.evaluate.protocols import find_protocols
from dsnet_med.evaluate.score_folders import CaseScore, Missing, evaluate_pairs, missing_rule
from dsnet_med.evaluate.summary import cases_csv, summarise

# Another processor or library version may add in another order; nothing else may change a number.
_SAME = 1e-9
_COMPARED = ("protocol", "hd95", "labels", "mean", "mean_ci95", "missed", "cases", "note", "headline")
_INPUTS = ("shape", "spacing_mm")


@dataclass
class Claim:
    """What a summary says of how it was made."""

    path: Path
    content: dict[str, Any]
    labels: dict[int, str]
    protocols: tuple[str, ...]
    pairs: list[Pair]
    rule: Missing
    missing: list[str]
    failures: dict[str, str]
    left_out: dict[str, str]
    ignored: tuple[str, int] | None = None
    maps: dict[Path, dict[int, int]] = field(default_factory=dict)


def read_claim(path: Path, *, prediction: Path | None = None, reference: Path | None = None) -> Claim:
    """The claim of a summary.json. `prediction` and `reference`: the folders of the files, where they moved.

    Raises InputError when it is not a summary of this program, or says too little to be scored again.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        labels = label_names(content["label_values"])
        protocols = tuple(dict(content.get("protocols", {content["protocol"]: {}})))
        find_protocols(protocols)
        for entry in content.get("protocols", {}).values():
            dict(entry)
        counting = dict(content.get("missing", {"rule": "ignore"}))  # older summaries left out what failed
        rule = missing_rule(counting["rule"])
        elsewhere = {*counting.get("counted_as_missed", ()), *content.get("predictions_without_reference", ())}
        failures = {
            str(entry["case"]): str(entry["reason"])
            for entry in content.get("failed", ())
            if entry["case"] not in elsewhere
        }
        missing, left_out = list(content.get("references_without_prediction", ())), counting.get("left_out", {})
        ignored = [(str(name), int(value)) for name, value in (content.get("ignored_label") or {}).items()]
        pairs, maps = [], {}
        for case, entry in content["inputs"].items():
            predicted = None if entry["prediction"] is None else _moved(entry["prediction"], prediction)
            pairs.append(Pair(case, predicted, _moved(entry["reference"], reference)))
            for role, file in (("reference", pairs[-1].reference), ("prediction", predicted)):
                if file is not None and f"{role}_map" in entry:
                    maps[file] = _label_map(entry[f"{role}_map"])
        arrays.tolerance(float(content["nsd_tolerance_mm"]))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: not a summary.json of `dsnet-med evaluate` ({type(error).__name__}: {one_line(error)})"
        ) from error
    if not pairs:
        raise InputError(f"{path}: names no scored case; there is nothing to verify")
    one_ignored = next(iter(ignored), None)
    return Claim(
        path, content, labels, protocols, pairs, rule, missing, failures, dict(left_out), one_ignored, maps
    )


def score_again(claim: Claim, *, workers: int = 1) -> Iterator[CaseScore]:
    """Score the claim's files by its rules; yields each case as it finishes."""
    return evaluate_pairs(
        claim.pairs,
        claim.labels,
        protocols=claim.protocols,
        workers=workers,
        reference_map=claim.maps.get,
        prediction_map=claim.maps.get,
        nsd_tolerance_mm=float(claim.content["nsd_tolerance_mm"]),
        resample=bool(claim.content.get("resampled")),
        drop_outside=bool(claim.content.get("resampled")),
        ignored=claim.ignored[1] if claim.ignored else None,
        missing=claim.rule,
    )


def differences(claim: Claim, scores: Sequence[CaseScore]) -> list[str]:
    """Everything that no longer holds, a line each: changed files, cases that fail, numbers."""
    found = [f"{score.case}: {score.error}" for score in scores if score.error]
    found += [line for score in scores if not score.error for line in _changed_files(claim, score)]
    if any(score.error for score in scores):
        return found
    again = summarise(
        scores,
        claim.labels,
        claim.protocols,
        missing=claim.missing,
        failures=claim.failures,
        left_out=claim.left_out,
        rule=claim.rule,
        nsd_tolerance_mm=float(claim.content["nsd_tolerance_mm"]),
        ignored=claim.ignored,
    )
    again = json.loads(json.dumps(again))  # tuples become lists, as in the file
    if "headline" not in claim.content:  # nor in older summaries
        again.pop("headline")
    for then, now, name in _entries(claim, again):
        found += [line for key in _COMPARED for line in _unequal(then.get(key), now.get(key), f"{name}: {key}")]
    for case, entry in again["inputs"].items():
        then = claim.content["inputs"][case]
        found += [line for key in _INPUTS for line in _unequal(then.get(key), entry[key], f"{case}: {key}")]
    return found + _unequal_rows(claim, scores)


def count_numbers(claim: Claim) -> int:
    """How many numbers of the protocols are compared."""
    entries = claim.content.get("protocols", {claim.protocols[0]: claim.content}).values()
    return sum(_leaves(entry.get(key)) for entry in entries for key in _COMPARED)


def _moved(stored: str, folder: Path | None) -> Path:
    if folder is None:
        return Path(stored)
    return folder if folder.is_file() else folder / Path(stored).name


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


def _unequal_rows(claim: Claim, scores: Sequence[CaseScore]) -> list[str]:
    """cases.csv beside the summary, where it is there, holds the same rows."""
    table = claim.path.with_name("cases.csv")
    if not table.is_file():
        return []
    try:
        then = list(csv.reader(table.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [f"{table}: cannot be read ({one_line(error)})"]
    written = cases_csv(scores, claim.protocols[0]).encode("utf-8", errors="backslashreplace").decode("utf-8")
    now = list(csv.reader(written.splitlines()))
    if len(then) != len(now):
        return [f"{table}: {len(then) - 1} rows, {len(now) - 1} when scored again"]
    wrong = [a for a, b in zip(then, now, strict=True) if not _same_row(a, b)]
    return [f"{table}: the row {','.join(row)} is not what scoring again gives" for row in wrong]


def _same_row(then: Sequence[str], now: Sequence[str]) -> bool:
    return len(then) == len(now) and all(
        a == b or (_is_number(a) and _is_number(b) and _close(float(a), float(b)))
        for a, b in zip(then, now, strict=True)
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unequal(then: Any, now: Any, name: str) -> list[str]:
    if isinstance(now, Mapping):
        if not isinstance(then, Mapping):
            return [f"{name}: {then!r} in the summary, a table when scored again"]
        keys = dict.fromkeys([*now, *then])
        return [line for key in keys for line in _unequal(then.get(key), now.get(key), f"{name}.{key}")]
    if isinstance(now, list) and isinstance(then, list) and len(now) == len(then):
        pairs = enumerate(zip(then, now, strict=True))
        return [line for place, pair in pairs for line in _unequal(*pair, f"{name}[{place}]")]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (then, now))
    if then == now or (numbers and _close(then, now)):
        return []
    return [f"{name}: {then!r} in the summary, {now!r} when scored again"]


def _close(then: float, now: float) -> bool:
    return isclose(then, now, rel_tol=_SAME, abs_tol=_SAME)


def _entries(claim: Claim, again: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Mapping[str, Any], str]]:
    """What the summary and scoring again say, at the top level and under each of several protocols."""
    then, first = claim.content, claim.protocols[0]
    found: list[tuple[Mapping[str, Any], Mapping[str, Any], str]] = [(then, again, first)]
    if "protocols" in then:
        found += [(then["protocols"][name], again["protocols"][name], name) for name in claim.protocols]
    return found


def _leaves(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(map(_leaves, value.values()))
    if isinstance(value, list):
        return sum(map(_leaves, value))
    return int(isinstance(value, (int, float)))
