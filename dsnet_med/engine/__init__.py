"""Training, inference and the bundle: the only package that drives MONAI."""

from dsnet_med.engine import (
    data,
    distributed,
    draws,
    handlers,
    inferers,
    loggers,
    metrics,
    pictures,
    predict,
    profiling,
    progress,
    schedule,
    stepping,
    stopping,
    transforms,
    validation,
)

__all__ = [
    "data",
    "distributed",
    "draws",
    "handlers",
    "inferers",
    "loggers",
    "metrics",
    "pictures",
    "predict",
    "profiling",
    "progress",
    "schedule",
    "stepping",
    "stopping",
    "transforms",
    "validation",
]
