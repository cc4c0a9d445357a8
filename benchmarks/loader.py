"""Slices per second through the training loader, beside MONAI's PersistentDataset with the same augmentation.

    python benchmarks/loader.py [--size 512x512x148] [--slices 200] [--workers 0 2]

Both give the same batches of two: a random slice of a prepared case, augmented as configs/train.yaml says. Ours
reads the slice from the store; PersistentDataset loads the case's cached volume and takes the slice from it.
"""

import argparse
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import monai
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, PersistentDataset
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    MapLabelValued,
    ScaleIntensityRanged,
)
from preprocess import CASE, HIGH, IMAGE, LABEL, LOW, RECIPE, make_source, write_store
from torch.utils.data import RandomSampler

from dsnet_med import resources
from dsnet_med.engine.data import ReadSliced, slices
from dsnet_med.engine.transforms import fit_to


def main() -> None:
    options = arguments()
    shape = tuple(int(n) for n in options.size.split("x"))
    with tempfile.TemporaryDirectory() as scratch:
        source, store = make_source(Path(scratch) / "raw", shape), Path(scratch) / "store"
        write_store(source, store)
        contestants = {
            "store": ours(store, shape, raw=True),
            "PersistentDataset": persistent(source, Path(scratch) / "cache", shape, raw=True),
            "store + augmentation": ours(store, shape),
            "PersistentDataset + augmentation": persistent(source, Path(scratch) / "cache", shape),
        }
        versions = f"torch {torch.__version__}, MONAI {monai.__version__}"
        print(f"{options.size}, batches of 2, {platform.machine()}, {versions}\n")
        print("| slices per second |", " | ".join(f"{n} workers" for n in options.workers), "|")
        print("|---|" + "--:|" * len(options.workers))
        for name, dataset in contestants.items():
            count = options.slices if name.startswith("store") else max(20, options.slices // 5)
            speeds = [speed(dataset, workers, count) for workers in options.workers]
            print(f"| {name} |", " | ".join(f"{value:.0f}" for value in speeds), "|", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="512x512x148")
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    return parser.parse_args()


def augmentation(shape: tuple[int, ...], raw: bool) -> Compose:
    parser = ConfigParser()
    parser.read_config(str(resources.configs() / "train.yaml"))
    ready = EnsureTyped(("image", "label"), track_meta=False)
    return Compose(
        [ready] if raw else [fit_to(shape[:2]), parser.get_parsed_content("train#augmentation"), ready]
    )


def ours(store: Path, shape: tuple[int, ...], raw: bool = False) -> Dataset:
    transform = Compose([ReadSliced(str(store)), augmentation(shape, raw)])
    return Dataset(slices(str(store), [CASE]), transform)


class PersistentSlices(torch.utils.data.Dataset[Any]):
    """The slices of one case, each taken from the cached volume."""

    def __init__(self, volumes: PersistentDataset, depth: int, transform: Compose) -> None:
        self.volumes, self.depth, self.transform = volumes, depth, transform

    def __len__(self) -> int:
        return self.depth

    def __getitem__(self, index: int) -> Any:
        volume: Any = self.volumes[0]
        return self.transform({key: volume[key][..., index].clone() for key in ("image", "label")})


def persistent(source: Path, cache: Path, shape: tuple[int, ...], raw: bool = False) -> PersistentSlices:
    keys = ["image", "label"]
    prepare = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            ScaleIntensityRanged("image", LOW, HIGH, 0, 1, clip=True),
            MapLabelValued("label", list(RECIPE.label_map), list(RECIPE.label_map.values())),
            EnsureTyped(keys, dtype=[torch.float32, torch.uint8], track_meta=False),
        ]
    )
    files = {"image": str(source / IMAGE.format(CASE)), "label": str(source / LABEL.format(CASE))}
    return PersistentSlices(
        PersistentDataset([files], prepare, cache_dir=cache), shape[2], augmentation(shape, raw)
    )


def speed(dataset: Any, workers: int, count: int) -> float:
    dataset[0]
    sampler = RandomSampler(dataset, num_samples=count + 8, generator=torch.Generator().manual_seed(0))
    batches = iter(DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=workers))
    for _ in range(4):  # workers have started, caches are warm
        next(batches)
    start = time.perf_counter()
    for _ in batches:
        pass
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
