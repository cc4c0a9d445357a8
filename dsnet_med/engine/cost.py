"""What a prepared run costs on this machine: parameters, arithmetic, time and memory of a few steps."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dsnet_med.engine.draws import kept_generators
from dsnet_med.engine.memory import peak_bytes, resident_bytes, restart_peak
from dsnet_med.engine.overrides import load
from dsnet_med.engine.stopping import in_words
from dsnet_med.errors import InputError, StoppedError, one_line, root_cause
from dsnet_med.inference.batches import first_guess
from dsnet_med.inference.fuse_batch_norm import fuse_batch_norm
from dsnet_med.networks.definition import literal

_OF_A_STEP = ("seeds", "lr_schedule", "clip", "average")  # handlers; others write, or validate
_ENDLESS = 10_000  # iterations: the first ones are measured
_WARM_UP, _FEWEST, _MOST = 2, 3, 12  # steps
_MOST_AT_ONCE = 32  # slices in inference
_SECONDS = 5.0  # after which no more steps are measured than the fewest


def measure_cost(run: Path, device: str = "auto") -> dict[str, Any]:
    """What the run that `prepare` made in the folder costs on `device`, as `distributed.device` knows it.

    `parameters`; `macs`, multiply-accumulates of one slice of the training size in evaluation, in 3-D of one
    patch (convolutions and matrix products; null where they cannot be counted); `seconds_per_step`, the median
    of a few training steps on real batches, reading included; `ms_per_slice`, that of inference with norms
    fused, in 3-D of a patch over its slices, reading, writing and overlaps left out; `peak_memory_bytes` of
    the training steps: what PyTorch had of the GPU's memory, and on a CPU by how much the process grew (Linux;
    null elsewhere); `device`, its name.

    The folder is left as it is. Raises InputError where the run cannot be built or its first steps fail.
    """
    with in_words(), kept_generators(), _parser(run, device) as parser:
        trainer, network = parser.get_parsed_content("train#trainer"), parser.get_parsed_content("network")
        place: torch.device = parser.get_parsed_content("device")
        _load_kernels(place)
        before = resident_bytes()
        _reset_peak(place)
        seconds, images = _steps(trainer, place)
        peak = _peak(place, before, network)
        return {
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "macs": multiply_accumulates(network, images[:1]),
            "seconds_per_step": statistics.median(seconds),
            "ms_per_slice": _inference_ms(network, images),
            "peak_memory_bytes": peak,
            "device": torch.cuda.get_device_name(place) if place.type == "cuda" else place.type,
        }


def multiply_accumulates(network: nn.Module, images: Tensor) -> int | None:
    """Of `network` in evaluation on `images` (B, C, *S): convolutions and matrix products, nothing computed.

    None where it does not run without values.
    """
    try:
        counted = deepcopy(network).eval().to("meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            counted(images.detach().to("meta"))
    except Exception:  # a stranger's network, which may look at values
        return None
    return int(counter.get_total_flops()) // 2


@contextmanager
def _parser(run: Path, device: str) -> Iterator[ConfigParser]:
    """The configuration of a run that would train and neither write nor validate."""
    file = run / "configs" / "train.yaml"
    config = load(file)
    config["handlers"] = {name: value for name, value in config["handlers"].items() if name in _OF_A_STEP}
    config |= dict.fromkeys(("iterations", "validate_every", "checkpoint_every"), _ENDLESS)
    config |= {"bundle_root": literal(str(run)), "resume": False}
    if device != "auto":
        config["device"] = f"$engine.distributed.device('{device}')"
    parser = ConfigParser(config)
    session = None
    try:
        parser.parse()
        session = parser.get_parsed_content("session")
        session.begin(parser.get_parsed_content("device"))
        yield parser
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, InputError | StoppedError):
            raise cause from error
        raise InputError(
            f"{run}: its first steps cannot be measured ({type(cause).__name__}: {one_line(str(cause))}); "
            "check the settings"
        ) from error
    finally:
        if session is not None:
            session.end()


def _steps(trainer: SupervisedTrainer, device: torch.device) -> tuple[list[float], Tensor]:
    """The seconds of training steps, and the images (B, C, *S) of one, as the network sees them."""
    marks: list[float] = []
    seen: list[Tensor] = []

    def mark(engine: Engine) -> None:
        marks.append(_now(device))
        done = len(marks) - 1 - _WARM_UP
        if done >= _MOST or (done >= _FEWEST and marks[-1] - marks[0] > _SECONDS):
            engine.terminate()

    handle = trainer.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    try:
        with trainer.add_event_handler(Events.ITERATION_COMPLETED, mark):
            trainer.run()
    finally:
        handle.remove()
    durations = [after - before for before, after in pairwise(marks)]
    return durations[_WARM_UP:], seen[-1]


def _inference_ms(network: nn.Module, images: Tensor) -> float:
    """The milliseconds that a slice takes in inference, in batches as `infer` has them."""
    device, size = images.device, images.shape[2:]
    count = min(_MOST_AT_ONCE, first_guess(prod(size), prod(size), device))
    layout = torch.channels_last if len(size) == 2 else torch.preserve_format
    batch = images.repeat(-(-count // len(images)), *[1] * (images.ndim - 1))[:count]
    batch = batch.contiguous(memory_format=layout) if len(size) == 2 else batch
    twin = deepcopy(network).eval().requires_grad_(requires_grad=False)
    with torch.no_grad():
        twin = fuse_batch_norm(twin, batch[:1]).to(memory_format=layout)
    durations: list[float] = []
    started = time.perf_counter()
    with torch.inference_mode():
        while len(durations) <= _FEWEST or (
            len(durations) < _MOST and time.perf_counter() - started < _SECONDS
        ):
            begun = _now(device)
            twin(batch)
            durations.append(_now(device) - begun)
    return 1000 * statistics.median(durations[1:]) / count / prod(size[:-2])


def _load_kernels(device: torch.device) -> None:
    """Let PyTorch load what any network needs, which would count for the first that a process measures."""
    trial = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)).to(device)
    trial(torch.zeros(2, 4, 64, 64, device=device)).sum().backward()
    torch.optim.SGD(trial.parameters(), 0.1, momentum=0.9).step()


def _now(device: torch.device) -> float:
    """The time when all that was queued is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        restart_peak()


def _peak(device: torch.device, before: int | None, network: nn.Module) -> int | None:
    """The largest memory in bytes since `_reset_peak`: on a CPU `network` and what came to `before`."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    most = peak_bytes()
    if most is None or before is None:
        return None
    own = sum(each.numel() * each.element_size() for each in (*network.parameters(), *network.buffers()))
    return own + max(0, most - before)
