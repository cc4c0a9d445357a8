"""One slice through every form of a network: eager, as `infer` runs it, ONNX, .pt2 and TorchScript.

    python benchmarks/export.py [--method fcn_dsm] [--size 512x512] [--width 1.0] [--batch 1] [--repeats 5]
        [--threads 2] [--json FILE]

The network is a row of the comparison with drawn weights. Each form is written and opened by the code of
`export`, and all run in turns in this process on the CPU, on the same slices; the first turn is not counted.
Milliseconds are for one slice, the middle of the turns. What forms cost to write and to open is printed beside.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsnet_med import build_network
from dsnet_med.engine.export.formats import (
    FORMATS,
    Plain,
    graph_of,
    open_torchscript,
    version_of,
    write_torchscript,
)
from dsnet_med.engine.export.inputs import made_up_images
from dsnet_med.engine.scripted import scripted
from dsnet_med.inference.fuse_batch_norm import fuse_batch_norm

Run = Callable[[Tensor], Tensor]


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", default="fcn_dsm")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    height, width = map(int, options.size.split("x"))
    torch.manual_seed(0)
    network = build_network(options.method, num_classes=9, width=options.width).eval().requires_grad_(False)
    images = made_up_images((height, width), options.batch)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        ways, costs = _ways(network, images[:1], Path(folder))
        differences = _differences(ways, images)
        durations = _in_turns(ways, images, options.repeats)
    rows = [
        {
            "form": name,
            "ms_per_slice": 1000 * statistics.median(durations[name]) / options.batch,
            "of_eager": statistics.median(durations[name]) / statistics.median(durations["eager"]),
            "largest_difference": differences[name],
            **costs.get(name, {}),
        }
        for name in ways
    ]
    head = f"{options.method}, width {options.width:g}, {options.batch} x {options.size}"
    head += f", {options.threads} threads"
    print(head)
    for row in rows:
        speed = f"{row['ms_per_slice']:8.1f} ms a slice, {row['of_eager']:.2f} of eager"
        cost = (
            f", written in {row['write_s']:.1f} s, opened in {row['open_s']:.1f} s" if "write_s" in row else ""
        )
        print(f"{row['form']:20} {speed}, logits within {row['largest_difference']:.1e}{cost}")
    if options.json:
        options.json.write_text(json.dumps({"run": head, "rows": rows}, indent=1))


def _ways(
    network: torch.nn.Module, example: Tensor, folder: Path
) -> tuple[dict[str, Run], dict[str, dict[str, float]]]:
    """Every form by its name, and what it took to write and open it."""
    grey = Plain(network, 1).eval()
    fused = fuse_batch_norm(copy.deepcopy(network), example).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ways: dict[str, Run] = {
        "eager": grey,
        "as infer runs it": lambda images: fused(images.contiguous(memory_format=torch.channels_last)),
    }
    costs: dict[str, dict[str, float]] = {}
    size = example.shape[-2:]
    begun = time.perf_counter()
    with torch.inference_mode(False), torch.no_grad():
        graph = graph_of(grey, example.clone(), any_size=True)
    made = time.perf_counter() - begun
    forms: list[tuple[str, Callable[[Path], Any], Callable[[Path], Run]]] = [
        (version_of(form), lambda file, form=form: form.write(graph, file), form.open) for form in FORMATS
    ]
    forms.append(
        (
            "torch.jit, volumes",
            lambda file: write_torchscript(scripted(network, size), {}, file),
            open_torchscript,
        )
    )
    for number, (name, write, opened) in enumerate(forms):
        file = folder / f"model{number}.bin"
        begun = time.perf_counter()
        with torch.inference_mode(False), torch.no_grad():
            write(file)
            written = time.perf_counter()
            ways[name] = opened(file)
        costs[name] = {
            "write_s": written - begun + (made if number < len(FORMATS) else 0.0),
            "open_s": time.perf_counter() - written,
        }
    return ways, costs


def _differences(ways: dict[str, Run], images: Tensor) -> dict[str, float]:
    wanted = ways["eager"](images)
    return {name: float((run(images) - wanted).abs().max()) for name, run in ways.items()}


def _in_turns(ways: dict[str, Run], images: Tensor, repeats: int) -> dict[str, list[float]]:
    durations: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, run in ways.items():
            begun = time.perf_counter()
            run(images)
            if turn:
                durations[name].append(time.perf_counter() - begun)
    return durations


if __name__ == "__main__":
    main()
