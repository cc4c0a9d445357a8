"""Do the volumes agree? Volumes of organs in ml, and how far predictions differ from references (Bland and
Altman, Lancet 1986): the mean difference, and the limits between which 95 % of single differences are expected,
mean ± 1.96 standard deviations (of a sample).

A case counts for an organ where either map holds it; one that missed the organ counts with 0 ml.
"""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np

from dsnet_med.csv_cells import csv_text
from dsnet_med.evaluate.measurements import TOLERANCES_MM, Presence
from dsnet_med.evaluate.score_folders import CaseScore
from dsnet_med.evaluate.statistics import mean_intervals

_OF_95 = 1.96
_COLUMNS = ("case", "label", "name", "reference_ml", "prediction_ml", "difference_ml")

Volumes = list[tuple[str, float, float]]


def volumes_of(scores: Sequence[CaseScore], labels: Mapping[int, str]) -> dict[str, Volumes]:
    """For each organ the cases that count: their names, reference's and prediction's ml."""
    found: dict[str, Volumes] = {name: [] for name in labels.values()}
    for score in scores:  # those that failed have no measures
        for name, measure in zip(labels.values(), score.measures, strict=False):
            if measure.presence is not Presence.ABSENT:
                counted = (measure.reference_voxels, measure.prediction_voxels)
                reference, prediction = (many * score.voxel_ml for many in counted)
                found[name].append((score.case, reference, prediction))
    return found


def agreement(scores: Sequence[CaseScore], labels: Mapping[int, str]) -> dict[str, Any]:
    """What summary.json says of volumes, by organ; what does not exist is None."""
    return {name: _of_organ(volumes) for name, volumes in volumes_of(scores, labels).items()}


def details_csv(scores: Sequence[CaseScore], protocol: str) -> str:
    """A row per case and label: volumes in ml, and the NSD at several tolerances under the protocol."""
    rows: list[Sequence[object]] = [(*_COLUMNS, *(f"nsd_{each:g}mm" for each in TOLERANCES_MM))]
    for score in sorted(scores, key=lambda score: score.case):
        for row in score.records(protocol):
            reference, prediction = (n * score.voxel_ml for n in (row.reference_voxels, row.prediction_voxels))
            nsd = ["" if isnan(value) else value for value in row.nsd_at]
            rows.append((score.case, row.label, row.name, reference, prediction, prediction - reference, *nsd))
    return csv_text(rows)


def _of_organ(volumes: Volumes) -> dict[str, Any]:
    n = len(volumes)
    if not n:
        return dict.fromkeys(("reference_ml", "prediction_ml", "bias_ml", "sd_ml", "ci95_ml", "limits_ml")) | {
            "n": 0
        }
    reference, prediction = np.array([each[1:] for each in volumes]).T
    difference = prediction - reference
    bias, deviation = float(difference.mean()), float(difference.std(ddof=1)) if n > 1 else None
    return {
        "n": n,
        "reference_ml": float(reference.mean()),
        "prediction_ml": float(prediction.mean()),
        "bias_ml": bias,
        "ci95_ml": mean_intervals(difference[:, None])[0][0],
        "sd_ml": deviation,
        "limits_ml": None if deviation is None else (bias - _OF_95 * deviation, bias + _OF_95 * deviation),
    }
