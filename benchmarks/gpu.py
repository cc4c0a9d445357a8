"""What only a GPU can show, in one bounded run: values, times and memory, kept as they come.

    python benchmarks/gpu.py --out DIR [--only dsm steps ...] [--seconds 300] [--device cpu --tiny]

Every check runs in a process of its own. All of them prepare side by side (build, compile, compare values) and
wait; then each measures alone, in the order of CHECKS, what it finds is a line of DIR/results.jsonl at once.
A check that fails, or is not done when the time is over, leaves a line that says so. `--tiny` rehearses.
"""

import argparse
import gc
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks"), str(ROOT)]
CLASSES = 9
OPTIMISER = 'optimizer={_target_: torch.optim.AdamW, params: "$@network.parameters()", lr: 0.003, fused: true}'
Check = Callable[["Bench"], Iterator[None]]  # prepares, yields, measures


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    names = options.only or list(CHECKS)
    end = options.end = time.monotonic() + options.seconds
    waiting = {name: Child(name, options) for name in names}
    bench = Bench("all", options)
    prepared_by = time.monotonic() + options.prepare
    while waiting and time.monotonic() < end:
        for name in [name for name, child in waiting.items() if not child.process.is_alive()]:
            waiting.pop(name).over(bench)
        all_ready = all(child.ready.is_set() for child in waiting.values())
        if not all_ready and time.monotonic() < prepared_by:
            time.sleep(0.05)
            continue
        name = next((name for name, child in waiting.items() if child.ready.is_set()), None)
        if name is None:
            time.sleep(0.05)
            continue
        child = waiting.pop(name)
        child.go.set()
        child.process.join(max(0.0, end - time.monotonic()))
        child.over(bench)
    for child in waiting.values():
        child.over(bench)
    print(tables(options.out / "results.jsonl"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=CHECKS, metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--seconds", type=float, default=480, help="for all of it")
    parser.add_argument(
        "--prepare", type=float, default=150, help="seconds of it, after which what is ready measures"
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, few repeats")
    volumes = ROOT / "tests" / "data" / "volumes" / "hippocampus"
    parser.add_argument("--volumes", type=Path, default=volumes, help="imagesTr and labelsTr, for the trial")
    return parser.parse_args()


class Child:
    """The process of one check; it says when it is ready, and measures when it may go."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, self.ready, self.go = name, context.Event(), context.Event()
        self.process = context.Process(target=run_check, args=(name, options, self.ready, self.go))
        self.process.start()

    def over(self, bench: "Bench") -> None:
        """End what still runs, with all that it started, and say so."""
        if self.process.is_alive():
            bench.row(check=self.name, error="cut off" if self.go.is_set() else "not prepared in time")
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.join()
        if (self.process.exitcode or 0) > 0:
            bench.row(check=self.name, error=f"ended with {self.process.exitcode}")


def run_check(name: str, options: argparse.Namespace, ready: Any, go: Any) -> None:
    os.setsid()
    with (options.out / "log.txt").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    bench = Bench(name, options)
    try:
        began = time.monotonic()
        check = CHECKS[name](bench)
        next(check)
        bench.forget()
        bench.row(prepared_s=round(time.monotonic() - began, 1))
        ready.set()
        go.wait()
        next(check, None)
        bench.row(measured_s=round(time.monotonic() - began, 1))
    except BaseException as error:
        traceback.print_exc()
        bench.row(error=f"{type(error).__name__}: {str(error).strip().splitlines()[-1:]}")


class Bench:
    """What a check has at hand: the device, a scratch folder, and where its results go."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.tiny, self.device, self.out = name, options.tiny, options.device, options.out
        self.cuda = options.device.startswith("cuda")
        self.end, self.volumes = options.end, options.volumes
        self.size = 64 if options.tiny else 512
        self.width = 0.0625 if options.tiny else 1.0

    def row(self, **values: Any) -> None:
        line = json.dumps({"check": self.name, **values}) + "\n"
        with (self.out / "results.jsonl").open("a") as file:
            file.write(line)

    def synchronise(self) -> None:
        if self.cuda:
            import torch

            torch.cuda.synchronize()

    def forget(self) -> None:
        """Give what memory is not in use back to the others."""
        gc.collect()
        if self.cuda:
            import torch

            torch.cuda.empty_cache()

    def seconds(
        self, calls: Mapping[str, Callable[[], object]], blocks: int, inner: int, warm: int = 3
    ) -> dict[str, float]:
        """Of a call: medians of `blocks` blocks of `inner` calls, in turns."""
        if self.tiny:
            blocks, inner, warm = 1, 1, min(warm, 1)
        for call in calls.values():
            for _ in range(warm):
                call()
        found: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(blocks):
            for name, call in calls.items():
                self.synchronise()
                began = time.perf_counter()
                for _ in range(inner):
                    call()
                self.synchronise()
                found[name].append((time.perf_counter() - began) / inner)
        return {name: statistics.median(values) for name, values in found.items()}

    def busy(self, call: Callable[[], object], calls: int = 2) -> float | None:
        """Seconds of a call during which the GPU computes or copies, from the profiler's record of it."""
        if not self.cuda:
            return None
        import torch
        from torch.autograd import DeviceType

        self.synchronise()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            for _ in range(calls):
                call()
            self.synchronise()
        events = profiler.profiler.kineto_results.events()  # raw: making Python's of them takes seconds
        spans = [
            (e.start_ns(), e.start_ns() + e.duration_ns()) for e in events if e.device_type() == DeviceType.CUDA
        ]
        return covered(sorted(spans)) / 1e9 / calls

    def peak(self, call: Callable[[], object]) -> float | None:
        """MB that a call takes above what is held before it."""
        if not self.cuda:
            return None
        import torch

        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        self.synchronise()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def type(self, *words: object, **how: Any) -> "subprocess.CompletedProcess[str]":
        """Run the command line as a user does; raises where it fails."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True, check=False, **how)
        print(*words, "->", done.returncode, done.stdout[-2000:], done.stderr[-2000:], flush=True)
        if done.returncode:
            raise RuntimeError(f"dsnet-med {words[0]} ended with {done.returncode}: {done.stderr[-300:]}")
        return done

    @staticmethod
    def command(*words: object) -> list[str]:
        return [sys.executable, "-c", "from dsnet_med.cli import main; main()", *map(str, words)]

    def store(self, folder: Path, cases: int = 4) -> Path:
        """A store of phantoms of 512x512 slices."""
        size = f"{self.size}x{self.size}x{8 if self.tiny else 16}"
        self.type("phantom", "synapse", "--out", folder / "raw", "--cases", cases, "--size", size)
        self.type("preprocess", "synapse", "--source", folder / "raw", "--out", folder / "store")
        return folder / "store"


def covered(spans: list[tuple[int, int]]) -> float:
    """The length of the union of sorted spans."""
    total, until = 0.0, 0.0
    for start, end in spans:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


# Checks, each a generator: what stands before its `yield` prepares, what stands after it measures.


def machine(bench: Bench) -> Iterator[None]:
    import monai
    import numpy
    import torch

    row: dict[str, Any] = {"torch": torch.__version__, "monai": monai.__version__, "numpy": numpy.__version__}
    if bench.cuda:
        import triton

        fields = "name,driver_version,memory.total"
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
        row |= {"gpu": subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()}
        row |= {"triton": triton.__version__, "cudnn": torch.backends.cudnn.version()}
        row |= {"tf32 in convolutions": torch.backends.cudnn.allow_tf32}
        row |= {"tf32 in products": torch.backends.cuda.matmul.allow_tf32}
    bench.row(**row, cores=os.cpu_count())
    yield


def tests(bench: Bench) -> Iterator[None]:
    """The tests that need a GPU."""
    files = [
        file for file in (ROOT / "tests").rglob("test_*.py") if "cuda.is_available" in file.read_text("utf-8")
    ]
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *map(str, files)]
    command += ["-k", "gpu or cuda"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    print(done.stdout[-8000:], done.stderr[-2000:], flush=True)
    bench.row(pytest=done.returncode, says=done.stdout.strip().splitlines()[-1:])
    yield


def dsm(bench: Bench) -> Iterator[None]:
    """DSM's mean under a softmax: the Triton kernel and torch's form, against float64 on the CPU."""
    import torch
    from torch.nn import functional as F

    from dsnet_med.networks.softmax_mean import fused_works, series_softmax_mean

    device = torch.device(bench.device)
    forms: dict[str, Callable[..., torch.Tensor]] = {
        "torch": lambda v, s, n, rectify: series_softmax_mean(F.relu(v) if rectify else v, s, n)
    }
    if bench.cuda:
        from dsnet_med.networks.softmax_mean_triton import fused_softmax_mean

        bench.row(kernel_accepted=fused_works(torch.device("cuda", torch.cuda.current_device())))
        forms["triton"] = fused_softmax_mean

    def textbook(v: torch.Tensor, s: torch.Tensor, n: torch.Tensor, rectify: bool) -> torch.Tensor:
        weights = (s.unsqueeze(2) * n.unsqueeze(1)).softmax(2)
        return (weights * (F.relu(v) if rectify else v)).sum(2)

    def with_gradients(form: Any, inputs: list[torch.Tensor], rectify: bool, weight: torch.Tensor) -> Any:
        inputs = [each.detach().requires_grad_() for each in inputs]
        mean = form(*inputs, rectify)
        return mean, *torch.autograd.grad((mean * weight.to(mean)).sum(), inputs)

    shapes = [(1, 3, 17), (2, 5, 67), (3, 7, 1000), (1, 257, 33 * 31), (2, 512, 4096)]
    worst: dict[tuple[str, str], list[float]] = {}
    same = True
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for number, (batch, channels, pixels) in enumerate(shapes[: 3 if bench.tiny else None]):
            for rectify in (False, True):
                generator = torch.Generator().manual_seed(number)
                value = torch.randn(batch, pixels, channels, generator=generator).to(dtype)
                value = value.transpose(1, 2)  # as a map in channels_last lies
                value = value if number % 2 else value.contiguous()
                slope = torch.rand(batch, channels, generator=generator).to(dtype)
                level = torch.rand(batch, pixels, generator=generator).to(dtype)
                weight = torch.randn(batch, channels, generator=generator).to(dtype)
                exact = with_gradients(textbook, [t.double() for t in (value, slope, level)], rectify, weight)
                for name, form in forms.items():
                    inputs = [t.to(device) for t in (value, slope, level)]
                    found = with_gradients(form, inputs, rectify, weight.to(device))
                    again = with_gradients(form, inputs, rectify, weight.to(device))
                    if name == "triton":
                        same &= all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
                    errors = [relative(a, b) for a, b in zip(found, exact, strict=True)]
                    key = name, str(dtype).removeprefix("torch.")
                    worst[key] = [max(pair) for pair in zip(worst.get(key, errors), errors, strict=True)]
    for (name, kind), errors in worst.items():
        named = dict(zip(("value", "of_value", "of_slope", "of_level"), errors, strict=True))
        bench.row(form=name, dtype=kind, worst_relative_error=named)
    bench.row(kernel_twice_bit_equal=same if bench.cuda else None)
    yield
    forms["textbook"] = textbook
    for shape in [(2, 512, 4096), (16, 512, 4096)] if not bench.tiny else [(2, 8, 64)]:
        for dtype in (torch.float32, torch.bfloat16):
            value = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
            slope = torch.rand(shape[:2], device=device, dtype=dtype, requires_grad=True)
            level = torch.rand(shape[0], shape[2], device=device, dtype=dtype, requires_grad=True)
            inputs = (value, slope, level)
            calls: dict[str, Callable[[], object]] = {}
            for name, form in forms.items():

                def forward(form: Any = form, inputs: Any = inputs) -> torch.Tensor:
                    return form(*inputs, True)

                def both(forward: Any = forward, inputs: Any = inputs) -> object:
                    return torch.autograd.grad(forward().sum(), inputs)

                calls |= {f"{name}, forward": forward, f"{name}, both": both}
            found = bench.seconds(calls, blocks=5, inner=50)
            for call, seconds in found.items():
                used = bench.busy(calls[call], 10)
                bench.row(
                    shape=shape,
                    dtype=str(dtype).removeprefix("torch."),
                    form=call,
                    ms=round(1000 * seconds, 4),
                    gpu_ms=used and round(1000 * used, 4),
                    extra_mb=bench.peak(calls[call]),
                )


def relative(found: Any, exact: Any) -> float:
    """||found - exact|| over ||exact||; infinite where something is not finite."""
    exact = exact.detach()
    difference = (found.detach().double().cpu() - exact).norm() / exact.norm()
    return float(difference) if difference.isfinite() else float("inf")


class Step:
    """Forward, published loss, backward and SGD of one network on one batch."""

    def __init__(self, bench: Bench, network: Any, batch: int, mode: str) -> None:
        import torch

        from dsnet_med.engine.losses import SegmentationLoss

        self.mode, self.kind = mode, bench.device.partition(":")[0]
        layout = torch.channels_last if "channels_last" in mode else torch.contiguous_format
        network = network.to(bench.device, memory_format=layout).train()
        self.optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        self.network: Any = network
        if "compile" in mode:
            how = {"mode": "reduce-overhead"} if "graphs" in mode else {}
            self.network = torch.compile(network, **({"backend": "aot_eager"} if bench.tiny else how))
        self.loss = SegmentationLoss()
        shape = (batch, 1, bench.size, bench.size)
        self.images = torch.randn(shape, device=bench.device).contiguous(memory_format=layout)
        self.labels = torch.randint(CLASSES, shape, device=bench.device)

    def __call__(self) -> None:
        import torch

        low = "bfloat16" in self.mode
        with torch.autocast(self.kind, torch.bfloat16) if low else nullcontext():
            logits = self.network(self.images)
        loss = self.loss(logits.float(), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def networks(bench: Bench, *forms: str) -> dict[str, Any]:
    """FCN, FCN+DSM and FCN+DSM, textbook: the formulas as they read."""
    import torch
    from networks.direct import direct_network

    from dsnet_med.methods import build_network

    torch.manual_seed(0)
    how = {"in_channels": 1, "num_classes": CLASSES, "width": bench.width}
    built = {
        "FCN": lambda: build_network("fcn", **how),
        "FCN+DSM": lambda: build_network("fcn_dsm", **how),
        "FCN+DSM, textbook": lambda: direct_network("fcn_dsm", **how),
    }
    return {form: built[form]().to(bench.device) for form in forms}


@contextmanager
def numbers(mode: str) -> Iterator[None]:
    """TF32 as `mode` has it: in convolutions alone (PyTorch's default), in products, too, or nowhere."""
    import torch

    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32, products.allow_tf32 = "no TF32" not in mode, "products" in mode
    yield
    convolutions.allow_tf32, products.allow_tf32 = before


def measure_steps(bench: Bench, batch: int, mode: str, steps: Mapping[str, Step]) -> None:
    with numbers(mode):
        few = batch >= 8
        for name, seconds in (
            found := bench.seconds(steps, blocks=3 if few else 5, inner=4 if few else 10)
        ).items():
            used = bench.busy(steps[name])
            bench.row(
                batch=batch,
                mode=mode,
                network=name,
                ms=round(1000 * seconds, 2),
                images_per_s=round(batch / seconds, 1),
                over_fcn=round(seconds / found["FCN"], 4),
                gpu_busy=used and round(used / seconds, 3),
                extra_mb=(extra := bench.peak(steps[name])) and round(extra),
            )


def steps(bench: Bench) -> Iterator[None]:
    """FCN and FCN+DSM as they are, in turns."""
    made = networks(bench, "FCN", "FCN+DSM", "FCN+DSM, textbook")
    yield
    modes = {
        "float32": (2, 16),
        "bfloat16": (2, 16),
        "bfloat16, channels_last": (2, 16),
        "float32, TF32 in products": (16,),
        "float32, channels_last, TF32 in products": (16,),
    }
    for mode, batches in modes.items():
        for batch in batches[: 1 if bench.tiny else None]:
            size = 2 if bench.tiny else batch
            measure_steps(
                bench, size, mode, {form: Step(bench, each, size, mode) for form, each in made.items()}
            )
            bench.forget()


def kernels(bench: Bench) -> Iterator[None]:
    """What the GPU does in one DSM, forward and backward: its kernels that take longest, per call."""
    import torch
    from torch.autograd import DeviceType

    from dsnet_med.networks.plugins import DSM

    plugin = DSM(512 if not bench.tiny else 16, bias=True).to(bench.device)
    shape = (16, 512, 64, 64) if not bench.tiny else (2, 16, 8, 8)
    yield
    for mode in ("float32", "bfloat16", "bfloat16, channels_last"):
        layout = torch.channels_last if "last" in mode else torch.contiguous_format
        x = torch.randn(shape, device=bench.device).to(memory_format=layout).requires_grad_()

        def call(x: Any = x, low: bool = "bfloat16" in mode) -> None:
            with torch.autocast(x.device.type, torch.bfloat16) if low else nullcontext():
                plugin(x).float().sum().backward()

        found = bench.seconds({"dsm": call}, blocks=3, inner=5)["dsm"]
        bench.row(
            mode=mode,
            dsm_ms=round(1000 * found, 3),
            gpu_ms=(used := bench.busy(call)) and round(1000 * used, 3),
        )
        if not bench.cuda:
            continue
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            call()
            bench.synchronise()
        spent: dict[str, list[float]] = {}
        for event in profiler.profiler.kineto_results.events():
            if event.device_type() == DeviceType.CUDA:
                spent.setdefault(event.name()[:90], []).append(event.duration_ns() / 1e6)
        for name, times in sorted(spent.items(), key=lambda pair: -sum(pair[1]))[:12]:
            bench.row(mode=mode, kernel=name, launches=len(times), ms=round(sum(times), 3))


def compiled(batch: int, mode: str) -> Check:
    """FCN and FCN+DSM under torch.compile, compiled before."""

    def check(bench: Bench) -> Iterator[None]:
        began = time.monotonic()
        made = {
            form: Step(bench, each, batch, mode) for form, each in networks(bench, "FCN", "FCN+DSM").items()
        }
        for step in made.values():
            step()
        bench.synchronise()
        bench.row(batch=batch, mode=mode, compiled_s=round(time.monotonic() - began, 1))
        yield
        measure_steps(bench, batch, mode, made)

    return check


def infer(bench: Bench) -> Iterator[None]:
    """From the file of a volume to the file of its mask, with a run of FCN+DSM that `train` made; and MONAI."""
    import inference
    import nibabel
    import numpy as np

    from dsnet_med import Predictor

    shape = (64, 64, 8) if bench.tiny else (512, 512, 148)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        how = ["--set", f"width={bench.width}", "--set", f"size=[{bench.size},{bench.size}]"]
        how += ["--set", "validate_every=2", "--set", "workers=0", "--device", bench.device]
        made = folder / "run"
        data = ["--data", bench.store(folder), "--out", made, "--iterations", 2]
        bench.type("train", "--method", "fcn_dsm", *data, *how)
        voxels = inference._volume(shape)
        ct = folder / "ct.nii.gz"
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag((*inference.SPACING_MM, 1.0))), ct)
        calls: dict[str, Callable[[], object]] = {}
        for precision in ("float32", "bfloat16"):
            predictor = Predictor.from_run(made, device=bench.device, precision=precision)

            def predict(predictor: Any = predictor) -> None:
                predictor.predict(ct).save(folder / "mask.nii.gz")

            predict()
            calls[precision] = predict
        yield
        for name, seconds in bench.seconds(calls, blocks=2, inner=1, warm=1).items():
            used = bench.busy(calls[name], 1)
            bench.row(
                end_to_end=name,
                s_per_volume=round(seconds, 3),
                volumes_per_s=round(1 / seconds, 3),
                slices_per_s=round(shape[2] / seconds, 1),
                gpu_busy=used and round(used / seconds, 3),
                extra_mb=(extra := bench.peak(calls[name])) and round(extra),
            )
        began = time.monotonic()
        bench.type("infer", "--model", made, ct, "--out", folder / "masks", "--device", bench.device)
        bench.row(end_to_end="dsnet-med infer, a process", s_per_volume=round(time.monotonic() - began, 2))
        size = "x".join(map(str, shape))
        calls = {}
        network = inference._network("tiny" if bench.tiny else "fcn").eval().requires_grad_(False)
        for way in inference.WAYS[1:4]:
            options = argparse.Namespace(way=way, size=size, fit="resize", device=bench.device)
            calls[way] = partial(inference._way(options, network.to(bench.device)), voxels)
        found = bench.seconds(calls, blocks=1, inner=1, warm=1)
        for way, seconds in found.items():
            over = round(seconds / found[inference.OURS], 2)
            bench.row(voxels_to_ids=way, s_per_volume=round(seconds, 3), over_ours=over)


def natural(amp: bool) -> Check:
    """Training steps of the rows on natural images, at the published batches and sizes."""

    def check(bench: Bench) -> Iterator[None]:
        import natural as script
        import torch

        torch.zeros(1, device=bench.device)
        yield
        how = {"full": not bench.tiny, "batch": None, "size": "64x64" if bench.tiny else None}
        how |= {"width": bench.width, "repeats": 1 if bench.tiny else 5, "amp": amp, "channels_last": amp}
        options = argparse.Namespace(**how)
        for task in script.CLASSES:
            for name, rate in script.measure(task, torch.device(bench.device), options).items():
                batch, *size = script.shape_of(task, options)
                mode = "bfloat16, channels_last" if amp else "float32"
                bench.row(row=name, mode=mode, batch=batch, size=size, images_per_s=round(rate, 1))
            bench.forget()

    return check


def trainer(names: tuple[str, ...]) -> Check:
    """`dsnet-med train --profile` on 512x512 phantoms, as a user types it: the table that it writes."""

    def check(bench: Bench) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            store = bench.store(folder)
            yield
            for name in names if not bench.tiny else names[:1]:
                train(bench, name, store, folder / name.replace(" ", "_"))

    return check


def train(bench: Bench, name: str, store: Path, out: Path) -> None:
    batch = 2 if "batch 2" in name or bench.tiny else 16
    steps = 12 if bench.tiny else 150 if batch == 2 else 60
    settings = {"batch_size": batch, "width": bench.width, "size": f"[{bench.size},{bench.size}]"}
    settings["channels_last"] = "true" if "channels_last" in name else "false"
    how = [part for pair in settings.items() for part in ("--set", "{}={}".format(*pair))]
    how += ["--precision", name.partition(",")[0], *(["--compile"] if "compile" in name else [])]
    words = ["--method", "fcn_dsm", "--data", store, "--iterations", steps, "--device", bench.device]
    began = time.monotonic()
    try:
        bench.type("train", *words, "--out", out, *how, "--profile")
    except RuntimeError as error:
        bench.row(train=name, error=str(error)[-300:])
        return
    seconds = round(time.monotonic() - began, 1)
    found = json.loads((out / "profile" / "profile.json").read_text())
    rest = found["ms_per_step"] - found["parts"]["validation"]["ms_per_step"]
    bench.row(
        train=name,
        batch=batch,
        ms_per_step=round(rest, 2),
        images_per_s=round(1000 * batch / rest, 1),
        gpu_busy=found["gpu_busy"],
        ms={part: round(values["ms_per_step"], 2) for part, values in found["parts"].items()},
        process_s=seconds,
    )


def exact(bench: Bench) -> Iterator[None]:
    """`--deterministic`: two runs, and one that is killed and resumed, end in the same bytes."""
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor() as pool:
        folder = Path(scratch)
        size = "64x64x8"
        bench.type("phantom", "synapse", "--out", folder / "raw", "--cases", 4, "--size", size)
        bench.type("preprocess", "synapse", "--source", folder / "raw", "--out", folder / "store")
        steps = 12 if bench.tiny else 40
        words = ["train", "--method", "fcn_dsm", "--data", folder / "store", "--device", bench.device]
        words += ["--iterations", steps, "--deterministic", "--set", "width=0.125", "--set", "batch_size=4"]
        words += ["--set", "checkpoint_every=3", "--set", f"validate_every={steps // 2}"]
        precisions = ["float32"] if bench.tiny else ["float32", "float16"]

        def killed(out: Path, how: list[str]) -> None:
            command = bench.command(*words, "--out", out, *how)
            with (out.parent / f"{out.name}.log").open("w") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            while process.poll() is None and not (out / "checkpoints" / "last.pt").exists():
                time.sleep(0.01)
            time.sleep(0.1)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            bench.type("train", "--resume", "--out", out, "--device", bench.device)

        waiting = {}
        for precision in precisions:
            for kind in ("once", "again", "killed"):
                out, how = folder / f"{precision}_{kind}", ["--precision", precision]
                if kind == "killed":
                    waiting[precision, kind] = pool.submit(killed, out, how)
                else:
                    waiting[precision, kind] = pool.submit(bench.type, *words, "--out", out, *how)
        for (precision, kind), run in waiting.items():
            error = run.exception()
            model = folder / f"{precision}_{kind}" / "models" / "model.pt"
            sums = hashlib.sha256(model.read_bytes()).hexdigest()[:16] if model.exists() else None
            bench.row(precision=precision, run=kind, model=sums, error=error and str(error)[-300:])
    yield


def trial(bench: Bench) -> Iterator[None]:
    """`compare` of all rows, five seeds each, on the volumes of --volumes, as far as the time goes.

    What it found is kept in DIR/trial; runs that are not done by then are left out, and results.json says so.
    """
    from dsnet_med.methods import published_ids

    methods = ["fcn_se"] if bench.tiny else published_ids()
    spare = 10 if bench.tiny else 60  # seconds for the analysis
    with tempfile.TemporaryDirectory() as scratch:
        store, out = Path(scratch) / "store", Path(scratch) / "trial"
        bench.type("preprocess", "hippocampus", "--source", bench.volumes, "--out", store)
        words = [
            "--methods",
            ",".join(dict.fromkeys(["fcn", *methods])),
            "--data",
            store,
            "--out",
            out,
            "--equal",
        ]
        words += ["--seeds", "0,1" if bench.tiny else "0,1,2,3,4", "--device", bench.device.partition(":")[0]]
        words += ["--iterations", 4 if bench.tiny else 300, "--set", f"width={0.0625 if bench.tiny else 0.25}"]
        words += ["--set", "batch_size=8", "--set", "validate_every=2" if bench.tiny else "validate_every=100"]
        words += ["--set", f"size=[{bench.size},{bench.size}]" if bench.tiny else "size=[128,128]"]
        words += ["--set", OPTIMISER, "--set", "train#augmentation#flip_prob=0.0", "--set", "workers=0"]
        words += ["--per-gpu", 6] if bench.cuda else ["--jobs", 2]
        yield
        began = time.monotonic()
        running = subprocess.Popen(bench.command("compare", *words))
        try:
            code: object = running.wait(max(1.0, bench.end - spare - time.monotonic()))
        except subprocess.TimeoutExpired:
            running.terminate()
            code = f"stopped in time, {running.wait()}"
        took = round(time.monotonic() - began, 1)
        bench.type("compare", "--out", out, "--shard", "1/1000000")  # no other cell than the first: analyses
        kept = bench.out / "trial"
        kept.mkdir(exist_ok=True)
        for name in ("trial.yaml", "scores.csv", "results.json", "table.md", "table.tex", "report.html"):
            shutil.copy(out / name, kept)
        found = json.loads((kept / "results.json").read_text(encoding="utf-8"))
        bench.row(compare=code, seconds=took, arms=len(found["arms"]), left_out=found["left_out"])
        for entry in found["contrasts"]:
            bench.row(arm=entry["arm"], seeds=entry["seeds"], cases=entry["cases"], verdict=entry["verdict"])


def forms(bench: Bench) -> Iterator[None]:
    """What `export` writes on a CPU, opened on the GPU: does each form run there, equal, and how fast?"""
    import torch

    from dsnet_med import build_network
    from dsnet_med.engine.export.formats import FORMATS, Plain, graph_of, write_torchscript
    from dsnet_med.engine.export.inputs import made_up_images
    from dsnet_med.engine.scripted import scripted

    torch.manual_seed(0)
    network = build_network("fcn_dsm", num_classes=CLASSES, width=bench.width).eval().requires_grad_(False)
    grey, images = Plain(network, 1).eval(), made_up_images((bench.size, bench.size), 2)
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        pt2, script = Path(scratch) / "model.pt2", Path(scratch) / "model.ts"
        next(form for form in FORMATS if form.name == "pt2").write(
            graph_of(grey, images[:1], any_size=True), pt2
        )
        write_torchscript(scripted(network, (bench.size, bench.size)), {}, script)
        yield
        eager, on_device = grey.to(bench.device), images.to(bench.device)
        wanted = eager(on_device)
        opened: dict[str, Callable[[], Callable[[], Any]]] = {
            "eager": lambda: lambda: eager(on_device),
            "pt2": lambda: partial(torch.export.load(pt2).module().to(bench.device), on_device),
            "torchscript": lambda: partial(
                torch.jit.load(str(script), map_location=bench.device), on_device.transpose(0, 1)[None]
            ),
        }
        for name, make in opened.items():
            try:
                run = make()
                got = run()
                got = got[0].transpose(0, 1) if got.ndim == 5 else got
                seconds = bench.seconds({name: run}, blocks=2, inner=5)[name]
                difference = float((got - wanted).abs().max())
                bench.row(form=name, ms_per_slice=round(500 * seconds, 3), largest_difference=difference)
            except Exception as error:  # which is what there is to know
                bench.row(form=name, error=f"{type(error).__name__}: {str(error)[:300]}")


def volumes(bench: Bench) -> Iterator[None]:
    """nnU-Net's topology at full width, trained in 3-D on --volumes, scored on the test cases."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, device = Path(scratch), ["--device", bench.device.partition(":")[0]]
        store, run = folder / "store", folder / "run"
        bench.type("preprocess", "hippocampus", "--source", bench.volumes, "--out", store)
        manifest = json.loads((store / "manifest.json").read_text(encoding="utf-8"))
        tested = manifest["splits"]["test"] or manifest["splits"]["val"]
        settings = ["optimizer#params#lr=2e-3", "lr_scheduler#warmup=50", "train#augmentation#flip_axes=[2]"]
        settings += ["workers=4", f"validate_every={2 if bench.tiny else 500}"]
        settings += [f"width={0.0625 if bench.tiny else 1.0}"]
        words = ["--method", "dynunet_3d", "--iterations", 4 if bench.tiny else 3000]
        words += ["--overlay", ROOT / "configs" / "schedules" / "adamw.yaml"]
        words += [part for setting in settings for part in ("--set", setting)]
        yield
        began = time.monotonic()
        bench.type("train", "--data", store, "--out", run, *words, *device)
        trained = round(time.monotonic() - began, 1)
        images = [bench.volumes / "imagesTr" / f"{case}.nii.gz" for case in tested]
        bench.type("infer", "--model", run, *images, "--out", folder / "masks", *device)
        scored = [
            "--reference",
            bench.volumes / "labelsTr",
            "--labels",
            "hippocampus",
            "--out",
            folder / "report",
        ]
        cases = ["--cases", store / "manifest.json"] if manifest["splits"]["test"] else ["--missing", "ignore"]
        bench.type("evaluate", "--prediction", folder / "masks", *scored, *cases)
        summary = json.loads((folder / "report" / "summary.json").read_text(encoding="utf-8"))
        bench.row(cases=len(tested), training_s=trained, **summary["mean"])


def explain(bench: Bench) -> Iterator[None]:
    """FCN and FCN+DSM at full width, trained on --volumes and explained with references; and what it takes."""
    import explain as taking

    size = "64x64x8" if bench.tiny else "512x512x148"
    with tempfile.TemporaryDirectory() as scratch:
        folder, device = Path(scratch), ["--device", bench.device.partition(":")[0]]
        store = folder / "store"
        bench.type("preprocess", "hippocampus", "--source", bench.volumes, "--out", store)
        manifest = json.loads((store / "manifest.json").read_text(encoding="utf-8"))
        tested = (manifest["splits"]["test"] or manifest["splits"]["val"])[: 1 if bench.tiny else 16]
        words = [
            "--iterations",
            4 if bench.tiny else 600,
            "--set",
            f"width={bench.width}",
            "--set",
            "workers=0",
        ]
        words += ["--set", "batch_size=8", "--set", f"validate_every={2 if bench.tiny else 200}"]
        words += ["--set", "size=[64,64]" if bench.tiny else "size=[128,128]", "--set", OPTIMISER]
        yield
        runs = []
        for method in ("fcn", "fcn_dsm"):
            began = time.monotonic()
            bench.type("train", "--method", method, "--data", store, "--out", folder / method, *words, *device)
            bench.row(method=method, training_s=round(time.monotonic() - began, 1))
            runs += ["--model", folder / method]
        images = [bench.volumes / "imagesTr" / f"{case}.nii.gz" for case in tested]
        kept = bench.out / "explained"
        references = ["--reference", bench.volumes / "labelsTr", "--labels", "hippocampus"]
        began = time.monotonic()
        bench.type("explain", *runs, *images, *references, "--out", kept, "--overwrite", *device)
        found = json.loads((kept / "explain.json").read_text(encoding="utf-8"))
        bench.row(cases=len(tested), explain_s=round(time.monotonic() - began, 1), failed=found["failed"])
        for run in found["runs"]:
            for each in run["interventions"]:
                if each["plugin"] == "all":
                    bench.row(run=run["name"], kind=each["kind"], **each["mean"]["dice"])
        options = argparse.Namespace(size=size, slices=int(size.rpartition("x")[2]), quick=bench.tiny)
        options.threads, options.device = os.cpu_count() or 1, bench.device
        for way in taking.WAYS:
            options.way = way
            bench.row(size=size, way=way, **taking.measured(options))


CHECKS: dict[str, Check] = {
    "machine": machine,
    "trainer": trainer(
        ("bfloat16, channels_last", "float32, channels_last", "bfloat16, channels_last, batch 2")
    ),
    "infer": infer,
    "natural": natural(amp=False),
    "compiled_16": compiled(16, "bfloat16, channels_last, compile"),
    "compiled_2": compiled(2, "bfloat16, channels_last, compile"),
    "dsm": dsm,
    "steps": steps,
    "kernels": kernels,
    "graphs_2": compiled(2, "bfloat16, channels_last, compile, graphs"),
    "trainer_compiled": trainer(("bfloat16, channels_last, compile", "float16, channels_last")),
    "tests": tests,
    "exact": exact,
    "natural_amp": natural(amp=True),
    "trial": trial,
    "volumes": volumes,
    "forms": forms,
    "explain": explain,
}


def tables(file: Path) -> str:
    """The results as Markdown, a table for every kind of row."""
    kinds: dict[tuple[str, ...], list[list[str]]] = {}
    for line in file.read_text().splitlines():
        row = json.loads(line)
        if len(row) > 2 or "error" in row:
            kinds.setdefault(tuple(row), []).append([str(value) for value in row.values()])
    parts = []
    for names, rows in kinds.items():
        head = f"| {' | '.join(names)} |\n|{'---|' * len(names)}"
        parts.append("\n".join([head, *(f"| {' | '.join(cells)} |" for cells in rows)]))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
