"""What `train` costs over the bare loop, beside MONAI's trainer; its loader; FCN+DSM over FCN. On a CPU.

    python benchmarks/training.py [--quick] [--threads 2] [--steps 30] [--only step loader network]

All in one run, in turns, medians. `--quick` rehearses with small sizes.

*step*: the trainer of a real run against the same network, loss and optimiser in a bare loop on a batch that is
there already, and against MONAI's SupervisedTrainer with CacheDataset, its loader and the same augmentation.
*loader*: slices a second through the loader, augmented, batches of two, and through MONAI's loader from our
store and from PersistentDataset, with the same augmentation.
*network*: bare steps of FCN, FCN+DSM and its textbook form.
"""

import argparse
import logging
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import monai
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from monai.data import CacheDataset, DataLoader, Dataset, PersistentDataset
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from monai.inferers import SimpleInferer
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    MapLabelValued,
    Resized,
    ScaleIntensityRanged,
)
from preprocess import CASE, HIGH, IMAGE, LABEL, LOW, RECIPE, make_source, write_store
from torch import Tensor, nn

from dsnet_med.engine.augmentation import RandRotFlipd
from dsnet_med.engine.data import ReadSliced, open_store, slices, split_cases
from dsnet_med.engine.draws import Draws, Loader
from dsnet_med.engine.losses import SegmentationLoss
from dsnet_med.engine.run import prepare
from dsnet_med.engine.schedule import poly
from dsnet_med.engine.transforms import fit_to
from dsnet_med.methods import build_network
from dsnet_med.phantoms import make_synapse
from dsnet_med.prepare.convert import convert
from dsnet_med.prepare.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 9
KEYS = ("image", "label")
BLOCK = 5  # steps of MONAI's trainer in a row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30, help="of the narrow network, thrice the full one's")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    logging.disable(logging.INFO)  # MONAI's, among the tables
    torch.set_num_threads(options.threads)
    versions = f"torch {torch.__version__}, MONAI {monai.__version__}"
    print(f"{platform.machine()}, CPU, {options.threads} threads, {versions}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for part in options.only:
            PARTS[part](Path(scratch), options)


# A step of `train`


def step(scratch: Path, options: argparse.Namespace) -> None:
    cases = {"narrow": (0.0625, 64, 2, 10 if options.quick else options.steps)}
    if not options.quick:
        cases["full"] = (1.0, 256, 2, max(10, options.steps // 3))
    for name, (width, size, batch, steps) in cases.items():
        print(f"\nfcn_dsm, {name} (width {width:g}), {batch} slices of {size}x{size}, no loader processes\n")
        print("| | step, ms | over the bare loop, ms | % |\n|---|--:|--:|--:|")
        found = step_times(scratch / name, width, size, batch, steps)
        for label, seconds in found.items():
            over = seconds - found["bare loop"]
            cells = [f"{1000 * seconds:.2f}", f"{1000 * over:.2f}", f"{100 * over / found['bare loop']:.1f}"]
            print(f"| {label} | {' | '.join(cells)} |", flush=True)


def step_times(folder: Path, width: float, size: int, batch: int, steps: int) -> dict[str, float]:
    """Median seconds of a step: between two steps of the real trainer, the others make theirs."""
    store = phantoms(folder, size)
    settings = {"width": width, "size": [size, size], "batch_size": batch, "workers": 0}
    settings |= {"iterations": steps, "validate_every": steps, "checkpoint_every": 10 * steps}
    prepare("fcn_dsm", store, folder / "run", settings)
    config = folder / "run" / "configs" / "train.yaml"
    workflow = ConfigWorkflow(str(config), workflow_type="train", bundle_root=str(folder / "run"))
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")
    bare, theirs = Bare("fcn_dsm", width, size, batch), MonaiTrainer(store, width, size, batch)
    seconds: list[float] = []

    def others() -> None:
        seconds.append(timed(bare))
        if len(seconds) % BLOCK == 0:
            theirs.run(BLOCK)

    pace, waiting = Pace(others), Waiting()
    waiting.attach(trainer)
    pace.attach(trainer)
    workflow.run()
    workflow.finalize()
    median = statistics.median
    ours, data = median(pace.seconds), median(waiting.seconds)
    return {
        "bare loop": median(seconds[2:]),
        "train": ours,
        "train, without reading and augmenting": ours - data,
        "MONAI's SupervisedTrainer, CacheDataset": median(theirs.pace.seconds),
    }


def phantoms(folder: Path, size: int) -> Path:
    make = make_synapse(folder / "raw", cases=4, seed=0, size=(size, size, 8), oblique=False)
    list(make)
    for result in convert(load_recipe("synapse"), folder / "raw", folder / "store", workers=1):
        if result.error:
            raise SystemExit(result.error)
    return folder / "store"


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


class Pace:
    """Seconds of each whole step of a trainer, all handlers included; `between` happens off the clock."""

    def __init__(self, between: Callable[[], object] = lambda: None) -> None:
        self.between, self.seconds, self.since = between, list[float](), 0.0

    def attach(self, trainer: Engine) -> None:
        """After all other handlers."""
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def _start(self, _: Engine) -> None:
        self.since = time.perf_counter()

    def _step(self, trainer: Engine) -> None:
        took = time.perf_counter() - self.since
        if trainer.state.iteration > 2:  # the first ones find their memory
            self.seconds.append(took)
        self.between()
        self.since = time.perf_counter()


class Waiting:
    """Seconds that a trainer waits for each batch."""

    def __init__(self) -> None:
        self.seconds, self.since = list[float](), 0.0

    def attach(self, trainer: Engine) -> None:
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._start)
        trainer.add_event_handler(Events.GET_BATCH_COMPLETED, self._stop)

    def _start(self, _: Engine) -> None:
        self.since = time.perf_counter()

    def _stop(self, _: Engine) -> None:
        self.seconds.append(time.perf_counter() - self.since)


class Bare:
    """Forward, published loss, backward and SGD on one batch that is there already; a call is one step."""

    def __init__(self, method: str, width: float, size: int, batch: int) -> None:
        torch.manual_seed(0)
        self.network = network_of(method, width)
        self.optimizer = sgd(self.network)
        self.loss = SegmentationLoss()
        self.images = torch.rand(batch, 1, size, size)
        self.labels = torch.randint(CLASSES, (batch, 1, size, size), dtype=torch.uint8)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.loss(self.network(self.images), self.labels).backward()
        self.optimizer.step()


def network_of(method: str, width: float) -> nn.Module:
    if method == "textbook":
        sys.path.append(str(ROOT / "tests"))
        from networks.direct import direct_network

        return direct_network("fcn_dsm", in_channels=1, num_classes=CLASSES, width=width).train()
    return build_network(method, num_classes=CLASSES, width=width).train()


def sgd(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)


class MonaiTrainer:
    """MONAI's own parts for the same training: slices in memory, its loader, trainer and schedule."""

    def __init__(self, store: Path, width: float, size: int, batch: int) -> None:
        torch.manual_seed(0)
        network = network_of("fcn_dsm", width)
        optimizer = sgd(network)
        read, items = ReadSliced(str(store)), slices(str(store), split_cases(str(store))["train"])
        ready = [fit_to((size, size), "resize")({key: read(item)[key] for key in KEYS}) for item in items]
        change = Compose([RandRotFlipd(KEYS), EnsureTyped(KEYS, track_meta=False)])
        data = CacheDataset(ready, change, progress=False, copy_cache=False)
        self.pace = Pace()
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=1,
            epoch_length=BLOCK,
            train_data_loader=DataLoader(data, batch_size=batch, shuffle=True, drop_last=True),
            network=network,
            optimizer=optimizer,
            loss_function=SegmentationLoss(),
            inferer=SimpleInferer(),
            train_handlers=[LrScheduleHandler(poly(optimizer, 10**6), print_lr=False, epoch_level=False)],
            decollate=False,
        )
        self.pace.attach(self.trainer)

    def run(self, steps: int) -> None:
        self.trainer.state.max_epochs = self.trainer.state.epoch + 1
        self.trainer.state.epoch_length = steps
        self.trainer.run()


# The loader


def loader(scratch: Path, options: argparse.Namespace) -> None:
    sizes, workers, count = ([64], [0], 16) if options.quick else ([512, 256], [0, 2], 400)
    print("\nslices a second, batches of 2, augmented\n")
    print("| |", " | ".join(f"{n} workers" for n in workers), "|")
    print("|---|" + "--:|" * len(workers))
    for size in sizes:
        shape = (size, size, 16 if options.quick else 148)
        folder = scratch / f"loader{size}"
        source, store = make_source(folder / "raw", shape), folder / "store"
        write_store(source, store)
        cached = persistent(source, folder / "cache", shape)
        few = max(8, count // 10)
        contestants: dict[str, tuple[Callable[[int, int], Iterator[Any]], int]] = {
            "ours": (partial(batches_of, store, size), count),
            "MONAI's DataLoader on our store": (partial(monai_batches, store, size), count),
            "MONAI's PersistentDataset": (partial(persistent_batches, cached), few),
        }
        found: dict[str, list[str]] = {name: [] for name in contestants}
        for n in workers:
            for name, (batches, enough) in contestants.items():
                found[name].append(f"{speed(batches(n, enough), enough):.0f}")
        for name, cells in found.items():
            print(f"| {size}x{size}, {name} |", " | ".join(cells), "|", flush=True)


def batches_of(store: Path, size: int, workers: int, count: int) -> Iterator[Any]:
    """As configs/train.yaml makes them."""
    change = RandRotFlipd(KEYS)
    transform = Compose([ReadSliced(str(store)), fit_to((size, size), "resize"), change])
    data = Dataset(slices(str(store), list(open_store(str(store)).cases)), transform)
    draws = Draws(len(data), count + 8, seed=0, batch_size=2)
    return iter(Loader(data, seed=0, sampler=draws, batch_size=2, num_workers=workers))


def monai_batches(store: Path, size: int, workers: int, count: int) -> Iterator[Any]:
    """The same through MONAI's loader and transforms."""
    resize = Resized(KEYS, spatial_size=(size, size), mode=("bilinear", "nearest-exact"))
    ready = EnsureTyped(KEYS, track_meta=False)
    transform = Compose([ReadSliced(str(store)), resize, RandRotFlipd(KEYS), ready])
    return shuffled(Dataset(slices(str(store), [CASE]), transform), workers, count)


def speed(batches: Iterator[Any], count: int) -> float:
    for _ in range(4):  # processes have started, caches are warm
        next(batches)
    began = time.perf_counter()
    for _ in batches:
        pass
    return count / (time.perf_counter() - began)


class PersistentSlices(torch.utils.data.Dataset[Any]):
    """The slices of one case, each taken from the cached volume."""

    def __init__(self, volumes: PersistentDataset, depth: int, transform: Compose) -> None:
        self.volumes, self.depth, self.transform = volumes, depth, transform

    def __len__(self) -> int:
        return self.depth

    def __getitem__(self, index: int) -> Mapping[str, Tensor]:
        volume: Any = self.volumes[0]
        return self.transform({key: volume[key][..., index].clone() for key in KEYS})


def persistent(source: Path, cache: Path, shape: tuple[int, int, int]) -> PersistentSlices:
    prepared = Compose(
        [
            LoadImaged(KEYS),
            EnsureChannelFirstd(KEYS),
            ScaleIntensityRanged("image", LOW, HIGH, 0, 1, clip=True),
            MapLabelValued("label", list(RECIPE.label_map), list(RECIPE.label_map.values())),
            EnsureTyped(KEYS, dtype=[torch.float32, torch.uint8], track_meta=False),
        ]
    )
    files = {"image": str(source / IMAGE.format(CASE)), "label": str(source / LABEL.format(CASE))}
    change = Compose([RandRotFlipd(KEYS), EnsureTyped(KEYS, track_meta=False)])
    return PersistentSlices(PersistentDataset([files], prepared, cache_dir=cache), shape[2], change)


def persistent_batches(data: PersistentSlices, workers: int, count: int) -> Iterator[Any]:
    data[0]
    return shuffled(data, workers, count)


def shuffled(data: Any, workers: int, count: int) -> Iterator[Any]:
    generator = torch.Generator().manual_seed(0)
    order = torch.utils.data.RandomSampler(data, num_samples=count + 8, generator=generator)
    return iter(DataLoader(data, batch_size=2, sampler=order, num_workers=workers))


# The networks


def network(_: Path, options: argparse.Namespace) -> None:
    width, size, repeats = (0.0625, 64, 1) if options.quick else (1.0, 256, 8)
    methods = {"FCN": "fcn", "FCN+DSM": "fcn_dsm", "FCN+DSM, textbook": "textbook"}
    made = {name: Bare(method, width, size, 2) for name, method in methods.items()}
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for repeat in range(repeats + 2):
        for name, bare in made.items():
            took = timed(bare)
            if repeat >= 2:
                seconds[name].append(took)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"\nbare steps, width {width:g}, 2 slices of {size}x{size}\n")
    print("| | step, ms | over FCN |\n|---|--:|--:|")
    for name, value in medians.items():
        print(f"| {name} | {1000 * value:.1f} | {value / medians['FCN']:.3f}x |", flush=True)


PARTS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "step": step,
    "loader": loader,
    "network": network,
}

if __name__ == "__main__":
    main()
