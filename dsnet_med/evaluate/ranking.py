"""Who is first, and how sure that is: ranks over resamples, orders by other measures, score against cost.

Seeds and cases are resampled, each with replacement, the same for all arms (crossed.py): the share of resamples
in which an arm takes a rank says how much of a ranking would come again. Arms with equal means share their
ranks.
"""

from collections.abc import Mapping, Sequence
from math import isclose
from typing import Any

import numpy as np

from dsnet_med.evaluate.crossed import resampled_means
from dsnet_med.evaluate.measures import MEASURES, Measure
from dsnet_med.evaluate.score_arrays import Scores, Values, complete

RESAMPLES = 2000
COSTS = ("parameters", "macs", "seconds_per_step", "ms_per_slice", "peak_memory_bytes")


def ranking(values: Values, scores: Scores, measure: Measure) -> dict[str, Any]:
    """The entry "ranking" of results.json, from the primary measure's values (arms, runs, cases)."""
    arms, left_out = _rankable(values, scores)
    tables = _common(values, scores, arms)
    drawn = resampled_means(tables, RESAMPLES) if tables else {}
    shares = _shares(np.array([drawn[arm] for arm in arms]), measure) if arms else np.zeros((0, 0))
    orders = {}
    for key, other in MEASURES.items():
        if key in scores.values:
            own = _common(values if key == measure.key else scores.of_cases(other), scores, arms)
            if len(own) == len(arms) > 0:
                orders[other.label] = ordered({arm: float(table.mean()) for arm, table in own.items()}, other)
    kinds = {tuple(tuple(sorted(tied)) for tied in order) for order in orders.values()}
    seeds, cases = next(iter(tables.values())).shape if tables else (0, 0)
    result = {
        "ranks": {arm: [float(share) for share in row] for arm, row in zip(arms, shares, strict=True)},
        "order": orders,
        "depends_on_measure": len(kinds) > 1,
        "seeds": seeds,
        "cases": cases,
        "resamples": RESAMPLES,
        "left_out": left_out,
    }
    return result | {"words": _words(result, measure)}


def ordered(means: Mapping[str, float], measure: Measure) -> list[list[str]]:
    """The arms from best to worst; those with equal means together."""
    order: list[list[str]] = []
    for arm in sorted(means, key=lambda name: -means[name] if measure.higher_is_better else means[name]):
        if order and isclose(means[order[-1][0]], means[arm], rel_tol=1e-9, abs_tol=1e-12):
            order[-1].append(arm)
        else:
            order.append([arm])
    return order


def pareto(
    means: Mapping[str, float | None], costs: Mapping[str, Mapping[str, Any]], measure: Measure
) -> dict[str, list[str]]:
    """For every cost that several arms have: those that no other beats without costing more, cheapest first.

    Nor is an arm on the front where another scores the same and costs less.
    """
    sign = 1 if measure.higher_is_better else -1
    fronts = {}
    for cost in COSTS:
        known = {
            arm: (float(value), sign * mean)
            for arm, own in costs.items()
            if isinstance(value := own.get(cost), (int, float)) and (mean := means.get(arm)) is not None
        }
        if len(known) < 2:
            continue
        front = [
            arm
            for arm, (price, gain) in known.items()
            if not any(
                other[0] <= price and other[1] >= gain and other != (price, gain) for other in known.values()
            )
        ]
        fronts[cost] = sorted(front, key=lambda arm: known[arm])
    return fronts


def _rankable(values: Values, scores: Scores) -> tuple[list[str], list[str]]:
    """The arms that have runs and cases in common, and those that are left out for it, fewest scores first."""
    arms, gone = list(scores.arms), []
    counted = (~np.isnan(values)).sum(axis=(1, 2))
    while arms and not _common(values, scores, arms):
        fewest = min(arms, key=lambda arm: counted[scores.arms.index(arm)])
        arms.remove(fewest)
        gone.append(fewest)
    return arms, gone


def _common(values: Values, scores: Scores, arms: Sequence[str]) -> dict[str, Values]:
    own = values[[scores.arms.index(arm) for arm in arms]]
    if not len(own):
        return {}
    runs, cases = complete(own.sum(axis=0))
    if not len(runs):
        return {}
    return {arm: table[np.ix_(runs, cases)] for arm, table in zip(arms, own, strict=True)}


def _shares(drawn: Values, measure: Measure) -> Values:
    """How often each arm (rows) takes each rank (columns), from means (arms, resamples)."""
    arms = len(drawn)
    gains = np.round(
        drawn if measure.higher_is_better else -drawn, 12
    )  # what differs by rounding alone is equal
    ahead = np.stack([(gains > own).sum(axis=0) for own in gains])  # (arms, resamples): the best rank, from 0
    level = np.stack([(gains == own).sum(axis=0) for own in gains])
    shares = np.zeros((arms, arms))
    for rank in range(arms):
        shares[:, rank] = np.where((ahead <= rank) & (rank < ahead + level), 1 / level, 0).mean(axis=1)
    return shares


def _words(result: Mapping[str, Any], first: Measure) -> str:
    ranks, orders = result["ranks"], result["order"]
    if len(ranks) < 2:
        return "There are no two arms with seeds and cases in common to rank."
    best = max(ranks, key=lambda arm: ranks[arm][0])
    words = [f"{best} comes first in {ranks[best][0]:.0%} of resamples of seeds and cases"]
    if result["seeds"] < 2 or result["cases"] < 2:
        words = ["With one seed or one case in common there is nothing to resample, and ranks say little"]
    elif len(orders[first.label]) == 1:
        words = ["All arms score the same"]
    if result["depends_on_measure"]:
        winners: dict[str, list[str]] = {}
        for name, order in orders.items():
            winners.setdefault(" and ".join(order[0]), []).append(name)
        each = "; ".join(f"{arm} by {', '.join(names)}" for arm, names in winners.items())
        words.append(f"the order depends on measure or protocol: best is {each}")
    elif len(orders) > 1:
        words.append(f"the order is the same by {', '.join(orders)}")
    return "; ".join(words) + "."
