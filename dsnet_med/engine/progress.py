"""What is told of a run while it trains: losses and scores to the loggers, bars on stderr."""

import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from dsnet_med.engine.loggers import Loggers, finite
from dsnet_med.engine.stopping import on_failure

_SHOWN_EVERY_S = 0.5  # the loss in the bar: reading it makes a GPU's queue run empty
_BAR_AFTER_S = 1.0  # of a validation: quicker ones show none


class Best(Protocol):
    """What knows the best validation so far."""

    score: str
    best: Mapping[str, Any]


class LossLog:
    """Log the mean loss of every `every` iterations, the learning rate and the seconds of training.

    The sum stays on the device, which is waited for once in `every` iterations. A part of the checkpoint: what
    a resumed run logs is what an undisturbed one does, but for the seconds, which count from its start.
    """

    def __init__(self, logger: Loggers, optimizer: Optimizer, every: int = 10) -> None:
        self.logger, self.optimizer, self.every = logger, optimizer, every
        self.total, self.count = torch.zeros(()), 0

    def attach(self, trainer: Engine) -> None:
        """Listen to `trainer`."""
        trainer.add_event_handler(Events.STARTED, self._start)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self._send)

    def state_dict(self) -> dict[str, Any]:
        """The losses that are not logged yet."""
        return {"total": self.total.cpu(), "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.total, self.count = state["total"], state["count"]

    def _start(self, _: Engine) -> None:
        self.since = time.monotonic()

    def _add(self, trainer: Engine) -> None:
        loss: Tensor = trainer.state.output["loss"].detach()
        self.total, self.count = self.total.to(loss.device) + loss, self.count + 1

    def _send(self, trainer: Engine) -> None:
        values = {
            "loss": round(self.total.item() / self.count, 6),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": round(time.monotonic() - self.since, 2),
        }
        self.total, self.count = torch.zeros_like(self.total), 0
        self.logger.numbers(trainer.state.iteration, values)


class ValidationLog:
    """Log the metrics of `validator` after each of its runs, `val_` in front of their names.

    A metric is a number, or a mapping of numbers by name (the Dice of every organ).
    """

    def __init__(self, logger: Loggers, validator: Engine) -> None:
        self.logger, self.validator = logger, validator

    def attach(self, trainer: Engine) -> None:
        """Listen to the validator; the iteration is that of `trainer`."""
        self.trainer = trainer
        self.validator.add_event_handler(Events.COMPLETED, self._send)

    def _send(self, validator: Engine) -> None:
        values = {f"val_{name.removeprefix('val_')}": value for name, value in validator.state.metrics.items()}
        self.logger.numbers(self.trainer.state.iteration, finite(values, 6))


class Progress:
    """Bars on stderr: all iterations, with the time left, the loss and the best validation; a long validation.

    `checkpoints` knows the best validation.
    """

    def __init__(self, iterations: int, checkpoints: Best, validator: Engine | None = None) -> None:
        self.iterations, self.checkpoints, self.validator = iterations, checkpoints, validator
        self.bars: dict[Engine, tqdm[Any]] = {}
        self.shown = 0.0

    def attach(self, trainer: Engine) -> None:
        """Show the progress of `trainer` and of the validator."""
        trainer.add_event_handler(Events.STARTED, self._open, "train", self.iterations, 0.0)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._show_loss)
        for engine in filter(None, (trainer, self.validator)):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
            engine.add_event_handler(Events.COMPLETED, self._close)
            on_failure(engine, self._close_all)  # so that what is said next stands on a line of its own
        if self.validator:
            self.validator.add_event_handler(Events.STARTED, self._open, "validate", None, _BAR_AFTER_S)

    def _open(self, engine: Engine, title: str, total: int | None, delay: float) -> None:
        total = total or engine.state.epoch_length
        done = engine.state.iteration
        self.bars[engine] = tqdm(
            total=total, initial=done, desc=title, unit="step", ncols=100, leave=not delay, delay=delay
        )

    def _show_loss(self, trainer: Engine) -> None:
        if time.monotonic() - self.shown < _SHOWN_EVERY_S and trainer.state.iteration < self.iterations:
            return
        shown, best = {"loss": f"{trainer.state.output['loss'].item():.3f}"}, self.checkpoints.best
        if (score := best[self.checkpoints.score]) >= 0:  # false for NaN, too: nothing was measured
            shown["best"] = f"{score:.3f}"
        self.bars[trainer].set_postfix(shown, refresh=False)
        self.shown = time.monotonic()

    def _advance(self, engine: Engine) -> None:
        self.bars[engine].update()

    def _close(self, engine: Engine) -> None:
        self.bars.pop(engine).close()

    def _close_all(self) -> None:
        for engine in list(self.bars):
            self._close(engine)
