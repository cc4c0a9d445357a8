"""A plug-in against its placebos: what its idea adds over its parameters and its place.

The question is whether an arm beats every one of its placebos, so the difference to the best of them counts:
the smallest of its advantages. Its lower bound is the smallest of the lower bounds at 95 %, and "better" needs
every single test to be significant (intersection-union, Berger 1982), which needs no correction; the upper
bound, and "worse", are the smallest of the upper bounds corrected for the number of placebos (Bonferroni),
since there one of them suffices. Holm's correction is over the arms.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dsnet_med.evaluate.contrasts import (
    estimated,
    holm_of,
    interval,
    number,
    paired,
    verdict,
)
from dsnet_med.evaluate.crossed import Estimate, p_equivalence
from dsnet_med.evaluate.measures import Measure
from dsnet_med.evaluate.score_arrays import Scores, Values
from dsnet_med.evaluate.statistics import ALPHA

_FOR_ALL = ("Identity", "RandomGate", "ConstantGate")
_NAMED = (*_FOR_ALL, "PointwiseConv", "UniformDSM")


def placebos_by_name(arms: Iterable[str]) -> dict[str, list[str]]:
    """Which arms are placebos of which, by their names: `row+Placebo@place` of `row+Plugin@place`.

    `PointwiseConv(SE)` has the parameters of SE (of DSM where none is named) and is that plug-in's alone, as
    `UniformDSM` is DSM's.
    """
    every = {arm: _parts(arm) for arm in arms}
    return {
        arm: own
        for arm, parts in every.items()
        if parts is not None
        and not is_placebo(arm)
        and (own := [other for other, its in every.items() if its is not None and _answers(its, parts)])
    }


def is_placebo(arm: str) -> bool:
    """Whether the name of an arm says that its plug-in is a placebo."""
    parts = _parts(arm)
    return parts is not None and parts[1].partition("(")[0] in _NAMED


def _parts(arm: str) -> tuple[str, str, str] | None:
    """Row, plug-in and place of `row+Plugin@place`."""
    row, plus, rest = arm.partition("+")
    plugin, _, place = rest.partition("@")
    return (row, plugin, place) if plus and row and plugin else None


def _answers(placebo: tuple[str, str, str], arm: tuple[str, str, str]) -> bool:
    if (placebo[0], placebo[2]) != (arm[0], arm[2]):
        return False
    kind, _, counting = placebo[1].removesuffix(")").partition("(")
    plugin = arm[1].rpartition(":")[2]
    match kind:
        case "PointwiseConv":
            return (counting or "DSM") in (arm[1], plugin)
        case "UniformDSM":  # of `DSM(bias=True)`, too
            return plugin.partition("(")[0] == "DSM"
    return kind in _FOR_ALL


def placebo_contrasts(
    values: Values, scores: Scores, placebos: Mapping[str, Sequence[str]], measure: Measure, margin: float
) -> list[dict[str, Any]]:
    """The entries of results.json's "placebo": each arm that has placebos against the best of them."""
    entries = [
        _entry(values, scores, arm, own, measure=measure, margin=margin) for arm, own in placebos.items() if own
    ]
    for entry, p_holm in zip(entries, holm_of([entry["p"] for entry in entries]), strict=True):
        entry["p_holm"] = p_holm
        if entry["difference"] is not None and not entry["reason"]:
            entry["verdict"] = verdict(entry["difference"], p_holm, entry["p_equivalence"], measure)
        entry["words"] = _words(entry, measure, margin)
    return entries


