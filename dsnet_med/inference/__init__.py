"""Trained networks applied to volumes: any volume in, a mask in the same grid out. Torch, without MONAI."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsnet_med.inference.mask import Mask
    from dsnet_med.inference.predictor import Predictor

__all__ = ["Mask", "Predictor"]
_MODULES = {"Mask": "mask", "Predictor": "predictor"}


def __getattr__(name: str) -> Any:
    """Looked up when first asked for: a process that only reads volumes needs no torch."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
