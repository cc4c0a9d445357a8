"""The state of a training on disk, from which it goes on to the same last bit."""

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from math import isnan
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from dsnet_med.engine.stepping import steps
from dsnet_med.engine.stopping import diverged, on_failure
from dsnet_med.errors import InputError, one_line, shown
from dsnet_med.files import read_json, remove_partial, written_whole
from dsnet_med.inference.record import recorded
from dsnet_med.networks.checkpoint import read_pickle, write_pickle
from dsnet_med.seal import holds

UNMEASURED = -1.0  # worse than any score
_AT_REST = (Events.STARTED, Events.EPOCH_COMPLETED, Events.TERMINATE)  # outside of steps
_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and how schedulers take a machine back


class Stateful(Protocol):
    """What is kept in a checkpoint."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


class _Moment(NamedTuple):
    """Where a saved state stands: after `iteration`, before its validation or not, at the end or not."""

    iteration: int = 0
    pending: bool = False
    finished: bool = False


class Checkpoints:
    """Keep last.pt, all that it takes to go on, and model.pt, the weights with the best validation, alone.

    Both are whole at every moment. `parts`, by name, are what is kept: network, optimizer, lr_scheduler and
    whatever else has a state; a part called ema is what is validated and becomes model.pt. last.pt is written
    between two steps: every `every` iterations, before and after a run of `validator` (which gives `score`,
    NaN or negative where it is not defined), at the end, and when this process is interrupted or terminated,
    which then goes on as without this. The last of several accumulated batches counts as a step.

    `trained_on` is recorded with the best weights, see inference/record.py; None: nothing is. `writes` is False
    in all but one of several processes. `sampler` is told where a resumed run begins. Attach
    this after handlers that open what a validation writes to.
    """

    def __init__(
        self,
        checkpoint_dir: str,
        model_dir: str,
        parts: Mapping[str, Stateful],
        *,
        validator: Engine,
        score: str,
        iterations: int,
        every: int,
        writes: bool = True,
        sampler: Any = None,
        trained_on: Mapping[str, Any] | None = None,
    ) -> None:
        self.last, self.model = Path(checkpoint_dir) / "last.pt", Path(model_dir) / "model.pt"
        self.parts = {name: part for name, part in parts.items() if part is not None}
        self.validator, self.score = validator, score
        self.iterations, self.every, self.writes, self.sampler = iterations, every, writes, sampler
        self.trained_on = trained_on
        self.best = {score: UNMEASURED, "iteration": 0}
        self._saved, self._pending, self._done = _Moment(), False, False
        self._scaler: Any = None
        self._signal, self._signalled, self._resting = 0, 0.0, False
        self._previous: dict[int, Any] = {}

    def attach(self, trainer: Engine) -> None:
        """Keep the state of `trainer`."""
        self._trainer: Any = trainer
        trainer.add_event_handler(Events.STARTED, self._begin)
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._between_steps)
        trainer.add_event_handler(Events.GET_BATCH_COMPLETED, self._move)
        trainer.add_event_handler(Events.COMPLETED, self._end)
        self.validator.add_event_handler(Events.STARTED, self._before_validation)
        self.validator.add_event_handler(Events.COMPLETED, self._after_validation)
        on_failure(trainer, self._give_signals_back)

    def resume(self, trainer: Engine) -> None:
        """Go on where last.pt says; from the beginning where no state has been saved.

        With other `iterations` than before the learning rate goes on by the schedule of the new length. Raises
        InputError when there is nothing to go on from or nothing left to do, or the state is of something else.
        """
        if self.writes:
            remove_partial(self.last.parent)
        if not self.last.is_file():
            if self.model.exists():
                raise InputError(f"nothing to resume: {self.last} does not exist; train into another folder")
            if "log" in self.parts:
                self.parts["log"].load_state_dict({"lines": 0})
            return
        try:
            state = read_pickle(self.last)
            self._saved = _Moment(*state["moment"])
        except (InputError, KeyError, TypeError) as error:
            raise InputError(f"nothing to resume: {self.last}: {one_line(error)}") from error
        if state.get("trained_on", self.trained_on) != self.trained_on:
            raise InputError(
                f"nothing to resume: {self.last} is of another training, {shown(state['trained_on'])} and not "
                f"{shown(self.trained_on)}; put back this run's own, or train into another folder"
            )
        self._require_left(state)
        self._load(state)
        self._require_best()
        iteration, length = self._saved.iteration, trainer.state.epoch_length
        # ignite begins anew where no epoch is left; one more, which is not begun, lets the run end as others do
        epochs = trainer.state.max_epochs + (iteration >= self.iterations)
        trainer.load_state_dict({"iteration": iteration, "epoch_length": length, "max_epochs": epochs})
        if self.sampler is not None:
            self.sampler.start(iteration)

    def kept(self) -> str:
        """Which state is on disk, in words."""
        if self._saved == _Moment():
            return "no state was saved before it"
        return f"the state after step {self._saved.iteration} is in {self.last}"

    def _require_left(self, state: Mapping[str, Any]) -> None:
        """Raise InputError where all is done, or more than `iterations`."""
        done, finished = self._saved.iteration, self._saved.finished
        early = finished and done < state["iterations"]
        self._done = early or done >= self.iterations
        if done > self.iterations:
            raise InputError(
                f"nothing to resume: {done} iterations are done, which is more than {self.iterations}"
            )
        if (
            finished
            and self._done
            and self.model.is_file()
            and _is_whole(self.last.parents[1] / "summary.json")
        ):
            what = "stopped early, at iteration" if early else "has done all"
            raise InputError(f"nothing to resume: {self.last.parents[1]} {what} {done} iterations")

    def _require_best(self) -> None:
        """Write model.pt again where it has gone; InputError where its weights have gone with it."""
        if not self.writes or not self.best["iteration"] or self.model.is_file():
            return
        if self._pending or self.best["iteration"] != self._saved.iteration:
            raise InputError(
                f"cannot resume: {self.model} has gone, with the weights of iteration "
                f"{self.best['iteration']}, and {self.last} has later ones: put it back, or train anew"
            )
        self._write_best()

    def _load(self, state: Mapping[str, Any]) -> None:
        self.best, self._pending, self._scaler = state["best"], self._saved.pending, state["scaler"]
        self.validator.state.metrics = state["metrics"]
        rates: list[float] = []
        scheduler: Any = self.parts.get("lr_scheduler")
        if state["iterations"] != self.iterations and not isinstance(scheduler, ReduceLROnPlateau | None):
            rates = _rates_after(self._saved.iteration, scheduler)
        try:
            for name, part in self.parts.items():
                if not (rates and part is scheduler):  # whose state is that of the other length
                    part.load_state_dict(state["parts"][name])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = f"no {name}" if isinstance(error, KeyError) else one_line(error)
            raise InputError(f"cannot resume: {self.last} is of another training ({name}: {reason})") from error
        if rates:
            for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

    def _begin(self, trainer: Any) -> None:
        self._catch_signals()
        if self._scaler and trainer.scaler is not None:  # which MONAI makes when a run begins
            trainer.scaler.load_state_dict(self._scaler)
        if self._pending:
            self.validator.run()
        if self._done:
            trainer.terminate()

    def _between_steps(self, trainer: Any) -> None:
        due = self._saved.pending or trainer.state.iteration - self._saved.iteration >= self.every
        if not steps(trainer):
            return
        if due or self._signal:
            self._save(trainer)
        self._resting = True  # until there is data
        if self._signal:
            self._stop()

    def _move(self, _: Engine) -> None:
        self._resting = False

    def _before_validation(self, _: Engine) -> None:
        if self._trainer.last_event_name in _AT_REST:
            self._pending = True
            self._save(self._trainer)
            self._resting = True
            if self._signal:
                self._stop()

    def _after_validation(self, validator: Engine) -> None:
        self._resting = self._pending = False
        score = float(validator.state.metrics[self.score])
        score = UNMEASURED if isnan(score) else score
        best = self.best[self.score]
        if score > best or max(score, best) < 0:
            self.best = {self.score: score, "iteration": self._trainer.state.iteration}
            if self.writes:
                self._write_best()

    def _write_best(self) -> None:
        weights = self.parts.get("ema", self.parts["network"]).state_dict()
        facts = self.trained_on
        with nullcontext() if facts is None else recorded(self.model.parents[1], weights, facts):
            save_state(self.model, weights)

    def _end(self, trainer: Any) -> None:
        self._save(trainer, finished=True)
        if self._signal:
            self._stop()
        self._give_signals_back()

    def _save(self, trainer: Any, *, finished: bool = False) -> None:
        moment = _Moment(trainer.state.iteration, self._pending, finished)
        if moment == self._saved:
            return
        if self.writes:
            network: Any = self.parts["network"]
            if not _is_finite(network):
                raise diverged(moment.iteration, self.kept())
            save_state(
                self.last,
                {
                    "parts": {name: part.state_dict() for name, part in self.parts.items()},
                    "scaler": trainer.scaler.state_dict() if trainer.scaler is not None else None,
                    "moment": tuple(moment),
                    "iterations": self.iterations,
                    "best": _plain(self.best),
                    "trained_on": _plain(self.trained_on),
                    "metrics": _plain(self.validator.state.metrics),
                },
            )
        self._saved = moment

    def _catch_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():  # where none arrives
            return
        self._process = os.getpid()
        for number in _SIGNALS:
            previous = signal.getsignal(number)
            if previous not in (None, signal.SIG_IGN):  # None: not Python's
                self._previous[number] = previous
                # The others average on until the one that writes has saved and gone.
                signal.signal(number, self._note if self.writes else signal.SIG_IGN)

    def _give_signals_back(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _note(self, number: int, _: FrameType | None) -> None:
        again = self._signal and number == signal.SIGINT and time.monotonic() - self._signalled > 1
        if again or os.getpid() != self._process:  # a second Ctrl-C; a process forked from this one
            self._give_signals_back()
            signal.raise_signal(number)
        elif not self._signal:
            self._signal, self._signalled = number, time.monotonic()
            if self._resting:
                self._stop()

    def _stop(self) -> None:
        """Save, and do what the signal would have done without this."""
        self._save(self._trainer)
        number, self._signal = self._signal, 0
        self._give_signals_back()
        signal.raise_signal(number)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state dict, whole or not at all; equal states give equal bytes. InputError for a full disk."""
    with written_whole(path, durable=True) as temporary, temporary.open("wb") as stream:
        try:
            write_pickle(state, stream)
        except RuntimeError as error:  # from closing the archive of which a part could not be written
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def _is_whole(summary: Path) -> bool:
    try:
        value = read_json(summary)
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and holds(value) is not False


def _rates_after(iterations: int, scheduler: Any) -> list[float]:
    """The learning rates of a new schedule's parameter groups after that many steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimiser has stepped
        for _ in range(iterations):
            scheduler.step()
    return [group["lr"] for group in scheduler.optimizer.param_groups]


def _is_finite(network: nn.Module) -> bool:
    tensors = [each for each in network.state_dict().values() if each.is_floating_point()]
    return bool(torch.stack([each.isfinite().all() for each in tensors]).all()) if tensors else True


def _plain(value: Any) -> Any:
    """Python's own numbers, which a file is read safely with, and one object for each name: the same bytes."""
    if isinstance(value, Mapping):
        return {sys.intern(str(name)): _plain(part) for name, part in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value
