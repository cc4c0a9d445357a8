"""Batch normalisation folded into the convolution before it: the same function in evaluation, with less to do.

Which norm follows which convolution is seen on an example run, so that it works in any network, and the result
is compared with the network as it was: where they differ, nothing is folded.
"""

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_TOLERANCE = 1e-3  # of the largest logit; folding rounds anew in single precision
Pair = tuple[str, str]


def folded(network: nn.Module, example: Tensor) -> nn.Module:
    """A copy of `network` (in evaluation mode) without the batch norms that directly follow a convolution.

    `example` (B, C, H, W) is what it is tried on. Returns `network` itself where nothing can be folded, or
    where the two would disagree.
    """
    pairs = _pairs(network, example)
    if not pairs:
        return network
    lean = copy.deepcopy(network)
    for conv, norm in pairs:
        first, second = lean.get_submodule(conv), lean.get_submodule(norm)
        _replace(lean, conv, fuse_conv_bn_eval(cast(nn.Conv2d, first), cast(nn.BatchNorm2d, second)))
        rest = getattr(lean.get_submodule(norm), "act", None)  # timm's norms may carry their activation
        _replace(lean, norm, rest if isinstance(rest, nn.Module) else nn.Identity())
    with torch.inference_mode():
        wanted, got = _main(network(example)), _main(lean(example))
    agree = (wanted - got).abs().max() <= _TOLERANCE * wanted.abs().max().clamp(min=1e-6)
    return lean if agree else network


def _main(output: Any) -> Tensor:
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result


def _pairs(network: nn.Module, example: Tensor) -> list[Pair]:
    """The names of convolutions and of the norms that take their output as it is, each called once."""
    makers: dict[int, str] = {}
    outputs: list[Tensor] = []  # held, so that no address is used twice
    calls: dict[str, int] = {}
    found: list[Pair] = []

    def after_conv(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            makers[id(output)] = name
            outputs.append(output)

        return hook

    def before_norm(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            calls[name] = calls.get(name, 0) + 1
            if id(inputs[0]) in makers:
                found.append((makers[id(inputs[0])], name))

        return hook

    handles = []
    for name, module in network.named_modules():
        if type(module) is nn.Conv2d and not _hooked(module):
            handles.append(module.register_forward_hook(after_conv(name)))
        elif isinstance(module, nn.BatchNorm2d) and not _hooked(module) and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(before_norm(name)))
    try:
        with torch.inference_mode():
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in found if all(calls[name] == 1 for name in pair)]


def _hooked(module: nn.Module) -> bool:
    """Whether something else happens at this module, such as a plug-in attached to it."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
