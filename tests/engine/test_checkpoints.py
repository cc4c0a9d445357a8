"""A training that is stopped anywhere and goes on ends with the bits of one that was not."""

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler
from torch import nn
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, MultiStepLR

from dsnet_med.engine.checkpoints import Checkpoints, save_state
from dsnet_med.engine.schedule import poly
from dsnet_med.engine.stepping import ClipGradients, WeightAverage
from dsnet_med.engine.stopping import EarlyStop, FiniteLoss
from dsnet_med.errors import InputError

ITERATIONS, LENGTH = 23, 7  # an epoch, which ends with a validation; the last one is shorter


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power cut is tried here, and waiting for the disk took most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class _Batches:
    """Batch n for step n, whenever the passes begin: what Draws and Loader give a real training."""

    def __init__(self) -> None:
        self.first = 0

    def start(self, iteration: int) -> None:
        self.first = iteration

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            draw = torch.Generator().manual_seed(self.first)
            self.first += 1
            yield {"image": torch.randn(4, 3, generator=draw), "label": torch.randn(4, 1, generator=draw)}


class _Log:
    """Lines of a file, as the log of a run is kept."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def write(self, **values: Any) -> None:
        with self.file.open("a") as stream:
            stream.write(json.dumps(values) + "\n")

    def lines(self) -> list[str]:
        return self.file.read_text().splitlines() if self.file.exists() else []

    def state_dict(self) -> dict[str, int]:
        return {"lines": len(self.lines())}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.file.write_text("".join(f"{line}\n" for line in self.lines()[: state["lines"]]))


def _closeness(output: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    return 1 / (1 + (output[0]["pred"] - output[0]["label"]).abs().mean())


class _Validation:
    """Validate after every epoch and at the last iteration."""

    def __init__(self, validator: SupervisedEvaluator, iterations: int) -> None:
        self.validator, self.iterations = validator, iterations

    def attach(self, trainer: Engine) -> None:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: self.validator.run())
        if self.iterations % LENGTH:
            trainer.add_event_handler(Events.ITERATION_COMPLETED(once=self.iterations), self._end)

    def _end(self, trainer: Engine) -> None:
        trainer.terminate()
        trainer.add_event_handler(Events.TERMINATE, lambda _: self.validator.run())


class Run:
    """A training of a small network with everything that has a state, as configs/train.yaml makes one."""

    def __init__(
        self,
        folder: Path,
        *,
        iterations: int = ITERATIONS,
        every: int = 4,
        accumulate: int = 1,
        patience: int = 100,
        schedule: Callable[[torch.optim.Optimizer, int], Any] = poly,
        rate: float = 0.05,
        adam: bool = False,
        writes: bool = True,
        trained_on: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        draw = torch.random.get_rng_state()
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 1))
        torch.random.set_rng_state(draw)
        parameters = network.parameters()
        optimizer = (
            torch.optim.AdamW(parameters, rate) if adam else torch.optim.SGD(parameters, rate, momentum=0.9)
        )
        scheduler, ema = schedule(optimizer, iterations), WeightAverage(network, 0.9)
        batches, self.log = _Batches(), _Log(folder / "log")
        self.validator = SupervisedEvaluator(
            device="cpu",
            val_data_loader=[next(iter(_Batches()))] * 3,
            network=ema.ema_model,
            key_val_metric={"score": Average(_closeness)},
        )
        early = EarlyStop(patience, self.validator, "score")
        self.checkpoints = Checkpoints(
            str(folder / "checkpoints"),
            str(folder / "models"),
            {
                "network": network,
                "optimizer": optimizer,
                "lr_scheduler": scheduler,
                "ema": ema.ema_model,
                "early_stopping": early,
                "log": self.log,
            },
            validator=self.validator,
            score="score",
            iterations=iterations,
            every=every,
            writes=writes,
            sampler=batches,
            trained_on=trained_on,
        )
        handlers = [
            _Validation(self.validator, iterations),
            LrScheduleHandler(scheduler, print_lr=False, epoch_level=False),
            ClipGradients(network, 1.0),
            ema,
            early,
            FiniteLoss(self.checkpoints.kept),
            self.checkpoints,
        ]
        self.optimizer, self.network, self.seen = optimizer, network, list[int]()
        self.trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=-(-iterations // LENGTH),
            epoch_length=LENGTH,
            train_data_loader=batches,
            network=network,
            optimizer=optimizer,
            loss_function=nn.MSELoss(),
            train_handlers=handlers,
            decollate=False,
            accumulation_steps=accumulate,
        )
        self.trainer.add_event_handler(
            Events.ITERATION_STARTED, lambda each: torch.manual_seed(each.state.iteration)
        )
        self.trainer.add_event_handler(
            Events.ITERATION_COMPLETED,
            lambda each: self.log.write(step=each.state.iteration, loss=each.state.output["loss"].item()),
        )
        self.validator.add_event_handler(
            Events.COMPLETED,
            lambda each: self.log.write(step=self.trainer.state.iteration, score=each.state.metrics["score"]),
        )

    def go(self, *, resume: bool = False) -> "Run":
        """Train to the end."""
        if resume:
            self.checkpoints.resume(self.trainer)
        self.trainer.run()
        return self


class _Killed(BaseException):
    """What stands for SIGKILL: nothing of ours catches it, so nothing is saved or tidied on its account."""


def _killed_at(run: Run, moment: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Train until the moment of that number, counted in events of both engines and in files written."""
    moments = 0

    def passing(do: Callable[..., Any]) -> Callable[..., Any]:
        def passed(*arguments: Any, **options: Any) -> Any:
            nonlocal moments
            moments += 1
            if moments == moment:
                raise _Killed
            return do(*arguments, **options)

        return passed

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", passing(lambda _: None))
        for engine in (run.trainer, run.validator):
            patched.setattr(engine, "_fire_event", passing(engine._fire_event))
        with suppress(_Killed):
            run.go(resume=True)
    return moments


