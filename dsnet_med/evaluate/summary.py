"""From scored cases to tables: summary.json and cases.csv.

Means are taken over the cases of each organ, then over organs; values that a protocol does not count (NaN) are
left out, and `n` says how many were counted. `std` is the population's (NumPy's default, as in the published
tables); a value that does not exist is null, never NaN.
"""

import csv
import io
import platform
from collections.abc import Iterable, Mapping, Sequence
from math import isnan, nan
from typing import Any

import numpy as np
import scipy

import dsnet_med
from dsnet_med.errors import InputError
from dsnet_med.evaluate import stack
from dsnet_med.evaluate.conventions import Presence
from dsnet_med.evaluate.folders import CaseScore
from dsnet_med.evaluate.labels import label_names
from dsnet_med.evaluate.measure import Measure
from dsnet_med.evaluate.protocols import Protocol, Record, find_protocols, record

COLUMNS = (
    "case",
    "label",
    "name",
    "dice",
    "hd95_mm",
    "assd_mm",
    "nsd",
    "reference_voxels",
    "prediction_voxels",
    "note",
)
_METRICS = ("dice", "hd95_mm", "assd_mm", "nsd")

Counted = tuple[list[Measure], list[Record]]


def summarise(
    scores: Iterable[CaseScore],
    labels: Mapping[Any, Any],
    protocols: Sequence[str] = ("strict",),
    *,
    missing: Sequence[str] = (),
    failures: Mapping[str, str] | None = None,
    nsd_tolerance_mm: float = 1.0,
) -> dict[str, Any]:
    """The content of summary.json: the first protocol at the top level, all of several under "protocols".

    `missing` are the cases that have a reference and no prediction, `failures` those that could not be paired
    (case -> reason), both as `pair_folders` returns them. Raises InputError when no case was scored.
    """
    chosen, names = find_protocols(protocols), label_names(labels)
    every = sorted(scores, key=lambda score: score.case)
    scored = [score for score in every if score.error is None]
    failed = dict(failures or {}) | {score.case: score.error for score in every if score.error is not None}
    shared = {
        "cases": len(scored),
        "failed": [{"case": case, "reason": reason} for case, reason in sorted(failed.items())],
    }
    objects = {protocol.name: _summary(protocol, names, scored) | shared for protocol in chosen}
    facts = {
        "references_without_prediction": list(missing),
        "nsd_tolerance_mm": nsd_tolerance_mm,
        "inputs": {score.case: _inputs(score) for score in scored},
        "versions": _versions(),
    }
    several = {"protocols": objects} if len(objects) > 1 else {}
    return objects[chosen[0].name] | several | facts


def cases_csv(scores: Iterable[CaseScore], protocol: str, *, in_voxels: bool = False) -> str:
    """The content of cases.csv under one protocol, sorted by case and label; what is not counted stays blank.

    `in_voxels` adds the column hd95_voxels. Cases that failed have no rows (summary.json lists them).
    """
    columns = (*COLUMNS, "hd95_voxels") if in_voxels else COLUMNS
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for score in sorted(scores, key=lambda score: score.case):
        for row in score.records(protocol):
            writer.writerow({"case": score.case} | {key: _cell(value) for key, value in vars(row).items()})
    return text.getvalue()


def case_mean(records: Sequence[Record], metric: str) -> float:
    """The mean of one metric over the organs of a case; NaN when none is counted."""
    return _mean([getattr(row, metric) for row in records])


def _summary(protocol: Protocol, names: Mapping[int, str], scored: Sequence[CaseScore]) -> dict[str, Any]:
    metrics = (*_METRICS, "hd95_voxels") if protocol.unit == "voxels" else _METRICS
    counted, note = _counted(protocol, scored)
    labels = {
        name: _label_summary(
            [row for measures, records in counted for row in _of(label, measures, records)], metrics
        )
        for label, name in names.items()
    }
    mean = {
        metric: _null(_mean([_number(row[metric]["mean"]) for row in labels.values()])) for metric in metrics
    }
    return {
        "protocol": protocol.name,
        "hd95": {"rule": protocol.rule, "unit": protocol.unit},
        "labels": labels,
        "mean": mean,
        "missed": sum(row[Presence.MISSED.value] for row in labels.values()),
    } | ({"note": note} if note else {})


def _counted(protocol: Protocol, scored: Sequence[CaseScore]) -> tuple[list[Counted], str]:
    """What the means run over: each case, or the one stack of them all."""
    if not protocol.stacked:
        return [(list(score.measures), score.records(protocol.name)) for score in scored], ""
    parts = [score.parts for score in scored if score.parts is not None]
    if len(parts) < len(scored):
        raise InputError(f"these cases were not measured for '{protocol.name}'; name it in evaluate_pairs too")
    if not parts:
        return [], ""
    if not stack.stackable(parts):
        return [], "the slices of the cases differ in size, so they cannot be scored as one volume"
    measures = stack.measure_stack([(score.measures, part) for score, part in zip(scored, parts, strict=True)])
    return [(measures, [record(measure, protocol) for measure in measures])], ""


def _of(label: int, measures: Sequence[Measure], records: Sequence[Record]) -> Iterable[tuple[Measure, Record]]:
    return [pair for pair in zip(measures, records, strict=True) if pair[0].label == label]


def _label_summary(rows: Sequence[tuple[Measure, Record]], metrics: Sequence[str]) -> dict[str, Any]:
    presences = [measure.presence for measure, _ in rows]
    return {metric: _statistics([getattr(row, metric) for _, row in rows]) for metric in metrics} | {
        presence.value: presences.count(presence)
        for presence in (Presence.MISSED, Presence.INVENTED, Presence.ABSENT)
    }


def _statistics(values: Sequence[float]) -> dict[str, Any]:
    counted = [value for value in values if not isnan(value)]
    if not counted:
        return {"mean": None, "std": None, "n": 0, "median": None}
    return {
        "mean": float(np.mean(counted)),
        "std": float(np.std(counted)),
        "n": len(counted),
        "median": float(np.median(counted)),
    }


def _inputs(score: CaseScore) -> dict[str, Any]:
    return {
        "prediction": str(score.prediction),
        "prediction_sha256": score.prediction_sha256,
        "reference": str(score.reference),
        "reference_sha256": score.reference_sha256,
        "shape": list(score.shape),
        "spacing_mm": list(score.spacing_mm),
    }


def _versions() -> dict[str, str]:
    return {
        "dsnet_med": dsnet_med.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "python": platform.python_version(),
    }


def _mean(values: Iterable[float]) -> float:
    counted = [value for value in values if not isnan(value)]
    return float(np.mean(counted)) if counted else nan


def _number(value: float | None) -> float:
    return nan if value is None else value


def _null(value: float) -> float | None:
    return None if isnan(value) else value


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and isnan(value) else value
