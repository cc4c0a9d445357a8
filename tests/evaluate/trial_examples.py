"""Trials made up for the report: rows of scores by a crossed model, and results.json in the documented form."""

from itertools import product
from statistics import NormalDist

import numpy as np

BASELINE = "fcn"
ORGANS = ("aorta", "gallbladder", "left_kidney", "liver")
# arm -> (difference from the baseline, is it a placebo, parameters in millions)
ARMS = {
    "fcn": (0.0, False, 33.0),
    "fcn_se": (0.004, False, 33.5),
    "fcn+ECA@layer4.*.act2": (0.0005, False, 33.0),
    "fcn+CBAM@layer4.*.act2": (0.021, False, 33.5),
    "fcn_dsm": (0.034, False, 35.4),
    "fcn+my_plugins/longer_names.py:AttentionWithAVeryLongName@layer4.*.act2": (-0.018, False, 41.7),
    "fcn_narrow": (-0.21, False, 0.9),
    "fcn+Identity@layer4.*.act2": (0.0, True, 33.0),
    "fcn+PointwiseConv(DSM)@layer4.*.act2": (0.012, True, 35.4),
    "fcn+UniformDSM@layer4.*.act2": (0.006, True, 35.4),
}


def rows_of(arms=ARMS, seeds=3, cases=12, organs=ORGANS):
    """Rows of scores.csv: case and organ far above the differences, seeds and a residual below them."""
    rng = np.random.default_rng(0)
    easy, of_organ = rng.normal(0.8, 0.07, cases), rng.normal(0, 0.05, len(organs))
    rows = []
    for (arm, (shift, _, _)), seed in product(arms.items(), range(seeds)):
        lucky = rng.normal(0, 0.004)
        noise = rng.normal(0, 0.012, (cases, len(organs))) if arm != "fcn+Identity@layer4.*.act2" else 0
        dice = np.clip(easy[:, None] + of_organ + shift + lucky + noise, 0, 1) * np.ones((cases, len(organs)))
        for case, organ in product(range(cases), range(len(organs))):
            value = float(dice[case, organ])
            rows.append(
                {"method": arm, "seed": str(seed), "fold": "", "case": f"case{case:02d}", "label": organ + 1}
                | {"name": organs[organ], "dice": value, "hd95_mm": 40 * (1 - value), "nsd": value**2}
            )
    return rows


def results_of(rows, arms=ARMS, baseline=BASELINE, margin=0.01):
    """Results with every key of the form; the statistics are rough, the numbers are those of the rows."""
    seeds, cases = ([*dict.fromkeys(row[key] for row in rows)] for key in ("seed", "case"))
    organs = [*dict.fromkeys(row["name"] for row in rows)]
    places = {(row["method"], row["seed"], row["case"], row["name"]): row["dice"] for row in rows}
    dice = np.array([[[[places[a, s, c, o] for o in organs] for c in cases] for s in seeds] for a in arms])
    base = dice[list(arms).index(baseline)]
    described, contrasts = {}, []
    for (arm, (_, placebo, millions)), own in zip(arms.items(), dice, strict=True):
        described[arm] = {
            "mean": float(own.mean()),
            "sd_seeds": float(own.mean((1, 2)).std(ddof=1)) if len(seeds) > 1 else None,
            "sd_cases": float(own.mean((0, 2)).std(ddof=1)) if len(cases) > 1 else None,
            "seeds": len(seeds),
            "cases": len(cases),
            "ci95": [float(own.mean() - 0.03), float(own.mean() + 0.03)],
            "cost": {
                "parameters": round(millions * 1e6),
                "macs": round(millions * 3.1e8),
                "seconds_per_step": 0.2 + millions / 100,
                "ms_per_slice": 5 + millions / 10,
                "peak_memory_bytes": None,
                "device": "cpu",
            },
            "labels": {
                o: {"dice": float(own[..., k].mean()), "hd95_mm": float(40 - 40 * own[..., k].mean())}
                for k, o in enumerate(organs)
            },
            "seed_means": dict(zip(seeds, own.mean((1, 2)).tolist(), strict=True)),
            "placebo": placebo,
        }
        if arm != baseline:
            contrasts.append(_contrast(arm, baseline, own - base, seeds, organs, margin))
    names = [each["arm"] for each in contrasts]
    ordered = sorted(described, key=lambda arm: -described[arm]["mean"])
    count = len(arms)
    ranks = {arm: [0.0] * count for arm in arms}
    for place, arm in enumerate(ordered):
        for near, share in ((place - 1, 0.2), (place, 0.6), (place + 1, 0.2)):
            ranks[arm][min(max(near, 0), count - 1)] += share
    return {
        "schema": 1,
        "tool": "dsnet-med 0.1.0",
        "trial": "5f" * 32,
        "baseline": baseline,
        "margin": margin,
        "primary": {"measure": "dice", "protocol": "strict"},
        "arms": described,
        "contrasts": contrasts,
        "noise_floor": {"sd_seeds": described[baseline]["sd_seeds"], "smallest_detectable_difference": 0.013},
        "placebo": [
            {
                "arm": "fcn_dsm",
                "placebo": "fcn+PointwiseConv(DSM)@layer4.*.act2",
                "difference": 0.022,
                "ci95": [0.013, 0.031],
                "p": 0.004,
                "verdict": "better",
                "words": "fcn_dsm is better than the best of its placebos by 0.022 Dice.",
            },
        ]
        if "fcn_dsm" in names and any(arms[name][1] for name in arms)
        else [],
        "ranking": {
            "ranks": ranks,
            "order": {
                "dice strict": [[arm] for arm in ordered],
                "hd95_mm monai": [ordered[:2], *[[arm] for arm in ordered[2:]]],
            },
            "depends_on_measure": True,
            "words": "The order depends on the measure.",
        },
        "pareto": {"parameters": ordered[:2], "macs": ordered[:1]},
        "left_out": ["case12 of fcn_se: seed 2 has no scores of it"],
        "notes": ["Scores of seed 1 were made twice."],
    }


