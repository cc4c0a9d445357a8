"""What the analysis of a trial leaves behind: scores.csv, results.json, table.md, table.tex and report.html.

results.json is sealed and vouches for the others by their hashes, as summary.json of an evaluation does.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dsnet_med.evaluate.results import Kind, require_replaceable, together
from dsnet_med.evaluate.score_table import write_scores
from dsnet_med.evaluate.trial_tables import table_md, table_tex
from dsnet_med.files import write_text

TRIAL, SCORES, RESULTS, RUNS = "trial.yaml", "scores.csv", "results.json", "runs"
_MD, _TEX, _PAGE = "table.md", "table.tex", "report.html"
_TRIAL = Kind(
    "compare",
    {RESULTS: {"schema", "contrasts", "ranking", "files"}},
    (RESULTS, SCORES, _MD, _TEX, _PAGE),
    "move it away",
)


def write_trial(out: Path, rows: Iterable[Mapping[str, Any]], results: Mapping[str, Any], *, html: str) -> None:
    """Write the rows, what `analyse` made of them, tables and the report to `out`, in place of earlier ones.

    Raises InputError where `out` cannot be written, or holds files of these names that are not its own.
    """
    require_own(out)
    with together(out, RESULTS, results, _TRIAL) as made:
        write_scores(made / SCORES, rows)
        write_text(made / _MD, table_md(results))
        write_text(made / _TEX, table_tex(results))
        write_text(made / _PAGE, html)


def run_place(arm: str, seed: object, fold: object = None) -> Path:
    """Where in a trial's folder a run lies: runs/<arm>/seed-<s>[-fold-<k>]; a `/` would make two folders."""
    run = f"seed-{seed}" + ("" if fold in (None, "") else f"-fold-{fold}")
    return Path(RUNS, *(name.replace("%", "%25").replace("/", "%2F") for name in (arm, run)))


def require_own(out: Path) -> None:
    """Raise InputError where `out` holds a file that `write_trial` would replace and did not write."""
    require_replaceable(out, kind=_TRIAL)
