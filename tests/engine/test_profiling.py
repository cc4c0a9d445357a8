"""--profile: the table's times are of the parts that they name, and the trace has the steps that it says."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ignite.engine import Events
from monai.engines import IterationEvents
from tiny_engines import engines
from torch.autograd import DeviceType

from dsnet_med.engine.profiling import Profile, _busy_ms, table


def test_each_part_has_its_time(tmp_path: Path) -> None:
    trainer, validator = engines(iterations=12, every=6)

    def slowed(seconds: float) -> object:
        return lambda *_: time.sleep(seconds)

    prepare = trainer.prepare_batch
    trainer.prepare_batch = lambda *arguments, **options: (time.sleep(0.02), prepare(*arguments, **options))[1]
    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, slowed(0.01))
    trainer.add_event_handler(IterationEvents.FORWARD_COMPLETED, slowed(0.03))
    trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, slowed(0.04))
    trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, slowed(0.005))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, slowed(0.015))
    validator.add_event_handler(Events.STARTED, slowed(0))
    Profile(str(tmp_path), 12, validator).attach(trainer)
    validator.add_event_handler(Events.ITERATION_COMPLETED, slowed(0.03))
    trainer.run()
    found = json.loads((tmp_path / "profile" / "profile.json").read_text())
    assert found["steps"] == 4 and found["batch_size"] == 4 and found["device"] == "cpu"
    ms = {part: values["ms_per_step"] for part, values in found["parts"].items()}
    least = {"waiting for data": 10, "copy": 20, "forward": 30, "backward": 40, "handlers": 15, "optimiser": 5}
    assert all(least[part] <= ms[part] for part in least)
    assert ms["validation"] >= 2 * 4 * 30 / 12
    assert sum(values["share"] for values in found["parts"].values()) == pytest.approx(1, abs=1e-3)
    assert found["gpu_busy"] is None
    trace = json.loads((tmp_path / "profile" / "trace.json").read_text())
    names = [event.get("name") for event in trace["traceEvents"] if event.get("cat") == "user_annotation"]
    assert names.count("forward") == names.count("backward") == found["traced_steps"] == 4
    text = (tmp_path / "profile" / "table.txt").read_text()
    assert text == table(found)
    assert all(part in text for part in ("waiting for data", "validation", "all"))


@pytest.mark.parametrize(("steps", "measured"), [(1, 1), (2, 2), (3, 1)])
def test_a_run_may_be_short(steps: int, measured: int, tmp_path: Path) -> None:
    trainer, validator = engines(iterations=steps, every=steps)
    Profile(str(tmp_path), steps, validator).attach(trainer)
    trainer.run()
    found = json.loads((tmp_path / "profile" / "profile.json").read_text())
    assert found["steps"] == measured
    assert found["traced_steps"] == (tmp_path / "profile" / "trace.json").exists() == (steps == 3)


def test_kernels_that_overlap_count_once() -> None:
    def event(start: float, end: float, kind: DeviceType = DeviceType.CUDA) -> SimpleNamespace:
        return SimpleNamespace(device_type=kind, time_range=SimpleNamespace(start=start, end=end))

    events = [
        event(0, 1000),
        event(500, 2000),
        event(600, 700),
        event(3000, 3500),
        event(0, 9000, DeviceType.CPU),
    ]
    assert _busy_ms(events) == 2.5
