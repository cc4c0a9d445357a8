"""Sliding a 3-D network over a CT volume: this package beside MONAI's sliding windows and a plain loop.

    python benchmarks/volumes_3d.py [--size 512x512x300] [--patch 48x128x128] [--classes 2,105]
        [--threads 2] [--cap-gb 20] [--ways ...] [--json FILE]

Every way runs in a process of its own, one after the other, on the same volume (float32) and the same
weights, from scaled voxels to class ids: windows half overlapping, weighted by a Gaussian. The network is
hardly one: what is left is the engine. A process may have `--cap-gb` of address space, which a way
that asks for more does not survive. Memory is the peak of a process, less what it held with the volume loaded.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.utils import compute_importance_map
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor, nn

from dsnet_med.inference.windows import window_labels

OURS, MONAI, PLAIN = "dsnet-med", "MONAI sliding_window_inference", "plain loop"
_ENOUGH = 0.9999  # of the voxels


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="512x512x300")
    parser.add_argument("--patch", default="48x128x128")
    parser.add_argument("--classes", default="2,105")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cap-gb", type=float, default=20.0)
    parser.add_argument("--ways", default=",".join(_WAYS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        _measure(options, *options.one)
        return
    found = []
    for classes in map(int, options.classes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            results = [_in_a_process(options, way, classes, Path(folder)) for way in options.ways.split(",")]
            _print(classes, results, Path(folder))
            found += results
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def _in_a_process(options: argparse.Namespace, way: str, classes: int, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--size", options.size, "--patch", options.patch]
    command += ["--threads", str(options.threads), "--cap-gb", str(options.cap_gb)]
    one = json.dumps({"way": way, "classes": classes})
    before = os.getloadavg()[0]
    done = subprocess.run([*command, "--one", one, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1][:120] if done.stderr.strip() else f"code {done.returncode}"
        return {"way": way, "classes": classes, "failed": why, "load": before}
    return {**json.loads(done.stdout.splitlines()[-1]), "load": before}


def _print(classes: int, results: list[dict[str, Any]], folder: Path) -> None:
    print(f"{classes} classes")
    own = next((each for each in results if each["way"] == OURS and "failed" not in each), None)
    for each in results:
        if "failed" in each:
            print(f"  {each['way']:32} did not end: {each['failed']}")
            continue
        ratios = ""
        if own and each is not own:
            same = float((_mask(folder, own) == _mask(folder, each)).mean())
            ratios = (
                f"; {each['mb'] / own['mb']:.1f} times the memory, "
                f"{each['seconds'] / own['seconds']:.2f} times the time, {same:.4%} of the voxels are the same"
            )
            ratios += "" if same >= _ENOUGH else " (TOO FEW)"
        print(f"  {each['way']:32} {each['seconds']:7.1f} s {each['mb']:8.0f} MB{ratios}")


def _mask(folder: Path, result: dict[str, Any]) -> NDArray[np.uint8]:
    return np.load(folder / f"{result['mask']}.npy", mmap_mode="r")


def _measure(options: argparse.Namespace, one: str, folder: str) -> None:
    """One way in this process: its result as a line of JSON, its mask as a file."""
    wanted = json.loads(one)
    torch.set_num_threads(options.threads)
    width, height, count = map(int, options.size.split("x"))
    volume = _volume((count, height, width))
    cap = int(options.cap_gb * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (cap, cap))
    network = _network(wanted["classes"])
    patch = tuple(map(int, options.patch.split("x")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    with torch.inference_mode():
        labels = _WAYS[wanted["way"]](volume, network, patch).to(torch.uint8).numpy()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    name = hashlib.sha256(wanted["way"].encode()).hexdigest()[:16]
    np.save(Path(folder) / f"{name}.npy", labels)
    print(json.dumps({**wanted, "seconds": seconds, "mb": (peak - before) / 1024, "mask": name}))


def _volume(shape: tuple[int, int, int]) -> Tensor:
    """Smooth values from 0 to 1, (1, D, H, W)."""
    coarse = torch.rand(1, 1, *(max(2, n // 16) for n in shape), generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, shape, mode="trilinear")[0]


def _network(classes: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, classes, 1)]
    return nn.Sequential(*layers).eval()


def _ours(volume: Tensor, network: nn.Module, patch: tuple[int, ...]) -> Tensor:
    return window_labels(volume, network, patch, decide=lambda scores: scores.argmax(0).to(torch.uint8))


def _monai(volume: Tensor, network: nn.Module, patch: tuple[int, ...]) -> Tensor:
    logits = sliding_window_inference(volume[None], patch, 1, network, 0.5, "gaussian", 0.125)
    return torch.as_tensor(logits)[0].argmax(0)


def _plain(volume: Tensor, network: nn.Module, patch: tuple[int, ...]) -> Tensor:
    """All sums of the volume, as one would write it first."""
    weights = compute_importance_map(patch, "gaussian", 0.125)
    total, shares = torch.zeros(0), torch.zeros(volume.shape[1:])
    starts = [
        [min(start, max(n - p, 0)) for start in range(0, max(n - p, 0) + p // 2, p // 2)]
        for n, p in zip(volume.shape[1:], patch, strict=True)
    ]
    for place in product(*(sorted(set(each)) for each in starts)):
        window = tuple(slice(start, start + p) for start, p in zip(place, patch, strict=True))
        logits = network(volume[(slice(None), *window)][None])[0]
        if total.ndim == 1:
            total = torch.zeros(len(logits), *volume.shape[1:])
        total[(slice(None), *window)] += logits * weights
        shares[window] += weights
    return (total / shares).argmax(0)


_WAYS: dict[str, Callable[[Tensor, nn.Module, tuple[int, ...]], Tensor]] = {
    OURS: _ours,
    MONAI: _monai,
    PLAIN: _plain,
}

if __name__ == "__main__":
    main()
