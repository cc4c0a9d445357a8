"""What `compare --scores` does, and `verify` of a trial's folder. Without torch where no masks are scored
again.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsnet_med.cli.scoring import say, tell_differences
from dsnet_med.cli.steps import bar
from dsnet_med.errors import InputError
from dsnet_med.evaluate.trial_output import RESULTS, TRIAL, run_place
from dsnet_med.evaluate.verify_trial import (
    TrialClaim,
    cells_of,
    count_trial_numbers,
    read_trial_claim,
    row_differences,
    trial_differences,
)


def analyse_file(
    scores: Path,
    out: Path,
    baseline: str | None = None,
    margin: float = 0.01,
    primary: str = "dice",
    *,
    quiet: bool = False,
) -> dict[str, Any]:
    """Analyse scores made anywhere, write what `compare` writes to `out`, and say what was found."""
    from dsnet_med.evaluate.analysis import analyse
    from dsnet_med.evaluate.score_table import read_scores
    from dsnet_med.evaluate.trial_output import require_own, write_trial
    from dsnet_med.evaluate.trial_report import trial_html

    if (out / TRIAL).exists():
        raise InputError(f"{out} holds a trial, whose results these would replace; choose another --out")
    rows = read_scores(scores)
    results = analyse(rows, baseline, margin, primary=primary)
    require_own(out)
    options = ["--baseline", results["baseline"], "--margin", f"{margin:g}", "--primary", primary]
    command = shlex.join(["dsnet-med", "compare", "--scores", scores.name, "--out", "DIR", *options])
    page = trial_html(results, rows, run={"scores": scores.name}, commands=[command, "dsnet-med verify DIR"])
    write_trial(out, rows, results, html=page)
    if not quiet:
        tell(results)
        say(f"report in {out / 'report.html'}")
    return results


def tell(results: Mapping[str, Any]) -> None:
    """Say the verdicts of results.json, and what they leave out."""
    for entry in (*results["contrasts"], *results["placebo"]):
        say(entry["words"])
    for line in results["left_out"]:
        say(f"left out: {line}")
    for line in results["notes"]:
        say(f"note: {line}")


def trial_folder(path: Path) -> Path | None:
    """The folder of the trial that `path` is, or whose results.json it is; None for anything else."""
    if path.is_dir():
        return path if any((path / name).is_file() for name in (RESULTS, TRIAL)) else None
    return path.parent if path.name == RESULTS else None


def verify_trial(folder: Path, *, masks: bool = False, workers: int = 1) -> None:
    """Say whether a trial's scores.csv gives its results.json and, with `masks`, whether these give it."""
    claim = read_trial_claim(folder)
    found = trial_differences(claim)
    scored = 0
    if masks:
        told, scored = _score_masks(claim, workers)
        found += told
    tell_differences(folder, found)
    say(
        f"{folder} holds: {count_trial_numbers(claim)} numbers from {len(claim.rows)} rows of "
        f"{len(claim.content['arms'])} methods and {len(cells_of(claim))} runs"
        + (f"; {scored} masks scored again" if masks else "")
    )


def _score_masks(claim: TrialClaim, workers: int) -> tuple[list[str], int]:
    """What scoring every run's masks again gives otherwise, and how many masks that were."""
    from dsnet_med.evaluate import verify as verifying

    found: list[str] = []
    scored = 0
    for cell in cells_of(claim):
        run = claim.folder / run_place(*cell)
        summary = run / "scores" / "summary.json"
        if not summary.is_file():
            raise InputError(
                f"{summary} is not there: --masks needs the folders of all runs; without --masks the numbers "
                "alone are checked"
            )
        one = verifying.read_claim(
            summary,
            prediction=run / "masks",
            reference=claim.folder / "cases" / "labels",
            images=claim.folder / "cases" / "images",
        )
        words = f"verify {run.parent.name}/{run.name}"
        scores = list(bar(verifying.score_again(one, workers=workers), len(one.pairs), words))
        found += [*row_differences(claim, cell, scores), *verifying.differences(one, scores)]
        scored += len(scores)
    return found, scored
