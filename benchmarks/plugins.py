"""Every plug-in against the textbook form of the same function: arithmetic, time and extra memory.

    python benchmarks/plugins.py [--size 2x512x64x64] [--repeats 7] [--only DSM] [--table]

Both forms have the same weights' shapes and run in turns in one process; memory is the resident peak above the
start, in a fresh process each (Linux). `--table` writes the table of docs/plugins.md. One thread.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dsnet_med.networks import plugins

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

OPTIONS = {  # the arguments of the table rows, where they are not the defaults
    "DSM": {"bias": True},
    "PSA, parallel": {"mode": "parallel"},
    "PSA, sequential": {"mode": "sequential"},
    "CrissCross": {"recurrence": 2},
}
SUBJECTS = (
    "SE", "ECA", "CBAM", "Encoding", "PSA, parallel", "PSA, sequential", "DSM", "PooledDSM", "GlobalContext",
    "Hamburger", "ExternalAttention", "CrissCross", "PositionAttention", "ChannelAttention", "FrequencyChannel",
)  # fmt: skip
START, END = "<!-- plug-ins: benchmarks/plugins.py --table -->\n", "\n<!-- end of plug-ins -->"


def main() -> None:
    options = arguments()
    size = tuple(int(n) for n in options.size.split("x"))
    torch.set_num_threads(1)
    if options.one:
        print(json.dumps(memory(*options.one.split(":"), size)))
        return
    keep_freed_memory()
    rows = [measure(name, size, options.repeats) for name in SUBJECTS if options.only in (None, name)]
    title = f"{options.size}, float32, one thread, {platform.machine()}, torch {torch.__version__}"
    print(f"{title}\n\n{comparison(rows)}")
    if options.table:
        write_table(rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="2x512x64x64")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=SUBJECTS, help="one plug-in")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def keep_freed_memory() -> None:
    """Freed blocks stay here: else page faults, which vary, take most of the time of small plug-ins."""
    libc = ctypes.CDLL("libc.so.6")
    no_mapped_blocks, never_trim = (-4, 0), (-1, 2**31 - 1)
    libc.mallopt(*no_mapped_blocks)
    libc.mallopt(*never_trim)


def build(name: str, form: str, channels: int) -> nn.Module:
    """The plug-in, `ours` or `textbook`; FcaNet's for maps of 7x7 pooled frequencies, as in stage 4."""
    kind = getattr(plugins, name.partition(",")[0])
    if form == "textbook":
        file = kind.__module__.rpartition(".")[2]
        kind = getattr(import_module(f"networks.textbook.{file}"), f"Textbook{kind.__name__}")
    network: nn.Module = kind(channels, **OPTIONS.get(name, {}))
    return network


def measure(name: str, size: tuple[int, ...], repeats: int) -> dict[str, float | str]:
    forms = {form: build(name, form, size[1]) for form in ("textbook", "ours")}
    row: dict[str, float | str] = {"name": name, "parameters": count_parameters(forms["ours"])}
    for form in forms:
        row[f"{form} flops"] = flops(partial(build, name, form), size)
    forward, both = (times(forms, size, repeats, backward) for backward in (False, True))
    for form in forms:
        row[f"{form} forward"], row[f"{form} both"] = forward[form], both[form]
        row |= {f"{form} {key}": value for key, value in fresh(name, form, size).items()}
    print(".", end="", file=sys.stderr, flush=True)
    return row


def count_parameters(plugin: nn.Module) -> int:
    return sum(parameter.numel() for parameter in plugin.parameters())


def flops(factory: partial[nn.Module], size: tuple[int, ...]) -> float:
    """Multiply-accumulates of one forward pass, in 10^9."""
    with torch.device("meta"):
        plugin = factory(size[1]).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plugin(torch.zeros(size, device="meta"))
    return counter.get_total_flops() / 2e9


def times(forms: dict[str, nn.Module], size: tuple[int, ...], repeats: int, backward: bool) -> dict[str, float]:
    """Median seconds of each form, in turns."""
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    image = torch.randn(size)
    for repeat in range(repeats + 1):
        for form, plugin in forms.items():
            started = time.perf_counter()
            step(plugin, image, backward)
            if repeat:  # the first one warms up
                seconds[form].append(time.perf_counter() - started)
    return {form: statistics.median(values) for form, values in seconds.items()}


def step(plugin: nn.Module, image: torch.Tensor, backward: bool) -> None:
    if not backward:
        with torch.no_grad():
            plugin.eval()(image)
        return
    image = image.detach().requires_grad_()
    plugin.train()(image).sum().backward()


def fresh(name: str, form: str, size: tuple[int, ...]) -> dict[str, float]:
    """`memory` in a process of its own, where freed blocks go back to the system at once."""
    command = [sys.executable, __file__, "--one", f"{name}:{form}", "--size", "x".join(map(str, size))]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    peaks: dict[str, float] = json.loads(done.stdout)
    return peaks


def memory(name: str, form: str, size: tuple[int, ...]) -> dict[str, float]:
    """MB above the start at the peak of one step; the start holds weights, input and gradients already."""
    plugin, image = build(name, form, size[1]), torch.randn(size)
    peaks = {}
    for key, backward in (("forward MB", False), ("both MB", True)):
        step(plugin, image, backward)
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
        start = status("VmRSS")
        step(plugin, image, backward)
        peaks[key] = status("VmHWM") - start
    return peaks


def status(key: str) -> float:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"{key}:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


def comparison(rows: list[dict[str, float | str]]) -> str:
    """Ours, then in brackets ours over textbook."""
    lines = [
        "| plug-in | GMAC | forward, ms | forward + backward, ms | extra MB forward | extra MB both |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = [
            ratio(row, "flops", 1, 3),
            ratio(row, "forward", 1000, 1),
            ratio(row, "both", 1000, 1),
            ratio(row, "forward MB", 1, 0),
            ratio(row, "both MB", 1, 0),
        ]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratio(row: dict[str, float | str], key: str, factor: float, digits: int) -> str:
    ours, textbook = float(row[f"ours {key}"]), float(row[f"textbook {key}"])
    relative = f"{ours / textbook:.2f}x" if textbook > 0 else "-"
    return f"{ours * factor:.{digits}f} ({relative})"


def table(rows: list[dict[str, float | str]]) -> str:
    lines = [
        "| plug-in | parameters | GMAC | forward, ms | training step, ms | extra MB in training |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['name']} | {row['parameters']:,} | {row['ours flops']:.3f} "
        f"| {1000 * float(row['ours forward']):.0f} | {1000 * float(row['ours both']):.0f} "
        f"| {row['ours both MB']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def write_table(rows: list[dict[str, float | str]]) -> None:
    file = ROOT / "docs" / "plugins.md"
    before, _, rest = file.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    file.write_text(before + START + table(rows) + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