def _state(run: Run) -> dict[str, Any]:
    return torch.load(run.folder / "checkpoints" / "last.pt", weights_only=True)


def _hashes(folder: Path) -> list[str]:
    files = [folder / "models" / "model.pt", folder / "checkpoints" / "last.pt", folder / "log"]
    record = folder / "weights.json"
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in (*files, record) if file.is_file()]


def _new(folder: Path, **options: Any) -> Run:
    folder.mkdir(exist_ok=True)
    return Run(folder, **options)


def _milestones(optimizer: torch.optim.Optimizer, iterations: int) -> ChainedScheduler:
    milestones = [iterations // 2, iterations * 3 // 4]
    return ChainedScheduler([LinearLR(optimizer, 0.1, total_iters=5), MultiStepLR(optimizer, milestones)])


@pytest.mark.parametrize(
    "options",
    [{"trained_on": {"seed": 1}}, {"accumulate": 3, "adam": True, "schedule": _milestones}],
    ids=["momentum", "accumulated Adam"],
)
def test_a_run_killed_anywhere_twice_ends_with_the_same_bits(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = _new(tmp_path / "whole", **options)
    total = _killed_at(undisturbed, 0, monkeypatch)
    for first in range(30, total, 41):
        folder = tmp_path / str(first)
        _killed_at(_new(folder, **options), first, monkeypatch)
        _killed_at(_new(folder, **options), 1 + first * 5 % 60, monkeypatch)
        run = _new(folder, **options)
        run.go(resume=True)
        assert _hashes(folder) == _hashes(tmp_path / "whole"), f"killed at moment {first} of {total}"
        assert all(
            torch.equal(*pair)
            for pair in zip(run.network.parameters(), undisturbed.network.parameters(), strict=True)
        )


def test_equal_runs_give_equal_bytes_and_model_is_the_average_of_the_best(tmp_path: Path) -> None:
    averages: dict[int, dict[str, torch.Tensor]] = {}
    runs = [_new(tmp_path / name) for name in "ab"]
    for run in runs:
        run.validator.add_event_handler(
            Events.STARTED,
            lambda each, run=run: averages.update(
                {run.trainer.state.iteration: deepcopy(each.network.state_dict())}
            ),
        )
        run.go()
    assert _hashes(tmp_path / "a") == _hashes(tmp_path / "b")
    lines = [json.loads(line) for line in runs[0].log.lines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, ITERATIONS + 1))
    scores = {line["step"]: line["score"] for line in lines if "score" in line}
    assert list(scores) == [7, 14, 21, 23]
    best = max(scores, key=scores.__getitem__)
    assert runs[0].checkpoints.best == {"score": scores[best], "iteration": best}
    model = torch.load(tmp_path / "a" / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(model[name], value) for name, value in averages[best].items())
    assert not torch.equal(model["0.weight"], _state(runs[0])["parts"]["network"]["0.weight"])


def test_what_is_not_measured_keeps_the_newest_weights(tmp_path: Path) -> None:
    run = _new(tmp_path)
    measured = iter([float("nan"), -1.0, 0.25, float("nan")])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Average, "compute", lambda _: next(measured))
        run.go()
    assert run.checkpoints.best == {"score": 0.25, "iteration": 21}
    assert _state(run)["metrics"]["score"] != _state(run)["metrics"]["score"]  # NaN


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("event", "kept"),
    [
        (Events.ITERATION_STARTED, 5),  # the step in flight ends first
        (Events.GET_BATCH_STARTED, 4),  # while waiting for data: at once
        ("validation", 7),
    ],
)
def test_a_signal_keeps_the_state_and_then_does_what_it_did_before(
    number: signal.Signals, event: Any, kept: int, tmp_path: Path
) -> None:
    class Stopped(BaseException):
        pass

    def host(*_: Any) -> None:
        raise Stopped

    run = _new(tmp_path / "run", every=100)
    if event == "validation":
        run.validator.add_event_handler(Events.ITERATION_COMPLETED, lambda _: signal.raise_signal(number))
    else:
        here = event(lambda engine, _: engine.state.iteration == kept)
        run.trainer.add_event_handler(here, lambda _: signal.raise_signal(number))
    before = signal.signal(number, host)
    try:
        with pytest.raises(Stopped):
            run.go()
        assert signal.getsignal(number) is host
        assert _state(run)["moment"] == (kept, event == "validation", False)
    finally:
        signal.signal(number, before)
    _new(tmp_path / "run", every=100).go(resume=True)
    assert signal.getsignal(number) is before
    assert _state(_new(tmp_path / "whole", every=100).go())["moment"] == (ITERATIONS, False, True)
    assert _hashes(tmp_path / "run") == _hashes(tmp_path / "whole")


