"""What `evaluate` does: which file belongs to which case, which values mean which organ. Without torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import typer

from dsnet_med.cli.made_by import Origin, origin_of
from dsnet_med.cli.naming import Naming, Values, naming_of, values_of
from dsnet_med.cli.steps import bar
from dsnet_med.errors import CasesFailedError, InputError, first_of
from dsnet_med.evaluate import backend
from dsnet_med.evaluate.pairing import (
    Pair,
    Pairing,
    find_images,
    pair_folders,
    read_cases,
    require_one_file_per_case,
)
from dsnet_med.evaluate.protocols import find_protocols
from dsnet_med.evaluate.results import require_replaceable, write_comparison, write_results
from dsnet_med.evaluate.score_folders import CaseScore, Missing, evaluate_pairs
from dsnet_med.evaluate.stacks import PAGE_MB
from dsnet_med.evaluate.summary import by_protocol, summarise
from dsnet_med.files import require_writable

if TYPE_CHECKING:
    from dsnet_med.prepare.intensity import Intensity
    from dsnet_med.prepare.recipe import Recipe

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


@dataclass(frozen=True)
class Looks:
    """How the report shows images: black and white in their own intensities, where that is given; in how
    much."""

    window: tuple[float, float] | None = None
    page_mb: float = PAGE_MB


@dataclass(frozen=True)
class _Predictions:
    """A folder of predictions, paired, where its results go, and what is known of the run behind it."""

    folder: Path
    out: Path
    pairing: Pairing
    values: Values
    notes: list[str]
    origin: Origin


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
    looks: Looks | None = None,
    channel: int = 0,
) -> None:
    """Score predictions and write cases.csv, summary.json and report.html; compare several folders of them.

    Each of several has its results in a folder of its own in `out`, the comparison lies in `out` itself, and
    all count the same cases: one that a folder cannot be scored for is left out of the others' means too.
    """
    naming = naming_of(labels)
    find_protocols(options.protocols)
    if options.drop_outside and not options.resample:
        raise InputError("--drop-outside says what --resample may lose; give both")
    names, counted = short_names(predictions), None if cases is None else read_cases(cases)
    places = [out] if len(predictions) == 1 else [out / name for name in names]
    given = {
        name: _prepared(folder, reference, place, naming, options, counted)
        for name, folder, place in zip(names, predictions, places, strict=True)
    }
    every = [{pair.case for pair in each.pairing.pairs} for each in given.values()]
    shown = None if images is None else find_images(images, set.union(*every), naming.prediction_case, channel)
    if not set.intersection(*every):
        raise InputError(f"no case is in every one of {', '.join(given)}; nothing could be compared")
    for place in {out, *places}:
        require_replaceable(place, overwrite=overwrite)
    require_writable(out)
    looks = _looks(looks or Looks(), naming, given.values(), channel)
    scored, failures = _score_all(given, naming, options)
    gone = _not_scored_everywhere(given, scored) if len(given) > 1 else {}
    if gone.keys() >= {score.case for own in scored.values() for score in own if not score.error}:
        raise InputError(f"no case was scored for every one of {', '.join(scored)}; nothing could be compared")
    for name, own in scored.items():
        left_out = {score.case: gone[score.case] for score in own if not score.error and score.case in gone}
        kept = scored[name] = [score for score in own if score.case not in left_out]
        failed = _write(given[name], kept, dict(sorted(left_out.items())), naming, shown, options, looks)
        failures |= {case if len(given) == 1 else f"{name}: {case}": why for case, why in failed.items()}
    if len(given) > 1:
        failures |= _compare(scored, gone, naming, out, options, shown, looks)
    if failures:
        raise CasesFailedError(failures)


def verify(
    summary: Path,
    *,
    prediction: Path | None = None,
    reference: Path | None = None,
    images: Path | None = None,
    workers: int = 1,
) -> None:
    """Score the files of a summary, or of a comparison's, again and say whether the numbers still hold."""
    from dsnet_med.evaluate import verify as verifying

    if summary.name == "comparison.json":
        if prediction is not None:
            raise InputError("got --prediction with a comparison of several; verify each one's summary.json")
        comparison = verifying.read_comparison(summary, reference=reference, images=images)
        claims, scored = list(comparison.claims.values()), {}
        found = []
        for name, claim in comparison.claims.items():
            scored[name] = list(bar(verifying.score_again(claim, workers=workers), len(claim.pairs), name))
            found += verifying.differences(claim, scored[name])
        if not any(score.error for own in scored.values() for score in own):
            found += verifying.compared_otherwise(comparison, scored)
    else:
        claims = [verifying.read_claim(summary, prediction=prediction, reference=reference, images=images)]
        scores = list(bar(verifying.score_again(claims[0], workers=workers), len(claims[0].pairs), "verify"))
        found = verifying.differences(claims[0], scores)
    tell_differences(summary, found)
    numbers = sum(map(verifying.count_numbers, claims))
    typer.echo(
        f"{summary} holds: {numbers} numbers of {len(claims[0].pairs)} cases, "
        f"{', '.join(claims[0].protocols)}, from unchanged files"
    )
    for claim in claims:
        if claim.absent:
            say(f"not there, so not looked at: {first_of(claim.absent)}")
        if not claim.sealed:
            say(f"{claim.path} is of an earlier version: nothing vouches for its notes, versions and run")


