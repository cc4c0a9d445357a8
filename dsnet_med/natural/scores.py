"""Scores of an evaluation on natural images: one number of a metric that gives several, and a file of all."""

from collections.abc import Sequence
from math import isfinite
from operator import itemgetter
from pathlib import Path

from ignite.engine import Engine
from ignite.metrics import Metric, MetricsLambda

from dsnet_med.engine.distributed import is_main
from dsnet_med.files import write_json


def part(metric: Metric, name: str) -> MetricsLambda:
    """One number of a metric that gives several by name."""
    return MetricsLambda(itemgetter(name), metric)


def parts(metric: Metric, names: Sequence[str]) -> dict[str, MetricsLambda]:
    """Several of them by name."""
    return {name: part(metric, name) for name in names}


def write(evaluator: Engine, names: Sequence[str], path: str) -> None:
    """Write the metrics called `names` of an evaluator's last run to a JSON file; null for undefined ones."""
    if is_main():
        found = {name: float(evaluator.state.metrics[name]) for name in names}
        write_json(
            Path(path), {name: round(each, 6) if isfinite(each) else None for name, each in found.items()}
        )
