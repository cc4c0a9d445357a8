"""Run by an environment that has MONAI Label: `in_monai_label.py JOB.json` trains, segments, or both.

A job is {"bundle": folder, "train": {"items": [], "request": {}}, "infer": [[image, extension, output], ...]};
what is said of the bundle goes into JOB.said.json.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask


class Handed:
    """What a datastore says to a training."""

    def __init__(self, items: list[dict[str, str]]) -> None:
        self.items = items

    def datalist(self) -> list[dict[str, Any]]:
        return [{**item, "image_meta": {}, "label_meta": {}} for item in self.items]


def main(job: dict[str, Any]) -> dict[str, Any]:
    folder = job["bundle"]
    told: dict[str, Any] = {}
    if "train" in job:
        task = BundleTrainTask(folder, {})
        request = {"model": Path(folder).name, "device": "cpu", **job["train"]["request"]}
        told["valid"], told["models"] = task.is_valid(), task.config()["model_filename"]
        task(request, Handed(job["train"]["items"]))
    if "infer" in job:
        infer = BundleInferTask(folder, {})
        told |= {"labels": infer.labels, "dimension": infer.dimension, "type": str(infer.type)}
        for image, extension, output in job["infer"]:
            request = {"model": Path(folder).name, "device": "cpu", "image": image}
            file, _ = infer(request | {"result_extension": extension})
            shutil.copyfile(file, output)
    return told


if __name__ == "__main__":
    said = main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    Path(sys.argv[1]).with_suffix(".said.json").write_text(json.dumps(said), encoding="utf-8")
