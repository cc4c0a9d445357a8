"""The content of an explain.json, made up from a seed: as many runs, plug-ins and organs as one likes."""

from itertools import pairwise

import numpy as np

KINDS = ("identity", "mean", "other", "shuffled")


def _entry(rng, middle, spread, n, key):
    mean = float(rng.normal(middle, spread))
    half = abs(float(rng.normal(spread, spread / 4)))
    return {key: mean, "ci95": [mean - half, mean + half] if n > 1 else None, "n": n}


def _measures(rng, reference, n, loss):
    score = {
        "dice": _entry(rng, -loss, 0.003, n, "difference"),
        "hd95_mm": _entry(rng, 60 * loss, 0.3, n, "difference"),
    }
    masks = {
        "agreement": _entry(rng, 1 - 3 * loss, 0.004, n, "mean"),
        "changed_ml": _entry(rng, 9 * loss, 0.02, n, "mean"),
    }
    return (score if reference else dict.fromkeys(score)) | masks


def plugin_of(rng, kind="channel", declared=True, channels=512):
    numbers = {"mean": 0.51, "sd": 0.2, "min": 0.02, "max": 0.98}
    gate = numbers | {
        "kind": kind,
        "profile": None,
        "profile_sd": None,
        "entropy": None,
        "rank": None,
        "rank_of": None,
    }
    gate["over_even"] = None
    gates = {"gate": gate}
    if kind == "channel":
        gate["profile"] = sorted(rng.beta(2, 2, min(channels, 512)).tolist())
        gate["profile_sd"] = abs(rng.normal(0.03, 0.01, min(channels, 512))).tolist()
        gate |= {"rank": 3.4, "rank_of": 24}
    if kind == "attention":
        gate |= {"entropy": 0.93, "over_even": [0.52, 1.94], "rank": 1.7, "rank_of": 24}
        gates = {"attention": gate}
    return {
        "class": "SE" if kind == "channel" else "DSM",
        "declared": declared,
        "form": "channel" if kind == "channel" else "added",
        "left_over": 1.3e-7,
        "channels": channels,
        "shape": [64, 64],
        "energy_changed": {"mean": 0.182, "sd": 0.02, "min": 0.11, "max": 0.24},
        "not_constant": 0.13,
        "gates": gates if declared else {},
    }


def _where(rng, labels, cases, reference):
    points = [
        [float(rng.lognormal(2, 1.4)), float(rng.normal(-0.02, 0.01)), case, name]
        for case in cases
        for name in labels
    ]
    edges = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, None]
    steps = [0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0]
    net = [_entry(rng, middle, 0.02, len(cases), "mean") for middle in (0.11, 0.01, 0.1)]
    errors = {
        "plain": "identity",
        "error_share": 0.031,
        "changed_share": 0.012,
        "error_share_where_changed": 0.61,
    }
    errors |= {
        "fixed_ml": 0.21,
        "broken_ml": 0.1,
        "net_ml": net[0],
        "null_net_ml": net[1],
        "difference_ml": net[2],
    }
    return {
        "labels": {
            name: {"changed_share_inside": 0.02, "changed_ml_inside": 0.04, "changed_ml": 0.07}
            for name in labels
        },
        "by_size": {"points": points if reference else [], "spearman": -0.41, "p": 0.0004},
        "by_border_mm": [
            {"from": low, "to": high, "changed_share": 0.2 / 2**at, "null_share": 0.12 / 1.5**at}
            for at, (low, high) in enumerate(pairwise(edges))
        ],
        "errors": errors if reference else None,
        "calibration": [
            {
                "from": low,
                "to": high,
                "voxels": 90000 // 4**at,
                "error_share": 0.01 + 0.07 * at if reference else None,
            }
            | {
                "fixed_share": 0.05 + 0.1 * at,
                "null_error_share": 0.01 + 0.04 * at,
                "null_fixed_share": 0.04 + 0.02 * at,
            }
            for at, (low, high) in enumerate(pairwise(steps))
        ],
        "calibration_of": "change in the plain network’s probability of what it decided",
    }


