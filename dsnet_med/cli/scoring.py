"""What `evaluate` does: which file belongs to which case, which values mean which organ. Without torch."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import typer

import dsnet_med
from dsnet_med.cli.naming import Naming, Values, naming_of, values_of
from dsnet_med.cli.steps import bar
from dsnet_med.errors import CasesFailedError, InputError, first_of
from dsnet_med.evaluate import backend
from dsnet_med.evaluate.pairing import (
    Pair,
    listed_files,
    pair_folders,
    read_cases,
    require_one_file_per_case,
)
from dsnet_med.evaluate.protocols import find_protocols
from dsnet_med.evaluate.results import find_images, require_replaceable, write_comparison, write_results
from dsnet_med.evaluate.score_folders import RUN_FACTS, CaseScore, Missing, evaluate_pairs
from dsnet_med.evaluate.summary import by_protocol, summarise
from dsnet_med.files import require_writable

_SHOWN = 6
_SHOWN_DIFFERENCES = 20


@dataclass(frozen=True)
class Options:
    """How `evaluate` scores."""

    protocols: Sequence[str] = ("strict",)
    workers: int = 2
    scheduler: str | None = None
    resample: bool = False
    drop_outside: bool = False
    nsd_tolerance_mm: float = 1.0
    missing: Missing = "refuse"


def evaluate(
    predictions: Sequence[Path],
    reference: Path,
    labels: str,
    out: Path,
    *,
    images: Path | None,
    options: Options,
    cases: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Score predictions and write cases.csv, summary.json and report.html; compare several folders of them."""
    naming = naming_of(labels)
    find_protocols(options.protocols)
    if options.drop_outside and not options.resample:
        raise InputError("--drop-outside says what --resample may lose; give both")
    names = short_names(predictions)
    counted = None if cases is None else read_cases(cases)
    sets = [_prepared(prediction, reference, naming, options, counted) for prediction in predictions]
    every = {pair.case for given in sets for pair in given.pairs}
    shown = None if images is None else find_scans(images, naming, every)
    places = [out] if len(sets) == 1 else [out, *(out / name for name in names)]
    for place in places:
        require_replaceable(place, overwrite=overwrite)
    if len(sets) == 1:
        failures = _evaluate_one(sets[0], naming, out, shown, options)
    else:
        failures = _evaluate_several(dict(zip(names, sets, strict=True)), naming, out, shown, options)
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
            say(line, err=True)
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
    missing: dict[str, Path]
    failures: dict[str, str]
    orphans: dict[str, str]
    notes: list[str]
    values: Values
    run: Mapping[str, Any] | None


def _prepared(
    prediction: Path, reference: Path, naming: Naming, options: Options, cases: Sequence[str] | None
) -> _Predictions:
    """Everything that can be wrong with a folder, before anything is scored. Raises InputError."""
    pairs, missing, failures, orphans, notes = pair_folders(
        prediction,
        reference,
        prediction_case=naming.prediction_case,
        reference_case=naming.reference_case,
        cases=cases,
    )
    names = naming.labels.names
    require_one_file_per_case([*(pair.case for pair in pairs), *missing], names, reference)
    if not pairs:
        reasons = "; ".join([*failures.values(), *orphans.values()][:_SHOWN])
        reasons = reasons or f"{reference} holds no label map of this recipe"
        raise InputError(f"no case has both a prediction and a reference: {reasons}")
    if missing and options.missing == "refuse":
        raise InputError(
            f"{len(missing)} of {len(missing) + len(pairs) + len(failures)} references in {reference} have no "
            f"prediction in {prediction}: {first_of(missing, _SHOWN)}; name the cases that count "
            "with --cases FILE, or count these as missed with --missing zero, or leave them out with --missing "
            "ignore"
        )
    if cases is not None:
        notes.append(f"of {reference} the {len(pairs) + len(missing) + len(failures)} cases of --cases count")
    if prediction.resolve() == reference.resolve():
        notes.append(f"{prediction} is both prediction and reference: it is scored against itself")
    if options.missing == "zero":
        pairs = sorted(
            [*pairs, *(Pair(case, None, file) for case, file in missing.items())], key=lambda pair: pair.case
        )
    values = values_of(pairs, missing.values(), naming)
    return _Predictions(
        prediction,
        pairs,
        missing,
        failures,
        orphans,
        [*notes, *values.notes],
        values,
        _run_facts(prediction),
    )


