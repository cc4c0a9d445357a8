"""Checked rows of scores as arrays: arms x runs x cases x organs, and what of them can be compared.

A run is a seed. With folds each case is scored in one fold of every seed, so the seed stays the run; where a
case is scored in several folds of a seed, each seed and fold is a run. An organ that some rows of a case have
and others lack counts for nobody in that case: a mean over fewer organs would be another measure.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError, first_of
from dsnet_med.evaluate.measures import MEASURES, Measure
from dsnet_med.evaluate.score_table import checked, natural, unused_columns

_MOST_CELLS = 50_000_000
_OF_A_CASE = 4.0  # how much more a case's difference varies than a run's, where a choice must be made

Values = NDArray[np.float64]
Places = NDArray[np.intp]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    """Scores of several arms. `values[measure]` is (arms, runs, cases, organs), NaN where nothing counts."""

    arms: tuple[str, ...]
    runs: tuple[str, ...]
    cases: tuple[str, ...]
    organs: tuple[str, ...]
    values: Mapping[str, Values]
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def of_cases(self, measure: Measure) -> Values:
        """The mean over the counted organs of every case: (arms, runs, cases)."""
        values = self.values[measure.key]
        counted = ~np.isnan(values)
        many = counted.sum(axis=-1)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(counted, values, 0).sum(axis=-1) / np.where(many > 0, many, np.nan))


def score_arrays(rows: Iterable[Mapping[str, Any]]) -> Scores:
    """The rows as arrays. Raises InputError for rows that cannot be meant (see `score_table.checked`)."""
    table = checked(rows)
    if not table:
        raise InputError("no scores; wanted a row per method, seed, case and label")
    run_of = _runs(table)
    arms = tuple(dict.fromkeys(row["method"] for row in table))
    runs = tuple(sorted({run_of(row) for row in table}, key=natural))
    cases = tuple(sorted({row["case"] for row in table}, key=natural))
    labels = sorted({row["label"] for row in table}, key=natural)
    shape = (len(arms), len(runs), len(cases), len(labels))
    if np.prod(shape, dtype=np.float64) > max(_MOST_CELLS, 20 * len(table)):
        raise InputError(
            f"{len(table)} rows name {shape[1]} seeds, {shape[2]} cases and {shape[3]} labels, most of which "
            "have no row together: does a column hold something else, such as a row's number?"
        )
    axes = [{name: place for place, name in enumerate(axis)} for axis in (arms, runs, cases, labels)]
    places = tuple(
        np.array(
            [
                (axes[0][row["method"]], axes[1][run_of(row)], axes[2][row["case"]], axes[3][row["label"]])
                for row in table
            ]
        ).T
    )
    there = np.zeros(shape, bool)
    there[places] = True
    notes: list[str] = []
    left_out: list[str] = []
    organs = _organs(table, labels, notes)
    everywhere = _organs_of_cases(there, (arms, runs, cases, organs), left_out)
    values = {}
    for key in MEASURES:
        if any(row.get(key) is not None for row in table):
            own = np.full(shape, np.nan)
            own[places] = [np.nan if (value := row.get(key)) is None else value for row in table]
            own[:, :, ~everywhere] = np.nan
            values[key] = own
    blank = {key: sum(row.get(key) is None for row in table) for key in values}
    if some := {key: many for key, many in blank.items() if many}:
        each = ", ".join(f"{many} of {key}" for key, many in some.items())
        notes.append(f"Of {len(table)} rows these scores are blank or NaN, which counts in no mean: {each}.")
    if unused := unused_columns(table):
        notes.append(
            f"Not used are the columns {first_of(unused)}; scores are in {first_of(list(MEASURES)[:5])}."
        )
    return Scores(arms, runs, cases, organs, values, left_out, notes)


def complete(table: Values) -> tuple[Places, Places]:
    """The runs and cases of the best part of `table` (runs, cases) that has no NaN; both empty where there is
    none.

    Runs are left out one by one, those with most gaps first; of the parts that leaves, each with the cases that
    have no gap in it, the one is taken whose mean would be known best if a case varied twice as much as a run
    (standard deviations): runs are few and dear, and with one run less a small trial can say much less.
    """
    known = ~np.isnan(table)
    order = np.argsort(known.sum(axis=1), kind="stable")  # most gaps first
    best: tuple[float, Places, Places] | None = None
    for dropped in range(len(order)):
        runs = np.sort(order[dropped:])
        cases = np.flatnonzero(known[runs].all(axis=0))
        if len(cases):
            width = _expected_width(len(runs), len(cases))
            if best is None or width < best[0]:
                best = width, runs, cases
    nothing = np.zeros(0, np.intp)
    return (nothing, nothing) if best is None else best[1:]


def left_out_words(known: Flags, runs: Places, cases: Places, scores: Scores) -> str:
    """What of a table (runs, cases) with some known cells is not in its complete part; "" where all is."""
    some_runs, some_cases = known.any(axis=1), known.any(axis=0)
    words = []
    gone = [place for place in np.flatnonzero(some_runs) if place not in runs]
    if gone:
        words.append(f"seed {first_of(scores.runs[place] for place in gone)}")
    gone = [place for place in np.flatnonzero(some_cases) if place not in cases]
    if gone:
        names = first_of((scores.cases[place] for place in gone), 5)
        words.append(f"case {names}" if len(gone) == 1 else f"{len(gone)} cases ({names})")
    if not words:
        return ""
    left = f"{len(runs)} seed{'s' * (len(runs) > 1)} and {len(cases)} case{'s' * (len(cases) > 1)}"
    return f"{' and '.join(words)}, not scored in every run; {left} count"


def _expected_width(runs: int, cases: int) -> float:
    from scipy.special import stdtrit  # noqa: PLC0415 -- slow to load

    def of(many: int) -> float:
        return float(stdtrit(many - 1, 0.975)) ** 2 / many if many > 1 else 1e4

    return of(runs) + _OF_A_CASE * of(cases)


def _runs(table: Sequence[Mapping[str, Any]]) -> Any:
    """What names the run of a row."""
    folds: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for row in table:
        folds[row["method"], row["seed"], row["case"]].add(row["fold"])
    if all(len(own) == 1 for own in folds.values()):
        return lambda row: row["seed"]
    return lambda row: f"{row['seed']}-fold-{row['fold']}" if row["fold"] else row["seed"]


def _organs(table: Sequence[Mapping[str, Any]], labels: Sequence[str], notes: list[str]) -> tuple[str, ...]:
    """The name of every label: its own, or the label itself; with the label where two have one name."""
    named: dict[str, Counter[str]] = defaultdict(Counter)
    for row in table:
        if row["name"]:
            named[row["label"]][row["name"]] += 1
    names = [named[label].most_common(1)[0][0] if named[label] else label for label in labels]
    if several := [label for label in labels if len(named[label]) > 1]:
        each = "; ".join(f"label {label}: {first_of(named[label])}" for label in several[:3])
        notes.append(f"A label has several names, of which the most frequent is shown: {each}.")
    twice = Counter(names)
    return tuple(
        name if twice[name] == 1 else f"{name} ({label})" for name, label in zip(names, labels, strict=True)
    )


def _organs_of_cases(there: Flags, axes: Sequence[Sequence[str]], left_out: list[str]) -> Flags:
    """Which organs count in which cases (cases, organs): those with a row in every run that has the case."""
    arms, runs, cases, organs = axes
    scored = np.asarray(there.any(axis=-1))
    anywhere = np.asarray(scored.any(axis=(0, 1)))
    everywhere = np.asarray((there | ~scored[..., None]).all(axis=(0, 1)) & anywhere[:, None])
    gone = np.asarray(there.any(axis=(0, 1)) & ~everywhere)
    for place in np.flatnonzero(gone.any(axis=0)).tolist():
        own = np.flatnonzero(gone[:, place]).tolist()
        arm, run, _ = np.argwhere(scored[:, :, own] & ~there[:, :, own, place])[0].tolist()
        where = "every case" if len(own) == len(cases) else f"case {first_of((cases[i] for i in own), 5)}"
        left_out.append(
            f"{organs[place]} is left out in {where}, for all arms: {arms[arm]}, seed {runs[run]} has no row "
            "of it there (a row without a score would say: not counted)."
        )
    return everywhere
