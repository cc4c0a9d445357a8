"""What `evaluate` does: which file belongs to which case, which values mean which organ. Without torch."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from dsnet_med.cli.steps import RUN_FACTS, bar
from dsnet_med.errors import CasesFailedError, InputError
from dsnet_med.evaluate.folders import evaluate_pairs, pair_folders
from dsnet_med.evaluate.labels import read_label_names
from dsnet_med.evaluate.report import write_results
from dsnet_med.evaluate.summary import summarise
from dsnet_med.files import require_writable
from dsnet_med.prepare.cases import case_of_image, case_of_label
from dsnet_med.prepare.recipe import Recipe, load_recipe
from dsnet_med.volumes import case_name, is_nifti

_SHOWN = 6


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
    results = evaluate_pairs(
        pairs, naming.labels, protocols=protocols, workers=workers, reference_map=naming.reference_map
    )
    scores = list(bar(results, len(pairs), "evaluate"))
    summary = summarise(scores, naming.labels, protocols, missing=missing, failures=failures)
    shown = None if images is None else find_scans(images, naming.prediction_case)
    write_results(out, scores, summary, naming.labels, images=shown, run=_run_facts(prediction))
    failures |= {score.case: score.error for score in scores if score.error}
    dice, hd95 = summary["mean"]["dice"], summary["mean"]["hd95_mm"]
    if dice is not None:
        distance = "" if hd95 is None else f", HD95 {hd95:.2f} mm"
        typer.echo(
            f"{summary['cases']} cases, {summary['protocol']}: Dice {dice:.4f}{distance}, report in {out}"
        )
    if missing:
        some = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        typer.echo(f"{len(missing)} references have no prediction and are not scored: {some}")
    if failures:
        raise CasesFailedError(failures)


def _run_facts(prediction: Path) -> Mapping[str, Any] | None:
    """What `infer` wrote beside its masks; None where they come from elsewhere."""
    file = prediction / RUN_FACTS
    facts: Mapping[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return facts


def by_json(path: Path) -> Naming:
    """Names from a JSON file; a file's case is its name, values are class ids."""
    return Naming(read_label_names(path))


def by_recipe(recipe: Recipe) -> Naming:
    """Names, cases and values of a recipe.

    A reference that carries the name of one of the data set's own label files (label0001.nii.gz) holds raw
    values, which are mapped to classes; any other file holds classes already.
    """
    if not recipe.classes:
        raise InputError(f"recipe '{recipe.id}' names no classes; give the task's dataset.json as --labels")
    return Naming(
        labels={i: name for i, name in enumerate(recipe.classes) if i > 0},
        prediction_case=lambda file: case_of_image(recipe, file),
        reference_case=lambda file: case_of_label(recipe, file) or case_of_image(recipe, file),
        reference_map=lambda file: recipe.label_map if case_of_label(recipe, file) else None,
    )


def find_scans(folder: Path, case_of: Callable[[Path], str]) -> dict[str, Path]:
    """The image of each case in a folder. Raises InputError when the folder does not exist."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    return {case_of(file): file for file in sorted(folder.iterdir()) if is_nifti(file)}