def test_a_second_ctrl_c_stops_at_once_and_a_second_sigterm_waits(tmp_path: Path, monkeypatch: Any) -> None:
    clock = count(0.0, 2.0)  # whoever else asks
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    run = _new(tmp_path / "a")

    def twice(_: Engine) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    run.trainer.add_event_handler(Events.ITERATION_STARTED(once=3), twice)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            run.go()
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.trainer.state.iteration == 3 and not (tmp_path / "a" / "checkpoints").exists()


def test_signals_are_left_alone_outside_the_main_thread_and_where_they_are_ignored(tmp_path: Path) -> None:
    run = _new(tmp_path)
    found = []
    run.trainer.add_event_handler(
        Events.ITERATION_STARTED(once=1), lambda _: found.append(signal.getsignal(signal.SIGINT))
    )
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run.go)
    thread.start()
    thread.join()
    assert found == [before] and run.trainer.state.iteration == ITERATIONS
    (tmp_path / "b").mkdir()
    ignoring = Run(tmp_path / "b")
    ignoring.trainer.add_event_handler(
        Events.ITERATION_STARTED(once=1), lambda _: signal.raise_signal(signal.SIGINT)
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ignoring.go()
    finally:
        signal.signal(signal.SIGINT, before)
    assert ignoring.trainer.state.iteration == ITERATIONS


def test_a_process_that_does_not_write_goes_on_until_the_one_that_does_is_gone(tmp_path: Path) -> None:
    run = _new(tmp_path, writes=False)
    before = signal.getsignal(signal.SIGTERM)
    run.trainer.add_event_handler(
        Events.ITERATION_STARTED(once=3), lambda _: signal.raise_signal(signal.SIGTERM)
    )
    run.go()
    assert run.trainer.state.iteration == ITERATIONS and signal.getsignal(signal.SIGTERM) is before
    assert [file.name for file in tmp_path.iterdir()] == ["log"]


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    _new(tmp_path / "run", trained_on={"seed": 1}).go()
    assert (tmp_path / "run" / "weights.json").is_file()
    with pytest.raises(InputError, match=r"is of another training, \{'seed': 1\} and not \{'seed': 2\}"):
        _new(tmp_path / "run", trained_on={"seed": 2}, iterations=40).go(resume=True)
    _new(tmp_path / "run", trained_on={"seed": 1}, iterations=40).go(resume=True)


def test_resume_refuses_what_it_cannot_go_on_from(tmp_path: Path) -> None:
    def refused(**options: Any) -> str:
        with pytest.raises(InputError) as error:
            _new(tmp_path / "run", **options).go(resume=True)
        return str(error.value)

    _new(tmp_path / "run").go()
    hashes = _hashes(tmp_path / "run")
    _new(tmp_path / "run").go(resume=True)  # which was killed before its summary
    assert _hashes(tmp_path / "run") == hashes
    (tmp_path / "run" / "summary.json").write_text("{}")
    assert "nothing to resume" in refused() and f"has done all {ITERATIONS} iterations" in refused()
    assert "23 iterations are done, which is more than 20" in refused(iterations=20)
    assert "is of another training (optimizer" in refused(iterations=30, adam=True)
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:300])
    assert "nothing to resume" in refused()
    last.unlink()
    assert "last.pt does not exist" in refused()


