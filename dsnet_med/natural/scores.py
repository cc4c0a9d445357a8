"""What an evaluation on natural images gives: numbers by name, and a file of them."""

from collections.abc import Iterable
from operator import itemgetter
from pathlib import Path

from ignite.engine import Engine
from ignite.metrics import Metric, MetricsLambda

from dsnet_med.engine.distributed import is_main
from dsnet_med.engine.progress import rounded
from dsnet_med.files import write_json


def part(metric: Metric, name: str) -> MetricsLambda:
    """One number of a metric that gives several by name."""
    return MetricsLambda(itemgetter(name), metric)


def parts(metric: Metric, names: Iterable[str]) -> dict[str, MetricsLambda]:
    """Some numbers of a metric that gives several, by name."""
    return {name: part(metric, name) for name in names}


def write(evaluator: Engine, path: str) -> None:
    """Write the metrics of the last run of `evaluator` to a JSON file, null where there is nothing."""
    if is_main():
        write_json(Path(path), rounded(evaluator.state.metrics))
