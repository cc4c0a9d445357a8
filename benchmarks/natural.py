"""Training images per second of the rows on natural images, and of DSM's formulas as they read.

    python benchmarks/natural.py [--task imagenet|cityscapes|coco] [--full] [--batch N] [--repeats N]
        [--size HxW] [--width W] [--device cuda] [--amp] [--channels-last] [--table [FILE]]

A step is forward, the task's loss, backward and SGD, on random images and labels, at full width. The
networks of a task take turns in one process; what is printed are medians. Sizes suit a CPU; `--full` takes
the published ones. Parameters and GMAC are those of the row at full width and the published size. `--table`
writes the table of docs/natural.md.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.methods import build_network, method_row, natural_method_ids
from dsnet_med.natural import cityscapes, coco

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
START, END = "<!-- natural images: benchmarks/natural.py --table -->\n", "\n<!-- end of natural images -->"
WARM_UP = 3  # steps of each network: the first ones compile and find their memory
BOXES = 8  # in every image of COCO's shape
CLASSES = {"cityscapes": 19, "coco": 80, "imagenet": 1000}
SMALL = {"cityscapes": (2, "192x384"), "coco": (2, "192x256"), "imagenet": (4, "224x224")}  # batch, size
FULL = {"cityscapes": (2, "512x1024"), "coco": (2, "800x1280"), "imagenet": (32, "224x224")}
PRINTED = {  # label and images per second over ResNet50's, as published; A and B are swapped there
    "imagenet/resnet50": "ResNet50, 1.00",
    "imagenet/fcanet50": "FcaNet50, 0.62",
    "imagenet/dsnet50_a": "DSNet50-B, 0.85",
    "imagenet/dsnet50_b": "DSNet50-A, 1.12",
}
SWAPPED = (
    "Published are the label in the publication's table and its ratio. The labels A and B of that table are "
    "swapped:\n"
    "imagenet/dsnet50_a is printed there as DSNet50-B, imagenet/dsnet50_b as DSNet50-A."
)


def main() -> None:
    options = arguments()
    device = torch.device(options.device)
    print(", ".join([*how(options), where(device), f"torch {torch.__version__}"]))
    rates: dict[str, float] = {}
    for task in [options.task] if options.task else CLASSES:
        measured = measure(task, device, options)
        print(f"\n{comparison(task, measured, options)}", flush=True)
        rates |= measured
    if options.table:
        write_table(options.table, rates)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=CLASSES, help="one of the three")
    parser.add_argument("--full", action="store_true", help="the published batches and sizes")
    parser.add_argument("--batch", type=int, help="images in a step, at least 2")
    parser.add_argument("--size", help="of the images, HxW")
    parser.add_argument("--width", type=float, default=1.0, help="of all channels that are trained")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--amp", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--channels-last", action="store_true", help="memory format of images and weights")
    page = ROOT / "docs" / "natural.md"
    parser.add_argument("--table", nargs="?", type=Path, const=page, metavar="FILE", help="write its table")
    options = parser.parse_args()
    if options.batch == 1:
        parser.error(
            "--batch is at least 2: the batch norm of DSM's selective kernel sees one value per channel"
        )
    if options.table and (options.task or options.width != 1):
        parser.error("--table is of all tasks at full width: leave out --task and --width")
    if options.table and START not in options.table.read_text(encoding="utf-8"):
        parser.error(f"{options.table} has no line {START.strip()}")
    return options


def how(options: argparse.Namespace) -> list[str]:
    layout = ["channels_last"] if options.channels_last else []
    return ["bf16" if options.amp else "fp32", *layout, *([f"width {options.width:g}"] * (options.width != 1))]


def where(device: torch.device) -> str:
    threads = f"{torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'}, {threads}"


def rows_of(task: str) -> list[str]:
    return [row for row in natural_method_ids() if row.startswith(f"{task}/")]


def forms_of(task: str) -> dict[str, Callable[..., nn.Module]]:
    """What builds each row, called with its id and options; rows with DSM also in the textbook form."""
    from networks.direct import direct_network

    forms: dict[str, Callable[..., nn.Module]] = {}
    for row in rows_of(task):
        forms[row] = build_network
        if "DSM" in method_row(row)["method_card"]["plugin"]:
            forms[f"{row}, direct"] = direct_network
    return forms


def build(name: str, form: Callable[..., nn.Module], width: float = 1.0) -> nn.Module:
    row = name.partition(",")[0]
    return form(row, in_channels=3, num_classes=CLASSES[row.partition("/")[0]], width=width)


def shape_of(task: str, options: argparse.Namespace) -> tuple[int, int, int]:
    """Images, height and width of a batch."""
    batch, size = (FULL if options.full else SMALL)[task]
    height, width = (int(n) for n in (options.size or size).split("x"))
    return options.batch or batch, height, width


def measure(task: str, device: torch.device, options: argparse.Namespace) -> dict[str, float]:
    """Images per second of every form of every row, from the median of their steps, in turns."""
    shape = shape_of(task, options)
    steps = {name: Step(name, form, shape, device, options) for name, form in forms_of(task).items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(options.repeats + WARM_UP):
        for name, step in steps.items():
            took = step(repeat)
            if repeat >= WARM_UP:
                seconds[name].append(took)
        print(".", end="", file=sys.stderr, flush=True)
    return {name: shape[0] / statistics.median(values) for name, values in seconds.items()}


class Step:
    """One network with its optimiser and its batch; a call is one step and gives its seconds."""

    def __init__(
        self,
        name: str,
        form: Callable[..., nn.Module],
        shape: tuple[int, int, int],
        device: torch.device,
        options: argparse.Namespace,
    ) -> None:
        torch.manual_seed(0)
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        network = build(name, form, options.width)
        self.task, self.device = name.partition("/")[0], device
        if self.task == "coco":  # images keep their size, as 800x1280 does under the published 800 and 1333
            network.transform.min_size, network.transform.max_size = (min(shape[1:]),), max(shape[1:])
        self.network = network.to(device, memory_format=layout).train()
        # Small steps: the loss of random labels stays finite, and the networks stay what they are at the start.
        self.optimizer = torch.optim.SGD(network.parameters(), lr=1e-5, momentum=0.9, weight_decay=1e-4)
        self.inputs, self.labels = random_batch(self.task, shape, device, layout)
        self.precision = torch.autocast(device.type, torch.bfloat16) if options.amp else nullcontext()

    def __call__(self, seed: int) -> float:
        torch.manual_seed(seed)  # a detector samples anchors and regions
        self.synchronise()
        started = time.perf_counter()
        with self.precision:
            loss = LOSSES[self.task](self.network(*self.inputs), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.synchronise()
        return time.perf_counter() - started

    def synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


LOSSES: dict[str, Callable[[Any, Any], Tensor]] = {
    "cityscapes": cityscapes.loss,
    "coco": coco.loss,
    "imagenet": F.cross_entropy,
}


def random_batch(
    task: str, shape: tuple[int, int, int], device: torch.device, layout: torch.memory_format
) -> tuple[tuple[Any, ...], Tensor | None]:
    """What the network of a task takes, and the labels of its loss: the same in every call."""
    random = torch.Generator().manual_seed(0)
    batch, height, width = shape
    images = torch.rand(batch, 3, height, width, generator=random).to(device)
    if task == "coco":
        return (list(images), [random_boxes(height, width, device, random) for _ in range(batch)]), None
    of_each = (height, width) if task == "cityscapes" else ()
    labels = torch.randint(CLASSES[task], (batch, *of_each), generator=random).to(device)
    return (images.contiguous(memory_format=layout),), labels


def random_boxes(height: int, width: int, device: torch.device, random: torch.Generator) -> dict[str, Tensor]:
    """The target of an image: boxes of a tenth to a half of its sides, and their labels from 1."""
    corners, sides = torch.rand(2, BOXES, 2, generator=random)
    corners, sides = corners / 2, 0.1 + 0.4 * sides
    boxes = torch.cat([corners, corners + sides], dim=1) * torch.tensor([width, height, width, height])
    labels = torch.randint(1, CLASSES["coco"] + 1, (BOXES,), generator=random)
    return {"boxes": boxes.to(device), "labels": labels.to(device)}


def on_meta(name: str, form: Callable[..., nn.Module] = build_network) -> nn.Module:
    with torch.device("meta"):
        return build(name, form)


def count_parameters(network: nn.Module) -> int:
    """Without the auxiliary head of training, as published."""
    return sum(
        parameter.numel() for name, parameter in network.named_parameters() if not name.startswith("auxiliary.")
    )


def gmac(network: nn.Module, task: str) -> float:
    """Multiply-accumulates of one image of the published size, in 10^9."""
    from networks.counting import natural_multiply_accumulates

    return natural_multiply_accumulates(network, task) / 1e9


def comparison(task: str, rates: dict[str, float], options: argparse.Namespace) -> str:
    batch, height, width = shape_of(task, options)
    published = task == "imagenet"
    lines = [
        f"{task}: {batch} images of {height}x{width}\n",
        "| row | parameters | GMAC, published form | GMAC | images/s | over ResNet50 |"
        + " published |" * published,
        "|---|--:|--:|--:|--:|--:|" + "--:|" * published,
    ]
    for name, form in forms_of(task).items():
        network = on_meta(name, form)
        row = name.partition(",")[0]
        cells = [name, f"{count_parameters(network):,}", f"{method_row(row)['method_card']['flops'] / 1e9:.3f}"]
        cells += [f"{gmac(network, task):.3f}", *speed(name, rates)]
        cells += [PRINTED.get(name, "-")] * published
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *[f"\n{SWAPPED}"] * published])


def speed(name: str, rates: dict[str, float]) -> tuple[str, str]:
    """Images per second, and over those of the task's ResNet50."""
    plain = rates[f"{name.partition('/')[0]}/resnet50"]
    return f"{rates[name]:#.3g}" if rates[name] < 100 else f"{rates[name]:.0f}", f"{rates[name] / plain:.2f}"


def table(rates: dict[str, float]) -> str:
    lines = [
        "| task | row | parameters | published | GMAC | published | images/s | over ResNet50 |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in natural_method_ids():
        card, network = method_row(row)["method_card"], on_meta(row)
        printed = card["published"]
        cells = [card["task"], f"`{row}`", f"{count_parameters(network):,}", printed["parameters"]]
        cells += [f"{gmac(network, card['task']):.3f}", printed["flops"], *speed(row, rates)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_table(file: Path, rates: dict[str, float]) -> None:
    before, _, rest = file.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    file.write_text(before + START + table(rates) + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
