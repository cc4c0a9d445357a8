"""What the score and the mask lose when plug-ins are replaced: differences over cases, with intervals.

`difference` is replaced less intact, of the same case and organ, a case's draws averaged first; a negative
difference of Dice is what the plug-in was worth. A case in which an organ counts in only one of the two
(`strict` counts none that both masks lack) has no difference for it. The mean over organs is the mean of the
organs' means, as in `evaluate`.

Intervals are 95 % t intervals over cases. The percentile bootstrap of evaluate/statistics.py holds the mean
of normal differences in 82 % of samples of 4 cases and in 88 % of 8, the t interval in 95 %; where
differences are skewed both fall short, the bootstrap by more. It is what evaluate/crossed.py comes to where
only cases vary. Where organs count in different cases, an organ's case weighs in the mean over organs as in
that organ's own mean (linearised). One case has no interval; `n` counts cases.

`image_dependence` asks how much of a plug-in's contribution a constant keeps: 1 - (difference with the mean)
/ (difference with the identity), null where the identity's interval holds 0, since a ratio of noise says
nothing. Its interval is Fieller's (1954), which is bounded just then.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError
from dsnet_med.evaluate.crossed import t_quantile
from dsnet_med.explain.records import EVERY, INTACT, KINDS, Score

SCORED, MASKED = ("dice", "hd95_mm"), ("agreement", "changed_ml")  # with a reference, and without
_IDENTITY, _MEAN = "identity", "mean"
_LEVEL = 0.95

Table = NDArray[np.float64]  # (cases, organs); NaN: not counted


def mean_with_interval(values: Sequence[float] | Table, key: str = "mean") -> dict[str, Any]:
    """{key: mean, "ci95": its t interval, "n": how many} of what is not NaN; None where undefined."""
    counted = np.asarray(values, np.float64)
    counted = counted[~np.isnan(counted)]
    if not counted.size:
        return {key: None, "ci95": None, "n": 0}
    mean, interval = float(counted.mean()), None
    if counted.size > 1:
        half = float(t_quantile(1 - _LEVEL, counted.size - 1)) * float(counted.std(ddof=1)) / sqrt(counted.size)
        interval = [mean - half, mean + half]
    return {key: mean, "ci95": interval, "n": int(counted.size)}


def summarise(scores: Iterable[Score], run: str, labels: Sequence[str]) -> dict[str, Any]:
    """The parts `scores`, `interventions` and `image_dependence` of a run in explain.json.

    `labels` are the organs' names. Raises InputError for a row given twice, a run without rows of the intact
    network, and an organ that is none of `labels`.
    """
    tables = _tables([score for score in scores if score.run == run], labels)
    if (intact := tables.pop(("", INTACT), None)) is None:
        raise InputError(f"no scores of the intact network of {run}; wanted a row for each case and organ")
    order = sorted(tables, key=lambda key: (key[0] != EVERY, KINDS.index(key[1])))  # else as they came
    return {
        "scores": _means(intact, labels, SCORED) if intact.scored else None,
        "interventions": [_intervention(key, tables[key], intact, labels) for key in order],
        "image_dependence": _image_dependence(tables, intact),
    }


def between(scores: Iterable[Score], runs: Sequence[str], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Every pair of runs: `second` less `first`, over the cases of both. Raises InputError as `summarise`."""
    every = list(scores)
    cases = sorted({score.case for score in every})
    intact = {
        run: _tables([each for each in every if (each.run, each.kind) == (run, INTACT)], labels, cases)
        for run in runs
    }
    return [
        {"first": first, "second": second, **_differences(own[1], own[0], labels)}
        for first, second in combinations(runs, 2)
        for own in [[intact[run].get(("", INTACT)) for run in (first, second)]]
        if own[0] is not None and own[1] is not None and own[0].scored and own[1].scored
    ]


