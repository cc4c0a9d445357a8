"""Preparing one CT case and reading random slices, beside the usual ways, in one run.

    python benchmarks/preprocess.py [--size 512x512x148] [--repeats 3] [--reads 200] [--json FILE]

Makes a phantom-like case of that size (.nii.gz, int16 image and uint8 labels), then measures
- converting the pair into a store, and writing one .npz or HDF5 file for each slice, compressed or not;
- random slices from the store, from those files and from MONAI's PersistentDataset, which loads the whole
  cached volume to give one slice;
- the peak memory of converting 2 and 6 cases (Linux).
Each writer starts from the two .nii.gz files and ends with every slice on disk; one process, one thread. The
writers take turns, so that other work on the machine slows all of them alike.
"""

import argparse
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import h5py
import nibabel as nib
import numpy as np

from dsnet_med.prepare.convert import convert
from dsnet_med.prepare.recipe import load_recipe
from dsnet_med.prepare.store import Store

RECIPE = load_recipe("synapse")
LOW, HIGH = RECIPE.intensity.low, RECIPE.intensity.high
IMAGE, LABEL = "RawData/Training/img/img{}.nii.gz", "RawData/Training/label/label{}.nii.gz"
CASE = "0001"
Pair = tuple[np.ndarray, np.ndarray]


def main() -> None:
    """Measure, print, and write JSON if asked."""
    options = arguments()
    if options.memory_of:
        print_peak_memory(options.memory_of)
        return
    folder = Path(tempfile.mkdtemp(prefix="preprocess_benchmark_"))
    try:
        shape = tuple(int(n) for n in options.size.split("x"))
        source = make_source(folder / "source", shape)
        writing = measure_writing(source, folder, options.repeats)
        reading = measure_reading(source, folder, options.reads)
        memory = {
            f"{n} cases, {w} worker{'s' * (w > 1)}": peak_memory(source, n, w) for n in (2, 6) for w in (1, 2)
        }
    finally:
        shutil.rmtree(folder)
    results = {
        "machine": machine(),
        "size": options.size,
        "writing_s": writing,
        "reading_ms": reading,
        "peak_mb": memory,
    }
    report(results, shape[2])
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="512x512x148", help="voxels of the case, X x Y x Z")
    parser.add_argument("--repeats", type=int, default=3, help="times that each writer runs; the median counts")
    parser.add_argument("--reads", type=int, default=200, help="random slices read from each form")
    parser.add_argument("--json", help="also write the results here")
    parser.add_argument("--memory-of", nargs=3, metavar=("SOURCE", "OUT", "WORKERS"), help=argparse.SUPPRESS)
    return parser.parse_args()


def make_source(source: Path, shape: tuple[int, ...]) -> Path:
    """One case in the Synapse layout: a noisy body in air with 13 round organs."""
    generator = np.random.default_rng(0)
    x, y, z = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    x, y = x[:, None, None], y[None, :, None]
    body = np.broadcast_to(x**2 / 0.8 + y**2 / 0.5 < 1, shape)
    image = np.where(body, np.float32(40), np.float32(-1000))
    label = np.zeros(shape, np.uint8)
    for value in range(1, 14):
        (a, b, c), r = generator.uniform(-0.5, 0.5, 3), generator.uniform(0.08, 0.25)
        organ = (x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 < r**2
        label[organ], image[organ] = value, 40 + 10 * value
    image += generator.standard_normal(shape, np.float32) * 12
    for template, voxels in ((IMAGE, image.astype(np.int16)), (LABEL, label)):
        file = source / template.format(CASE)
        file.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(np.asfortranarray(voxels), np.diag([-0.76, -0.76, 3.0, 1.0])), file)
    return source


