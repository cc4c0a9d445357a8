"""Attention plug-ins, a paper and a file each: `Plugin(channels, ...)`, (B, C, *spatial) -> the same shape."""

from dsnet_med.networks.plugins.dsm import DSM
from dsnet_med.networks.plugins.hamburger import Hamburger
from dsnet_med.networks.plugins.placebo import ConstantGate, Identity, PointwiseConv, RandomGate
from dsnet_med.networks.plugins.uniform_dsm import UniformDSM

__all__ = ["DSM", "ConstantGate", "Hamburger", "Identity", "PointwiseConv", "RandomGate", "UniformDSM"]
