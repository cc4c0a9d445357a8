"""Backbones: functions that return a network whose `forward` gives one feature map per pyramid level."""

from dsnet_med.networks.backbones.convnexts import convnext
from dsnet_med.networks.backbones.encoders import timm_encoder
from dsnet_med.networks.backbones.mscans import mscan
from dsnet_med.networks.backbones.resnets import resnet

__all__ = ["convnext", "mscan", "resnet", "timm_encoder"]
