"""Which of several predictions of the same cases is better, as far as the cases can tell.

For each organ, and for the mean over organs, every two predictions are compared by a paired test over the cases
that both have (statistics.py). The tests of one metric under one protocol are corrected together. A prediction
wins an organ only where it is significantly better than every other one; where the mean and the ranks of the
differences point in opposite directions, neither is better. A stacked protocol scores one volume, so it has
nothing to test; it takes part in the ranking.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from math import isclose
from typing import Any

from dsnet_med.errors import InputError
from dsnet_med.evaluate.labels import Labels, label_names
from dsnet_med.evaluate.protocols import Protocol, find_protocols
from dsnet_med.evaluate.score_folders import CaseScore
from dsnet_med.evaluate.statistics import ALPHA, PairedTest, fewest_cases, holm, paired_test
from dsnet_med.evaluate.summary import by_protocol, case_mean, summarise

HIGHER_IS_BETTER = {"dice": True, "nsd": True, "hd95_mm": False, "hd95_voxels": False}
_WORDS = {"dice": "Dice", "nsd": "NSD", "hd95": "HD95", "hd95_mm": "HD95", "hd95_voxels": "HD95"}

Scores = Mapping[str, Sequence[CaseScore]]


def compare(
    scores: Scores,
    labels: Mapping[Any, Any] | Labels,
    protocols: Sequence[str] = ("strict",),
    *,
    left_out: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The content of comparison.json: tests and winners per protocol, and the ranking under each.

    `scores` holds for each prediction (two or more) its scored cases. Only cases that all of them have count;
    `left_out` are cases that were taken out of `scores` before, and why. Raises InputError when there
    is no such case.
    """
    if len(scores) < 2:
        raise InputError(f"got {len(scores)} folder of predictions, wanted at least two to compare")
    chosen, names = find_protocols(protocols), label_names(labels)
    common = _common_cases(scores)
    kept = {
        name: sorted((score for score in own if score.case in common), key=lambda score: score.case)
        for name, own in scores.items()
    }
    summaries = {name: summarise(own, names, protocols, rule="ignore") for name, own in kept.items()}
    return {
        "predictions": list(scores),
        "compared_labels": {name: label for label, name in names.items()},
        "cases": len(common),
        "cases_left_out": {
            name: sorted({score.case for score in own if score.error is None} - common)
            for name, own in scores.items()
        },
        "left_out": dict(left_out or {}),
        "alpha": ALPHA,
        "note": _few(len(common), tests=(len(names) + 1) * len(list(combinations(scores, 2)))),
        "protocols": {protocol.name: _under(protocol, kept, names, summaries) for protocol in chosen},
        "ranking": {metric: _ranking(metric, summaries, chosen) for metric in ("dice", "hd95")},
    }


def verdict(comparison: Mapping[str, Any]) -> str:
    """One line for the first protocol: who is better on average, or that nobody is."""
    name, entry = next(iter(comparison["protocols"].items()))
    said = []
    for metric, organs in entry["metrics"].items():
        winner = organs["mean"]["winner"]
        result = f"{winner} is significantly better" if winner else "no significant winner"
        said.append(f"{_WORDS[metric]}: {result}")
    return f"{name}, mean over organs: " + "; ".join(said) if said else f"{name}: nothing to test"


def rankings(comparison: Mapping[str, Any]) -> list[str]:
    """For each metric, a line that says whether the order of the predictions depends on the protocol."""
    lines = []
    for metric, ranking in comparison["ranking"].items():
        orders = {
            name: " > ".join(" = ".join(tied) for tied in order) for name, order in ranking["order"].items()
        }
        if ranking["depends_on_protocol"]:
            each = "; ".join(f"{name}: {order}" for name, order in orders.items())
            lines.append(f"by {_WORDS[metric]} the ranking depends on the protocol: {each} (best first)")
        elif orders:
            order = next(iter(orders.values()))
            lines.append(f"by {_WORDS[metric]}: {order} under {', '.join(orders)} (best first)")
    return lines


def _common_cases(scores: Scores) -> set[str]:
    found = [{score.case for score in own if score.error is None} for own in scores.values()]
    common = set.intersection(*found)
    if not common:
        raise InputError(f"no case was scored for every one of {', '.join(scores)}; nothing can be compared")
    return common


