"""Sliding a 2-D network over a CT volume: this package beside MONAI's inferers and a plain loop.

    python benchmarks/inference.py [--network tiny|fcn|upernet_mscan_b] [--size 512x512x148]
        [--fit resize|window] [--repeats 3] [--threads 2] [--device cpu] [--json FILE] [--parts]

Every way runs in a process of its own, in turns, on the same volume (int16, 9 classes) and the same weights,
from the raw voxels to class ids in the volume's own order. `tiny` is hardly a network: what is left is the
engine. Memory is the peak over what the process held with network and volume loaded, the mask included.

`--parts` leaves out one part of the engine after the other instead, for one slice, in turns in one process with
one thread, and counts the processor's time, which other programs on the machine disturb less.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from label_maps import SPACING_MM, size_of
from torch import Tensor, nn

from dsnet_med.inference import Predictor
from dsnet_med.inference.bundle_reader import Model
from dsnet_med.inference.slice_model import SliceModel
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.volumes import Volume

CLASSES = 9
OURS = "dsnet-med"
ALONE = "network alone"
WAYS = (
    ALONE,
    OURS,
    "plain loop, argmax",
    "MONAI SliceInferer, argmax",
    "MONAI sliding_window_inference, argmax",
)
WINDOW = (256, 256)


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", choices=("tiny", "fcn", "upernet_mscan_b"), default="tiny")
    parser.add_argument("--size", default="512x512x148")
    parser.add_argument("--fit", choices=("resize", "window"), default="resize")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--way", choices=WAYS, help="measure one, in this process, and print JSON")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measured(options)))
        return
    if options.parts:
        _print_parts(parts(options))
        return
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.repeats):
        for way in WAYS:
            command = [sys.executable, *sys.argv, "--way", way]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows[way].append(json.loads(done.stdout.splitlines()[-1]))
    summary = {way: _summary(values) for way, values in rows.items()}
    _print(summary, size_of(options.size)[2])
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2) + "\n")


def _summary(values: list[dict[str, float]]) -> dict[str, float]:
    return {
        "seconds": min(value["seconds"] for value in values),
        "extra_mb": statistics.median(value["extra_mb"] for value in values),
        "agreement": values[0]["agreement"],
    }


def _print(rows: dict[str, dict[str, float]], slices: int) -> None:
    ours, alone = rows[OURS], rows[ALONE]["seconds"]
    print("| | s a volume | ms a slice | over dsnet-med | its overhead over ours | extra MB | over ours |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for way, row in rows.items():
        overhead = (row["seconds"] - alone) / max(ours["seconds"] - alone, 1e-9)
        cells = [f"{row['seconds']:.2f}", f"{1000 * row['seconds'] / slices:.1f}"]
        cells += [f"{row['seconds'] / ours['seconds']:.2f}", "-" if way == ALONE else f"{overhead:.1f}"]
        cells += [f"{row['extra_mb']:.0f}", f"{row['extra_mb'] / ours['extra_mb']:.1f}"]
        print(f"| {way} | {' | '.join(cells)} |")
    others = {way: row["agreement"] for way, row in rows.items() if way not in (OURS, ALONE)}
    print(f"\nvoxels that agree with a plain loop on the last slice: ours {ours['agreement']:.6f}, {others}")


def measured(options: argparse.Namespace) -> dict[str, float]:
    """One way, once after a slice to warm up."""
    torch.set_num_threads(options.threads)
    shape = size_of(options.size)
    voxels = _volume(shape)
    network = _network(options.network).eval().requires_grad_(False).to(options.device)
    way = _way(options, network)
    way(voxels[..., :1])
    before = _reset_peak()
    begin = time.perf_counter()
    ids = way(voxels)
    seconds = time.perf_counter() - begin
    extra = _peak_mb() - before
    agreement = _agreement(options, network, voxels, ids)
    return {"seconds": seconds, "extra_mb": extra, "agreement": agreement}


def _agreement(options: argparse.Namespace, network: nn.Module, voxels: Any, ids: Any) -> float:
    if ids is None:
        return 1.0
    with torch.inference_mode():
        wanted = _loop(network, options)(voxels[..., -1:])
    return float((wanted[..., 0] == ids[..., -1]).mean())


def parts(options: argparse.Namespace) -> dict[str, list[float]]:
    """The processor's seconds for a slice with the whole engine, and without each of its parts."""
    torch.set_num_threads(1)
    voxels = _volume((*size_of(options.size)[:2], 1))
    whole = SliceModel.of(_model(options, _network(options.network)), torch.device("cpu"))
    plain = replace(whole, network=_network(options.network).eval().to(memory_format=torch.channels_last))
    rows_first = replace(whole, network=copy.deepcopy(whole.network).to(memory_format=torch.contiguous_format))
    rows_first._run = lambda images: rows_first.network(images.contiguous())
    image = _slices(voxels, 0, "cpu")
    volume = Volume(Path("ct"), voxels.shape, np.diag((*SPACING_MM, 1.0)), None, voxels)
    predictor, monai = _predictor(options, whole), _slice_inferer(_network(options.network).eval(), options)
    ways = {
        "the engine: scaled, network, class ids, checks of the mask": lambda: predictor.segment(volume),
        "network and class ids alone": lambda: whole.logits(image).argmax(1),
        "... without class ids": lambda: whole.logits(image),
        "... without fused batch norms": lambda: plain.logits(image).argmax(1),
        "... without channels last in memory": lambda: rows_first.logits(image).argmax(1),
        "MONAI SliceInferer, argmax": lambda: monai(voxels),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with torch.inference_mode():
        for turn in range(options.repeats + 1):
            for way, work in ways.items():
                begin = time.process_time()
                work()
                if turn:  # the first warms up
                    seconds[way].append(time.process_time() - begin)
    return seconds


def _print_parts(rows: dict[str, list[float]]) -> None:
    base = statistics.median(rows["network and class ids alone"])
    print("| | ms a slice, median | least | over network and class ids |\n|---|--:|--:|--:|")
    for way, values in rows.items():
        median = statistics.median(values)
        print(f"| {way} | {1000 * median:.1f} | {1000 * min(values):.1f} | {median / base:.3f} |")


def _volume(shape: tuple[int, int, int]) -> Any:
    """Soft blobs between -200 and 400 HU, (X, Y, Z) in the order of a file."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, 24, 24, 12, generator=generator)
    smooth = nn.functional.interpolate(coarse, shape, mode="trilinear")[0, 0].numpy()
    return np.asfortranarray((600 * smooth - 200).astype(np.int16))


def _network(name: str) -> nn.Module:
    from dsnet_med.methods import build_network
    from dsnet_med.networks import Segmenter

    torch.manual_seed(0)
    if name != "tiny":
        return build_network(name, num_classes=CLASSES)

    class Backbone(nn.Module):
        """One convolution at stride 8."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 16, 9, stride=8, padding=4)
            self.feature_info = type("Info", (), {"channels": lambda _: (16,), "reduction": lambda _: (8,)})()

        def forward(self, x: Tensor) -> list[Tensor]:
            return [self.conv(x).relu()]

    class Head(nn.Module):
        """One class per output."""

        def __init__(self, channels: tuple[int, ...]) -> None:
            super().__init__()
            self.classes = nn.Conv2d(channels[-1], CLASSES, 1)

        def forward(self, features: list[Tensor]) -> Tensor:
            return self.classes(features[-1])

    return Segmenter(Backbone(), Head)


def _scaled(voxels: Any) -> Any:
    return Intensity.from_dict({"window": [-125, 275]}).fit(voxels).apply(voxels)


def _way(options: argparse.Namespace, network: nn.Module) -> Callable[[Any], Any]:
    ways = {
        ALONE: _alone,
        OURS: _ours,
        WAYS[2]: _loop,
        WAYS[3]: _slice_inferer,
        WAYS[4]: _sliding_window,
    }
    return ways[options.way](network, options)


def _slices(voxels: Any, k: int, device: str) -> Tensor:
    """Slice k as a radiologist sees it, (1, 1, H, W)."""
    plane = np.ascontiguousarray(_scaled(voxels[..., k]).T[::-1, ::-1])
    return torch.from_numpy(plane)[None, None].to(device)


def _alone(network: nn.Module, options: argparse.Namespace) -> Callable[[Any], Any]:
    """The network as it runs here, without what happens to its logits."""
    model = SliceModel.of(_model(options, network), torch.device(options.device))

    def run(voxels: Any) -> None:
        with torch.inference_mode():
            for k in range(voxels.shape[2]):
                image = _slices(voxels, k, options.device)
                for place in _places(image.shape[2:], options.fit):
                    model._run(image[:, :, *place])

    return run


def _places(size: tuple[int, int], fit: str) -> list[tuple[slice, ...]]:
    from monai.data.utils import dense_patch_slices

    if fit != "window":
        return [(slice(None), slice(None))]
    return dense_patch_slices(size, WINDOW, [side // 2 for side in WINDOW])


def _ours(network: nn.Module, options: argparse.Namespace) -> Callable[[Any], Any]:
    model = SliceModel.of(_model(options, network), torch.device(options.device))
    predictor = _predictor(options, model)
    affine = np.diag((*SPACING_MM, 1.0))
    return lambda voxels: predictor.segment(Volume(Path("ct"), voxels.shape, affine, None, voxels)).voxels


def _model(options: argparse.Namespace, network: nn.Module) -> Model:
    """What a run folder would hold."""
    size = WINDOW if options.fit == "window" else size_of(options.size)[1::-1]
    names = tuple(f"class{k}" for k in range(CLASSES))
    window = Intensity.from_dict({"window": [-125, 275]})
    return Model(network.eval(), size, options.fit, (window,), "superior", names, 1, "")


def _predictor(options: argparse.Namespace, model: SliceModel) -> Predictor:
    names = tuple(f"class{k}" for k in range(CLASSES))
    device = torch.device(options.device)
    return Predictor((model,), "superior", names, device, 1 if device.type == "cpu" else 8)


def _loop(network: nn.Module, options: argparse.Namespace) -> Callable[[Any], Any]:
    """What one writes first: a slice, its logits, an argmax."""
    from monai.inferers import sliding_window_inference

    def logits(image: Tensor) -> Tensor:
        if options.fit == "window":
            return sliding_window_inference(image, WINDOW, 1, network, 0.5, "gaussian", 0.125)
        return network(image)

    def run(voxels: Any) -> Any:
        ids = np.empty(voxels.shape, np.uint8)
        with torch.inference_mode():
            for k in range(voxels.shape[2]):
                found = logits(_slices(voxels, k, options.device)).argmax(1)
                ids[..., k] = found[0].cpu().numpy().astype(np.uint8)[::-1, ::-1].T
        return ids

    return run


def _stack(voxels: Any, device: str) -> Tensor:
    """The volume as MONAI's transforms hand it over, (1, 1, H, W, D) float32."""
    turned = np.ascontiguousarray(_scaled(voxels).transpose(1, 0, 2)[::-1, ::-1])
    return torch.from_numpy(turned)[None, None].to(device)


def _back(logits: Tensor) -> Any:
    ids = logits.argmax(1)[0].cpu().numpy().astype(np.uint8)
    return ids[::-1, ::-1].transpose(1, 0, 2)


def _slice_inferer(network: nn.Module, options: argparse.Namespace) -> Callable[[Any], Any]:
    from monai.inferers import SliceInferer

    windowed = options.fit == "window"
    size = WINDOW if windowed else size_of(options.size)[1::-1]
    how = {"overlap": 0.5, "mode": "gaussian"} if windowed else {"overlap": 0.0}
    inferer = SliceInferer(roi_size=size, sw_batch_size=1, spatial_dim=2, **how)

    def run(voxels: Any) -> Any:
        with torch.inference_mode():
            return _back(inferer(_stack(voxels, options.device), network))

    return run


def _sliding_window(network: nn.Module, options: argparse.Namespace) -> Callable[[Any], Any]:
    """MONAI's function on the slices as a batch, (D, 1, H, W): logits of all of them, then an argmax."""
    from monai.inferers import sliding_window_inference

    size = WINDOW if options.fit == "window" else size_of(options.size)[1::-1]
    overlap = 0.5 if options.fit == "window" else 0.0

    def run(voxels: Any) -> Any:
        with torch.inference_mode():
            stack = _stack(voxels, options.device)[0].permute(3, 0, 1, 2).contiguous()
            logits = sliding_window_inference(stack, size, 1, network, overlap, "gaussian", 0.125)
            ids = logits.argmax(1).cpu().numpy().astype(np.uint8)
        return ids[:, ::-1, ::-1].transpose(2, 1, 0)

    return run


def _reset_peak() -> float:
    """Forget the highest memory so far; returns what is held now, in MB."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _peak_mb() -> float:
    return _status("VmHWM")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