def _scored(given: _Predictions, naming: Naming, options: Options) -> list[CaseScore]:
    """The scores of a folder's cases. Raises InputError when there is none."""
    results = evaluate_pairs(
        given.pairs,
        naming.labels.names,
        reference_map=given.values.of,
        prediction_map=given.values.of,
        ignored=naming.labels.ignored[1] if naming.labels.ignored else None,
        **asdict(options),
    )
    scores = list(bar(results, len(given.pairs), f"evaluate {given.folder.name}"))
    if all(score.error for score in scores):
        failures = given.failures | {score.case: score.error for score in scores if score.error}
        raise InputError(f"no case could be scored: {CasesFailedError(failures)}")
    return scores


def _written(
    given: _Predictions,
    scores: Sequence[CaseScore],
    left_out: Mapping[str, str],
    naming: Naming,
    out: Path,
    images: Mapping[str, Path] | None,
    options: Options,
) -> dict[str, str]:
    """Write and say what was found of one folder; its failures, by case."""
    summary = summarise(
        scores,
        naming.labels.names,
        options.protocols,
        missing=given.missing,
        failures=given.failures,
        orphans=given.orphans,
        left_out=left_out,
        rule=options.missing,
        nsd_tolerance_mm=options.nsd_tolerance_mm,
        ignored=naming.labels.ignored,
        notes=given.notes,
    )
    write_results(out, scores, summary, naming.labels.names, images=images, run=given.run)
    _say(summary, scores, out)
    return {entry["case"]: entry["reason"] for entry in summary["failed"]}


def _evaluate_one(
    given: _Predictions,
    naming: Naming,
    out: Path,
    images: Mapping[str, Path] | None,
    options: Options,
) -> dict[str, str]:
    require_writable(out)
    return _written(given, _scored(given, naming, options), {}, naming, out, images, options)


def _evaluate_several(
    given: Mapping[str, _Predictions],
    naming: Naming,
    out: Path,
    images: Mapping[str, Path] | None,
    options: Options,
) -> dict[str, str]:
    """Each folder's results in a folder of its own in `out`, and the comparison in `out` itself.

    All count the same cases: one that a folder cannot be scored for is left out of the others' means too.
    """
    from dsnet_med.evaluate.comparison import compare
    from dsnet_med.evaluate.comparison_page import comparison_html, rankings, verdict

    if not set.intersection(*({pair.case for pair in predictions.pairs} for predictions in given.values())):
        raise InputError(f"no case is in every one of {', '.join(given)}; nothing could be compared")
    require_writable(out)
    scored: dict[str, list[CaseScore]] = {}
    failures: dict[str, str] = {}
    for name, predictions in given.items():
        try:
            scored[name] = _scored(predictions, naming, options)
        except InputError as error:  # one bad folder does not lose the others
            failures[f"{name}: all cases"] = str(error)
    if not scored:
        raise InputError(f"no folder could be scored: {CasesFailedError(failures)}")
    gone = _gone_elsewhere({name: given[name] for name in scored}, scored)
    common = {score.case for own in scored.values() for score in own} - gone.keys()
    if not common:
        raise InputError(f"no case was scored for every one of {', '.join(scored)}; nothing could be compared")
    kept = {
        name: [score for score in own if score.error or score.case in common] for name, own in scored.items()
    }
    for name, own in kept.items():
        dropped = {score.case for score in scored[name] if not score.error} - common
        left_out = {case: gone[case] for case in sorted(dropped)}
        failed = _written(given[name], own, left_out, naming, out / name, images, options)
        failures |= {f"{name}: {case}": why for case, why in failed.items()}
    if len(scored) == 1:
        return failures | {"comparison": "only one folder could be scored, so there is nothing to compare"}
    if gone and options.missing != "ignore":
        return failures | {
            "comparison": f"not made, since not every case was scored: {first_of(sorted(gone), _SHOWN)}; "
            "mend them, or leave them out everywhere with --missing ignore"
        }
    try:
        comparison = compare(kept, naming.labels.names, options.protocols, left_out=gone)
    except InputError as error:
        return failures | {"comparison": str(error)}
    links = {name: f"{quote(name)}/report.html" for name in scored}
    write_comparison(out, comparison, comparison_html(comparison, links, dsnet_med.__version__))
    dropped_words = [f"left out everywhere: {case}, {why}" for case, why in list(gone.items())[:_SHOWN]]
    for line in [*dropped_words, verdict(comparison), *rankings(comparison), comparison["note"]]:
        if line:
            say(line)
    say(f"comparison of {len(common)} cases in {out}")
    return failures