def _few(cases: int, tests: int) -> str:
    fewest = fewest_cases(tests)
    if cases >= fewest:
        return ""
    return (
        f"with {cases} cases no difference can be significant at {ALPHA:g} over {tests} tests, however large; "
        f"at least {fewest} are needed"
    )


def _under(
    protocol: Protocol,
    scores: Scores,
    names: Mapping[int, str],
    summaries: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    means = {name: by_protocol(summary)[protocol.name]["mean"] for name, summary in summaries.items()}
    if protocol.stacked:
        return {"means": means, "metrics": {}, "note": "one volume of all cases: there is nothing to test"}
    records = {name: [score.records(protocol.name) for score in own] for name, own in scores.items()}
    metrics = {}
    for metric in protocol.metrics:
        values: dict[str | None, dict[str, list[float]]] = {
            organ: {name: [getattr(rows[place], metric) for rows in own] for name, own in records.items()}
            for place, organ in enumerate(names.values())
        }
        values[None] = {name: [case_mean(rows, metric) for rows in own] for name, own in records.items()}
        metrics[metric] = _tested(values, higher_is_better=HIGHER_IS_BETTER[metric])
    return {"means": means, "metrics": metrics}


def _tested(
    values: Mapping[str | None, Mapping[str, Sequence[float]]], *, higher_is_better: bool
) -> dict[str, Any]:
    """Every organ's tests and winner, and the mean's; `values` is organ (None: mean) -> prediction -> cases."""
    places = [(organ, a, b) for organ, own in values.items() for a, b in combinations(own, 2)]
    tests = [paired_test(values[organ][a], values[organ][b], len(places)) for organ, a, b in places]
    adjusted = holm([1.0 if test.p is None else test.p for test in tests])
    pairs: dict[str | None, list[dict[str, Any]]] = {organ: [] for organ in values}
    for (organ, a, b), test, p_holm in zip(places, tests, adjusted, strict=True):
        pairs[organ].append(_pair(a, b, test, p_holm, higher_is_better))
    result = {organ: {"winner": _winner(own), "pairs": own} for organ, own in pairs.items()}
    return {"mean": result.pop(None), "labels": result}


def _pair(first: str, second: str, test: PairedTest, p_holm: float, higher_is_better: bool) -> dict[str, Any]:
    better = None
    significant = test.p is not None and p_holm < ALPHA
    if significant and test.difference and test.effect_size and test.difference * test.effect_size > 0:
        better = second if (test.difference > 0) == higher_is_better else first
    shown = {"p_holm": None if test.p is None else p_holm, "significant": significant, "better": better}
    return {"first": first, "second": second, **asdict(test), **shown}


def _winner(pairs: Sequence[Mapping[str, Any]]) -> str | None:
    """Who is better than every other one."""
    wins = Counter(pair["better"] for pair in pairs if pair["better"])
    others = len({name for pair in pairs for name in (pair["first"], pair["second"])}) - 1
    return next((name for name, count in wins.items() if count == others), None)


def _ranking(
    metric: str, summaries: Mapping[str, Mapping[str, Any]], protocols: Sequence[Protocol]
) -> dict[str, Any]:
    """The predictions from best to worst by the mean under each protocol, and whether that is one order."""
    orders = {}
    for protocol in protocols:
        key = metric if metric == "dice" else protocol.hd95_key
        means = {name: by_protocol(summary)[protocol.name]["mean"][key] for name, summary in summaries.items()}
        known = {name: mean for name, mean in means.items() if mean is not None}
        if len(known) == len(means):
            orders[protocol.name] = _ranked(known, higher_is_better=HIGHER_IS_BETTER[key])
    different = {json.dumps([sorted(tied) for tied in order]) for order in orders.values()}
    return {"order": orders, "depends_on_protocol": len(different) > 1}


def _ranked(means: Mapping[str, float], *, higher_is_better: bool) -> list[list[str]]:
    """Names from best to worst; those whose means are the same but for rounding stand together."""
    groups: list[list[str]] = []
    for name in sorted(means, key=means.__getitem__, reverse=higher_is_better):
        if groups and isclose(means[groups[-1][0]], means[name], rel_tol=1e-9, abs_tol=1e-12):
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups
