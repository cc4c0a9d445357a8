"""Attention plug-ins, a paper and a file each: `Plugin(channels, ...)`, (B, C, *spatial) -> the same shape."""

from dsnet_med.networks.plugins.dsm import DSM

__all__ = ["DSM"]
