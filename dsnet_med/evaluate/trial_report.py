"""report.html of a trial: what came out, in plain words first, then the pictures and tables that it rests on.

Every number comes from results.json (analysis.py), but those of single cases, which come from the rows of
scores.csv.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np
from markupsafe import Markup

from dsnet_med.evaluate import charts
from dsnet_med.evaluate.charts import SYMBOLS, primary_measure, title_of
from dsnet_med.evaluate.measures import MEASURES, Measure
from dsnet_med.evaluate.pages import breakable, environment, rendered
from dsnet_med.evaluate.score_arrays import Values, score_arrays
from dsnet_med.evaluate.statistics import ALPHA

Rows = Sequence[Mapping[str, Any]]

_WORST = 10  # cases shown
_FEW_SEEDS = 6  # whose values stand in a cell one by one


def trial_html(
    results: Mapping[str, Any],
    rows: Rows,
    *,
    curves: charts.Curves | None = None,
    run: Mapping[str, str] | None = None,
    commands: Sequence[str] = (),
) -> str:
    """The page of a trial from the content of results.json and the rows that it was made from.

    `curves` are the scores on the validation cases while training, arm -> seed -> (iteration, value); `run`
    holds facts worth showing (data, iterations, versions, device); `commands` run the trial again. What is not
    there (no curves, no costs, one arm, nothing but nulls) is left out of the page or said in words.
    """
    environment().filters |= {"arm_words": _arm_words, "compact": charts.compact}
    measure, groups = primary_measure(results), _groups(results)
    text: str = rendered(
        "trial.html",
        title=_title(results),
        subtitle=_subtitle(results),
        files="scores.csv and results.json",
        results=results,
        measure=title_of(measure),
        unit=measure.unit,
        digits=_digits(measure),
        fine=measure.digits,
        higher=measure.higher_is_better,
        symbols=SYMBOLS,
        groups=groups,
        cards=_cards(groups, results["baseline"]),
        forest=charts.forest(results),
        placebos=charts.placebo_forest(results) if results.get("placebo") else None,
        seeds={name: _seed_words(arm, _digits(measure)) for name, arm in results["arms"].items()},
        single_runs=[_single_runs(each, measure.higher_is_better) for each in results["contrasts"]],
        ranks=_ranks(results),
        orders=_orders(results),
        curves=charts.curve_panels(curves or {}, results["baseline"]),
        organs=_organ_tables(results, measure),
        costs=charts.cost_panels(results),
        cost_names={name: words for name, words in charts.COSTS.items() if _has_cost(results, name)},
        numbers=charts.arm_numbers(results),
        worst=_worst_cases(results, rows),
        run=run,
        commands=commands,
    )
    return text


def _title(results: Mapping[str, Any]) -> str:
    others = [each["arm"] for each in results["contrasts"] if not _is_placebo(results, each["arm"])]
    others = others or [each["arm"] for each in results["contrasts"]]
    if not others:
        return f"Trial of {results['baseline']}"
    which = others[0] if len(others) == 1 else f"{len(others)} arms"
    return f"Does it help? {which} against {results['baseline']}"


def _subtitle(results: Mapping[str, Any]) -> str:
    arm, measure = results["arms"][results["baseline"]], primary_measure(results)
    seen = f"{_count(arm['seeds'], 'seed')}, {_count(arm['cases'], 'case')}"
    judged = f"{title_of(measure)}, mean over organs, protocol {measure.protocol}"
    margin = f"differences within ±{results['margin']:g} are too small to matter"
    return f"{seen}; by {judged}; {margin if results['margin'] else 'every difference matters (margin 0)'}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _is_placebo(results: Mapping[str, Any], arm: str) -> bool:
    return bool(results["arms"][arm].get("placebo"))


def _groups(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The contrasts by verdict, those of placebos apart and last; in each, the largest difference first."""
    sign = -1 if primary_measure(results).higher_is_better else 1
    groups = []
    for placebo in (False, True):
        own = [each for each in results["contrasts"] if _is_placebo(results, each["arm"]) == placebo]
        own.sort(key=lambda each: (each["difference"] is None, sign * (each["difference"] or 0)))
        for verdict, symbol in SYMBOLS.items():
            found = [each for each in own if each["verdict"] == verdict]
            if found:
                groups.append({"placebo": placebo, "verdict": verdict, "symbol": symbol, "contrasts": found})
    return groups


def _cards(groups: Sequence[Mapping[str, Any]], baseline: str) -> list[tuple[str, str, str]]:
    """(kind, number, words) for each verdict; of the placebos only where there is nothing else."""
    words = {
        "better": f"better than {baseline}",
        "worse": f"worse than {baseline}",
        "equivalent": f"equivalent to {baseline}",
        "undecided": "undecided",
        "no verdict": "without a verdict",
    }
    chosen = [group for group in groups if not group["placebo"]] or list(groups)
    kinds = {"better": "main", "worse": "alarm"}
    return [
        (
            kinds.get(group["verdict"], ""),
            f"{group['symbol']} {len(group['contrasts'])}",
            ("arm " if len(group["contrasts"]) == 1 else "arms ") + words[group["verdict"]],
        )
        for group in chosen
    ]


