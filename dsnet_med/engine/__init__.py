"""Training, inference and the bundle: the only package that drives MONAI."""

from dsnet_med.engine import (
    data,
    handlers,
    inferers,
    loggers,
    metrics,
    pictures,
    predict,
    profiling,
    progress,
    schedule,
    transforms,
)

__all__ = [
    "data",
    "handlers",
    "inferers",
    "loggers",
    "metrics",
    "pictures",
    "predict",
    "profiling",
    "progress",
    "schedule",
    "transforms",
]
