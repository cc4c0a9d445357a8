"""Does a trial still hold: does its scores.csv, analysed again, give its results.json?

The seal vouches for every key of results.json, hashes for the files beside it and for trial.yaml, analysing
again for numbers and verdicts (another version may word a sentence otherwise). With the masks, scoring again
vouches for scores.csv (cli/analysing.py finds the runs).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsnet_med.errors import InputError, first_of, one_line, shown, want_of_means
from dsnet_med.evaluate.analysis import SCHEMA, analyse
from dsnet_med.evaluate.measures import MEASURES
from dsnet_med.evaluate.results import without_nan
from dsnet_med.evaluate.score_folders import CaseScore
from dsnet_med.evaluate.score_table import Row, read_scores
from dsnet_med.evaluate.trial_output import RESULTS, SCORES, TRIAL
from dsnet_med.evaluate.verify import broken, leaves, same
from dsnet_med.files import parse_json, read_text, sha256

_LINES = ("left_out", "notes")  # to which a trial adds what it knows beside the scores
_SENTENCES = (".words", ".reason")
_NOT_DERIVED = ("tool", "files", "seal")


@dataclass
class TrialClaim:
    """What results.json of a trial's folder says, the rows that it rests on, and why it is not as it was."""

    folder: Path
    content: dict[str, Any]
    rows: list[Row]
    broken: list[str]


def read_trial_claim(folder: Path) -> TrialClaim:
    """The claim of a folder of `compare`. Raises InputError where there is none that can be read."""
    path = folder / RESULTS
    try:
        text = read_text(path)
        content = parse_json(text)
        if content["schema"] != SCHEMA:
            raise InputError(
                f"schema {shown(content['schema'])}, this version reads {SCHEMA}; take that dsnet-med"
            )
        dict(content["arms"]), list(content["contrasts"]), dict(content["primary"]), dict(content["files"])
        dict(content["placebos"]), [list(content[line]) for line in _LINES]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there: nothing has been analysed in this folder yet") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if means := want_of_means(error):
            raise InputError(f"{path}: cannot be read: {means}") from error
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{path}: not a results.json of `dsnet-med compare` ({reason})") from error
    claim = TrialClaim(folder, content, [], broken(path, text, content))
    try:
        claim.rows = read_scores(folder / SCORES)
    except InputError as error:
        claim.broken.append(str(error))
    return claim


def trial_differences(claim: TrialClaim) -> list[str]:
    """Everything that no longer holds, a line each: changed files, and numbers that come out otherwise."""
    content, folder = claim.content, claim.folder
    found = list(claim.broken)
    for name, digest in content["files"].items():
        if Path(name).name != name:
            raise InputError(f"{folder / RESULTS}: {shown(name)} is no name of a file beside it")
        if not (folder / name).is_file():
            found.append(f"{folder / name} is missing")
        elif sha256(folder / name) != digest:
            found.append(f"{folder / name}: is not as it was (another SHA-256)")
    if content.get("trial") and (folder / TRIAL).is_file() and sha256(folder / TRIAL) != content["trial"]:
        found.append(f"{folder / TRIAL}: is not the trial that was analysed; run compare in this folder again")
    try:
        again = _analysed_again(claim)
    except InputError as error:
        return [*found, f"{folder}: cannot be analysed again: {error}"]
    found += [
        f"{RESULTS}: {name}: {len(content[name])} of {len(again[name])} sentences"
        for name in _LINES
        if len(again[name]) > len(content[name])
    ]
    before, after = _derived(content), _derived(again)
    found += [
        f"{RESULTS}: {place[1:]}: {shown(before.get(place))}, {shown(after.get(place))} when analysed again"
        for place in sorted(before | after)
        if not same(before.get(place), after.get(place))
    ]
    return found


def row_differences(claim: TrialClaim, cell: tuple[str, str, str], scores: Iterable[CaseScore]) -> list[str]:
    """Where the rows of a cell (arm, seed, fold) are not what its masks score; `scores` are of those masks."""
    rows = {
        (row["case"], row["label"]): row
        for row in claim.rows
        if (row["method"], row["seed"], row["fold"]) == cell
    }
    where = f"{cell[0]}, seed {cell[1]}" + (f", fold {cell[2]}" if cell[2] else "")
    found = []
    for score in scores:
        if score.error:
            found.append(f"{where}, {score.case}: {score.error}")
            continue
        labels = {str(record.label) for record in score.records()}
        if lost := [label for label in labels if (score.case, label) not in rows]:
            found.append(f"{where}, {score.case}: {SCORES} has no row of label {first_of(sorted(lost))}")
        for (case, label), row in rows.items():
            if case == score.case:
                found += [f"{where}, {case}, label {label}: {told}" for told in _unequal(row, label, score)]
    scored = {score.case for score in scores}
    gone = {case for case, _ in rows if case not in scored}
    return found + [f"{where}: no mask of case {first_of(sorted(gone))}"] * bool(gone)


def cells_of(claim: TrialClaim) -> list[tuple[str, str, str]]:
    """Arm, seed and fold of every run that has rows."""
    return list(dict.fromkeys((row["method"], row["seed"], row["fold"]) for row in claim.rows))


def count_trial_numbers(claim: TrialClaim) -> int:
    """How many numbers of results.json are compared."""
    return sum(isinstance(leaf, (int, float)) for leaf in _derived(claim.content).values())


def _derived(results: Mapping[str, Any]) -> dict[str, Any]:
    """What analysing again must give, by its place; no sentences."""
    kept = {key: value for key, value in results.items() if key not in (*_LINES, *_NOT_DERIVED)}
    return {
        place: leaf
        for place, leaf in leaves(kept).items()
        if not place.endswith(_SENTENCES) or not isinstance(leaf, str)
    }


def _analysed_again(claim: TrialClaim) -> dict[str, Any]:
    content = claim.content
    try:
        measure = next(
            key
            for key, each in MEASURES.items()
            if (each.name, each.protocol) == (content["primary"]["measure"], content["primary"]["protocol"])
        )
        costs: Mapping[str, Any] = {arm: own["cost"] for arm, own in content["arms"].items()}
        related: Mapping[str, Sequence[str]] = content["placebos"]
        again = analyse(
            claim.rows,
            content["baseline"],
            content["margin"],
            primary=measure,
            placebos=related,
            costs=costs,
            trial=content["trial"],
        )
    except (StopIteration, KeyError, TypeError, AttributeError) as error:
        path = claim.folder / RESULTS
        raise InputError(f"{path}: not a results.json of `dsnet-med compare` ({one_line(error)})") from error
    plain: dict[str, Any] = without_nan(again)
    return plain


def _unequal(row: Row, label: str, score: CaseScore) -> list[str]:
    """The scores of a row that are otherwise when scored again."""
    found = []
    for key, measure in MEASURES.items():
        if key in row:
            now = next((r for r in score.records(measure.protocol) if str(r.label) == label), None)
            value = without_nan(None if now is None else getattr(now, measure.name))
            if not same(row[key], value):
                found.append(f"{key}: {shown(row[key])} in {SCORES}, {shown(value)} when scored again")
    return found
