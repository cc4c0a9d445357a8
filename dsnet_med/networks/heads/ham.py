"""HamNet's head: the FCN head with group norm and Hamburger.

Paper: Geng et al. 2021, https://arxiv.org/abs/2109.04553, in the form of the DSNet code: 3x3 convolutions, and
their result joined with the head's input.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from dsnet_med.networks.heads.fcn import FCNHead
from dsnet_med.networks.layers import group_norm

_REFERENCE_NAMES = (
    (r"plugin\.(ham_in|ham_out)", r"\1"),
    (r"convs\.0\.norm", "squeeze.gn"),
    (r"convs\.0", "squeeze"),
    (r"convs\.1\.norm", "align.gn"),
    (r"convs\.1", "align"),
    (r"fuse\.norm", "conv_cat.gn"),
    (r"fuse", "conv_cat"),
    (r"classifier", "conv_seg"),
)


def ham_head(
    in_channels: Sequence[int],
    num_classes: int,
    *,
    plugin: Callable[..., nn.Module],
    groups: int = 32,
    **options: Any,
) -> FCNHead:
    """An FCNHead whose norms, `plugin`'s included, are group norms of `groups` groups; `options` are FCNHead's.

    `plugin` is called with the channels and `norm`, as Hamburger takes them.
    """
    norm = partial(group_norm, groups=groups)
    head = FCNHead(in_channels, num_classes, norm=norm, plugin=partial(plugin, norm=norm), **options)
    head.reference_names = _REFERENCE_NAMES
    return head