def test_a_model_that_has_gone_is_written_again_or_asked_for(tmp_path: Path) -> None:
    run = _new(tmp_path, iterations=LENGTH)
    run.go()
    (tmp_path / "summary.json").write_text("{}")
    model = tmp_path / "models" / "model.pt"
    before = model.read_bytes()
    model.unlink()
    _new(tmp_path, iterations=LENGTH).go(resume=True)
    assert model.read_bytes() == before
    _new(tmp_path).go(resume=True)  # to more iterations
    state = _state(run)
    if state["best"]["iteration"] == ITERATIONS:
        pytest.skip("the last weights are the best")
    model.unlink()
    with pytest.raises(InputError, match=r"model\.pt has gone, with the weights of iteration \d+, "):
        _new(tmp_path).go(resume=True)


@pytest.mark.parametrize("summary", [None, "", "{", "[]", json.dumps({"iterations": 7, "seal": "0"})])
def test_a_run_whose_summary_is_not_whole_is_finished(summary: str | None, tmp_path: Path) -> None:
    _new(tmp_path, iterations=LENGTH).go()
    if summary is not None:
        (tmp_path / "summary.json").write_text(summary)
    _new(tmp_path, iterations=LENGTH).go(resume=True)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(InputError, match="has done all"):
        _new(tmp_path, iterations=LENGTH).go(resume=True)


@pytest.mark.parametrize("schedule", [poly, _milestones])
def test_more_iterations_go_on_by_the_longer_schedule(schedule: Any, tmp_path: Path) -> None:
    _new(tmp_path / "run", schedule=schedule, iterations=14).go()
    (tmp_path / "run" / "summary.json").write_text("{}")
    longer = _new(tmp_path / "run", schedule=schedule, iterations=28)
    whole = _new(tmp_path / "whole", schedule=schedule, iterations=28)
    rates: dict[str, list[float]] = {"longer": [], "whole": []}
    for name, run in (("longer", longer), ("whole", whole)):
        run.trainer.add_event_handler(
            Events.ITERATION_STARTED,
            lambda _, run=run, name=name: rates[name].append(run.optimizer.param_groups[0]["lr"]),
        )
    longer.go(resume=True)
    whole.go()
    assert rates["longer"] == rates["whole"][14:] and len(set(rates["longer"])) > 1
    assert _state(longer)["moment"] == (28, False, True)


def test_a_run_that_stops_early_counts_the_same_when_it_is_resumed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(Average, "compute", lambda _: 0.5)  # never better
    whole = _new(tmp_path / "whole", patience=2, iterations=70).go()
    assert whole.trainer.state.iteration == 21  # measured at 7, no better at 14 and 21
    total = _killed_at(_new(tmp_path / "count", patience=2, iterations=70), 0, monkeypatch)
    for moment in range(5, total, 53):
        folder = tmp_path / str(moment)
        _killed_at(_new(folder, patience=2, iterations=70), moment, monkeypatch)
        _new(folder, patience=2, iterations=70).go(resume=True)
        assert _hashes(folder) == _hashes(tmp_path / "whole")
    (tmp_path / "whole" / "summary.json").write_text("{}")
    with pytest.raises(InputError, match="stopped early, at iteration 21"):
        _new(tmp_path / "whole", patience=2, iterations=70).go(resume=True)


@pytest.mark.parametrize("every", [3, 100])
def test_a_training_that_diverges_stops_and_keeps_its_last_finite_state(every: int, tmp_path: Path) -> None:
    run = _new(tmp_path, every=every)
    run.trainer.add_event_handler(
        Events.ITERATION_STARTED(once=5), lambda each: run.network[0].weight.data.fill_(float("inf"))
    )
    with pytest.raises(InputError, match=r"not finite from step \d") as error:
        run.go()
    step = 6 if every == 3 else 5
    assert f"from step {step} on" in str(error.value) and "optimizer#lr" in str(error.value)
    assert not (tmp_path / "models").exists()
    if every == 3:
        assert "the state after step 3 is in" in str(error.value)
        assert all(value.isfinite().all() for value in _state(run)["parts"]["network"].values())
    else:
        assert "no state was saved" in str(error.value)


def test_a_full_disk_names_the_file_and_leaves_the_earlier_checkpoint(mounted: Callable[[str], Path]) -> None:
    disk = mounted("size=64k")
    save_state(disk / "last.pt", {"a": torch.zeros(3)})
    with pytest.raises(InputError, match=r"cannot write .*last.pt: no space left on the device"):
        save_state(disk / "last.pt", {"a": torch.ones(300_000)})
    assert torch.load(disk / "last.pt")["a"].sum() == 0
    assert [file.name for file in disk.iterdir()] == ["last.pt"]
