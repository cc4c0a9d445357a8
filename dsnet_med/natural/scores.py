"""What an evaluation on natural images gives: kept for the choice of the checkpoint, logged and written."""

from collections.abc import Sequence
from math import isfinite, nan
from operator import itemgetter
from pathlib import Path

from ignite.engine import Engine, Events
from ignite.metrics import Metric, MetricsLambda

from dsnet_med.engine.handlers import validated
from dsnet_med.engine.loggers import Sink
from dsnet_med.files import write_json
from dsnet_med.natural.distributed import is_main


def part(metric: Metric, name: str) -> MetricsLambda:
    """One number of a metric that gives several by name."""
    return MetricsLambda(itemgetter(name), metric)


class Scores:
    """The metrics called `names` of the last run of `evaluator`; the first is the one that checkpoints go by.

    Attached to a trainer behind the handler that validates, it sends them to the sinks after each validation.
    """

    def __init__(self, evaluator: Engine, names: Sequence[str], sinks: Sequence[Sink] = ()) -> None:
        self.evaluator, self.names, self.sinks = evaluator, names, sinks

    def attach(self, trainer: Engine) -> None:
        """Listen to `trainer`."""
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._send)

    def compute(self) -> float:
        """The first metric; -1 where it is not defined, so that any other is better."""
        value = self.latest()[self.names[0]]
        return -1.0 if value is None else value

    def latest(self) -> dict[str, float | None]:
        """Every metric by name; None where there is nothing that it could be of, or was no run yet."""
        metrics = self.evaluator.state.metrics
        found = {name: float(metrics.get(name, nan)) for name in self.names}
        return {name: round(value, 6) if isfinite(value) else None for name, value in found.items()}

    def write(self, path: str) -> None:
        """Write them to a JSON file."""
        if is_main():
            write_json(Path(path), self.latest())

    def _send(self, trainer: Engine) -> None:
        if not validated(trainer, self.evaluator):
            return
        for sink in self.sinks:
            sink(trainer.state.iteration, {f"val_{name}": value for name, value in self.latest().items()})
