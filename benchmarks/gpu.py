"""What only a GPU can show, in one bounded run: values, times and memory, kept as they come.

    python benchmarks/gpu.py --out DIR [--only dsm steps ...] [--seconds 300] [--device cpu --tiny]

Every check runs in a process of its own. All of them prepare side by side (build, compile, compare values) and
wait; then each measures alone, in the order of CHECKS, what it finds is a line of DIR/results.jsonl at once.
A check that fails, or is not done when the time is over, leaves a line that says so. `--tiny` rehearses.
"""

import argparse
import gc
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks"), str(ROOT)]
CLASSES = 9
Check = Callable[["Bench"], Iterator[None]]  # prepares, yields, measures


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    names = options.only or [name for name in CHECKS if name not in LATER]
    end = time.monotonic() + options.seconds
    waiting = {name: Child(name, options) for name in names}
    bench = Bench("all", options)
    prepared_by = time.monotonic() + options.seconds / 2
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
    parser.add_argument("--seconds", type=float, default=300, help="for all of it")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, few repeats")
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

    def busy(self, call: Callable[[], object], calls: int = 3) -> float | None:
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
        spans = sorted(
            (event.time_range.start, event.time_range.end)
            for event in profiler.events()
            if event.device_type == DeviceType.CUDA
        )
        return covered(spans) / 1e6 / calls

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


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of the union of sorted spans."""
    total, until = 0.0, float("-inf")
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
    """The tests that need a GPU, and those of DSM's kernel."""
    file = ROOT / "tests" / "networks" / "test_softmax_mean.py"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", str(file)]
    command += ["-k", "gpu or kernel"] if not bench.tiny else ["-k", "gpu"]
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

    def __init__(self, bench: Bench, form: str, batch: int, mode: str) -> None:
        import torch

        from dsnet_med.engine.losses import SegmentationLoss
        from dsnet_med.methods import build_network

        torch.manual_seed(0)
        if form == "FCN+DSM, textbook":
            from networks.direct import direct_network

            network = direct_network("fcn_dsm", in_channels=1, num_classes=CLASSES, width=bench.width)
        else:
            method = {"FCN": "fcn", "FCN+DSM": "fcn_dsm"}[form]
            network = build_network(method, num_classes=CLASSES, width=bench.width)
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
            loss = self.loss(self.network(self.images), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def measure_steps(bench: Bench, batch: int, mode: str, steps: Mapping[str, Step]) -> None:
    import torch

    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = tf32 and "no TF32" not in mode
    try:
        found = bench.seconds(steps, blocks=5 if batch < 8 else 3, inner=10 if batch < 8 else 4)
        for name, seconds in found.items():
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
    finally:
        torch.backends.cudnn.allow_tf32 = tf32


def steps(bench: Bench) -> Iterator[None]:
    """FCN and FCN+DSM as they are, in turns."""
    import torch

    import dsnet_med.engine.losses  # noqa: F401 -- loaded beside the others

    torch.zeros(1, device=bench.device)
    yield
    modes = ["float32", "bfloat16", "bfloat16, channels_last", "float32, channels_last", "float32, no TF32"]
    for mode in modes:
        for batch in (2, 16) if not bench.tiny else (2,):
            forms = ["FCN", "FCN+DSM", "FCN+DSM, textbook"][: 3 if mode in modes[:2] else 2]
            measure_steps(bench, batch, mode, {form: Step(bench, form, batch, mode) for form in forms})
            bench.forget()


def compiled(batch: int, mode: str) -> Check:
    """FCN and FCN+DSM under torch.compile, compiled before."""

    def check(bench: Bench) -> Iterator[None]:
        began = time.monotonic()
        made = {form: Step(bench, form, batch, mode) for form in ("FCN", "FCN+DSM")}
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
            for compile_networks in (False, True):
                name = precision + ", compile" * compile_networks
                predictor = Predictor.from_run(
                    made, device=bench.device, precision=precision, compile_networks=compile_networks
                )

                def predict(predictor: Any = predictor) -> None:
                    predictor.predict(ct).save(folder / "mask.nii.gz")

                predict()
                calls[name] = predict
        yield
        for name, seconds in bench.seconds(calls, blocks=3, inner=1, warm=1).items():
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
        for way in inference.WAYS[1:]:
            options = argparse.Namespace(way=way, size=size, fit="resize", device=bench.device)
            calls[way] = partial(inference._way(options, network.to(bench.device)), voxels)
        found = bench.seconds(calls, blocks=2, inner=1, warm=1)
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
        how |= {"width": bench.width, "repeats": 1 if bench.tiny else 8, "amp": amp, "channels_last": amp}
        options = argparse.Namespace(**how)
        for task in script.CLASSES:
            for name, rate in script.measure(task, torch.device(bench.device), options).items():
                batch, *size = script.shape_of(task, options)
                mode = "bfloat16, channels_last" if amp else "float32"
                bench.row(row=name, mode=mode, batch=batch, size=size, images_per_s=round(rate, 1))
            bench.forget()

    return check


CHECKS: dict[str, Check] = {
    "machine": machine,
    "dsm": dsm,
    "steps": steps,
    "compiled_2": compiled(2, "bfloat16, compile"),
    "compiled_16": compiled(16, "bfloat16, compile"),
    "compiled_2_last": compiled(2, "bfloat16, channels_last, compile"),
    "compiled_16_last": compiled(16, "bfloat16, channels_last, compile"),
    "infer": infer,
    "natural": natural(amp=False),
    "tests": tests,
    "compiled_2_graphs": compiled(2, "bfloat16, channels_last, compile, graphs"),
    "natural_amp": natural(amp=True),
}
LATER: set[str] = set()


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
