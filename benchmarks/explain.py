"""What `explain` costs beside plain inference: time of each pass, and the largest memory.

    python benchmarks/explain.py [--slices 148] [--size 512] [--width 1.0] [--device cuda]

FCN+DSM with random weights, one volume of noise. `plain` is the predictor as `infer` uses it; `measured` is the
network as it is with gates, maps of every slice and all sums; the others are interventions, an inference each.
"""

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from dsnet_med import build_network
from dsnet_med.explain.records import EVERY, KINDS
from dsnet_med.explain.subject import Plan, Subject
from dsnet_med.inference import Predictor
from dsnet_med.inference.bundle_reader import Model
from dsnet_med.inference.hardware import choose_device
from dsnet_med.inference.probabilities import on_disk
from dsnet_med.inference.slice_model import SliceModel
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.volumes import Volume

CLASSES = ("background", *(f"organ {number}" for number in range(1, 9)))


def predictor(size: int, width: float, device: torch.device, *, fuse: bool) -> Predictor:
    """FCN+DSM for slices of size x size."""
    torch.manual_seed(0)
    network = build_network("fcn_dsm", num_classes=len(CLASSES), width=width).eval()
    rule = Intensity.from_dict({"window": [-3, 3]})
    model = Model(network, (size, size), "resize", (rule,), "superior", CLASSES, 1, "bench")
    made = SliceModel.of(model, device, fuse=fuse)
    return Predictor((made,), "superior", CLASSES, device, fingerprints=("bench",))


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=148)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    device = choose_device(given.device)
    shape = (given.size, given.size, given.slices)
    voxels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    volume = Volume(Path("noise.nii"), shape, np.diag([0.76, 0.76, 3.0, 1.0]), None, voxels)
    plain = predictor(given.size, given.width, device, fuse=True)
    few = Volume(volume.path, (*shape[:2], 1), volume.affine, None, voxels[..., :1])
    plain.segment(few)  # what is loaded once
    base = timed(device, lambda: plain.segment(volume))
    print(f"plain      {base:8.2f} s")
    subject = Subject("bench", "", predictor(given.size, given.width, device, fuse=False), Plan(KINDS), 1)
    with subject, TemporaryDirectory() as folder:
        subject.probe("few", [few], lambda _: None)
        maps = on_disk(Path(folder), (len(subject.maps), *shape), np.float16, "C")
        seconds = timed(device, lambda: subject.intact("noise", [volume], lambda _: None, None, maps))
        print(f"measured   {seconds:8.2f} s  {seconds / base:5.2f} times, {len(subject.maps)} maps")
        for intervention in subject.interventions(EVERY)[:4]:
            work = lambda: subject.altered("noise", [volume], intervention, lambda _: None)  # noqa: B023, E731
            seconds = timed(device, work)
            print(f"{intervention.kind:10} {seconds:8.2f} s  {seconds / base:5.2f} times")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"peak memory {peak:.2f} GB"
        + (f", GPU {torch.cuda.max_memory_allocated() / 1e9:.2f} GB" if device.type == "cuda" else "")
    )


if __name__ == "__main__":
    main()
