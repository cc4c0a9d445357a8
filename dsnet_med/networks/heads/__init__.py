"""Heads: `Head(in_channels, num_classes, ...)`, from a feature pyramid to logits at one of its levels."""

from dsnet_med.networks.heads.danet import DANetHead
from dsnet_med.networks.heads.enc import EncHead
from dsnet_med.networks.heads.fcn import FCNHead
from dsnet_med.networks.heads.ham import ham_head
from dsnet_med.networks.heads.multi_scale import MultiScaleHead, light_ham_head
from dsnet_med.networks.heads.unet import UNetHead
from dsnet_med.networks.heads.uper import UPerHead

__all__ = [
    "DANetHead",
    "EncHead",
    "FCNHead",
    "MultiScaleHead",
    "UNetHead",
    "UPerHead",
    "ham_head",
    "light_ham_head",
]
