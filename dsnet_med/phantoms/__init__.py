"""Synthetic data sets in the raw layout, file names and label values of the published ones, from a seed."""

from dsnet_med.phantoms.acdc import make_acdc
from dsnet_med.phantoms.brats import make_brats
from dsnet_med.phantoms.cityscapes import make_cityscapes
from dsnet_med.phantoms.coco import make_coco
from dsnet_med.phantoms.imagenet import make_imagenet
from dsnet_med.phantoms.scenes import validation_images
from dsnet_med.phantoms.synapse import make_synapse

__all__ = [
    "make_acdc",
    "make_brats",
    "make_cityscapes",
    "make_coco",
    "make_imagenet",
    "make_synapse",
    "validation_images",
]
