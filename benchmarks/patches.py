"""Random patches of a CT-like case out of a store, beside the usual ways, warm and cold, in one run.

    pip install blosc2 zarr
    python benchmarks/patches.py [--size 300x512x512] [--patch 96] [--channels 1 4] [--reads 100] [--json FILE]

Makes a case (slices x rows x columns) of noise with organs, and writes it as
- a store of this package, which compares all that is read with check sums;
- blosc2 arrays in the blocks and chunks, with the codec and the filter that nnU-Net 2.8.1 writes, opened for
  each patch as its data loader does it;
- a zarr group of compressed chunks, float32 and uint8;
- MONAI's PersistentDataset, from which a crop is taken.
All but the first hold the normalised image as float32. Every reader gives the same float32 image and label of
a patch, which is checked; one process, one thread. Readers take turns, ten patches each, so that other work on
the machine slows all of them alike. `cold`: the system has been asked to forget the files before each patch
(Linux); a disk or a host below it may still hold them. `warm`: it holds all of them.
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("BLOSC_NTHREADS", "1")

import numpy as np

from dsnet_med.geometry import SliceOrder
from dsnet_med.prepare.case_file import write_case
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.prepare.store import Store
from dsnet_med.prepare.stored_case import StoredCase, data_file, encode

WINDOW = Intensity("window", -125, 275)
CASE = "case"
BLOCKS, CHUNKS = (1, 32, 32, 32), (1, 96, 128, 128)  # nnU-Net 2.8.1 for patches of 96^3, whatever the case
ZARR_CHUNKS = (1, 64, 64, 64)
Place = tuple[int, int, int]
_TURN = 10
Read = Callable[[Place], tuple[np.ndarray, np.ndarray]]


def main() -> None:
    """Measure, print, and write JSON if asked."""
    options = arguments()
    shape = tuple(int(n) for n in options.size.split("x"))
    results: dict[str, Any] = {
        "machine": machine(),
        "size": options.size,
        "patch": options.patch,
        "channels": {},
    }
    for channels in options.channels:
        folder = Path(tempfile.mkdtemp(prefix="patch_benchmark_", dir=options.folder))
        try:
            results["channels"][channels] = measure(folder, shape, channels, options)
        finally:
            shutil.rmtree(folder)
        report(results["channels"][channels], channels, options.patch)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="300x512x512", help="voxels of the case: slices x rows x columns")
    parser.add_argument("--patch", type=int, default=96, help="voxels along each side of a patch")
    parser.add_argument(
        "--channels", type=int, nargs="+", default=[1, 4], help="how many, one run after the other"
    )
    parser.add_argument("--reads", type=int, default=100, help="random patches read from each form")
    parser.add_argument(
        "--folder", help="where the case is written; a folder on the disk that is to be measured"
    )
    parser.add_argument("--json", help="also write the results here")
    return parser.parse_args()


def case_of(shape: tuple[int, ...], channels: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Slices of a noisy body in air with 13 round organs: int16 (C, H, W) and labels (H, W)."""
    generator = np.random.default_rng(0)
    z, y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    y, x = y[:, None], x[None, :]
    organs = [(generator.uniform(-0.5, 0.5, 3), generator.uniform(0.08, 0.25)) for _ in range(13)]
    body = x**2 / 0.8 + y**2 / 0.5 < 1
    for height in z:
        image, label = np.where(body, np.float32(40), np.float32(-1000)), np.zeros(shape[1:], np.uint8)
        for value, ((a, b, c), r) in enumerate(organs, start=1):
            organ = (x - a) ** 2 + (y - b) ** 2 < r**2 - (height - c) ** 2
            label[organ], image[organ] = value, 40 + 10 * value
        noise = generator.standard_normal((channels, *shape[1:]), np.float32) * 12
        yield (image + noise).astype(np.int16), label


