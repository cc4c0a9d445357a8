"""A training step of FCN+DSM beside plain FCN: DSM as it is here, and its formulas as they read.

    python benchmarks/training_step.py [--size 512] [--batch 2] [--repeats 10] [--device cuda]
        [--channels-last] [--bf16] [--compile]

A step is forward, published loss, backward and SGD at full width. The networks take turns in one process; what
is printed are medians over FCN's, and on a GPU the peak of the memory above the weights' as well.
"""

import argparse
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from dsnet_med.engine.losses import SegmentationLoss
from dsnet_med.methods import build_network

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
CLASSES = 9


def main() -> None:
    options = arguments()
    device = torch.device(options.device)
    networks = {
        "FCN": build_network("fcn", num_classes=CLASSES),
        "FCN+DSM": build_network("fcn_dsm", num_classes=CLASSES),
        "FCN+DSM, direct": direct("fcn_dsm"),
    }
    steps = {name: Step(network, device, options) for name, network in networks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(options.repeats + 3):
        for name, step in steps.items():
            took = step()
            if repeat >= 3:  # the first ones compile and warm up
                seconds[name].append(took)
        print(".", end="", file=sys.stderr, flush=True)
    report(seconds, steps, device, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--channels-last", action="store_true", help="memory format of images and weights")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    return parser.parse_args()


def direct(method: str) -> nn.Module:
    """The row with the textbook form of its plug-in."""
    from networks.direct import direct_network

    return direct_network(method, in_channels=1, num_classes=CLASSES)


class Step:
    """One network with its optimiser and its batch; a call is one step and gives its seconds."""

    def __init__(self, network: nn.Module, device: torch.device, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.device = device
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        self.network = network.to(device, memory_format=layout).train()
        self.run = torch.compile(self.network) if options.compile else self.network
        self.optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        self.loss = SegmentationLoss()
        shape = (options.batch, 1, options.size, options.size)
        self.images = torch.randn(shape, device=device).contiguous(memory_format=layout)
        self.labels = torch.randint(CLASSES, shape, device=device)
        self.precision = torch.autocast(device.type, torch.bfloat16) if options.bf16 else nullcontext()
        self.peak = 0

    def __call__(self) -> float:
        self.synchronise()
        before = self.allocated()
        started = time.perf_counter()
        with self.precision:
            loss = self.loss(self.run(self.images), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.synchronise()
        seconds = time.perf_counter() - started
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device) - before
        return seconds

    def synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def allocated(self) -> int:
        if self.device.type != "cuda":
            return 0
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)


def report(
    seconds: dict[str, list[float]], steps: dict[str, Step], device: torch.device, options: argparse.Namespace
) -> None:
    where = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    how = ["bf16" if options.bf16 else "fp32", *(["torch.compile"] if options.compile else [])]
    how += ["channels_last"] if options.channels_last else []
    batch = f"{options.batch} slices of {options.size}x{options.size}"
    print("\n" + ", ".join([batch, *how, where, f"torch {torch.__version__}"]))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print("\n| | step, ms | over FCN | extra MB |\n|---|--:|--:|--:|")
    for name, median in medians.items():
        memory = f"{steps[name].peak / 2**20:.0f}" if device.type == "cuda" else "-"
        print(f"| {name} | {1000 * median:.1f} | {median / medians['FCN']:.3f}x | {memory} |")


if __name__ == "__main__":
    main()
