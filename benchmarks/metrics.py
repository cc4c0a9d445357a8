"""Scoring one CT case, beside the usual libraries, in one run: seconds per case and the largest disagreement.

    python benchmarks/metrics.py [--size 512x512x148] [--skip medpy] [--json FILE]

One pair of label maps, 0.76 x 0.76 x 3.0 mm, eight organs; the prediction errs by millimetres and has islands
far away. Every library gives HD95 of each organ in mm; ours gives Dice, both HD95, ASSD and NSD of all eight in
that time. Each library is measured on the whole volume, as people call it, and on the box around both masks of
an organ ("cropped"). One thread each. medpy alone takes minutes.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from label_maps import LABELS, SPACING_MM, make_pair, size_of
from numpy.typing import NDArray

from dsnet_med.evaluate import backend, backend_scipy
from dsnet_med.evaluate.measurements import LabelMeasurement, measure_case

Mask = NDArray[np.bool_]
Peer = Callable[[Mask, Mask], float]
# Steps as long, but those from slice to slice lean by 20 degrees.
TILTED = np.diag(SPACING_MM)
TILTED[1:, 2] = SPACING_MM[2] * np.sin(np.deg2rad(20)), SPACING_MM[2] * np.cos(np.deg2rad(20))


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="512x512x148")
    parser.add_argument("--repeats", type=int, default=5, help="of ours; each peer runs once")
    parser.add_argument("--skip", action="append", default=[], help="a peer's name, whole-volume form")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    reference, prediction = make_pair(0, size_of(options.size))
    rows = measure(reference, prediction, options.repeats, set(options.skip))
    report(rows)
    if options.json:
        content = {"machine": platform.processor(), "kernel": backend.NAME, "rows": rows}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


def measure(reference: Mask, prediction: Mask, repeats: int, skip: set[str]) -> list[dict[str, object]]:
    """One row per library: seconds, and how far its HD95 is from ours under the rule that it follows."""
    read = best(lambda: (reference.max(), prediction.max()), repeats)
    seconds, ours = timed(lambda: measure_case(reference, prediction, SPACING_MM, LABELS).measures, repeats)
    rows: list[dict[str, object]] = [
        {"name": "reading both maps once (max)", "seconds": read, "rule": "", "mm": None},
        {"name": f"dsnet-med ({backend.NAME})", "seconds": seconds, "rule": "both", "mm": 0.0},
    ]
    chosen, backend.BACKEND = backend.BACKEND, backend_scipy
    seconds, slow = timed(lambda: measure_case(reference, prediction, SPACING_MM, LABELS).measures, 2)
    backend.BACKEND = chosen
    rows.append({"name": "dsnet-med (SciPy)", "seconds": seconds, "rule": "both", "mm": apart(slow, ours)})
    seconds, _ = timed(lambda: measure_case(reference, prediction, TILTED, LABELS).measures, 2)
    rows.append({"name": "dsnet-med, gantry tilted", "seconds": seconds, "rule": "both", "mm": None})
    for name, rule, peer in peers():
        for form in ("cropped", "whole"):
            if form == "whole" and name in skip:
                continue
            begin = time.perf_counter()
            worst = 0.0
            for found in ours:
                pair = reference == found.label, prediction == found.label
                if form == "cropped":
                    box = tuple(slice(p.min(), p.max() + 1) for p in np.nonzero(pair[0] | pair[1]))
                    pair = pair[0][box], pair[1][box]
                wanted = found.hd95_pooled_mm if rule == "pooled" else found.hd95_max_mm
                worst = max(worst, abs(peer(*pair) - wanted))
                print(f"{name}, {form}: {found.name}", file=sys.stderr)
            took = time.perf_counter() - begin
            rows.append({"name": f"{name}, {form}", "seconds": took, "rule": rule, "mm": worst})
    return rows


def peers() -> list[tuple[str, str, Peer]]:
    """Name, HD95 rule and function of each library; DeepMind's weights surface elements by their area."""
    import surface_distance
    import torch
    from medpy.metric import binary
    from monai.metrics import compute_hausdorff_distance

    torch.set_num_threads(1)

    def monai(reference: Mask, prediction: Mask) -> float:
        tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (prediction, reference)]
        return float(
            compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=SPACING_MM)
        )

    def deepmind(reference: Mask, prediction: Mask) -> float:
        distances = surface_distance.compute_surface_distances(reference, prediction, SPACING_MM)
        return float(surface_distance.compute_robust_hausdorff(distances, 95))

    return [
        ("MONAI", "max", monai),
        ("surface-distance", "max", deepmind),
        (
            "medpy",
            "pooled",
            lambda reference, prediction: float(binary.hd95(prediction, reference, SPACING_MM)),
        ),
    ]


def timed(
    work: Callable[[], tuple[LabelMeasurement, ...]], repeats: int
) -> tuple[float, tuple[LabelMeasurement, ...]]:
    """The median of the seconds, and the result."""
    work()  # warm
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds), result


def best(work: Callable[[], object], repeats: int) -> float:
    """The fewest seconds."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def apart(a: tuple[LabelMeasurement, ...], b: tuple[LabelMeasurement, ...]) -> float:
    """The largest difference in mm between two results."""
    keys = ("hd95_pooled_mm", "hd95_max_mm", "assd_mm")
    return max(abs(getattr(p, key) - getattr(q, key)) for p, q in zip(a, b, strict=True) for key in keys)


def report(rows: list[dict[str, object]]) -> None:
    """The table of docs/benchmarks.md."""
    ours = next(float(str(row["seconds"])) for row in rows if str(row["name"]).startswith("dsnet-med"))
    print("| | s per case | times ours | HD95 rule | largest disagreement, mm |\n|---|--:|--:|---|--:|")
    for row in rows:
        seconds = float(str(row["seconds"]))
        apart = "" if row["mm"] is None else f"{row['mm']:.1e}"
        print(f"| {row['name']} | {seconds:.3f} | {seconds / ours:.2f} | {row['rule']} | {apart} |")


if __name__ == "__main__":
    main()
