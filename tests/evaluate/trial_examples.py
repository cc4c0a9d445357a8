"""Trials made up for the report: rows of scores by a crossed model, and what `analyse` says of them."""

from itertools import product

import numpy as np

from dsnet_med.evaluate import analyse

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


def results_of(rows, arms=ARMS):
    """What `analyse` makes of the rows, at costs that grow with the parameters; peak memory is not known."""
    costs = {
        arm: {"parameters": round(millions * 1e6), "macs": round(millions * 3.1e8), "device": "cpu"}
        | {
            "seconds_per_step": 0.2 + millions / 100,
            "ms_per_slice": 5 + millions / 10,
            "peak_memory_bytes": None,
        }
        for arm, (_, _, millions) in arms.items()
    }
    return analyse(rows, BASELINE, costs=costs, trial="5f" * 32)


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