def measure_writing(source: Path, folder: Path, repeats: int) -> dict[str, float]:
    """Median seconds from the .nii.gz pair to all slices on disk."""
    seconds: dict[str, list[float]] = {name: [] for name in WRITERS}
    for _ in range(repeats):
        for name, write in WRITERS.items():
            shutil.rmtree(folder / name, ignore_errors=True)
            start = time.perf_counter()
            write(source, folder / name)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def write_store(source: Path, out: Path) -> None:
    for result in convert(RECIPE, source, out, workers=1):
        if result.error:
            raise SystemExit(result.error)


def usual_slices(source: Path) -> Iterator[Pair]:
    """The case as most export scripts prepare it: nibabel's floats, clipped and scaled, classes by a loop."""
    image = nib.load(source / IMAGE.format(CASE)).get_fdata(dtype=np.float32)
    raw = np.asarray(nib.load(source / LABEL.format(CASE)).dataobj)
    image = (np.clip(image, LOW, HIGH) - LOW) / (HIGH - LOW)
    label = np.zeros_like(raw)
    for value, class_id in RECIPE.label_map.items():
        if class_id:
            label[raw == value] = class_id
    for k in range(image.shape[2]):
        yield np.ascontiguousarray(image[:, :, k], np.float32), np.ascontiguousarray(label[:, :, k])


def write_npz(source: Path, out: Path, save: Callable[..., None]) -> None:
    out.mkdir(parents=True)
    for k, (image, label) in enumerate(usual_slices(source)):
        save(out / f"{k}.npz", image=image, label=label)


def write_h5(source: Path, out: Path, compression: str | None) -> None:
    out.mkdir(parents=True)
    for k, (image, label) in enumerate(usual_slices(source)):
        with h5py.File(out / f"{k}.h5", "w") as file:
            file.create_dataset("image", data=image, compression=compression)
            file.create_dataset("label", data=label, compression=compression)


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "store": write_store,
    "npz compressed": lambda source, out: write_npz(source, out, np.savez_compressed),
    "npz plain": lambda source, out: write_npz(source, out, np.savez),
    "h5 gzip": lambda source, out: write_h5(source, out, "gzip"),
    "h5 plain": lambda source, out: write_h5(source, out, None),
}


def measure_reading(source: Path, folder: Path, reads: int) -> dict[str, dict[str, float]]:
    """Milliseconds for one random slice: median and mean over `reads`, each form after some unmeasured ones."""
    store = Store.open(folder / "store")
    depth = store.cases[CASE].shape[0]
    persistent = persistent_reader(source, folder / "persistent")
    readers: dict[str, tuple[Callable[[int], Pair], int]] = {
        "store": (lambda k: store.read_slice(CASE, k), reads),
        **{f"npz {form}": (npz_reader(folder / f"npz {form}"), reads) for form in ("compressed", "plain")},
        **{f"h5 {form}": (h5_reader(folder / f"h5 {form}"), reads) for form in ("gzip", "plain")},
        "PersistentDataset": (persistent, max(5, reads // 20)),
    }
    check_same(readers, depth)
    return {name: time_reads(read, count, depth) for name, (read, count) in readers.items()}


def time_reads(read: Callable[[int], Pair], count: int, depth: int) -> dict[str, float]:
    order = random.Random(0)
    milliseconds = []
    for _ in range(count + 3):
        k = order.randrange(depth)
        start = time.perf_counter()
        read(k)
        milliseconds.append(1e3 * (time.perf_counter() - start))
    return {"median": statistics.median(milliseconds[3:]), "mean": statistics.fmean(milliseconds[3:])}


def npz_reader(folder: Path) -> Callable[[int], Pair]:
    def read(k: int) -> Pair:
        with np.load(folder / f"{k}.npz") as file:
            return file["image"], file["label"]

    return read


def h5_reader(folder: Path) -> Callable[[int], Pair]:
    def read(k: int) -> Pair:
        with h5py.File(folder / f"{k}.h5") as file:
            return file["image"][:], file["label"][:]

    return read


def persistent_reader(source: Path, cache: Path) -> Callable[[int], Pair]:
    """MONAI's way: the prepared volume is cached on disk, a crop takes the slice that is asked for."""
    warnings.simplefilter("ignore")
    from monai.data import PersistentDataset
    from monai.transforms import (
        CastToTyped,
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        MapLabelValued,
        ScaleIntensityRanged,
    )

    keys = ["image", "label"]
    prepare = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            ScaleIntensityRanged("image", LOW, HIGH, 0, 1, clip=True),
            MapLabelValued("label", list(RECIPE.label_map), list(RECIPE.label_map.values())),
            CastToTyped(keys, [np.float32, np.uint8]),
        ]
    )
    files = {"image": str(source / IMAGE.format(CASE)), "label": str(source / LABEL.format(CASE))}
    dataset = PersistentDataset([files], prepare, cache_dir=cache)
    dataset[0]

    def read(k: int) -> Pair:
        item: Any = dataset[0]
        return item["image"][0, :, :, k].numpy().copy(), item["label"][0, :, :, k].numpy().copy()

    return read


