"""What `evaluate` does: which file belongs to which case, which values mean which organ. Never imports torch."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from dsnet_med.cli.steps import bar
from dsnet_med.errors import CasesFailedError, InputError
from dsnet_med.evaluate.folders import evaluate_pairs, pair_folders
from dsnet_med.evaluate.labels import read_label_names
from dsnet_med.evaluate.report import write_results
from dsnet_med.evaluate.summary import summarise
from dsnet_med.files import require_writable
from dsnet_med.prepare.cases import case_of_image, case_of_label
from dsnet_med.prepare.recipe import Recipe, load_recipe
from dsnet_med.volumes import case_name


@dataclass(frozen=True)
class Naming:
    """How files name their cases and what label values mean."""

    labels: dict[int, str]
    prediction_case: Callable[[Path], str] = case_name
    reference_case: Callable[[Path], str | None] = case_name
    reference_map: Callable[[Path], Mapping[int, int] | None] = lambda _: None


def evaluate(
    prediction: Path,
    reference: Path,
    labels: str,
    out: Path,
    *,
    protocols: Sequence[str],
    images: Path | None,
    workers: int,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Score the predictions and write cases.csv, summary.json and report.html."""
    naming = by_json(Path(labels)) if labels.endswith(".json") else by_recipe(load_recipe(labels))
    pairs, missing, failures = pair_folders(
        prediction, reference, prediction_case=naming.prediction_case, reference_case=naming.reference_case
    )
    if not pairs:
        reasons = "; ".join(failures.values()) or f"{reference} holds no label map of this recipe"
        raise InputError(f"no case has both a prediction and a reference: {reasons}")
    require_writable(out)
    scored = evaluate_pairs(
        pairs, naming.labels, protocols=protocols, workers=workers, reference_map=naming.reference_map
    )
    scores = list(bar(scored, len(pairs), "evaluate"))
    failures |= {score.case: score.error for score in scores if score.error}