def _seed_words(arm: Mapping[str, Any], digits: int) -> str:
    """The mean of every seed, as far as they fit a cell; else the smallest and the largest."""
    values = [value for value in (arm.get("seed_means") or {}).values() if value is not None]
    if len(values) > _FEW_SEEDS:
        return f"{min(values):.{digits}f} to {max(values):.{digits}f}"
    return "  ".join(f"{value:.{digits}f}" for value in values)


def _single_runs(contrast: Mapping[str, Any], higher: bool) -> dict[str, Any]:
    """What papers that train once would have reported of this arm, seed by seed."""
    differences = contrast.get("seed_differences") or {}
    p_values = contrast.get("single_run_wilcoxon_p_by_seed") or {}
    runs = [
        {"seed": seed, "p": p, "difference": differences.get(seed), "significant": p is not None and p < ALPHA}
        for seed, p in p_values.items()
    ]
    significant = [run for run in runs if run["significant"]]
    better = sum(((run["difference"] or 0) > 0) == higher for run in significant)
    return {"contrast": contrast, "runs": runs, "significant": len(significant), "better": better}


def _ranks(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The share of resamples in which an arm took each rank, arms by their mean rank."""
    shares = (results.get("ranking") or {}).get("ranks") or {}
    rows = [
        {
            "arm": arm,
            "shares": list(own),
            "mean": sum(rank * share for rank, share in enumerate(own, start=1)) / (sum(own) or 1.0),
        }
        for arm, own in shares.items()
        if own
    ]
    return sorted(rows, key=lambda row: row["mean"])


def _orders(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The place of every arm under every measure and protocol; arms that are level share one."""
    orders = (results.get("ranking") or {}).get("order") or {}
    measures, found = {each.label: each for each in MEASURES.values()}, []
    for label, order in orders.items():
        places: dict[str, int] = {}
        place = 1
        for tied in order or ():
            places |= dict.fromkeys(tied, place)
            place += len(tied)
        found.append({"measure": measures[label], "title": title_of(measures[label]), "places": places})
    return found


def _organ_tables(results: Mapping[str, Any], primary: Measure) -> list[dict[str, Any]]:
    """A table for each measure: arms by organs, in the primary one with the differences from the baseline."""
    found: dict[str, dict[str, dict[str, float | None]]] = defaultdict(lambda: defaultdict(dict))
    for name, arm in results["arms"].items():
        for organ, measures in (arm.get("labels") or {}).items():
            for measure, mean in measures.items():
                found[measure][name][organ] = mean
    differences = {each["arm"]: each.get("labels") or {} for each in results["contrasts"]}
    ordered = sorted(found, key=lambda key: key != primary.key)
    return [
        {
            "measure": title_of(MEASURES[key]),
            "digits": _digits(MEASURES[key]),
            "organs": list(dict.fromkeys(organ for own in found[key].values() for organ in own)),
            "arms": found[key],
            "differences": differences if key == primary.key else {},
            "primary": key == primary.key,
        }
        for key in ordered
        if any(value is not None for own in found[key].values() for value in own.values())
    ]


def _has_cost(results: Mapping[str, Any], name: str) -> bool:
    return any((arm.get("cost") or {}).get(name) is not None for arm in results["arms"].values())


def _worst_cases(results: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    """The cases with the worst mean over all arms: each arm's mean over its seeds, and the worst organ."""
    measure = primary_measure(results)
    if not rows:
        return {"count": 0, "arms": [], "cases": []}
    scores = score_arrays(rows)
    sign = 1 if measure.higher_is_better else -1
    values = scores.of_cases(measure)
    arms = [
        _mean(values[:, :, place], axis=1) for place in range(len(scores.cases))
    ]  # of each case, arm by arm
    means = [_mean(own) for own in arms]
    counted = [place for place, mean in enumerate(means) if not isnan(mean)]
    ordered = sorted(counted, key=lambda place: sign * float(means[place]))[:_WORST]
    organs = [_mean(scores.values[measure.key][:, :, place], axis=(0, 1)) for place in ordered]
    return {
        "count": len(counted),
        "arms": [arm for arm in results["arms"] if arm in scores.arms],
        "cases": [
            {
                "case": scores.cases[place],
                "means": dict(zip(scores.arms, arms[place].tolist(), strict=True)),
                "mean": float(means[place]),
                "organ": scores.organs[int(np.nanargmin(sign * own))],
                "organs": int((~np.isnan(own)).sum()),
            }
            for place, own in zip(ordered, organs, strict=True)
        ],
    }


def _mean(values: Values, axis: int | tuple[int, ...] | None = None) -> Values:
    """Over what counts; NaN where nothing does."""
    counted = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(counted, values, 0).sum(axis=axis) / counted.sum(axis=axis))


def _digits(measure: Measure) -> int:
    """Decimals of a mean; differences have one more where they are small against it."""
    return measure.digits if measure.unit else measure.digits - 1


def _arm_words(name: str) -> Markup:
    """An arm's name that may break after its signs, the place of its plug-in in small beneath."""
    plain, at, place = name.partition("@")
    return breakable(plain) + (Markup("<small>@") + breakable(place) + Markup("</small>") if at else "")