def verify_explained(folder: Path) -> None:
    """Say whether the tables of an explained folder give its explain.json, and its files are as they were."""
    from dsnet_med.explain import verify as verifying

    claim = verifying.read_explain_claim(folder)
    tell_differences(folder, verifying.explain_differences(claim))
    runs, cases = len(claim.content["runs"]), len(claim.content["cases"])
    rows = f"{len(claim.scores)} rows of scores and {len(claim.counts)} of counts"
    say(
        f"{folder} holds: {verifying.count_explain_numbers(claim)} numbers from {rows}, "
        f"of {runs} run{'s' * (runs != 1)} and {cases} case{'s' * (cases != 1)}"
    )
    say(verifying.NOT_DERIVED)


def tell_differences(summary: Path, found: Sequence[str]) -> None:
    if found:
        for line in found[:_SHOWN_DIFFERENCES]:
            say(line, err=True)
        more = len(found) - _SHOWN_DIFFERENCES
        raise CasesFailedError(
            {str(summary): "does not hold" + (f"; {more} more differences are not shown" if more > 0 else "")}
        )


def _prepared(
    prediction: Path,
    reference: Path,
    out: Path,
    naming: Naming,
    options: Options,
    cases: Sequence[str] | None,
) -> _Predictions:
    """Everything that can be wrong with a folder, before anything is scored. Raises InputError."""
    masks = naming.masks_in(reference) if naming.masks_in else None
    found = pair_folders(
        prediction,
        reference,
        prediction_case=naming.prediction_case,
        reference_case=naming.reference_case,
        cases=cases,
        masks=masks,
    )
    pairs, missing, notes = found.pairs, found.missing, found.notes
    if masks is None:
        require_one_file_per_case([*(pair.case for pair in pairs), *missing], naming.labels.names, reference)
    if not pairs:
        reasons = "; ".join([*found.failures.values(), *found.orphans.values()][:_SHOWN])
        reasons = reasons or f"{reference} holds no label map of this recipe"
        raise InputError(f"no case has both a prediction and a reference: {reasons}")
    references = len(pairs) + len(missing) + len(found.failures)
    if missing and options.missing == "refuse":
        raise InputError(
            f"{len(missing)} of {references} references in {reference} have no prediction in {prediction}: "
            f"{first_of(missing, _SHOWN)}; name the cases that count with --cases FILE, or count these as "
            "missed with --missing zero, or leave them out with --missing ignore"
        )
    if cases is not None:
        notes.append(f"of {reference} the {references} cases of --cases count")
    if prediction.resolve() == reference.resolve():
        notes.append(f"{prediction} is both prediction and reference: it is scored against itself")
    if options.missing == "zero":
        pairs += [
            Pair(case, None, file, tuple((masks or {}).get(case, {}).items())) for case, file in missing.items()
        ]
        pairs.sort(key=lambda pair: pair.case)
    values = values_of(pairs, missing.values(), naming)
    origin = origin_of(prediction, [pair.prediction for pair in pairs if pair.prediction])
    return _Predictions(prediction, out, found, values, [*origin.notes, *notes, *values.notes], origin)


def _looks(looks: Looks, naming: Naming, given: Iterable[_Predictions], channel: int) -> Looks:
    """With the window of the recipe where none is given: of `--labels`, else of the run behind the masks."""
    if looks.window is not None:
        return looks
    rule = None if naming.recipe is None else _rule_of(naming.recipe, channel)
    for each in given:
        rule = rule or _trained_on((each.origin.run or {}).get("recipe"), channel)
    return replace(looks, window=(rule.low, rule.high)) if rule and rule.kind == "window" else looks


def _trained_on(recipe: Any, channel: int) -> "Intensity | None":
    """The intensity rule of a recipe that a run names, where we know one of this name."""
    from dsnet_med.prepare.recipe import load_recipe, recipe_ids

    return _rule_of(load_recipe(recipe), channel) if recipe in recipe_ids() else None


def _rule_of(recipe: "Recipe", channel: int) -> "Intensity":
    """The intensity rule of a channel; of a channel that the recipe does not have, that of the last."""
    return recipe.intensities[min(channel, len(recipe.channels) - 1)]


def parsed_window(text: str) -> tuple[float, float]:
    """`-125,275` as numbers. Raises InputError."""
    try:
        low, high = (float(each) for each in text.split(","))
    except ValueError:
        low = high = 0.0
    if not low < high < inf or low == -inf:
        raise InputError(
            f"--window is '{text}', wanted the intensities shown black and white, such as -125,275"
        )
    return low, high


