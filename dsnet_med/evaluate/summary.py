"""From scored cases to tables: summary.json and cases.csv.

Means are taken over the cases of each organ, then over organs; values that a protocol does not count (NaN) are
left out, and `n` says how many were counted. `std` is the population's (NumPy's default, as in the published
tables), `ci95` the bootstrap interval of the mean (statistics.py); what does not exist is null, never NaN.
"""

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from math import isnan, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dsnet_med
from dsnet_med.csv_cells import csv_text
from dsnet_med.errors import InputError, first_of
from dsnet_med.evaluate import backend
from dsnet_med.evaluate.agreement import agreement
from dsnet_med.evaluate.labels import Labels, labels_of
from dsnet_med.evaluate.measurements import TOLERANCES_MM, LabelMeasurement, Presence
from dsnet_med.evaluate.pooled_volumes import measure_pooled, poolable
from dsnet_med.evaluate.protocols import Protocol, Record, find_protocols, record
from dsnet_med.evaluate.score_folders import CaseScore, Missing
from dsnet_med.evaluate.statistics import Interval, mean_intervals
from dsnet_med.regions import as_dict

_METRICS = ("dice", "hd95_mm", "assd_mm", "nsd")
COLUMNS = ("case", "label", "name", *_METRICS, "reference_voxels", "prediction_voxels", "note")

Counted = tuple[Sequence[LabelMeasurement], list[Record]]


