"""Put a plug-in after chosen submodules of any network.

The plug-in becomes a child named `plugin` of the submodule it follows, and a forward hook there applies it:
the host's modules and state-dict names stay as they are, and the plug-in's parameters are found at, for
example, `layer4.0.act2.plugin.*`. Copies, pickles and `torch.export` carry the hook along.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dsnet_med.errors import InputError

Network = TypeVar("Network", bound=nn.Module)
_EXAMPLE_SIZE = {1: 256, 2: 64, 3: 32}  # by the number of spatial axes
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def attach(
    module: Network,
    plugin: Callable[[int], nn.Module],
    at: str = "layer4.*.act2",
    example: Tensor | None = None,
) -> Network:
    """Put `plugin(channels)` after every submodule of `module` that the glob `at` names; returns `module`.

    Each match gets a plug-in of its own, (B, C, *spatial) -> the same shape, with the channels that the
    submodule gives when `module` runs on `example` (B, C, *spatial); by default a batch of one that fits the
    network's first convolution, 64 pixels wide in 2-D and 32 voxels in 3-D.

    Raises InputError when the pattern names nothing, or something that does not give one feature map of fixed
    channels, or when the plug-in changes the shape.
    """
    targets = _matches(module, at)
    outputs = _trace(module, targets, _example(module) if example is None else example)
    for name, target in targets.items():
        built = plugin(outputs[name].shape[1]).to(outputs[name].device, outputs[name].dtype)
        _check_shape(built, name, outputs[name])
        _insert(target, built.train(target.training))
    return module


def _matches(module: nn.Module, pattern: str) -> dict[str, nn.Module]:
    names = {name: child for name, child in module.named_modules() if name}
    found = {name: child for name, child in names.items() if fnmatchcase(name, pattern)}
    if not found:
        near = get_close_matches(pattern, names, n=3, cutoff=0.3) or list(names)[:3]
        raise InputError(f"no submodule is named '{pattern}': the network has, for example, {', '.join(near)}")
    for name, child in found.items():
        _check_container(name, child)
    return found


def _check_container(name: str, module: nn.Module) -> None:
    if isinstance(module, _LISTS) and not _plain_sequence(module):
        raise InputError(
            f"'{name}' is a {type(module).__name__} that runs its children itself: name one of them instead"
        )


def _plain_sequence(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _example(module: nn.Module) -> Tensor:
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            sizes = [_EXAMPLE_SIZE[len(layer.kernel_size)]] * len(layer.kernel_size)
            weight = layer.weight
            return torch.zeros(1, layer.in_channels, *sizes, dtype=weight.dtype, device=weight.device)
    raise InputError(
        "the network has no convolution to tell its input from: pass example, a tensor that it takes"
    )


def _trace(module: nn.Module, targets: dict[str, nn.Module], example: Tensor) -> dict[str, Tensor]:
    """The output of every target when `module` runs on `example`, as tensors (B, C, *spatial)."""
    outputs: dict[str, Tensor] = {}

    def record(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        _check_output(name, output, example, outputs.get(name))
        outputs[name] = output.detach()

    handles = [target.register_forward_hook(partial(record, name)) for name, target in targets.items()]
    try:
        with torch.no_grad(), _in_eval(module):
            module(example)
    finally:
        for handle in handles:
            handle.remove()
    if missing := [name for name in targets if name not in outputs]:
        raise InputError(f"'{missing[0]}' does not run in the network's forward: name a submodule that does")
    return outputs


def _check_output(name: str, output: Any, example: Tensor, earlier: Tensor | None) -> None:
    if not isinstance(output, Tensor):
        raise InputError(
            f"'{name}' gives a {type(output).__name__}, and a plug-in takes one tensor: name a part inside it"
        )
    if output.ndim != example.ndim:
        raise InputError(
            f"'{name}' gives a tensor of shape {tuple(output.shape)}, and a plug-in takes feature maps of "
            f"{example.ndim} axes (batch, channels, spatial): name a convolution, norm or activation"
        )
    if earlier is not None and earlier.shape[1] != output.shape[1]:
        raise InputError(
            f"'{name}' runs several times, with {earlier.shape[1]} and {output.shape[1]} channels: "
            "name a submodule with one number of channels"
        )


@contextmanager
def _in_eval(module: nn.Module) -> Iterator[None]:
    training = [child for child in module.modules() if child.training]
    module.eval()
    try:
        yield
    finally:
        for child in training:
            child.training = True


def _check_shape(plugin: nn.Module, name: str, output: Tensor) -> None:
    with torch.no_grad():
        shape = plugin.eval()(output).shape
    if shape != output.shape:
        raise InputError(
            f"{type(plugin).__name__} turns the {tuple(output.shape)} of '{name}' into {tuple(shape)}: "
            "a plug-in must keep the shape"
        )


def _insert(target: nn.Module, plugin: nn.Module) -> None:
    name = _free_name(target)
    target.add_module(name, plugin)
    if not _plain_sequence(target):  # which runs a new child anyway
        target.register_forward_hook(partial(_apply, name))


def _free_name(target: nn.Module) -> str:
    number = 1
    while hasattr(target, name := "plugin" if number == 1 else f"plugin{number}"):
        number += 1
    return name


def _apply(name: str, module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    result: Tensor = getattr(module, name)(output)
    return result
