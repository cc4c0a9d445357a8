"""Heads: `Head(in_channels, num_classes, ...)`, from a feature pyramid to logits at one of its levels."""

from dsnet_med.networks.heads.fcn import FCNHead

__all__ = ["FCNHead"]