def summarise(
    scores: Iterable[CaseScore],
    labels: Mapping[Any, Any] | Labels,
    protocols: Sequence[str] = ("strict",),
    *,
    missing: Iterable[str] = (),
    failures: Mapping[str, str] | None = None,
    orphans: Mapping[str, str] | None = None,
    left_out: Mapping[str, str] | None = None,
    rule: Missing = "refuse",
    nsd_tolerance_mm: float = 1.0,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of summary.json: the first protocol at the top level, all of several under "protocols".

    `missing` are the cases that have a reference and no prediction, `failures` those that could not be paired
    and `orphans` predictions without a reference (case -> reason), as `pair_folders` returns them; `left_out`
    holds cases that count in no mean though they could be scored. Unless the `rule` is "ignore", there is no
    mean where a case that has a reference was not scored: it could only be better than the truth. `notes` are
    what else a reader has to know. Raises InputError when
    no case was scored.
    """
    chosen, given = find_protocols(protocols), labels_of(labels)
    names = given.names
    every = sorted(scores, key=lambda score: score.case)
    scored = [score for score in every if score.error is None]
    failed = dict(failures or {}) | {score.case: score.error for score in every if score.error is not None}
    unpredicted = {score.case: score.unpredicted for score in scored if score.unpredicted}
    absent = {case: "no prediction" for case in missing if case not in unpredicted}
    gone = absent | failed | dict(left_out or {})
    unfit = {case: why for case, why in unpredicted.items() if why != "no prediction"}
    every_failure = failed | unfit | dict(orphans or {})
    refused = "" if rule == "ignore" or not (failed or absent) else _no_mean(failed | absent)
    shared = {
        "cases": len(scored),
        "failed": [{"case": case, "reason": reason} for case, reason in sorted(every_failure.items())],
    }
    objects = {protocol.name: _summary(protocol, names, scored, refused) | shared for protocol in chosen}
    facts = {
        "headline": refused or _headline(len(scored), len(unpredicted), gone),
        "volumes": agreement([] if refused else scored, names),
        "missing": {"rule": rule, "counted_as_missed": unpredicted, "left_out": gone},
        "references_without_prediction": sorted(missing),
        "predictions_without_reference": sorted(orphans or {}),
        "label_values": {name: label for label, name in names.items()},
        **_regions(given),
        "ignored_label": None if given.ignored is None else dict([given.ignored]),
        "ignored_voxels": {score.case: score.ignored_voxels for score in scored if score.ignored_voxels},
        "nsd_tolerance_mm": nsd_tolerance_mm,
        "notes": [*notes, *_notes(scored, given.ignored)],
        "resampled": {score.case: score.resampled for score in scored if score.resampled},
        "inputs": {score.case: _inputs(score) for score in scored},
        "versions": {
            "dsnet_med": dsnet_med.__version__,
            "numpy": np.__version__,
            "scipy": version("scipy"),
            "python": platform.python_version(),
            "kernel": backend.NAME,
        },
    }
    several = {"protocols": objects} if len(objects) > 1 else {}
    return objects[chosen[0].name] | several | facts


def cases_csv(scores: Iterable[CaseScore], protocol: str, *, in_voxels: bool = False) -> str:
    """The content of cases.csv under one protocol, sorted by case and label; what is not counted stays blank.

    `in_voxels` adds the column hd95_voxels. Cases that failed have no rows (summary.json lists them).
    """
    columns = (*COLUMNS, "hd95_voxels") if in_voxels else COLUMNS
    rows: list[Sequence[object]] = [columns]
    for score in sorted(scores, key=lambda score: score.case):
        for row in score.records(protocol):
            counted = {key: value for key, value in vars(row).items() if str(value) != "nan" or key == "name"}
            rows.append([({"case": score.case} | counted).get(column, "") for column in columns])
    return csv_text(rows)


def by_protocol(summary: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The part of a summary under each of its protocols, also where it has but one."""
    parts: Mapping[str, Mapping[str, Any]] = summary.get("protocols", {summary["protocol"]: summary})
    return parts


def case_mean(records: Sequence[Record], metric: str) -> float:
    """The mean of one metric over the organs of a case; NaN when none is counted."""
    counted = [value for row in records if not isnan(value := getattr(row, metric))]
    return float(np.mean(counted)) if counted else nan


def _regions(labels: Labels) -> dict[str, Any]:
    """What is scored where that are regions: the values of each, and what those are called."""
    if not labels.regions:
        return {}
    return {
        "regions": as_dict(labels.regions),
        "class_values": {name: value for value, name in labels.classes.items()},
    }


def _no_mean(gone: Mapping[str, str]) -> str:
    cases = "1 case was" if len(gone) == 1 else f"{len(gone)} cases were"
    return (
        f"no mean: {cases} not scored ({first_of(sorted(gone), 6)}), and a mean of the others could "
        "only be better; mend them, or count them as missed (--missing zero) or leave them out (--missing "
        "ignore)"
    )


def _headline(scored: int, unpredicted: int, gone: Mapping[str, str]) -> str:
    """Which cases the numbers count, in words."""
    words = f"all {scored} cases" if scored > 1 else "1 case"
    if gone:
        words = f"{scored} of {scored + len(gone)} cases; left out, in no mean: {first_of(sorted(gone), 6)}"
    missed = f"; {unpredicted} of them without a usable prediction, every organ missed" if unpredicted else ""
    return words + missed


def _notes(scored: Sequence[CaseScore], ignored: tuple[str, int] | None) -> list[str]:
    """What a reader of the numbers has to know of the files behind them; each note with its files."""
    of_note: dict[str, list[str]] = {}
    for score in scored:
        for note in score.notes:
            of_note.setdefault(note.split(": ", 1)[-1], []).append(note.split(": ", 1)[0])
    notes = [f"{first_of(dict.fromkeys(files), 4)}: {note}" for note, files in of_note.items()]
    if ignored is not None:
        many = sum(score.ignored_voxels for score in scored)
        notes.append(
            f"voxels that a reference gives the value {ignored[1]} ('{ignored[0]}') count for nothing: {many:,}"
        )
    same = [score.case for score in scored if score.prediction_sha256 == score.reference_sha256]
    if same:
        notes.append(f"prediction and reference are the same, byte for byte: {first_of(same, 6)}")
    return notes


def _summary(
    protocol: Protocol, names: Mapping[int, str], scored: Sequence[CaseScore], refused: str
) -> dict[str, Any]:
    counted, note = ([], refused) if refused else _counted(protocol, scored)
    labels: dict[str, dict[str, Any]] = {name: {} for name in names.values()}
    mean: dict[str, float | None] = {}
    mean_ci95: dict[str, Interval] = {}
    for metric in (*_METRICS, "hd95_voxels") if protocol.unit == "voxels" else _METRICS:
        values = [[getattr(row, metric) for row in records] for _, records in counted]
        table = np.array(values, np.float64).reshape(len(counted), len(names))  # NaN: not counted
        intervals, mean_ci95[metric] = mean_intervals(table)
        for row, column, interval in zip(labels.values(), table.T, intervals, strict=True):
            row[metric] = _describe(column[~np.isnan(column)], interval)
        means = [row[metric]["mean"] for row in labels.values() if row[metric]["n"]]
        mean[metric] = float(np.mean(means)) if means else None
    for place, row in enumerate(labels.values()):
        found = [measures[place].presence for measures, _ in counted]
        row |= {kind.value: found.count(kind) for kind in Presence if kind is not Presence.BOTH}
    return {
        "protocol": protocol.name,
        "hd95": {"rule": protocol.rule, "unit": protocol.unit},
        "labels": labels,
        "mean": mean,
        "mean_ci95": mean_ci95,
        "missed": sum(row[Presence.MISSED] for row in labels.values()),
        "nsd_at_mm": _nsd_at([records for _, records in counted], names),
    } | ({"note": note} if note else {})


def _nsd_at(records: Sequence[Sequence[Record]], names: Mapping[int, str]) -> dict[str, Any]:
    """For each of TOLERANCES_MM the mean NSD over cases of every organ, and over organs."""
    found = {}
    for place, tolerance in enumerate(TOLERANCES_MM):
        labels = {
            name: _mean([rows[organ].nsd_at[place] for rows in records])
            for organ, name in enumerate(names.values())
        }
        counted = [value for value in labels.values() if value is not None]
        found[f"{tolerance:g}"] = {"mean": _mean(counted), "labels": labels}
    return found


def _mean(values: Sequence[float]) -> float | None:
    counted = [value for value in values if not isnan(value)]
    return float(np.mean(counted)) if counted else None


def _counted(protocol: Protocol, scored: Sequence[CaseScore]) -> tuple[list[Counted], str]:
    """What the means run over: each case, or the one volume of them all."""
    if not protocol.stacked:
        return [(score.measures, score.records(protocol.name)) for score in scored], ""
    if any(not score.borders for score in scored):
        raise InputError(f"these cases were not measured for '{protocol.name}'; name it in evaluate_pairs too")
    if not scored:
        return [], ""
    if not poolable([next(iter(score.borders.values())) for score in scored]):
        return [], "the slices of the cases differ in size, so they cannot be scored as one volume"
    measures = _pooled(scored)
    return [(measures, [record(measure, protocol) for measure in measures])], ""


def _pooled(scored: Sequence[CaseScore]) -> list[LabelMeasurement]:
    """The measures of all cases as one volume: labels that exclude each other in every case together."""
    together: dict[tuple[int, ...], list[int]] = {}
    for place, measure in enumerate(scored[0].measures):
        together.setdefault(tuple(id(score.borders[measure.label]) for score in scored), []).append(place)
    found: dict[int, LabelMeasurement] = {}
    for places in together.values():
        label = scored[0].measures[places[0]].label
        own = [[score.measures[place] for place in places] for score in scored]
        found |= dict(zip(places, measure_pooled(own, [score.borders[label] for score in scored]), strict=True))
    return [found[place] for place in sorted(found)]


def _describe(counted: NDArray[np.float64], interval: Interval) -> dict[str, Any]:
    if not len(counted):
        return {"mean": None, "std": None, "n": 0, "median": None, "ci95": None}
    return {
        "mean": float(np.mean(counted)),
        "std": float(np.std(counted)),
        "n": len(counted),
        "median": float(np.median(counted)),
        "ci95": interval,
    }


def _inputs(score: CaseScore) -> dict[str, Any]:
    maps: dict[str, Any] = {"reference_map": score.reference_map, "prediction_map": score.prediction_map}
    maps["reference_masks"] = {name: str(file.absolute()) for name, file in score.masks}
    return {
        "prediction": None if score.prediction is None else str(score.prediction.absolute()),
        "prediction_sha256": score.prediction_sha256,
        "reference": str(score.reference.absolute()),
        "reference_sha256": score.reference_sha256,
        "shape": list(score.shape),
        "spacing_mm": list(score.spacing_mm),
    } | {name: values for name, values in maps.items() if values}
