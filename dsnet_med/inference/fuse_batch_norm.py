"""Batch norms of a backbone fused into the convolutions before them: the same function with less to do.

torch.fx finds the pairs in the backbone's graph: a norm that alone reads what its convolution gives.
"""

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from dsnet_med.networks import Segmenter

_TOLERANCE = 1e-3  # of a class' largest logit: sums are rounded anew in single precision


def fuse_batch_norm(network: nn.Module, example: Tensor) -> nn.Module:
    """`network` (in evaluation mode), its backbone replaced by a fused copy.

    It is left as it was where its backbone has no graph, or where the two disagree on `example` (B, C, H, W).
    """
    if not isinstance(network, Segmenter):
        return network
    backbone = network.backbone
    with torch.no_grad():  # not inference_mode, whose tensors are no weights for others
        wanted = network(example)
        try:
            network.backbone = fuse(backbone)
            same = _agree(wanted, network(example))
        except Exception:  # whatever tracing makes of a stranger's code
            same = False
    if not same:
        network.backbone = backbone
    return network


def _agree(wanted: Tensor, got: Tensor) -> bool:
    """Whether logits (B, K, H, W) are the same, each class at its own scale."""
    axes = (0, 2, 3)
    return bool(((wanted - got).abs().amax(axes) <= _TOLERANCE * wanted.abs().amax(axes).clamp(min=1e-6)).all())
