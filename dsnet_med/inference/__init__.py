"""Trained networks applied to volumes: any volume in, a mask in the same grid out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsnet_med.inference.mask import Mask
    from dsnet_med.inference.predictor import Predictor

__all__ = ["Mask", "Predictor"]


def __getattr__(name: str) -> Any:
    """Looked up when first asked for: a process that only reads volumes needs no torch."""
    if name in __all__:
        return getattr(import_module(f"dsnet_med.inference.{name.lower()}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