def _score_all(
    given: Mapping[str, _Predictions], naming: Naming, options: Options
) -> tuple[dict[str, list[CaseScore]], dict[str, str]]:
    """The scores of each folder's cases, and why others have none. Raises InputError when none has."""
    scored: dict[str, list[CaseScore]] = {}
    failures: dict[str, str] = {}
    for name, own in given.items():
        results = evaluate_pairs(
            own.pairing.pairs,
            naming.labels,
            reference_map=own.values.of,
            prediction_map=own.values.of,
            **asdict(options),
        )
        scores = list(bar(results, len(own.pairing.pairs), f"evaluate {own.folder.name}"))
        if all(score.error for score in scores):
            reasons = own.pairing.failures | {score.case: score.error for score in scores if score.error}
            failures[f"{name}: all cases"] = f"no case could be scored: {CasesFailedError(reasons)}"
        else:
            scored[name] = scores
    if not scored:
        several = f"no folder could be scored: {CasesFailedError(failures)}"
        raise InputError(several if len(given) > 1 else next(iter(failures.values())))
    return scored, failures


def _write(
    given: _Predictions,
    scores: Sequence[CaseScore],
    left_out: Mapping[str, str],
    naming: Naming,
    images: Mapping[str, Path] | None,
    options: Options,
    looks: Looks,
) -> dict[str, str]:
    """Write and say what was found of one folder; its failures, by case."""
    summary = summarise(
        scores,
        naming.labels,
        options.protocols,
        missing=given.pairing.missing,
        failures=given.pairing.failures,
        orphans=given.pairing.orphans,
        left_out=left_out,
        rule=options.missing,
        nsd_tolerance_mm=options.nsd_tolerance_mm,
        notes=given.notes,
    )
    write_results(
        given.out,
        scores,
        summary,
        naming.labels,
        images=images,
        run=given.origin.run,
        beside=given.origin.beside,
        **asdict(looks),
    )
    _say(summary, scores, given.out)
    return {entry["case"]: entry["reason"] for entry in summary["failed"]}


def _compare(
    scored: Mapping[str, Sequence[CaseScore]],
    gone: Mapping[str, str],
    naming: Naming,
    out: Path,
    options: Options,
    images: Mapping[str, Path] | None,
    looks: Looks,
) -> dict[str, str]:
    """Write and say who is better; why that could not be told."""
    from dsnet_med.evaluate.comparison import compare, rankings, verdict

    if len(scored) == 1:
        return {"comparison": "only one folder could be scored, so there is nothing to compare"}
    if gone and options.missing != "ignore":
        return {
            "comparison": f"not made, since not every case was scored: {first_of(sorted(gone), _SHOWN)}; "
            "mend them, or leave them out everywhere with --missing ignore"
        }
    comparison = compare(scored, naming.labels.names, options.protocols, left_out=gone)
    links = {name: f"{quote(name)}/report.html" for name in scored}
    write_comparison(out, comparison, links, scored, naming.labels, images=images, **asdict(looks))
    for case, why in list(gone.items())[:_SHOWN]:
        say(f"left out everywhere: {case}, {why}")
    for line in filter(None, [verdict(comparison), *rankings(comparison), comparison["note"]]):
        say(line)
    say(f"comparison of {comparison['cases']} cases in {out}")
    return {}


def _not_scored_everywhere(
    given: Mapping[str, _Predictions], scored: Mapping[str, Sequence[CaseScore]]
) -> dict[str, str]:
    """The cases of references that were not scored for every folder, and why, with the folder's name."""
    found: dict[str, list[str]] = {}
    for name, own in scored.items():
        fine = {score.case for score in own if not score.error}
        pairing = given[name].pairing
        why = {case: "no prediction" for case in pairing.missing if case not in fine}
        why |= {score.case: "failed" for score in own if score.error} | dict.fromkeys(
            pairing.failures, "failed"
        )
        for case, reason in why.items():
            found.setdefault(case, []).append(f"{reason} in {name}")
    return {case: ", ".join(why) for case, why in sorted(found.items())}


def _say(summary: Mapping[str, Any], scores: Sequence[CaseScore], out: Path) -> None:
    headline = summary["headline"]
    for name, entry in by_protocol(summary).items():
        unit = entry["hd95"]["unit"]
        dice, hd95 = entry["mean"]["dice"], entry["mean"][f"hd95_{unit}"]
        if dice is None:
            why = entry.get("note", "no organ counts in any case")
            words = "no mean" if why == headline else why
        else:
            words = f"Dice {dice:.4f}" + ("" if hd95 is None else f", HD95 {hd95:.2f} {unit}")
        say(f"{summary['cases']} cases, {name}: {words}")
    if summary["missing"]["left_out"] or summary["missing"]["counted_as_missed"]:
        say(headline if headline.startswith("no mean") else f"counted: {headline}")
    for note in summary["notes"]:
        say(f"note: {note}")
    for case, words in summary["resampled"].items():
        say(f"{case}: {words}")
    peak = max(score.peak_memory_bytes for score in scores)
    say(f"report in {out}" + (f"; a worker held at most {peak / 1e6:.0f} MB" if peak else ""))
    if backend.NAME != "compiled":
        say("scored by SciPy, several times slower: install with a C compiler to have the kernel", err=True)


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