def _contrast(arm, baseline, difference, seeds, organs, margin):
    by_seed = difference.mean((1, 2))
    mean = float(difference.mean())
    half = 0.006 if difference.any() else 0.0
    lone = len(seeds) < 2
    ci95 = None if lone else [mean - half, mean + half]
    p = None if lone else 1.0 if not half else 2 * NormalDist().cdf(-abs(mean) / half * 2)
    inside = not lone and max(map(abs, ci95)) < margin
    verdict = "no verdict" if lone else "equivalent" if inside else "undecided"
    if not lone and not inside and p < 0.05:
        verdict = "better" if mean > 0 else "worse"
    return {
        "arm": arm,
        "baseline": baseline,
        "difference": mean,
        "ci95": ci95,
        "p": p,
        "p_holm": p,
        "verdict": verdict,
        "p_equivalence": p,
        "seeds_needed": 14 if verdict == "undecided" else None,
        "cases_needed": 90 if verdict == "undecided" else None,
        "wrong_winner_single_run": None if lone else 0.21,
        "single_run_wilcoxon_p": 0.03,
        "single_run_wilcoxon_p_by_seed": dict.fromkeys(seeds, 0.03),
        "se": None if lone else half / 2,
        "df": None if lone else 2.4,
        "reason": "one seed only: nothing says how far other seeds would lie" if lone else "",
        "words": f"{arm} {verdict}: {mean:+.4f} Dice against {baseline}.",
        "smallest_detectable_difference": None if lone else 0.012,
        "seed_differences": dict(zip(seeds, by_seed.tolist(), strict=True)),
        "pairing": {"seeds_variance_removed": None if lone else 0.43, "cases_variance_removed": 0.96},
        "labels": {
            organ: {"difference": float(difference[..., k].mean()), "ci95": ci95, "p": p, "p_holm": p}
            for k, organ in enumerate(organs)
        },
    }


def without_values(item):
    """The same form, every number that may be missing null, every list of findings empty."""
    kept = (
        "schema",
        "baseline",
        "margin",
        "primary",
        "arm",
        "verdict",
        "placebo",
        "measure",
        "protocol",
        "seeds",
        "cases",
    )
    if isinstance(item, dict):
        return {
            key: value if key in kept and not isinstance(value, list) else without_values(value)
            for key, value in item.items()
        }
    if isinstance(item, list) and all(isinstance(each, dict) for each in item):
        return [without_values(each) for each in item]
    return None
