"""What `explain` takes on one CT volume, beside plain inference: seconds and memory, and whether slices count.

    python benchmarks/explain.py [--size 512x512x148] [--quick] [--repeats 1] [--threads 2] [--device cpu]
        [--json FILE]

FCN+DSM at full width, random weights, 9 classes, file to file. Three ways, each in a process of its own, on the
first quarter of the slices, the first half, and all of them: `infer` writes the mask; `maps` measures the
plug-ins and writes explain.json and its pictures, without interventions; `interventions` adds each of the four
once, on all plug-ins together, and tells when each inference was done. There is no reference: scores take
their own time. Memory is the peak over what the process held with the network loaded. `--quick` rehearses.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from inference import CLASSES, _peak_mb, _reset_peak, _volume
from label_maps import SPACING_MM, size_of

from dsnet_med.explain.run import explain
from dsnet_med.inference import Predictor
from dsnet_med.inference.bundle_reader import Model
from dsnet_med.inference.slice_model import SliceModel
from dsnet_med.methods import build_network
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.volumes import read_image, write_image

WAYS = ("infer", "maps", "interventions")
STAGES = ("identity", "maps", "mean", "other", "shuffled")  # in the order in which `explain` walks them
KINDS = ("identity", "mean", "other", "shuffled")


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="512x512x148")
    parser.add_argument("--quick", action="store_true", help="64x64x16, a sixteenth of the width")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS, help="measure one, in this process, and print JSON")
    parser.add_argument("--slices", type=int, help="the slices of that one")
    options = parser.parse_args()
    if options.quick:
        options.size = "64x64x16"
    if options.way:
        print(json.dumps(measured(options)))
        return
    slices = size_of(options.size)[2]
    found: dict[str, dict[str, Any]] = {}
    for count in (slices // 4, slices // 2, slices):
        values: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for _ in range(options.repeats):
            for way in WAYS:
                command = [sys.executable, *sys.argv, "--way", way, "--slices", str(count)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                values[way].append(json.loads(done.stdout.splitlines()[-1]))
        found[str(count)] = {way: _least(each) for way, each in values.items()}
        _print(count, found[str(count)])
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _least(values: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several runs: the quickest, with the median of their memory."""
    extra = statistics.median(value["extra_mb"] for value in values)
    return min(values, key=lambda value: value["seconds"]) | {"extra_mb": extra}


def _print(slices: int, rows: dict[str, dict[str, Any]]) -> None:
    plain = rows["infer"]["seconds"]
    print(f"\n| {slices} slices | s | over infer | extra MB |\n|---|--:|--:|--:|")
    for way, row in rows.items():
        print(f"| {way} | {row['seconds']:.1f} | {row['seconds'] / plain:.2f} | {row['extra_mb']:.0f} |")
    for stage, seconds in rows["interventions"]["stages"].items():
        print(f"| - {stage} | {seconds:.1f} | {seconds / plain:.2f} | |")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """One way, once, after one on two slices to warm up."""
    torch.set_num_threads(options.threads)
    shape = size_of(options.size)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        small, whole = (_written(folder, shape, count) for count in (2, options.slices))
        work = _way(options, folder)
        work(small, lambda _done, _all: None)
        times: list[tuple[float, float]] = []
        before = _reset_peak()
        began = time.perf_counter()
        work(whole, lambda done, _all: times.append((done, time.perf_counter() - began)))
        seconds = time.perf_counter() - began
        extra = _peak_mb() - before
    return {"seconds": seconds, "extra_mb": extra, "stages": _stages(times, seconds)}


def _stages(times: list[tuple[float, float]], seconds: float) -> dict[str, float]:
    """The seconds of each inference, of when how much was done; of `probe` before them, and `report` after."""
    if not times or times[-1][0] < len(STAGES) - 0.5:  # without interventions
        return {}
    ends = [next(at for done, at in times if done >= number - 1e-6) for number in range(1, len(STAGES) + 1)]
    first_image = times[1][1] - times[0][1] if len(times) > 1 else 0.0
    starts = [max(0.0, times[0][1] - first_image), *ends]
    lasted = {stage: end - start for stage, start, end in zip(STAGES, starts, ends, strict=False)}
    return {"probe": starts[0]} | lasted | {"report": seconds - ends[-1]}


def _written(folder: Path, shape: tuple[int, int, int], slices: int) -> Path:
    file = folder / f"ct{slices}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(_volume((*shape[:2], slices)), np.diag((*SPACING_MM, 1.0))), file)
    return file


def _way(options: argparse.Namespace, folder: Path) -> Callable[[Path, Callable[[float, float], None]], None]:
    """From the file of a volume to what the way writes; it tells how much is done."""
    predictor = _predictor(options, fuse=options.way == "infer")

    def infer(file: Path, _tell: Callable[[float, float], None]) -> None:
        mask = predictor.segment(read_image(file))
        write_image(folder / "mask.nii.gz", mask.voxels, mask.affine)

    def explained(file: Path, tell: Callable[[float, float], None]) -> None:
        kinds = () if options.way == "maps" else KINDS
        how: dict[str, Any] = {"each": False, "shuffles": 1, "overwrite": True, "tell": tell}
        explain([predictor], [file], folder / "explained", interventions=kinds, **how)

    return infer if options.way == "infer" else explained


def _predictor(options: argparse.Namespace, fuse: bool) -> Predictor:
    """FCN+DSM, with its batch norms in the convolutions as `infer` has it, or as `explain` has it."""
    torch.manual_seed(0)
    width = 1 / 16 if options.quick else 1.0
    network = build_network("fcn_dsm", num_classes=CLASSES, width=width).eval()
    size, names = size_of(options.size)[1::-1], tuple(f"class{k}" for k in range(CLASSES))
    model = Model(
        network, size, "resize", (Intensity.from_dict({"window": [-125, 275]}),), "superior", names, 1, ""
    )
    device = torch.device(options.device)
    batch = 1 if device.type == "cpu" else 8
    return Predictor((SliceModel.of(model, device, fuse=fuse),), "superior", names, device, batch)


if __name__ == "__main__":
    main()
