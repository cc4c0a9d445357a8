"""What `evaluate` does: which file belongs to which case, which values mean which organ. Without torch."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import typer

import dsnet_med
from dsnet_med.cli.steps import bar
from dsnet_med.errors import CasesFailedError, InputError
from dsnet_med.evaluate import passes
from dsnet_med.evaluate.folders import RUN_FACTS, CaseScore, Pair, evaluate_pairs, pair_folders
from dsnet_med.evaluate.labels import read_label_names
from dsnet_med.evaluate.protocols import find_protocols
from dsnet_med.evaluate.report import write_results
from dsnet_med.evaluate.summary import by_protocol, summarise
from dsnet_med.files import require_writable, write_json, write_text
from dsnet_med.volumes import case_name, is_volume

_SHOWN = 6
_SHOWN_DIFFERENCES = 20


@dataclass(frozen=True)
class Naming:
    """How files name their cases and what label values mean."""

    labels: dict[int, str]
    prediction_case: Callable[[Path], str] = case_name
    reference_case: Callable[[Path], str | None] = case_name
    reference_map: Callable[[Path], Mapping[int, int] | None] = lambda _: None


@dataclass(frozen=True)
class Options:
    """How `evaluate` scores."""

    protocols: Sequence[str] = ("strict",)
    workers: int = 2
    scheduler: str | None = None
    resample: bool = False
    nsd_tolerance_mm: float = 1.0


def evaluate(
    predictions: Sequence[Path],
    reference: Path,
    labels: str,
    out: Path,
    *,
    images: Path | None,
    options: Options,
) -> None:
    """Score predictions and write cases.csv, summary.json and report.html; compare several folders of them."""
    naming = by_json(Path(labels)) if labels.endswith(".json") else by_recipe(labels)
    find_protocols(options.protocols)
    shown = None if images is None else find_scans(images, naming.prediction_case)
    sets = [_prepared(prediction, reference, naming) for prediction in predictions]
    if len(sets) == 1:
        _, failures = _evaluate_one(sets[0], naming, out, shown, options)
    else:
        failures = _evaluate_several(
            dict(zip(short_names(predictions), sets, strict=True)), naming, out, shown, options
        )
    if failures:
        raise CasesFailedError(failures)


def verify(summary: Path, *, prediction: Path | None, reference: Path | None, workers: int) -> None:
    """Score a summary's files again and say whether its numbers still hold."""
    from dsnet_med.evaluate import verify as verifying

    claim = verifying.read_claim(summary, prediction=prediction, reference=reference)
    scores = list(bar(verifying.score_again(claim, workers=workers), len(claim.pairs), "verify"))
    found = verifying.differences(claim, scores)
    if found:
        for line in found[:_SHOWN_DIFFERENCES]:
            typer.echo(_text(line), err=True)
        more = len(found) - _SHOWN_DIFFERENCES
        raise CasesFailedError(
            {str(summary): "does not hold" + (f"; {more} more differences are not shown" if more > 0 else "")}
        )
    typer.echo(
        f"{summary} holds: {verifying.count_numbers(claim)} numbers of {len(claim.pairs)} cases, "
        f"{', '.join(claim.protocols)}, from unchanged files"
    )


@dataclass(frozen=True)
class _Predictions:
    """A folder of predictions, paired, and what is known of the run behind it."""

    folder: Path
    pairs: list[Pair]
    missing: list[str]
    failures: dict[str, str]
    run: Mapping[str, Any] | None


def _prepared(prediction: Path, reference: Path, naming: Naming) -> _Predictions:
    """Everything that can be wrong with a folder, before anything is scored. Raises InputError."""
    pairs, missing, failures = pair_folders(
        prediction, reference, prediction_case=naming.prediction_case, reference_case=naming.reference_case
    )
    if not pairs:
        reasons = "; ".join(failures.values()) or f"{reference} holds no label map of this recipe"
        raise InputError(f"no case has both a prediction and a reference: {reasons}")
    return _Predictions(prediction, pairs, missing, failures, _run_facts(prediction))


def _evaluate_one(
    given: _Predictions,
    naming: Naming,
    out: Path,
    images: Mapping[str, Path] | None,
    options: Options,
) -> tuple[list[CaseScore], dict[str, str]]:
    """Score a folder, write its results and say what came out; the scores, and why cases failed."""
    require_writable(out)
    results = evaluate_pairs(given.pairs, naming.labels, reference_map=naming.reference_map, **asdict(options))
    scores = list(bar(results, len(given.pairs), f"evaluate {given.folder.name}"))
    failures = given.failures | {score.case: score.error for score in scores if score.error}
    if all(score.error for score in scores):
        raise InputError(f"no case could be scored: {CasesFailedError(failures)}")
    summary = summarise(
        scores,
        naming.labels,
        options.protocols,
        missing=given.missing,
        failures=failures,
        nsd_tolerance_mm=options.nsd_tolerance_mm,
    )
    write_results(out, scores, summary, naming.labels, images=images, run=given.run)
    _say(summary, scores, out)
    if given.missing:
        some = ", ".join(given.missing[:_SHOWN]) + (", ..." if len(given.missing) > _SHOWN else "")
        typer.echo(_text(f"{len(given.missing)} references have no prediction and are not scored: {some}"))
    return scores, failures


