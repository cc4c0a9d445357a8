"""Training, inference and the bundle: the only package that drives MONAI.

What expressions of configurations (`$engine.data.slices(...)`) call is imported with it.
"""

from dsnet_med.engine import data, distributed, handed_over, patches, predict, stepping, transforms

__all__ = ["data", "distributed", "handed_over", "patches", "predict", "stepping", "transforms"]
