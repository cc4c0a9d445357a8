"""Backbones: functions that return a network whose `forward` gives one feature map per pyramid level."""

from dsnet_med.networks.backbones.convnext import convnext
from dsnet_med.networks.backbones.mscan import mscan
from dsnet_med.networks.backbones.resnet import resnet

__all__ = ["convnext", "mscan", "resnet"]
