"""Encoder-decoder networks from parts that are handed in: backbones, plug-ins, heads. PyTorch and timm only."""

from dsnet_med.networks.attaching import attach
from dsnet_med.networks.classifier import Classifier
from dsnet_med.networks.contract import check_plugin
from dsnet_med.networks.ensemble import Ensemble
from dsnet_med.networks.reference import from_reference
from dsnet_med.networks.segmenter import Segmenter
from dsnet_med.networks.third_party import LibraryNetwork

__all__ = [
    "Classifier",
    "Ensemble",
    "LibraryNetwork",
    "Segmenter",
    "attach",
    "check_plugin",
    "from_reference",
]