def content_of(runs=("fcn_dsm/seed-0",), plugins=3, labels=("anterior", "posterior"), cases=6, **options):
    """Runs whose name begins with `plain` have no plug-in. Options: reference, pictures, each, spatial_dims."""
    rng = np.random.default_rng(0)
    reference, names = options.get("reference", True), [f"hippocampus_{at:03d}" for at in range(1, cases + 1)]
    found = []
    for run in runs:
        own = (
            {}
            if run.startswith("plain")
            else {
                f"backbone.layer4.{at}.act2.plugin": plugin_of(
                    rng, ("channel", "attention")[at % 2], at % 5 != 4
                )
                for at in range(plugins)
            }
        )
        who = ["all", *(own if options.get("each", plugins > 1) else ())] if own else []
        interventions = [
            {"plugin": plugin, "kind": kind, "draws": 4 if kind == "shuffled" else 1}
            | {"labels": {name: _measures(rng, reference, cases, loss) for name in labels}}
            | {"mean": _measures(rng, reference, cases, loss)}
            for plugin in who
            for kind, loss in zip(KINDS, (0.021, 0.004, 0.013, 0.034), strict=True)
        ]
        kept = {"identity": -0.021, "mean": -0.004, "share_kept_by_constant": 0.81 if reference else None}
        score = {
            "dice": _entry(rng, 0.86, 0.01, cases, "mean"),
            "hd95_mm": _entry(rng, 1.6, 0.2, cases, "mean"),
        }
        pictures = [
            {"file": f"pictures/{len(found):02d}-{at}.png", "case": names[0], "plugin": plugin, "gate": "gate"}
            | {"slice": 11, "caption": "mean over channels"}
            for at, plugin in enumerate([*own][: options.get("pictures", 2)])
        ]
        maps = {name: f"pictures/{len(found):02d}-{name}.png" for name in ("grad_cam", "occlusion")}
        found.append(
            {
                "name": run,
                "path": f"runs/{run}",
                "title": f"the title of {run}",
                "fingerprint": "5f" * 16,
                "plugins": own,
                "scores": {"labels": dict.fromkeys(labels, score), "mean": score} if reference else None,
                "interventions": interventions,
                "image_dependence": {"dice": kept, "words": f"A constant keeps 81 % of what {run} adds."},
                "where": _where(rng, labels, names, reference) if own else None,
                "attribution": {"label": labels[0], "case": names[0], "slice": 11} | maps,
                "pictures": pictures,
            }
        )
    pairs = [(a, b) for at, a in enumerate(runs) for b in runs[at + 1 :]]
    return {
        "schema": 1,
        "dsnet_med": "0.1.0",
        "command": ["dsnet-med", "explain", "--model", "runs/fcn_dsm/seed-0", "images", "--out", "explained"],
        "cases": names,
        "failed": [],
        "reference": reference,
        "protocol": "strict",
        "labels": {str(at): name for at, name in enumerate(labels, start=1)},
        "spatial_dims": options.get("spatial_dims", 2),
        "images": 1152,
        "seed": 0,
        "shuffles": 4,
        "leaves_out": ["other seeds: intervals are over cases of one trained network"],
        "runs": found,
        "between": [
            {"first": first, "second": second}
            | {"labels": {name: _measures(rng, True, cases, 0.01) for name in labels}}
            | {"mean": _measures(rng, True, cases, 0.01)}
            for first, second in pairs
        ]
        if reference
        else [],
    }


def without_values(item):
    """The same form, every number null, every list of findings empty."""
    kept = (
        "reference",
        "protocol",
        "spatial_dims",
        "images",
        "seed",
        "shuffles",
        "n",
        "draws",
        "slice",
        "from",
        "to",
        "voxels",
    )
    if isinstance(item, dict):
        return {
            key: value
            if key in (*kept, "cases", "labels") and not isinstance(value, dict)
            else without_values(value)
            for key, value in item.items()
        }
    if isinstance(item, list):
        return [without_values(each) for each in item] if item and isinstance(item[0], dict | str) else []
    return None if isinstance(item, float | int) and not isinstance(item, bool) else item


def files_of(content):
    """The names of all pictures of a content."""
    maps = [each["file"] for run in content["runs"] for each in run["pictures"] or ()]
    seen = [
        (run["attribution"] or {}).get(name) for run in content["runs"] for name in ("grad_cam", "occlusion")
    ]
    return [name for name in (*maps, *seen) if name]
