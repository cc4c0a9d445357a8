"""What chosen submodules of a network give when it runs on an example: which axis holds the channels, how many.

Most networks keep (B, C, *spatial) throughout. ConvNeXt and Swin have inner maps (B, *spatial, C). The spatial
axes are those that scale with the image, so an example whose sizes all differ tells the two apart; where
its scale leaves a doubt, a second run on an example twice as long in its last axis settles it.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dsnet_med.errors import InputError, one_line

_SIZES = {1: (256,), 2: (64, 96), 3: (32, 64, 96)}  # by the number of spatial axes


@dataclass(frozen=True)
class Place:
    """What a submodule gives, as (B, C, *spatial), and whether the network keeps it as (B, *spatial, C).

    `overwritten`: the network goes on to change that map in place, such as by an in-place ReLU. `runs`: how
    often the submodule runs in one forward; the map is that of the first.
    """

    features: Tensor
    channels_last: bool
    overwritten: bool
    runs: int


def trace(module: nn.Module, targets: Mapping[str, nn.Module], example: Tensor | None) -> dict[str, Place]:
    """The place of every target, by name. `example` (B, C, *spatial) defaults to one that fits the first layer.

    Raises InputError when the network does not run on the example, and for targets that do not give one map
    with a channel axis that can be told from the others.
    """
    image = _example(module) if example is None else example
    runs = _run(module, targets, image)
    outputs = {name: [run.output for run in each] for name, each in runs.items()}
    last = {name: _channels_last(maps[0].shape[1:], image.shape[2:]) for name, maps in outputs.items()}
    if unsure := [name for name, answer in last.items() if answer is None]:
        longer = _longer(module, {name: targets[name] for name in unsure}, image)
        last |= {name: _settled(name, outputs[name], longer.get(name)) for name in unsure}
    overwritten = {name: any(run.overwritten for run in each) for name, each in runs.items()}
    return {name: _place(name, maps, bool(last[name]), overwritten[name]) for name, maps in outputs.items()}


class _Run:
    """What a submodule gave once; PyTorch counts how often the memory of a tensor has been written to."""

    def __init__(self, output: Tensor) -> None:
        self.output = output.detach()
        self.version = output._version

    @property
    def overwritten(self) -> bool:
        return self.output._version != self.version


def _place(name: str, maps: Sequence[Tensor], channels_last: bool, overwritten: bool) -> Place:
    features = [each.movedim(-1, 1) if channels_last else each for each in maps]
    if len(channels := sorted({each.shape[1] for each in features})) > 1:
        raise InputError(
            f"'{name}' runs several times, with {' and '.join(map(str, channels))} channels: "
            "name a submodule with one number of channels"
        )
    return Place(features[0], channels_last, overwritten, len(maps))


def _example(module: nn.Module) -> Tensor:
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            sizes, weight = _SIZES[len(layer.kernel_size)], layer.weight
            return torch.zeros(1, layer.in_channels, *sizes, dtype=weight.dtype, device=weight.device)
    raise InputError(
        "the network has no convolution to tell its input from: pass example, a tensor that it takes"
    )


def _run(module: nn.Module, targets: Mapping[str, nn.Module], image: Tensor) -> dict[str, list[_Run]]:
    """What every target gives when `module` runs on `image`, once for each time that it runs."""
    outputs: dict[str, list[_Run]] = {}

    def record(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        _check_output(name, output, image)
        outputs.setdefault(name, []).append(_Run(output))

    handles = [target.register_forward_hook(partial(record, name)) for name, target in targets.items()]
    try:
        with torch.no_grad(), _in_eval(module), _uncompiled():
            module(image)
    except InputError:
        raise
    except Exception as error:  # whatever a stranger's network raises
        raise InputError(
            f"the network does not run on an example of shape {tuple(image.shape)} "
            f"({type(error).__name__}: {one_line(str(error))}): pass example, a tensor that it takes"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if missing := [name for name in targets if name not in outputs]:
        raise InputError(
            f"'{missing[0]}' does not run in the network's forward in evaluation: name a submodule that does"
        )
    return outputs


def _check_output(name: str, output: Any, image: Tensor) -> None:
    if not isinstance(output, Tensor):
        raise InputError(
            f"'{name}' gives a {type(output).__name__}, and a plug-in takes one tensor: name a part inside it"
        )
    if output.ndim != image.ndim or not output.is_floating_point():
        raise InputError(
            f"'{name}' gives a tensor of shape {tuple(output.shape)}, and a plug-in takes feature maps of "
            f"{image.ndim} axes (batch, channels, spatial): name a convolution, norm or activation"
        )
    if len(output) != len(image):
        raise InputError(
            f"'{name}' gives a batch of {len(output)} for a batch of {len(image)}: name a submodule that keeps "
            "every image whole, outside windows and patches"
        )


def _channels_last(sizes: Sequence[int], image: Sequence[int]) -> bool | None:
    """Whether `sizes` can be (*spatial, C) only, or (C, *spatial) only (False); None where that is open."""
    first, last = _scaled(sizes[1:], image), _scaled(sizes[:-1], image)
    return None if first == last else last


def _scaled(sizes: Sequence[int], image: Sequence[int]) -> bool:
    """Whether one factor, and rounding, leads from the image's sizes to these."""
    lowest = max((size - 1) / full for size, full in zip(sizes, image, strict=True))
    highest = min((size + 1) / full for size, full in zip(sizes, image, strict=True))
    return lowest < highest


def _longer(module: nn.Module, targets: Mapping[str, nn.Module], image: Tensor) -> dict[str, list[Tensor]]:
    """What the targets give for an image twice as long in its last axis; none where it refuses that."""
    try:
        runs = _run(module, targets, torch.cat([image, image], dim=-1))
    except InputError:
        return {}
    return {name: [run.output for run in each] for name, each in runs.items()}


def _settled(name: str, maps: Sequence[Tensor], longer: Sequence[Tensor] | None) -> bool:
    output = maps[0]
    if longer and longer[0].shape[-1] != output.shape[-1]:
        return False
    if longer and longer[0].shape[-2] != output.shape[-2]:
        return True
    raise InputError(
        f"'{name}' gives a map of shape {tuple(output.shape)}, of which it cannot be told which axis holds the "
        "channels: name a submodule whose map scales with the image, or pass an example of other sizes"
    )


def _uncompiled() -> AbstractContextManager[None]:
    """Run a network that `torch.compile` has seen as it is written, with the hooks that are there now."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and it takes a second to import
        return nullcontext()
    eager: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return eager


@contextmanager
def _in_eval(module: nn.Module) -> Iterator[None]:
    training = [child for child in module.modules() if child.training]
    module.eval()
    try:
        yield
    finally:
        for child in training:
            child.training = True
