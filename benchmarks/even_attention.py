"""What a trained FCN+DSM scores when its attention weights are made even, at inference.

    python benchmarks/even_attention.py --trial TRIAL --out scores.csv

of every seed of arm `fcn_dsm` in a trial's folder: Dice of its test cases as they are, and with the plain mean
in place of the mean under DSM's attention (all else, values and projections, stays as it was trained). Then
`dsnet-med compare --scores scores.csv --out DIR --baseline intact` says what the weights are worth.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from dsnet_med import Predictor
from dsnet_med.evaluate import score_case
from dsnet_med.networks.layers import project
from dsnet_med.networks.plugins.dsm import Aggregation
from dsnet_med.volumes import read_image, read_labels

LABELS = {1: "anterior", 2: "posterior"}


def even(self: Aggregation, pixels: Tensor, _channel: Tensor, _spatial: Tensor) -> Tensor:
    """(B, C): the rectified values of all pixels, each counted once."""
    return F.relu(project(pixels, self.value.weight, self.value.bias)).mean(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trial", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    learned = Aggregation.aggregate
    with options.out.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["method", "seed", "case", "label", "name", "dice", "hd95_mm"])
        for run in sorted((options.trial / "runs" / "fcn_dsm").glob("seed-*")):
            predictor = Predictor.from_run(run)
            for method, aggregate in (("intact", learned), ("even weights", even)):
                Aggregation.aggregate = aggregate  # type: ignore[method-assign]
                for image in sorted((options.trial / "cases" / "images").iterdir()):
                    case = image.name.removesuffix(".nii.gz")
                    mask = predictor.predict(image)
                    reference = np.asarray(read_labels(options.trial / "cases" / "labels" / image.name).voxels)
                    for record in score_case(reference, mask.voxels, read_image(image).spacing_mm, LABELS):
                        row = [method, run.name.removeprefix("seed-"), case, record.label, record.name]
                        table.writerow([*row, record.dice, record.hd95_mm])


if __name__ == "__main__":
    main()