def _gone_elsewhere(
    given: Mapping[str, _Predictions], scored: Mapping[str, Sequence[CaseScore]]
) -> dict[str, str]:
    """The cases of references that were not scored for every folder, and why, with the folder's name."""
    found: dict[str, list[str]] = {}
    for name, own in scored.items():
        fine = {score.case for score in own if not score.error}
        absent = {case: "no prediction" for case in given[name].missing if case not in fine}
        failed = {score.case: "failed" for score in own if score.error} | dict.fromkeys(
            given[name].failures, "failed"
        )
        for case, why in (absent | failed).items():
            found.setdefault(case, []).append(f"{why} in {name}")
    return {case: ", ".join(why) for case, why in sorted(found.items())}


def _say(summary: Mapping[str, Any], scores: Sequence[CaseScore], out: Path) -> None:
    for name, entry in by_protocol(summary).items():
        unit = entry["hd95"]["unit"]
        dice, hd95 = entry["mean"]["dice"], entry["mean"][f"hd95_{unit}"]
        distance = "" if hd95 is None else f", HD95 {hd95:.2f} {unit}"
        why = entry.get("note", "no organ counts in any case")
        words = "no mean" if why == summary["headline"] else why
        say(f"{summary['cases']} cases, {name}: " + (words if dice is None else f"Dice {dice:.4f}{distance}"))
    if summary["missing"]["left_out"] or summary["missing"]["counted_as_missed"]:
        say(
            summary["headline"]
            if summary["headline"].startswith("no mean")
            else f"counted: {summary['headline']}"
        )
    for note in summary["notes"]:
        say(f"note: {note}")
    for case, words in summary["resampled"].items():
        say(f"{case}: {words}")
    peak = max(score.peak_memory_bytes for score in scores)
    say(f"report in {out}" + (f"; a worker held at most {peak / 1e6:.0f} MB" if peak else ""))
    if backend.NAME != "compiled":
        typer.echo(
            "scored by SciPy, several times slower: install with a C compiler to have the kernel", err=True
        )


def say(words: str, *, err: bool = False) -> None:
    """A line on stdout or stderr; bytes of file names that are no text, in a form that every terminal takes."""
    typer.echo(words.encode("utf-8", errors="backslashreplace").decode("utf-8"), err=err)


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


def find_scans(folder: Path, naming: Naming, cases: Collection[str]) -> dict[str, Path]:
    """The image of each of the cases, as far as the folder holds it. Raises InputError where it holds none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    files = listed_files(folder)
    by_name = find_images(folder, sorted(cases))
    found = by_name | {case: file for file in files if (case := str(naming.prediction_case(file))) in cases}
    if not found:
        raise InputError(
            f"{folder}: --images holds the image of no case (but {first_of((file.name for file in files), 4)}"
            f"); wanted one named as the case is, {min(cases)}.nii.gz or {min(cases)}_0000.nii.gz"
        )
    return found