def measure(
    folder: Path, shape: tuple[int, ...], channels: int, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Milliseconds for a random patch, and megabytes on disk, of each form."""
    store = write_store(folder / "store", shape, channels)
    image, label = store.read_case(CASE)
    readers: dict[str, tuple[Read, Path]] = {"store": (store_reader(store, options.patch), store.path)}
    for name, make in (
        ("blosc2 as nnU-Net", blosc2_reader),
        ("zarr", zarr_reader),
        ("PersistentDataset", cached_reader),
    ):
        try:
            readers[name] = make(folder / name, image, label, options.patch), folder / name
        except ImportError as error:
            print(f"{name} is left out: {error}")
    os.sync()
    for read, _ in readers.values():
        check(read, image, label, options.patch)
    times = {name: {"warm": list[float](), "cold": list[float]()} for name in readers}
    order = random.Random(0)
    for _ in range(-(-options.reads // _TURN)):
        starts = [tuple(order.randint(0, n - options.patch) for n in shape) for _ in range(_TURN)]
        for name in order.sample(list(readers), len(readers)):
            read, files = readers[name]
            some = starts[:1] if name == "PersistentDataset" else starts
            for start in some:
                forget(files)
                times[name]["cold"].append(milliseconds(read, start))
            keep(files)
            read(some[0])
            times[name]["warm"] += [milliseconds(read, start) for start in some]
    return {
        name: {state: statistics.median(each) for state, each in own.items()}
        | {"mb": sum(file.stat().st_size for file in files_of(readers[name][1])) / 1e6}
        for name, own in times.items()
    }


def check(read: Read, image: np.ndarray, label: np.ndarray, side: int) -> None:
    """Raise SystemExit unless a reader gives the case's own voxels."""
    for start in ((0, 0, 0), tuple(n - side for n in label.shape)):
        box = tuple(slice(at, at + side) for at in start)
        got, got_label = read(start)
        if got.dtype != np.float32 or not np.array_equal(got, image[:, *box]):
            raise SystemExit("a reader gives another image than the case has")
        if got_label.dtype != np.uint8 or not np.array_equal(got_label, label[box]):
            raise SystemExit("a reader gives another label than the case has")


def milliseconds(read: Read, start: Place) -> float:
    begun = time.perf_counter()
    read(start)
    return 1e3 * (time.perf_counter() - begun)


def write_store(out: Path, shape: tuple[int, ...], channels: int) -> Store:
    """The case as `preprocess` writes it."""
    scaling = WINDOW.fit(np.zeros(1))
    affine = np.diag([-0.76, -0.76, 1.0, 1.0])
    entry = StoredCase(
        id=CASE,
        subject=CASE,
        split="train",
        shape=shape,
        spacing_mm=(1.0, 0.76, 0.76),
        native_shape=shape[::-1],
        affine=affine.tolist(),
        order=SliceOrder.of(affine),
        image_files=("image",) * channels,
        image_sha256=("",) * channels,
        label_files=("label",),
        label_sha256=("",),
        label_voxels={},
        dtype="uint16",
        base=(0.0,) * channels,
        slope=(scaling.slope,) * channels,
        clip=((scaling.low, scaling.high),) * channels,
        recipe_hash="",
    )
    slices = (([encode(one, entry) for one in image], label) for image, label in case_of(shape, channels))
    entry = write_case(data_file(out, CASE), entry, slices)
    Store(
        path=out,
        tool_version="",
        recipe={"id": "benchmark"},
        recipe_hash="",
        classes=tuple(map(str, range(14))),
        channels=tuple(map(str, range(channels))),
        intensities=(WINDOW,) * channels,
        slice_axis="superior",
        splits={"train": [CASE], "val": [], "test": [], "extra": []},
        cases={CASE: entry},
        failed={},
        excluded=[],
    ).write()
    return Store.open(out)


def store_reader(store: Store, side: int) -> Read:
    return lambda start: store.read_patch(CASE, start, (side, side, side))


def blosc2_reader(folder: Path, image: np.ndarray, label: np.ndarray, side: int) -> Read:
    """As nnUNetDatasetBlosc2 saves and opens a case: float32 image and int16 labels, memory-mapped."""
    import blosc2

    blosc2.set_nthreads(1)
    folder.mkdir()
    for name, array in (("image", image), ("label", label[None].astype(np.int16))):
        blosc2.asarray(
            np.ascontiguousarray(array),
            urlpath=str(folder / f"{name}.b2nd"),
            blocks=BLOCKS,
            chunks=CHUNKS,
            cparams={
                "codec": blosc2.Codec.LZ4HC,
                "clevel": 5,
                "nthreads": 1,
                "filters": [better_filter(array)],
            },
        )

    def read(start: Place) -> tuple[np.ndarray, np.ndarray]:
        box = tuple(slice(at, at + side) for at in start)
        opened = [
            blosc2.open(urlpath=str(folder / f"{name}.b2nd"), mode="r", dparams={"nthreads": 1}, mmap_mode="r")
            for name in ("image", "label")
        ]
        return opened[0][:, *box], opened[1][0, *box].astype(np.uint8)

    return read


def better_filter(array: np.ndarray) -> Any:
    """Whether shuffled bytes are smaller, by a chunk in the middle, as nnU-Net asks for each case."""
    import blosc2

    middle = tuple(
        slice((n - min(n, side)) // 2, (n - min(n, side)) // 2 + min(n, side))
        for n, side in zip(array.shape, CHUNKS, strict=True)
    )
    sizes = {}
    for kind in (blosc2.Filter.NOFILTER, blosc2.Filter.SHUFFLE):
        settings = {"codec": blosc2.Codec.LZ4HC, "clevel": 5, "nthreads": 1, "filters": [kind]}
        packed = blosc2.asarray(np.ascontiguousarray(array[middle]), blocks=BLOCKS, cparams=settings)
        sizes[kind] = packed.schunk.cbytes
    return min(sizes, key=lambda kind: sizes[kind])


def zarr_reader(folder: Path, image: np.ndarray, label: np.ndarray, side: int) -> Read:
    import zarr

    group = zarr.open_group(folder, mode="w")
    for name, array in (("image", image), ("label", label[None])):
        group.create_array(name, data=np.ascontiguousarray(array), chunks=ZARR_CHUNKS)
    opened = zarr.open_group(folder, mode="r")
    images, labels = opened["image"], opened["label"]

    def read(start: Place) -> tuple[np.ndarray, np.ndarray]:
        box = tuple(slice(at, at + side) for at in start)
        return np.asarray(images[:, *box]), np.asarray(labels[0, *box])

    return read


def cached_reader(folder: Path, image: np.ndarray, label: np.ndarray, side: int) -> Read:
    """MONAI's way: the prepared volume is cached on disk, a crop takes the patch that is asked for."""
    warnings.simplefilter("ignore")
    from monai.data import PersistentDataset
    from monai.transforms import Lambda

    dataset = PersistentDataset([0], Lambda(lambda _: {"image": image, "label": label[None]}), cache_dir=folder)
    dataset[0]

    def read(start: Place) -> tuple[np.ndarray, np.ndarray]:
        box, item = tuple(slice(at, at + side) for at in start), dataset[0]
        return np.array(item["image"][:, *box]), np.array(item["label"][0, *box])

    return read


def files_of(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def forget(folder: Path) -> None:
    """Have the system forget what it keeps in memory of the files in a folder."""
    for file in files_of(folder):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def keep(folder: Path) -> None:
    """Have the system keep the files in a folder in memory."""
    for file in files_of(folder):
        file.read_bytes()


def machine() -> str:
    """What ran this."""
    kind = platform.processor() or platform.machine()
    return f"{kind}, {os.cpu_count()} cores, Python {platform.python_version()}"


def report(results: dict[str, dict[str, float]], channels: int, side: int) -> None:
    """A table of one number of channels."""
    ours = results["store"]
    print(f"{channels} channel{'s' * (channels > 1)}, a patch of {side}^3, median ms")
    print(f"{'':20}{'warm':>9}{'ratio':>8}{'cold':>9}{'ratio':>8}{'MB':>9}")
    for name, own in sorted(results.items(), key=lambda pair: pair[1]["warm"]):
        ratios = [own[state] / ours[state] for state in ("warm", "cold")]
        print(f"{name:20}{own['warm']:9.2f}{ratios[0]:8.2f}{own['cold']:9.2f}{ratios[1]:8.2f}{own['mb']:9.0f}")


if __name__ == "__main__":
    main()
