"""What ImageNet, Cityscapes and COCO need beside torchvision's data sets and MONAI's engines."""
