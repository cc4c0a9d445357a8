"""Trained networks applied to volumes: any volume in, a mask in the same grid out. Torch, without MONAI."""

from dsnet_med.inference.mask import Mask
from dsnet_med.inference.predictor import Predictor

__all__ = ["Mask", "Predictor"]
