"""One arm against another: the difference, its interval and test, the verdict, and what would decide.

Arms are compared on the runs and cases that both have, pair by pair (common random numbers), and both are
samples (crossed.py). Tests of several arms are corrected together by Holm's procedure (1979). Equivalence is
decided by two one-sided tests against the margin (Schuirmann 1987), each at 5 %: a 90 % interval inside it is
necessary, and crossed.py asks for more where the cases' differences are skewed. Beside them stands what papers
report: Wilcoxon's signed-rank test (1945) over the cases of one run each, which treats that run as the only one
there can be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan, sqrt
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from dsnet_med.evaluate.crossed import Estimate, cases_needed, estimate, seeds_needed, smallest_detectable
from dsnet_med.evaluate.measures import Measure
from dsnet_med.evaluate.score_arrays import Places, Scores, Values, complete
from dsnet_med.evaluate.statistics import ALPHA, holm, signed_rank

Verdict = Literal["better", "worse", "equivalent", "undecided", "no verdict"]
NOTHING_IN_COMMON = "no seed and case that both have; runs are paired by the number of their seed"


@dataclass(frozen=True)
class Paired:
    """The values of an arm and of what it is compared with, on the runs and cases that both have.

    `first` and `second` are (runs, cases) without gaps; `apart` says why they are empty, where they are.
    """

    arm: str
    against: str
    first: Values
    second: Values
    runs: Places
    cases: Places
    apart: str

    @property
    def table(self) -> Values:
        """The differences (runs, cases)."""
        return self.first - self.second


def paired(values: Values, scores: Scores, arm: str, against: str) -> Paired:
    """Two arms of values (arms, runs, cases) on what both have."""
    own = {name: values[scores.arms.index(name)] for name in (arm, against)}
    first, second = own[arm], own[against]
    runs, cases = complete(first - second)
    nowhere = [name for name, table in own.items() if np.isnan(table).all()]
    apart = f"{nowhere[0]} has no score that counts" if nowhere else NOTHING_IN_COMMON
    inner = np.ix_(runs, cases)
    return Paired(arm, against, first[inner], second[inner], runs, cases, "" if runs.size else apart)


def estimated(table: Values, margin: float, level: float = 0.95) -> Estimate:
    """`crossed.estimate`; of one run or one case the value alone, of an empty table NaN, with the reason."""
    if min(table.shape) > 1:
        return estimate(table, margin=margin, level=level)
    value, why = (float(table.mean()), estimate(table).unreliable) if table.size else (nan, NOTHING_IN_COMMON)
    return Estimate(value, None, None, None, None, None, None, None, None, why)


def holm_of(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of those that are known."""
    known = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(known) for p in p_values]


def contrast(
    pair: Paired, scores: Scores, *, margin: float, tests: int, organs: Mapping[str, Any]
) -> dict[str, Any]:
    """What results.json says of one arm, but for the words that depend on Holm's correction (see `decided`)."""
    table = pair.table
    found, narrow = estimated(table, margin), estimated(table, margin, level=1 - 2 * ALPHA)
    seeds = [scores.runs[place] for place in pair.runs]
    by_seed = {seed: p_over_cases(row) for seed, row in zip(seeds, table, strict=True)}
    return {
        "arm": pair.arm,
        "baseline": pair.against,
        "difference": number(found.value),
        "ci95": interval(found.ci95),
        "ci90": interval(narrow.ci95),
        "se": number(found.se),
        "df": number(found.df),
        "p": number(found.p),
        "p_holm": None,
        "p_equivalence": number(found.p_equivalence) if margin > 0 or not table.any() else None,
        "verdict": "no verdict",
        "reason": found.unreliable if table.size else pair.apart,
        "words": "",
        "seeds": len(pair.runs),
        "cases": len(pair.cases),
        "seeds_needed": seeds_needed(table, margin, tests) if table.size else None,
        "cases_needed": cases_needed(table, margin, tests) if table.size else None,
        "smallest_detectable_difference": number(
            smallest_detectable(table, tests=tests) if table.size else None
        ),
        "wrong_winner_single_run": wrong_winner(pair.first, pair.second),
        "single_run_wilcoxon_p": next(iter(by_seed.values()), None),
        "single_run_wilcoxon_p_by_seed": by_seed,
        "seed_differences": {seed: float(row.mean()) for seed, row in zip(seeds, table, strict=True)},
        "pairing": {
            "seeds_variance_removed": variance_removed(pair, axis=1),
            "cases_variance_removed": variance_removed(pair, axis=0),
        },
        "labels": dict(organs),
    }


def of_organs(values: Values, scores: Scores, arm: str, against: str) -> dict[str, dict[str, Any]]:
    """The difference in every organ, from values (arms, runs, cases, organs); `p_holm` comes later."""
    found = {}
    for place, organ in enumerate(scores.organs):
        pair = paired(values[..., place], scores, arm, against)
        if pair.runs.size:
            known = estimated(pair.table, 0.0)
            found[organ] = {
                "difference": number(known.value),
                "ci95": None if known.unreliable else interval(known.ci95),
                "p": None if known.unreliable else number(known.p),
                "p_holm": None,
            }
    return found


