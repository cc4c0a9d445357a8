"""A 3-D network small enough for a test, as a row's file, and what else a short run of it needs."""

from pathlib import Path

SMALL = {
    "iterations": 6,
    "validate_every": 3,
    "checkpoint_every": 2,
    "batch_size": 2,
    "workers": 0,
    "size": [16, 32, 32],
}
ROW = """
laid_over: [schedules/patches_3d.yaml]
method_card: {id: tiny_3d, title: Tiny, dimensions: 3}
network_def:
  _target_: monai.networks.nets.UNet
  spatial_dims: 3
  in_channels: "@in_channels"
  out_channels: "@num_classes"
  channels: [4, 8]
  strides: [2]
"""


def write_row(folder: Path) -> str:
    """The row's file, as `method` of a run."""
    file = folder / "tiny_3d.yaml"
    file.write_text(ROW)
    return str(file)
