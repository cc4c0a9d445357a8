"""Medical-image segmentation with attention plug-ins: train, segment, score, compare."""

__version__ = "0.1.0"
