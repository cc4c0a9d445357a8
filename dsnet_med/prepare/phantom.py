"""Synthetic data sets in the raw layout, file names and label values of the real ones."""

from dsnet_med.prepare.phantom_acdc import make_acdc
from dsnet_med.prepare.phantom_synapse import make_synapse

__all__ = ["make_acdc", "make_synapse"]
