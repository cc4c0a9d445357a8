"""Where the time of a training goes: a table of its parts, and a trace of a few steps."""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from torch.profiler import ProfilerActivity, profile, record_function

from dsnet_med.engine.stopping import on_failure
from dsnet_med.files import write_json, write_text, written_whole

_STEP = ("waiting for data", "copy", "forward", "backward", "optimiser", "handlers")  # in this order
_WAITING, _COPY, _FORWARD, _BACKWARD, _OPTIMISER, _HANDLERS = _STEP
_VALIDATION = "validation"
_WARM_UP, _MEASURED, _TRACED = 10, 200, 5  # steps, fewer of each in a short run


class Profile:
    """Measure a trainer's steps after the first ones, trace a few more, and write `folder`/profile at the end.

    The parts: waiting for data; copy (to the device, with what is done to a batch there); forward, with the
    loss; backward; optimiser; handlers (schedule, logs, checkpoints); validation, its time shared out among all
    steps of the run. On a GPU the times are those of its stream: work counts where it is done, not where it is
    queued. Attach this after all other handlers, so that their time is not that of a part.
    """

    def __init__(self, folder: str, iterations: int, validator: Engine | None = None) -> None:
        self.folder, self.iterations, self.validator = Path(folder) / "profile", iterations, validator
        self.marks: list[tuple[str, Any]] = []  # the part that ends, and when
        self.steps, self.measuring, self.validations = 0, False, list[float]()
        self.profiler: profile | None = None
        self.range: Any = None
        self.traced, self.busy_ms = 0, 0.0

    def attach(self, trainer: Engine) -> None:
        """Measure `trainer`."""
        trainer.add_event_handler(Events.STARTED, self._start)
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._begin_step)
        for event, part in (
            (Events.GET_BATCH_COMPLETED, _WAITING),
            (IterationEvents.LOSS_COMPLETED, _FORWARD),
            (IterationEvents.BACKWARD_COMPLETED, _BACKWARD),
            (IterationEvents.MODEL_COMPLETED, _OPTIMISER),
        ):
            trainer.add_event_handler(event, lambda _, part=part: self._end_part(part))
        trainer.add_event_handler(Events.COMPLETED, self._write)
        on_failure(trainer, self._end_trace)
        if self.validator:
            self.validator.add_event_handler(Events.STARTED, self._begin_validation)
            self.validator.add_event_handler(Events.COMPLETED, self._end_validation)

    def _start(self, trainer: Any) -> None:
        total = self.iterations - trainer.state.iteration
        self.first = min(_WARM_UP, total // 3)
        self.last = max(1, min(self.first + _MEASURED, total - min(_TRACED, total // 3)))
        self.device: torch.device = trainer.state.device
        prepare = trainer.prepare_batch

        def prepared(*arguments: Any, **options: Any) -> Any:
            batch = prepare(*arguments, **options)
            self._end_part(_COPY)
            return batch

        trainer.prepare_batch = prepared

    def _begin_step(self, _: Engine) -> None:
        self._end_part(_HANDLERS)
        self.measuring = self.first <= self.steps < self.last
        if self.steps == self.first:
            self.marks = [(_HANDLERS, self._now())]
        if self.steps == self.last:
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self.device.type == "cuda")
            self.profiler = profile(activities=kinds)
            self.profiler.start()
            self._name(_WAITING)
        self.steps += 1
        if self.steps > self.last + _TRACED:
            self._end_trace()

    def _end_part(self, part: str) -> None:
        if self.measuring:
            self.marks.append((part, self._now()))
        if self.profiler:
            self.traced += part == _OPTIMISER
            self._name(_STEP[(_STEP.index(part) + 1) % len(_STEP)])

    def _name(self, part: str) -> None:
        """Give the trace a range of this name, which lasts to the next."""
        if self.range:
            self.range.__exit__(None, None, None)
        self.range = record_function(part)
        self.range.__enter__()

    def _now(self) -> Any:
        """An event in the GPU's stream, or the time in milliseconds."""
        if self.device.type != "cuda":
            return 1000 * time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _begin_validation(self, _: Engine) -> None:
        self._end_part(_HANDLERS)
        self._end_trace()
        self._wait()
        self.validations.append(time.perf_counter())

    def _end_validation(self, _: Engine) -> None:
        self._wait()
        self.validations[-1] = time.perf_counter() - self.validations[-1]
        if self.measuring:
            self.marks.append((_VALIDATION, self._now()))

    def _end_trace(self) -> None:
        if self.profiler is None:
            return
        profiler, self.profiler = self.profiler, None
        self.range.__exit__(None, None, None)
        self._wait()
        profiler.stop()
        self.busy_ms = _busy_ms(profiler.events() or ())
        with written_whole(self.folder / "trace.json") as temporary:
            profiler.export_chrome_trace(str(temporary))

    def _write(self, trainer: Engine) -> None:
        self._end_part(_HANDLERS)
        self._end_trace()
        self._wait()
        steps = max(1, min(self.last, self.steps) - self.first)
        spent: dict[str, float] = defaultdict(float)
        for (_, before), (part, after) in pairwise(self.marks):
            spent[part] += before.elapsed_time(after) if self.device.type == "cuda" else after - before
        parts = {part: spent[part] / steps for part in _STEP}
        step = sum(parts.values()) or 1.0
        parts[_VALIDATION] = 1000 * sum(self.validations) / max(1, self.steps)
        whole = step + parts[_VALIDATION]
        cuda = self.device.type == "cuda"
        found = {
            "device": torch.cuda.get_device_name(self.device) if cuda else str(self.device),
            "steps": steps,
            "batch_size": len(trainer.state.output["image"]),
            "ms_per_step": round(whole, 4),
            "parts": {
                part: {"ms_per_step": round(ms, 4), "share": round(ms / whole, 4)} for part, ms in parts.items()
            },
            "gpu_busy": round(min(1.0, self.busy_ms / self.traced / step), 4) if cuda and self.traced else None,
            "traced_steps": self.traced,
        }
        write_json(self.folder / "profile.json", found)
        write_text(self.folder / "table.txt", table(found))


def table(found: Mapping[str, Any]) -> str:
    """What profile.json says, in lines for people."""
    lines = [f"{'':18}{'ms per step':>12}{'share':>9}"]
    for part, values in found["parts"].items():
        lines.append(f"{part:18}{values['ms_per_step']:12.2f}{values['share']:9.1%}")
    whole = found["ms_per_step"]
    lines.append(f"{'all':18}{whole:12.2f}{1:9.1%}")
    rate = 1000 * found["batch_size"] / (whole - found["parts"][_VALIDATION]["ms_per_step"])
    lines.append(f"{found['steps']} steps of {found['batch_size']} on {found['device']}: {rate:.1f} a second")
    if found["gpu_busy"] is not None:
        lines.append(f"the GPU is busy for {found['gpu_busy']:.1%} of a step")
    if found["traced_steps"]:
        lines.append(f"trace.json, for https://ui.perfetto.dev, has {found['traced_steps']} steps")
    return "\n".join(lines) + "\n"


def _busy_ms(events: Iterable[Any]) -> float:
    """How long any kernel or copy was running on a GPU; those that overlap count once."""
    spans = sorted((e.time_range.start, e.time_range.end) for e in events if e.device_type.name == "CUDA")
    busy, until = 0.0, float("-inf")
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / 1000
