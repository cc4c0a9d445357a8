"""What happens around a training step: numbers written down, the newest state kept, progress shown."""

import time
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any, Protocol

from ignite.engine import Engine, Events
from torch.optim import Optimizer
from tqdm import tqdm

from dsnet_med.engine.checkpoints import Checkpoints
from dsnet_med.engine.loggers import Sink
from dsnet_med.engine.metrics import CaseDice
from dsnet_med.files import write_json


class Scored(Protocol):
    """What gives the score of the last validation."""

    def compute(self) -> float:
        """The score."""


class LossLog:
    """Send the loss and the learning rate to the sinks every `every` iterations of a trainer."""

    def __init__(self, sinks: Sequence[Sink], optimizer: Optimizer, every: int = 10) -> None:
        self.sinks, self.optimizer, self.every = sinks, optimizer, every

    def attach(self, trainer: Engine) -> None:
        """Listen to `trainer`."""
        self.started = time.monotonic()
        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self._send)

    def _send(self, trainer: Engine) -> None:
        values = {
            "loss": round(trainer.state.output["loss"].item(), 6),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": round(time.monotonic() - self.started, 2),
        }
        for sink in self.sinks:
            sink(trainer.state.iteration, values)


class ValidationLog:
    """Send the mean Dice and the Dice of every class to the sinks after each run of `validator`."""

    def __init__(
        self,
        sinks: Sequence[Sink],
        metric: CaseDice,
        class_names: Sequence[str],
        validator: Engine | None = None,
    ) -> None:
        self.sinks, self.metric, self.names, self.validator = sinks, metric, class_names, validator

    def attach(self, trainer: Engine) -> None:
        """Listen to `trainer`; comes after the handler that validates."""
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._send)

    def _send(self, trainer: Engine) -> None:
        if not validated(trainer, self.validator):
            return
        values = {f"val_{key}": value for key, value in dice_by_name(self.metric, self.names).items()}
        for sink in self.sinks:
            sink(trainer.state.iteration, values)


def validated(trainer: Engine, validator: Engine | None) -> bool:
    """Whether `validator` has run after the last epoch of `trainer`; True where there is none."""
    return validator is None or validator.state.epoch == trainer.state.epoch


class Progress:
    """A progress bar on stderr over all iterations: time left, loss, best validation."""

    def __init__(self, iterations: int, checkpoints: Checkpoints) -> None:
        self.iterations, self.checkpoints = iterations, checkpoints

    def attach(self, trainer: Engine) -> None:
        """Show the progress of `trainer`."""
        trainer.add_event_handler(Events.STARTED, self._open)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        trainer.add_event_handler(Events.COMPLETED, self._close)
        trainer.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _open(self, trainer: Engine) -> None:
        done = trainer.state.iteration
        self.bar = tqdm(total=self.iterations, initial=done, desc="train", unit="step", ncols=100)

    def _advance(self, trainer: Engine) -> None:
        shown = {"loss": f"{trainer.state.output['loss'].item():.3f}"}
        if self.checkpoints.best[self.checkpoints.score] >= 0:
            shown["best"] = f"{self.checkpoints.best[self.checkpoints.score]:.3f}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()

    def _close(self, _: Engine) -> None:
        self.bar.close()

    def _fail(self, _: Engine, error: BaseException) -> None:
        self.bar.close()  # so that what is said next stands on a line of its own
        raise error


class ScoreFile:
    """Write the Dice of an evaluation to a JSON file."""

    def __init__(self, path: str, metric: CaseDice, class_names: Sequence[str]) -> None:
        self.path, self.metric, self.names = Path(path), metric, class_names

    def attach(self, evaluator: Engine) -> None:
        """Write when `evaluator` has finished."""
        evaluator.add_event_handler(Events.COMPLETED, self._write)

    def _write(self, _: Engine) -> None:
        write_json(self.path, dice_by_name(self.metric, self.names))


def dice_by_name(metric: CaseDice, names: Sequence[str]) -> dict[str, Any]:
    """The mean Dice and that of every class but background; None for a class that no case has."""
    values = [None if isnan(value) else round(value, 4) for value in metric.by_class().tolist()]
    return {"mean_dice": round(metric.compute(), 4), "dice": dict(zip(names[1:], values, strict=True))}