def decided(entry: dict[str, Any], p_holm: float | None, measure: Measure, margin: float) -> None:
    """Put corrected p, verdict and words into a contrast; what would decide stays where nothing is decided."""
    entry["p_holm"] = p_holm
    if entry["difference"] is not None and not entry["reason"]:
        entry["verdict"] = verdict(entry["difference"], p_holm, entry["p_equivalence"], measure)
    if entry["verdict"] not in ("undecided", "no verdict"):
        entry["seeds_needed"] = entry["cases_needed"] = None
    entry["words"] = words(entry, measure, margin)


def verdict(difference: float, p_holm: float | None, p_equivalence: float | None, measure: Measure) -> Verdict:
    """Equivalent first: a difference within the margin does not matter, whether significant or not."""
    if p_equivalence is not None and p_equivalence < ALPHA:
        return "equivalent"
    if p_holm is None or p_holm >= ALPHA or difference == 0:
        return "undecided"
    return "better" if (difference > 0) == measure.higher_is_better else "worse"


def words(entry: Mapping[str, Any], measure: Measure, margin: float) -> str:
    """A contrast in a sentence or two."""
    arm, baseline, difference = entry["arm"], entry["baseline"], entry["difference"]
    if difference is None:
        return f"{arm} cannot be compared with {baseline}: {entry['reason']}."
    bounds = "" if entry["ci95"] is None else f" (95 % interval {_bounds(entry['ci95'], measure)})"
    told = f"{measure.words(difference, '+')} against {baseline}{bounds}"
    match entry["verdict"]:
        case "equivalent" if difference == 0 and entry["se"] == 0:
            return f"{arm} scores as {baseline} does, exactly."
        case "equivalent":
            also = (
                " The difference is significant, but within the margin: too small to matter."
                if entry["p_holm"] is not None and entry["p_holm"] < ALPHA
                else ""
            )
            return f"{arm} is equivalent to {baseline}: {told} is within {measure.margin_words(margin)}.{also}"
        case "better" | "worse" as which:
            return f"{arm} is {which}: {told}."
        case "undecided":
            return f"{arm} is undecided: {told}. {would_decide(entry)}"
    return f"No verdict on {arm}: {entry['reason']}. Seen was {told}."


def would_decide(entry: Mapping[str, Any]) -> str:
    """What it would take to decide, in a sentence."""
    ways = [
        f"{entry[f'{what}_needed']} {what} instead of {entry[what]}"
        for what in ("seeds", "cases")
        if entry[f"{what}_needed"] is not None and entry[f"{what}_needed"] > entry[what]
    ]
    if not ways:
        return "No number of seeds alone, nor of cases alone, is sure to decide it."
    return f"About {', or '.join(ways)} would decide it with a chance of 80 %."


def wrong_winner(first: Values, second: Values) -> float | None:
    """The probability that one run of each arm names the arm as winner that has the lower mean here.

    From normal distributions of the runs' means with the arms' means and standard deviations over seeds, the
    runs drawn independently, as two papers do. None for fewer than two runs, and where nobody wins.
    """
    if len(first) < 2 or not first.size:
        return None
    one, other = first.mean(axis=1), second.mean(axis=1)
    difference, spread = abs(float(one.mean() - other.mean())), sqrt(one.var(ddof=1) + other.var(ddof=1))
    if difference == 0:
        return None
    return 0.0 if spread == 0 else float(NormalDist().cdf(-difference / spread))


def variance_removed(pair: Paired, axis: int) -> float | None:
    """The share of the variance of a difference of means, over runs (axis 1) or cases (0), that pairing
    removed.

    1 - var(a - b) / (var(a) + var(b)); negative where pairing added some.
    """
    if pair.first.shape[1 - axis] < 2 or not pair.first.size:
        return None
    one, other = pair.first.mean(axis=axis), pair.second.mean(axis=axis)
    apart = float(one.var(ddof=1) + other.var(ddof=1))
    return 1 - float((one - other).var(ddof=1)) / apart if apart > 0 else None


def p_over_cases(differences: Values) -> float | None:
    """Wilcoxon's p of one run's differences (cases,)."""
    return number(signed_rank(differences)[0]) if len(differences) else None


def number(value: float | None) -> float | None:
    """A plain float, None for what is not finite."""
    return None if value is None or not isfinite(value) else float(value)


def interval(bounds: Sequence[float] | None) -> list[float] | None:
    """Two plain floats, or None."""
    return None if bounds is None or not all(map(isfinite, bounds)) else [float(bound) for bound in bounds]


def _bounds(bounds: Sequence[float], measure: Measure) -> str:
    return " to ".join(measure.rounded(bound, "+") for bound in bounds)