def _entry(
    values: Values, scores: Scores, arm: str, placebos: Sequence[str], *, measure: Measure, margin: float
) -> dict[str, Any]:
    pairs = [paired(values, scores, arm, name) for name in placebos]
    tables = {pair.against: pair.table for pair in pairs}
    known = {name: estimated(table, margin) for name, table in tables.items() if table.size}
    sign = 1 if measure.higher_is_better else -1
    entry: dict[str, Any] = {
        "arm": arm,
        "placebo": None,
        "difference": None,
        "ci95": None,
        "p": None,
        "p_holm": None,
        "p_equivalence": None,
        "verdict": "no verdict",
        "reason": "" if known else pairs[0].apart,
        "words": "",
        "each": {
            name: {"difference": number(one.value), "ci95": interval(one.ci95), "p": number(one.p)}
            for name, one in known.items()
        },
    }
    if not known:
        return entry
    best = min(known, key=lambda name: sign * known[name].value)
    entry |= {"placebo": best, "difference": number(known[best].value)}
    entry["reason"] = next((one.unreliable for one in known.values() if one.unreliable), "")
    own_tables = {name: tables[name] for name in known}
    entry["ci95"] = _bounds(own_tables, sign, ALPHA)
    entry["p"] = _p(known, sign)
    if margin > 0 and (narrow := _bounds(own_tables, sign, 2 * ALPHA)) is not None:
        entry["p_equivalence"] = _p_equivalence(own_tables, sign, margin)
        entry["ci90"] = narrow
    return entry


def _bounds(tables: Mapping[str, Values], sign: int, alpha: float) -> list[float] | None:
    """The interval of the smallest advantage, in the measure's own direction."""
    low, high = [], []
    for table in tables.values():
        plain, corrected = (estimated(table, 0.0, level=1 - a) for a in (alpha, alpha / len(tables)))
        if plain.ci95 is None or corrected.ci95 is None:
            return None
        low.append(min(sign * bound for bound in plain.ci95))
        high.append(max(sign * bound for bound in corrected.ci95))
    return interval(sorted((sign * min(low), sign * min(high))))


def _p(known: Mapping[str, Estimate], sign: int) -> float | None:
    """Two-sided: of beating every placebo where the arm is ahead of all, of losing to one where it is not."""
    p_values = {name: one.p for name, one in known.items()}
    if any(p is None for p in p_values.values()):
        return None
    ahead = all(sign * one.value > 0 for one in known.values())
    if ahead:
        return number(max(p for p in p_values.values() if p is not None))
    behind = [p for name, p in p_values.items() if p is not None and sign * known[name].value <= 0]
    return number(min(1.0, len(known) * min(behind)))


def _p_equivalence(tables: Mapping[str, Values], sign: int, margin: float) -> float | None:
    """The larger of two one-sided tests of the smallest advantage against the margin."""
    if any(min(table.shape) < 2 for table in tables.values()):
        return None
    above = [_not_below(sign * table, -margin) for table in tables.values()]
    below = [_not_below(-sign * table, -margin) for table in tables.values()]
    return number(max(*above, min(1.0, len(tables) * min(below))))


def _not_below(table: Values, bound: float) -> float:
    """p of a mean no higher than `bound`: the test of equivalence between it and what nothing reaches."""
    mean = float(table.mean())
    if not estimated(table, 0.0).se:
        return float(mean <= bound)
    far = 10 * (abs(mean) + abs(bound))
    return float(p_equivalence(table - far, far - bound))


def _words(entry: Mapping[str, Any], measure: Measure, margin: float) -> str:
    arm, best, difference = entry["arm"], entry["placebo"], entry["difference"]
    if difference is None:
        return f"{arm} cannot be compared with its placebos: {entry['reason']}."
    bounds = ""
    if entry["ci95"] is not None:
        bounds = f" (95 % interval {' to '.join(measure.rounded(bound, '+') for bound in entry['ci95'])})"
    told = f"{measure.words(difference, '+')} against {best}, the best of its placebos{bounds}"
    match entry["verdict"]:
        case "better":
            return f"The idea of {arm} adds something beyond its parameters and place: {told}."
        case "worse":
            return f"{arm} is worse than a placebo: {told}."
        case "equivalent":
            within = measure.margin_words(margin)
            return f"The idea of {arm} adds nothing that matters over a placebo: {told} is within {within}."
        case "undecided":
            return f"Whether the idea of {arm} adds anything over a placebo is undecided: {told}."
    return f"No verdict on {arm} against its placebos: {entry['reason']}. Seen was {told}."