@dataclass
class _Tables:
    """The values of one intervention by measure, (cases, organs) each, a case's draws averaged."""

    values: Mapping[str, Table]
    draws: int

    @property
    def scored(self) -> bool:
        return not all(np.isnan(self.values[measure]).all() for measure in SCORED)


def _tables(
    scores: Sequence[Score], labels: Sequence[str], cases: Sequence[str] | None = None
) -> dict[tuple[str, str], _Tables]:
    """By plug-in and kind, in the order in which they came."""
    rows = sorted({score.case for score in scores}) if cases is None else cases
    place_of_case, place_of_label = ({name: at for at, name in enumerate(own)} for own in (rows, labels))
    grouped: dict[tuple[str, str], dict[tuple[int, str, str], Score]] = {}
    for score in scores:
        if score.label not in place_of_label:
            raise InputError(f"{score.run}, {score.case}: '{score.label}' is none of {', '.join(labels)}")
        own = grouped.setdefault((score.plugin, score.kind), {})
        if own.setdefault((score.draw, score.case, score.label), score) is not score:
            raise InputError(
                f"{score.run}, {score.case}, {score.label}: {score.kind} is given twice in one draw"
            )
    found = {}
    for key, own in grouped.items():
        draws = {draw: at for at, draw in enumerate(sorted({draw for draw, _, _ in own}))}
        shape = (len(draws), len(rows), len(labels))
        values = {measure: np.full(shape, np.nan) for measure in (*SCORED, *MASKED)}
        for (draw, case, label), score in own.items():
            for measure, table in values.items():
                table[draws[draw], place_of_case[case], place_of_label[label]] = getattr(score, measure)
        found[key] = _Tables({measure: table.mean(axis=0) for measure, table in values.items()}, len(draws))
    return found


def _intervention(
    key: tuple[str, str], replaced: _Tables, intact: _Tables, labels: Sequence[str]
) -> dict[str, Any]:
    differences = _differences(replaced, intact, labels) if intact.scored else None
    masks = _means(replaced, labels, MASKED)
    nothing = dict.fromkeys(SCORED)

    def joined(own: Mapping[str, Any] | None, mask: Mapping[str, Any]) -> dict[str, Any]:
        return {**(nothing if own is None else own), **mask}

    return {
        "plugin": key[0],
        "kind": key[1],
        "draws": replaced.draws,
        "labels": {
            name: joined(differences and differences["labels"][name], masks["labels"][name]) for name in labels
        },
        "mean": joined(differences and differences["mean"], masks["mean"]),
    }


def _differences(replaced: _Tables, intact: _Tables, labels: Sequence[str]) -> dict[str, Any]:
    tables = {measure: replaced.values[measure] - intact.values[measure] for measure in SCORED}
    return _described(tables, labels, "difference")


def _means(tables: _Tables, labels: Sequence[str], measures: Sequence[str]) -> dict[str, Any]:
    return _described({measure: tables.values[measure] for measure in measures}, labels, "mean")


def _described(tables: Mapping[str, Table], labels: Sequence[str], key: str) -> dict[str, Any]:
    return {
        "labels": {
            name: {measure: mean_with_interval(table[:, place], key) for measure, table in tables.items()}
            for place, name in enumerate(labels)
        },
        "mean": {measure: mean_with_interval(over_organs(table), key) for measure, table in tables.items()},
    }


def over_organs(table: Table) -> Table:
    """A value for each case, whose mean is the mean of the organs' means; NaN where no organ counts.

    Without gaps it is the case's mean over organs. With them, organ l counts in n_l of N cases, and a case's
    deviation from the organ's mean weighs N / n_l in place of 1.
    """
    counted = ~np.isnan(table)
    organs, cases = counted.any(axis=0), counted.any(axis=1)
    found = np.full(len(table), np.nan)
    if not organs.any():
        return found
    counted, own = counted[np.ix_(cases, organs)], table[np.ix_(cases, organs)]
    many = counted.sum(axis=0)
    means = np.where(counted, own, 0).sum(axis=0) / many
    apart = np.where(counted, own - means, 0) * (len(own) / many)
    found[cases] = means.mean() + apart.mean(axis=1)
    return found


