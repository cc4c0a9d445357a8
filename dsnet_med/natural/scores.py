"""The numbers of a metric that gives several by name."""

from collections.abc import Sequence
from operator import itemgetter

from ignite.metrics import Metric, MetricsLambda


def part(metric: Metric, name: str) -> MetricsLambda:
    """One number of a metric that gives several by name."""
    return MetricsLambda(itemgetter(name), metric)


def parts(metric: Metric, names: Sequence[str]) -> dict[str, MetricsLambda]:
    """Several of them by name."""
    return {name: part(metric, name) for name in names}
