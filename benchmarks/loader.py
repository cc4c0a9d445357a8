"""Slices per second through the training loader, with the augmentation of configs/train.yaml.

    python benchmarks/loader.py [--sizes 512 256] [--slices 300] [--workers 0 2]

Batches of two random slices of a prepared case, in one run. `ours`: engine.draws.Loader, augmented with the
item; `on device`: the same without the augmentation, which a GPU applies to the batch; `MONAI`: its DataLoader,
Resized and EnsureTyped with the same reading and augmentation, as train.yaml had it before.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import monai
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, EnsureTyped, Resized
from preprocess import CASE, make_source, write_store

from dsnet_med import resources
from dsnet_med.engine.data import ReadSliced, slices
from dsnet_med.engine.draws import Draws, Loader
from dsnet_med.engine.transforms import fit_to

BATCH, DEPTH, WARM = 2, 48, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 256])
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    options = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}, MONAI {monai.__version__}\n")
    print("| slices per second | size |", " | ".join(f"{n} workers" for n in options.workers), "|")
    print("|---|---|" + "--:|" * len(options.workers))
    for row in loader_speeds(options.sizes, options.workers, options.slices):
        cells = " | ".join(f"{row[workers]:.0f}" for workers in options.workers)
        print(f"| {row['loader']} | {row['size']}x{row['size']} | {cells} |", flush=True)


def loader_speeds(
    sizes: Sequence[int] = (512, 256), workers: Sequence[int] = (0, 2), count: int = 300
) -> Iterator[dict[Any, Any]]:
    """Rows {"loader": name, "size": n, workers: slices per second, ...}; contestants of a size take turns."""
    for size in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            store = Path(scratch) / "store"
            write_store(make_source(Path(scratch) / "raw", (size, size, DEPTH)), store)
            made = {"ours": ours, "ours, on device": on_device, "MONAI": by_monai}
            rows = {name: {"loader": name, "size": size} for name in made}
            for number in workers:
                for name, make in made.items():
                    rows[name][number] = speed(make(str(store), size, number, count), count)
            yield from rows.values()


def augmentation(on_device: bool) -> Any:
    parser = ConfigParser()
    parser.read_config(str(resources.configs() / "train.yaml"))
    parser["train#augmentation#on_device"] = on_device
    return parser.get_parsed_content("train#augmentation")


def ours(store: str, size: int, workers: int, count: int, device: bool = False) -> Loader:
    transform = Compose([ReadSliced(store), fit_to([size, size]), augmentation(device)])
    dataset = Dataset(slices(store, [CASE]), transform)
    sampler = Draws(DEPTH, count + WARM * BATCH, seed=0, batch_size=BATCH)
    return Loader(dataset, seed=0, batch_size=BATCH, sampler=sampler, num_workers=workers)


def on_device(store: str, size: int, workers: int, count: int) -> Loader:
    return ours(store, size, workers, count, device=True)


def by_monai(store: str, size: int, workers: int, count: int) -> DataLoader:
    keys = ("image", "label")
    resize = Compose([Resized(keys, spatial_size=(size, size), mode=("bilinear", "nearest-exact"))])
    ready = EnsureTyped(keys, track_meta=False)
    dataset = Dataset(slices(store, [CASE]), Compose([ReadSliced(store), resize, augmentation(False), ready]))
    generator = torch.Generator().manual_seed(0)
    sampler = torch.utils.data.RandomSampler(dataset, num_samples=count + WARM * BATCH, generator=generator)
    return DataLoader(dataset, batch_size=BATCH, sampler=sampler, num_workers=workers)


def speed(loader: Any, count: int) -> float:
    batches = iter(loader)
    for _ in range(WARM):  # workers have started, caches are warm
        next(batches)
    start = time.perf_counter()
    for _ in batches:
        pass
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