def _evaluate_several(
    given: Mapping[str, _Predictions],
    naming: Naming,
    out: Path,
    images: Mapping[str, Path] | None,
    options: Options,
) -> dict[str, str]:
    """Each folder's results in a folder of its own in `out`, and the comparison in `out` itself."""
    from dsnet_med.evaluate.comparison import compare
    from dsnet_med.evaluate.comparison_page import comparison_html, rankings, verdict

    if not set.intersection(*({pair.case for pair in predictions.pairs} for predictions in given.values())):
        raise InputError(f"no case is in every one of {', '.join(given)}; nothing could be compared")
    scored: dict[str, list[CaseScore]] = {}
    failures: dict[str, str] = {}
    for name, predictions in given.items():
        try:
            scored[name], failed = _evaluate_one(predictions, naming, out / name, images, options)
        except InputError as error:  # one bad folder does not lose the others
            failed = {"all cases": str(error)}
        failures |= {f"{name}: {case}": why for case, why in failed.items()}
    if not scored:
        raise InputError(f"no folder could be scored: {CasesFailedError(failures)}")
    if len(scored) == 1:
        return failures | {"comparison": "only one folder could be scored, so there is nothing to compare"}
    try:
        comparison = compare(scored, naming.labels, options.protocols)
    except InputError as error:
        return failures | {"comparison": str(error)}
    write_json(out / "comparison.json", comparison)
    links = {name: f"{quote(name)}/report.html" for name in scored}
    write_text(out / "report.html", comparison_html(comparison, links, dsnet_med.__version__))
    for line in [verdict(comparison), *rankings(comparison), comparison["note"], f"comparison in {out}"]:
        if line:
            typer.echo(_text(line))
    return failures


def _say(summary: Mapping[str, Any], scores: Sequence[CaseScore], out: Path) -> None:
    for name, entry in by_protocol(summary).items():
        unit = entry["hd95"]["unit"]
        dice, hd95 = entry["mean"]["dice"], entry["mean"][f"hd95_{unit}"]
        distance = "" if hd95 is None else f", HD95 {hd95:.2f} {unit}"
        if dice is not None:
            typer.echo(f"{summary['cases']} cases, {name}: Dice {dice:.4f}{distance}")
    for case, words in summary["resampled"].items():
        typer.echo(_text(f"{case}: {words}"))
    peak = max(score.peak_memory_bytes for score in scores)
    typer.echo(f"report in {out}" + (f"; a worker held at most {peak / 1e6:.0f} MB" if peak else ""))
    if passes.NAME != "compiled":
        typer.echo(
            "scored by SciPy, several times slower: install with a C compiler to have the kernel", err=True
        )


def _text(words: str) -> str:
    """Bytes of file names that are no text, in a form that every terminal takes."""
    return words.encode("utf-8", errors="backslashreplace").decode("utf-8")


def short_names(folders: Sequence[Path]) -> list[str]:
    """A name for each folder: its own, with as many of its parents' as tell it from the others.

    Raises InputError when one is given twice.
    """
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise InputError("got one --prediction twice; give each folder once")
    for depth in range(1, max(len(folder.parts) for folder in resolved) + 1):
        names = ["-".join(folder.parts[-depth:]).strip("/") for folder in resolved]
        if len(set(names)) == len(names):
            return names
    return [f"{place}-{folder.name}" for place, folder in enumerate(resolved, start=1)]


def _run_facts(prediction: Path) -> Mapping[str, Any] | None:
    """What `infer` wrote beside its masks; None where they come from elsewhere."""
    file = prediction / RUN_FACTS
    if not file.is_file():
        return None
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable as JSON ({error}); remove it or infer again") from error
    return facts if isinstance(facts, dict) else None


def by_json(path: Path) -> Naming:
    """Names from a JSON file; a file's case is its name, values are class ids."""
    return Naming(read_label_names(path))


def by_recipe(name: str) -> Naming:
    """Names, cases and values of a recipe, by its id or path.

    A reference that carries the name of one of the data set's own label files (label0001.nii.gz) holds raw
    values, which are mapped to classes; any other file holds classes already.
    """
    from dsnet_med.prepare.cases import case_of_image, case_of_label
    from dsnet_med.prepare.recipe import load_recipe

    recipe = load_recipe(name)
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
    return {case_of(file): file for file in sorted(folder.iterdir()) if is_volume(file)}