def check_same(readers: dict[str, tuple[Callable[[int], Pair], int]], depth: int) -> None:
    """Every form must hold the same slices: ours is (row, column) in the patient's frame, the others raw."""
    image, label = readers["store"][0](depth // 2)
    for name, (read, _) in readers.items():
        other, other_label = read(depth // 2)
        if name != "store":  # raw axes run to the left and to posterior, as the store's columns and rows do
            other, other_label = other.T, other_label.T
        if not (np.allclose(image, other, atol=1e-6) and np.array_equal(label, other_label)):
            raise SystemExit(f"{name} gives another slice than the store")


def peak_memory(source: Path, cases: int, workers: int) -> float:
    """Peak resident memory in MB of a process that converts `cases` copies of the case."""
    with tempfile.TemporaryDirectory() as name:
        many = Path(name) / "source"
        for template in (IMAGE, LABEL):
            (many / template).parent.mkdir(parents=True)
            for number in range(1, cases + 1):
                (many / template.format(f"{number:04d}")).symlink_to(source / template.format(CASE))
        command = [sys.executable, __file__, "--memory-of", str(many), f"{name}/out", str(workers)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak_memory(task: list[str]) -> None:
    """Convert, then print the peak resident memory of this process, or of its largest worker, in MB."""
    source, out, workers = Path(task[0]), Path(task[1]), int(task[2])
    for result in convert(RECIPE, source, out, workers=workers):
        if result.error:
            raise SystemExit(result.error)
    # Of itself, getrusage tells the peak of the process that started this one, if that was higher.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own = int(status["VmHWM"].split()[0])
    print((own if workers == 1 else resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024)


def machine() -> str:
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, load {load:.1f}"


def report(results: dict[str, Any], depth: int) -> None:
    """The results as three tables of Markdown."""
    writing, reading = results["writing_s"], results["reading_ms"]
    print(f"{results['size']}, {results['machine']}\n")
    print("| one case, .nii.gz pair to slices | s | slices/s | times the store's |\n|---|--:|--:|--:|")
    for name, seconds in writing.items():
        print(f"| {name} | {seconds:.2f} | {depth / seconds:.0f} | {seconds / writing['store']:.1f} |")
    print("\n| one random slice | median ms | mean ms | slices/s | times the store's |\n|---|--:|--:|--:|--:|")
    for name, ms in reading.items():
        ratio = ms["median"] / reading["store"]["median"]
        print(f"| {name} | {ms['median']:.3f} | {ms['mean']:.3f} | {1e3 / ms['mean']:.0f} | {ratio:.1f} |")
    print("\n| peak memory, largest process | MB |\n|---|--:|")
    for name, megabytes in results["peak_mb"].items():
        print(f"| {name} | {megabytes:.0f} |")


if __name__ == "__main__":
    main()
