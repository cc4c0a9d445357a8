"""Handlers of ignite's engines that belong to no other idea."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ignite.engine import Engine, Events
from torch import nn

from dsnet_med.engine.distributed import on_main
from dsnet_med.engine.loggers import finite
from dsnet_med.files import write_json
from dsnet_med.inference.record import load_recorded


class Handler(Protocol):
    """What listens to an engine."""

    def attach(self, engine: Engine) -> None:
        """Begin to listen."""


class AttachAll:
    """Attach the handlers of a mapping in its order, but for None: in a configuration they have names."""

    def __init__(self, handlers: Mapping[str, Handler | None]) -> None:
        self.handlers = [handler for handler in handlers.values() if handler is not None]

    def attach(self, engine: Engine) -> None:
        """Let all listen to `engine`."""
        for handler in self.handlers:
            handler.attach(engine)


class Validation:
    """Run `validator` after every `interval` epochs of a trainer, and at `iterations`, where the trainer ends.

    MONAI's ValidationHandler knows whole epochs only. What happens after a validation listens to the validator.
    """

    def __init__(self, validator: Engine, iterations: int, interval: int = 1) -> None:
        self.validator, self.iterations, self.interval = validator, iterations, interval
        self.due = False

    def attach(self, trainer: Engine) -> None:
        """Listen to `trainer`."""
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._stop)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._at_epoch)
        trainer.add_event_handler(Events.TERMINATE, self._at_the_end)

    def _stop(self, trainer: Engine) -> None:
        at_the_end = trainer.state.iteration == self.iterations
        self.due = at_the_end and self.iterations % trainer.state.epoch_length > 0
        if self.due:
            trainer.terminate()

    def _at_epoch(self, trainer: Engine) -> None:
        if trainer.state.epoch % self.interval == 0 or trainer.state.iteration == self.iterations:
            self.validator.run(trainer.state.epoch)

    def _at_the_end(self, trainer: Engine) -> None:
        if self.due:  # and not ended for another reason, such as early stopping
            self.validator.run(trainer.state.epoch)


class BestWeights:
    """Load a run's model.pt into `network` before an engine begins; InputError where it is not as trained."""

    def __init__(self, path: str, network: nn.Module) -> None:
        self.path, self.network = Path(path), network

    def attach(self, engine: Engine) -> None:
        """Load when `engine` starts."""
        engine.add_event_handler(Events.STARTED, lambda: load_recorded(self.network, self.path))


class ScoreFile:
    """Write some metrics of an evaluation to a JSON file."""

    def __init__(self, path: str, names: Sequence[str]) -> None:
        self.path, self.names = Path(path), names

    def attach(self, evaluator: Engine) -> None:
        """Write when `evaluator` has finished."""
        evaluator.add_event_handler(Events.COMPLETED, self._write)

    def _write(self, evaluator: Engine) -> None:
        scores = {name.removeprefix("val_"): evaluator.state.metrics[name] for name in self.names}
        on_main(write_json, self.path, finite(scores, 6))
