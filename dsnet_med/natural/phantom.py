"""Synthetic natural-image data sets in the layout, file names and label values of the published ones."""

from dsnet_med.natural.phantom_cityscapes import make_cityscapes
from dsnet_med.natural.phantom_coco import make_coco
from dsnet_med.natural.phantom_imagenet import make_imagenet
from dsnet_med.natural.phantom_scenes import validation_images

__all__ = ["make_cityscapes", "make_coco", "make_imagenet", "validation_images"]