def _image_dependence(tables: Mapping[tuple[str, str], _Tables], intact: _Tables) -> dict[str, Any]:
    """Of all plug-ins together, or of the only one."""
    plugins = list(dict.fromkeys(plugin for plugin, _ in tables))
    plugin = EVERY if EVERY in plugins or len(plugins) != 1 else plugins[0]
    own = [tables.get((plugin, kind)) for kind in (_IDENTITY, _MEAN)]
    nothing = {"identity": None, "mean": None, "share_kept_by_constant": None, "ci95": None}
    if not tables:
        return {"dice": nothing, "words": "Nothing was replaced."}
    if own[0] is None or own[1] is None:
        return {"dice": nothing, "words": "Not known: it takes the interventions identity and mean together."}
    if not intact.scored:
        return {"dice": nothing, "words": "Not known: without a reference there is no score to lose."}
    tables_of_both = [each.values["dice"] - intact.values["dice"] for each in own if each is not None]
    gaps = np.isnan(tables_of_both).any(axis=0)
    identity, mean = (over_organs(np.where(gaps, np.nan, table)) for table in tables_of_both)
    return _kept(identity[~np.isnan(identity)], mean[~np.isnan(mean)], plugin)


def _kept(identity: Table, mean: Table, plugin: str) -> dict[str, Any]:
    """From a difference for each case."""
    lost, kept = mean_with_interval(identity), mean_with_interval(mean)
    dice = {"identity": lost["mean"], "mean": kept["mean"], "share_kept_by_constant": None, "ci95": None}
    if lost["mean"] is None:
        return {"dice": dice, "words": "Not known: no organ counts in any case."}
    which = "every plug-in" if plugin == EVERY else "the plug-in"
    if not identity.any() and not mean.any():
        words = f"Replacing {which} by the identity, or by its own mean, changes no score in these cases."
        return {"dice": dice, "words": words}
    told = f"Replacing {which} by the identity changes mean Dice by {_signed(lost)}, "
    told += f"by its own mean {_signed(kept)}"
    if lost["ci95"] is None:
        return {"dice": dice, "words": f"{told}; one case cannot say how far that holds for others."}
    low, high = lost["ci95"]
    if low <= 0 <= high:
        return {
            "dice": dice,
            "words": f"{told}: the first cannot be told from 0, so how much a constant keeps is not known.",
        }
    dice["share_kept_by_constant"] = share = 1 - kept["mean"] / lost["mean"]
    dice["ci95"] = ends = [1 - each for each in reversed(_ratio_interval(mean, identity))]
    gain = "what it adds" if lost["mean"] < 0 else "what it costs"
    words = f"{told}: a constant keeps {share:.0%} ({ends[0]:.0%} to {ends[1]:.0%}) of {gain}."
    return {"dice": dice, "words": words}


def _ratio_interval(above: Table, below: Table) -> tuple[float, float]:
    """Fieller's interval of mean(above) / mean(below), pairs in the same order, where below's excludes 0."""
    n = len(above)
    critical = float(t_quantile(1 - _LEVEL, n - 1)) ** 2 / n
    (var_above, both), (_, var_below) = np.cov(above, below)
    a, b = float(above.mean()), float(below.mean())
    square = b**2 - critical * var_below  # above 0: the interval of `below` excludes 0
    middle = a * b - critical * both
    rest = middle**2 - square * (a**2 - critical * var_above)
    half = sqrt(max(float(rest), 0.0))
    return float((middle - half) / square), float((middle + half) / square)


def _signed(entry: Mapping[str, Any]) -> str:
    interval = entry["ci95"]
    beside = "" if interval is None else f" ({interval[0]:+.4f} to {interval[1]:+.4f})"
    return f"{entry['mean']:+.4f}{beside}"
