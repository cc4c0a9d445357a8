"""Batch normalisation folded into the convolution before it: the same function in evaluation, with less to do.

Which norm follows which convolution is seen on an example run, so that it works in any network: a pair is
folded where the norm is all that ever reads the convolution's output. The result is compared with the network
as it was, class by class; where they differ, nothing is folded.
"""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_TOLERANCE = 1e-3  # of a class' largest logit; folding rounds anew in single precision
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)  # and none of their descendants, which may do more
Pair = tuple[str, str]


def fuse_batch_norm(network: nn.Module, examples: Sequence[Tensor]) -> nn.Module:
    """A copy of `network` (in evaluation mode) without the batch norms that directly follow a convolution.

    `examples` (B, C, H, W) are what it is tried on. Returns `network` itself where nothing can be folded, or
    where the two would disagree.
    """
    try:
        lean = _lean(network, _pairs(network, examples[0]))
        with torch.inference_mode():
            agree = all(_agree(main_output(network(each)), main_output(lean(each))) for each in examples)
    except Exception:  # a network that asks its norms for more than their output
        return network
    return lean if agree else network


def _lean(network: nn.Module, pairs: Sequence[Pair]) -> nn.Module:
    """`network`, or a copy with these pairs folded where there are any."""
    if not pairs:
        return network
    lean = copy.deepcopy(network)
    for conv, norm in pairs:
        first, second = lean.get_submodule(conv), lean.get_submodule(norm)
        _replace(lean, conv, fuse_conv_bn_eval(cast(nn.Conv2d, first), cast(nn.BatchNorm2d, second)))
        rest = getattr(lean.get_submodule(norm), "act", None)  # timm's norms may carry their activation
        _replace(lean, norm, rest if isinstance(rest, nn.Module) else nn.Identity())
    return lean


def main_output(output: Any) -> Tensor:
    """The logits of a network that may give auxiliary ones after them."""
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result


def _agree(wanted: Tensor, got: Tensor) -> bool:
    """Whether logits (B, K, H, W) are the same, each class at its own scale."""
    axes = (0, 2, 3)
    return bool(((wanted - got).abs().amax(axes) <= _TOLERANCE * wanted.abs().amax(axes).clamp(min=1e-6)).all())


class _Reads(TorchDispatchMode):
    """Counts how often each of `watched` is an argument of an operation, in whatever view of its memory."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watched: dict[int, Tensor] = {}  # by address; held, so that none is used twice
        self.counts: Counter[int] = Counter()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = {_address(leaf) for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)}
        self.counts.update(found & self.watched.keys())
        return operation(*args, **(kwargs or {}))


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _pairs(network: nn.Module, example: Tensor) -> list[Pair]:
    """The names of convolutions and of the norms that alone read their output, each called once."""
    reads = _Reads()
    makers: dict[int, str] = {}
    calls: Counter[str] = Counter()
    found: list[tuple[int, Pair]] = []

    def after_conv(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            calls[name] += 1
            makers[_address(output)] = name
            reads.watched[_address(output)] = output

        return hook

    def before_norm(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            calls[name] += 1
            address = _address(inputs[0])
            if reads.watched.get(address) is inputs[0]:
                found.append((address, (makers[address], name)))

        return hook

    handles = []
    for name, module in network.named_modules():
        if type(module) is nn.Conv2d and not _hooked(module):
            handles.append(module.register_forward_hook(after_conv(name)))
        elif type(module) in _NORMS and not _hooked(module) and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(before_norm(name)))
    try:
        with torch.no_grad(), reads:
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return [
        pair for address, pair in found if reads.counts[address] == 1 and all(calls[name] == 1 for name in pair)
    ]


def _hooked(module: nn.Module) -> bool:
    """Whether something else happens at this module, such as a plug-in attached to it."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
