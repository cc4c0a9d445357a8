"""What a trial says: every arm against the baseline, against its placebos, its rank and its cost.

`analyse` takes scores from anywhere (score_table.py) and gives the content of results.json. Cases and seeds are
both samples: see crossed.py for the model, contrasts.py for the tests, placebo_contrasts.py and ranking.py for
what their names say. Differences are arm - baseline in the measure's own unit.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from statistics import median_high
from typing import Any

import numpy as np

import dsnet_med
from dsnet_med.errors import InputError, first_of, shown, unknown
from dsnet_med.evaluate.contrasts import (
    Paired,
    contrast,
    decided,
    estimated,
    holm_of,
    interval,
    number,
    of_organs,
    paired,
)
from dsnet_med.evaluate.measures import MEASURES, Measure, find_measure
from dsnet_med.evaluate.placebo_contrasts import is_placebo, placebo_contrasts, placebos_by_name
from dsnet_med.evaluate.ranking import pareto, ranking
from dsnet_med.evaluate.score_arrays import Scores, Values, complete, left_out_words, score_arrays

SCHEMA = 1
_ROUNDING = 1e-12


def analyse(
    rows: Iterable[Mapping[str, Any]],
    baseline: str | None = None,
    margin: float = 0.01,
    *,
    primary: str = "dice",
    placebos: Mapping[str, Sequence[str]] | None = None,
    costs: Mapping[str, Mapping[str, Any]] | None = None,
    trial: str | None = None,
) -> dict[str, Any]:
    """The content of results.json: plain numbers, null where undefined.

    `rows` are mappings with `method, seed, case, label` and scores (measures.py), optionally `fold` and `name`
    (the label's). `baseline` is the arm that others are compared with, the first one unless given; `margin` the
    difference that does not matter, in the unit of the `primary` measure. `placebos` says which arms are
    placebos of which (by their names, unless given), `costs` what each arm costs (engine/cost.py), `trial` is
    the hash of trial.yaml. Raises InputError for rows that cannot be meant, an unknown baseline or measure, and
    a wrong margin.
    """
    scores, measure = score_arrays(rows), find_measure(primary)
    margin = _margin(margin, measure)
    if measure.key not in scores.values:
        raise InputError(
            f"no row has a score in '{primary}'; scores are in {first_of(scores.values) or 'no column'}: take "
            "the primary measure among them"
        )
    notes, left_out = list(scores.notes), list(scores.left_out)
    base = _baseline(scores, baseline, notes)
    values = scores.of_cases(measure)
    others = [arm for arm in scores.arms if arm != base]
    pairs = [paired(values, scores, arm, base) for arm in others]
    contrasts = _contrasts(pairs, scores, measure, margin)
    related = _placebos(placebos, scores, notes)
    as_placebos = {name for names in related.values() for name in names}
    arms = {
        arm: _arm(
            place,
            values,
            scores,
            placebo=arm in as_placebos or is_placebo(arm),
            cost=(costs or {}).get(arm, {}),
        )
        for place, arm in enumerate(scores.arms)
    }
    ranks = ranking(values, scores, measure)
    left_out += _gaps(pairs, scores, values)
    if ranks["left_out"]:
        left_out.append(
            f"Without a seed and case in common, left out of the ranking: {first_of(ranks['left_out'])}."
        )
    if gappy := [arm for arm, own in zip(scores.arms, values, strict=True) if _has_gaps(own)]:
        notes.append(
            f"Not every seed of {first_of(gappy)} has a score of every case: means are of all there is, "
            "intervals, standard deviations and differences of the part without gaps."
        )
    if not others:
        notes.append(f"There is one arm only, {base}: nothing to compare it with.")
    if measure.most is None and others:
        notes.append(f"The margin is {margin:g} {measure.unit} of {measure.title}: does that much not matter?")
    detectable = [
        d for entry in contrasts if (d := entry["smallest_detectable_difference"])
    ]  # 0: of an equal arm
    return {
        "schema": SCHEMA,
        "tool": f"dsnet-med {dsnet_med.__version__}",
        "trial": trial,
        "baseline": base,
        "margin": margin,
        "primary": {"measure": measure.name, "protocol": measure.protocol},
        "arms": arms,
        "contrasts": contrasts,
        "noise_floor": {
            "sd_seeds": arms[base]["sd_seeds"],
            "smallest_detectable_difference": median_high(detectable) if detectable else None,
        },
        "placebos": related,
        "placebo": placebo_contrasts(values, scores, related, measure, margin),
        "ranking": ranks,
        "pareto": pareto({arm: own["mean"] for arm, own in arms.items()}, costs or {}, measure),
        "left_out": left_out,
        "notes": notes,
    }


def _margin(margin: float, measure: Measure) -> float:
    try:
        value = float(margin)
    except (TypeError, ValueError):
        value = -1.0
    if not isfinite(value) or value < 0 or (measure.most is not None and value >= measure.most):
        most = "" if measure.most is None else f" and below {measure.most:g}"
        raise InputError(
            f"margin is {shown(margin)}, wanted a number from 0{most}: the difference in {measure.title} that "
            "does not matter, such as 0.01"
        )
    return value


def _baseline(scores: Scores, baseline: str | None, notes: list[str]) -> str:
    if baseline is None:
        if len(scores.arms) > 1:
            notes.append(f"No baseline was named: the first method, {scores.arms[0]}, is it.")
        return scores.arms[0]
    if baseline not in scores.arms:
        raise unknown("baseline", baseline, scores.arms)
    return baseline


def _contrasts(
    pairs: Sequence[Paired], scores: Scores, measure: Measure, margin: float
) -> list[dict[str, Any]]:
    """Every arm against the baseline; p corrected over the arms, that of organs over arms and organs."""
    by_organ = scores.values[measure.key]
    entries = []
    for pair in pairs:
        organs = of_organs(by_organ, scores, pair.arm, pair.against)
        entries.append(contrast(pair, scores, margin=margin, tests=len(pairs), organs=organs))
    for entry, p_holm in zip(entries, holm_of([entry["p"] for entry in entries]), strict=True):
        decided(entry, p_holm, measure, margin)
    every = [organ for entry in entries for organ in entry["labels"].values()]
    for organ, p_holm in zip(every, holm_of([organ["p"] for organ in every]), strict=True):
        organ["p_holm"] = p_holm
    return entries


def _placebos(
    given: Mapping[str, Sequence[str]] | None, scores: Scores, notes: list[str]
) -> dict[str, list[str]]:
    """The placebos of every arm, as far as both have scores."""
    if given is None:
        return placebos_by_name(scores.arms)
    related = {}
    for arm, own in given.items():
        there = [name for name in own if name in scores.arms]
        if arm in scores.arms and there:
            related[arm] = there
        if gone := [name for name in own if name not in scores.arms]:
            notes.append(f"Placebos of {arm} without any score: {first_of(gone)}.")
    return related


def _arm(
    place: int,
    values: Values,
    scores: Scores,
    *,
    placebo: bool,
    cost: Mapping[str, Any],
) -> dict[str, Any]:
    """An arm by itself. The mean is over all its scored seeds and cases; deviations and interval need a table
    without gaps (`score_arrays.complete`)."""
    own = values[place]
    runs, cases = complete(own)
    table = own[np.ix_(runs, cases)]
    known = ~np.isnan(own)
    found = estimated(table, 0.0)
    means = {key: _mean(scores.of_cases(MEASURES[key])[place]) for key in scores.values}
    labels = {
        organ: {key: _mean(scores.values[key][place, :, :, column]) for key in scores.values}
        for column, organ in enumerate(scores.organs)
    }
    return {
        "mean": _mean(own),
        "sd_seeds": _sd(table.mean(axis=1)) if table.size else None,
        "sd_cases": _sd(table.mean(axis=0)) if table.size else None,
        "seeds": int(known.any(axis=1).sum()),
        "cases": int(known.any(axis=0).sum()),
        "ci95": interval(found.ci95),
        "seed_means": {
            scores.runs[run]: _mean(own[run]) for run in range(len(scores.runs)) if known[run].any()
        },
        "measures": means,
        "labels": labels,
        "placebo": placebo,
        "cost": {name: _plain(value) for name, value in cost.items()},
    }


def _gaps(pairs: Sequence[Paired], scores: Scores, values: Values) -> list[str]:
    """What each comparison leaves out, those with the same gaps in one sentence."""
    words: dict[str, list[str]] = {}
    for pair in pairs:
        own = values[[scores.arms.index(name) for name in (pair.arm, pair.against)]]
        either = np.asarray((~np.isnan(own)).any(axis=0))
        if pair.runs.size and (told := left_out_words(either, pair.runs, pair.cases, scores)):
            words.setdefault(told, []).append(pair.arm)
    sentences = [
        f"{first_of(arms)} against {pairs[0].against}: left out {told}." for told, arms in words.items()
    ]
    nowhere = np.asarray(np.isnan(values).all(axis=(0, 1))).tolist()
    unscored = [case for case, nothing in zip(scores.cases, nowhere, strict=True) if nothing]
    if unscored:
        sentences.append(f"In no arm counted, since no organ of theirs is: {first_of(unscored, 5)}.")
    return sentences


def _has_gaps(own: Values) -> bool:
    """Whether a run (rows) lacks a case (columns) that another one has."""
    known = ~np.isnan(own)
    some = np.ix_(known.any(axis=1), known.any(axis=0))
    return not known[some].all()


def _mean(values: Values) -> float | None:
    counted = values[~np.isnan(values)]
    return number(float(counted.mean())) if counted.size else None


def _sd(values: Values) -> float | None:
    if len(values) < 2:
        return None
    spread = float(values.std(ddof=1))
    return spread if spread > _ROUNDING * float(np.abs(values).max()) else 0.0


def _plain(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value if isfinite(value) else None
    return value if value is None or isinstance(value, bool) else str(value)
