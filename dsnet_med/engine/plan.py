"""A patch, a batch and a network for a store and so much memory, by the rules of nnU-Net's planner.

Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z: the patch has the median case's proportions and
is as large as memory allows; the network halves an axis as long as that is about as fine as the others and has
voxels left. What a plan needs is estimated by a formula, see `Need`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn

from dsnet_med.errors import InputError, unknown
from dsnet_med.methods import build_network, dimensions
from dsnet_med.prepare.store import Store

PLANNED = tuple(f"{kind}_{axes}d" for kind in ("dynunet", "unet", "segresnet", "swinunetr") for axes in (2, 3))
GB = 1e9
_FIXED_STRIDES = {"segresnet": 8, "swinunetr": 32}  # whose levels stay as their rows have them
_BEGIN_WITH = {2: 2048**2, 3: 256**3}  # voxels
_COARSEST = 4  # voxels along an axis that the coarsest level keeps
_HALVINGS = {2: 7, 3: 5}
_NARROWEST, _WIDEST = 32, {2: 512, 3: 320}  # channels
_SMALLEST_BATCH = {2: 4, 3: 2}
_SHARE_OF_DATA = 0.05  # of all training voxels that one batch has, at most
_THICK = 16  # slices that the median case has where three dimensions are proposed
_OVERHEAD = 0.5 * GB
_STATES = {"dynunet": 1, "unet": 1, "segresnet": 2, "swinunetr": 2}  # of the optimiser, for each parameter


@dataclass(frozen=True)
class Topology:
    """Per level, the finest first: the stride into it, its kernel and its channels."""

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    channels: tuple[int, ...]

    @property
    def multiples(self) -> tuple[int, ...]:
        """What the sides of a patch are multiples of."""
        return tuple(prod(axis) for axis in zip(*self.strides, strict=True))


@dataclass(frozen=True)
class Plan:
    """What to train with, why, and how many bytes that takes by the formula."""

    method: str
    size: tuple[int, ...]
    batch: int
    topology: Topology
    needs: float
    reasons: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """The settings that it sets, by their ids, as `train --overlay` takes them."""
        multiples = self.topology.multiples
        told: dict[str, Any] = {"size": list(self.size), "batch_size": self.batch}
        if len(self.size) == 3:
            told["stride"] = list(multiples)
        if _kind(self.method) in _FIXED_STRIDES:
            return told
        for part, values in _parts(self.method, self.topology).items():
            named = values.items() if isinstance(values, dict) else [("", values)]
            told |= {f"network_def#{part}#{name}".rstrip("#"): value for name, value in named}
        return told

    def overlay(self) -> str:
        """The settings as YAML, with the reasons as comments."""
        reasons = [f"# {number}. {reason}" for number, reason in enumerate(self.reasons, start=1)]
        settings = [f'"{name}": {value}' for name, value in self.settings().items()]
        return "\n".join([f"# A plan for {self.method}, for `train --overlay`.", *reasons, *settings]) + "\n"


def propose(store: Store, *, memory_gb: float, method: str | None = None) -> Plan:
    """A plan for the training cases of a store. Raises InputError, where memory is too little for any, too."""
    cases = store.cases_of("train") or list(store.cases.values())
    shapes = np.array([case.shape for case in cases])
    median, spacing = np.median(shapes, axis=0), np.median([case.spacing_mm for case in cases], axis=0)
    reasons = [f"The median of {len(cases)} cases has {_by(median)} voxels of {_by(spacing)} mm."]
    method = _method(method, median, reasons)
    axes = dimensions(method)
    median, spacing = median[-axes:], spacing[-axes:]
    size = _first_size(median, spacing, reasons)
    topology = topology_of(method, spacing, size)
    size, batch, memory = _rounded(size, topology), _SMALLEST_BATCH[axes], memory_gb * GB
    needs = Need(method, len(store.channels), store.num_outputs)
    first = size
    while needs(topology, size, batch) > memory:
        if (smaller := _smaller(size, median, topology)) is None:
            raise InputError(
                f"{memory_gb:g} GB is too little for {method}: its smallest plan, {batch} patches of "
                f"{_by(size)}, needs {_gb(needs(topology, size, batch))}; give more with --memory, or choose "
                "another --method"
            )
        topology = topology_of(method, spacing, smaller)
        size = _rounded(smaller, topology)
    cut = (
        "fits as it is"
        if size == first
        else f"is cut to {_by(size)}, the axis first that is largest for its median"
    )
    reasons.append(
        f"With a batch of {batch} it {cut}: {_gb(needs(topology, size, batch))} of {memory_gb:g} GB."
    )
    fits = int((memory - needs.fixed(topology)) // needs.sample(topology, size))
    share = int(_SHARE_OF_DATA * shapes.prod(1).sum() / prod(size))
    batch = max(batch, min(fits, share))
    reasons.append(
        f"Memory holds a batch of {fits}, and {_SHARE_OF_DATA:.0%} of all training voxels are {share} patches: "
        f"the smaller, but at least {_SMALLEST_BATCH[axes]}, gives a batch of {batch}, "
        f"{_gb(needs(topology, size, batch))}."
    )
    if _kind(method) not in _FIXED_STRIDES:
        reasons.append(
            f"{len(topology.strides)} levels: an axis is halved while it is finer than twice the finest and "
            f"keeps {_COARSEST} voxels, in all by {_by(topology.multiples)}; channels double up to "
            f"{_WIDEST[axes]}; a kernel is 1 along an axis that is twice as coarse as the finest or more "
            "and was so at all finer levels, and 3 at the coarsest level."
        )
    return Plan(method, size, batch, topology, needs(topology, size, batch), tuple(reasons))


def topology_of(method: str, spacing: Any, size: Sequence[int]) -> Topology:
    """The levels of a network for patches of `size` voxels of `spacing` millimetres."""
    axes, kind = len(size), _kind(method)
    if kind in _FIXED_STRIDES:
        return Topology(((_FIXED_STRIDES[kind],) * axes,), ((3,) * axes,), ())
    now, voxels, halved = np.array(spacing, float), np.array(size), np.zeros(axes, int)
    strides, kernels = [(1,) * axes], [_kernel(now)]
    while True:
        can = (voxels >= 2 * _COARSEST) & (halved < _HALVINGS[axes])
        if not can.any():
            break
        can &= now < 2 * now[can].min()
        stride = np.where(can, 2, 1)
        now, voxels, halved = now * stride, -(-voxels // stride), halved + can
        strides.append(tuple(stride.tolist()))
        kernels.append(_kernel(now, kernels[-1]))
    if len(kernels) > 1:
        kernels[-1] = (3,) * axes
    channels = tuple(min(_NARROWEST << level, _WIDEST[axes]) for level in range(len(strides)))
    return Topology(tuple(strides), tuple(kernels), channels)


def _kernel(spacing: Any, finer: Sequence[int] = (1, 1, 1)) -> tuple[int, ...]:
    """3 along an axis that is not twice as coarse as the finest, or had it at the finer level, else 1."""
    pairs = zip(spacing, finer, strict=False)
    return tuple(3 if before == 3 or each < 2 * min(spacing) else 1 for each, before in pairs)


@dataclass(frozen=True)
class Need:
    """What a training step in float32 of a batch of B needs: 0.5 GB + 4 P (2 + S) + 4 B A bytes.

    P are the parameters, with gradients and S states of the optimiser each; A the values that all layers of the
    network give for one patch, which are kept for the way back, and the patch itself. Nothing is computed for
    it: the network runs on torch's meta device. Left out are the libraries' working memory, which depends on
    the machine, what mixed precision saves, and what loads and augments data.
    """

    method: str
    channels: int
    outputs: int

    def fixed(self, topology: Topology) -> float:
        """The bytes that do not depend on the batch."""
        parameters = sum(each.numel() for each in self._network(topology).parameters())
        return _OVERHEAD + 4.0 * parameters * (2 + _STATES[_kind(self.method)])

    def sample(self, topology: Topology, size: Sequence[int]) -> float:
        """The bytes of one patch more in the batch."""
        return 4.0 * _values(self._network(topology), torch.empty(1, self.channels, *size, device="meta"))

    def __call__(self, topology: Topology, size: Sequence[int], batch: int) -> float:
        return self.fixed(topology) + batch * self.sample(topology, size)

    def _network(self, topology: Topology) -> nn.Module:
        return _on_meta(self.method, self.channels, self.outputs, topology)


@lru_cache(maxsize=8)
def _on_meta(method: str, channels: int, outputs: int, topology: Topology) -> nn.Module:
    parts = _parts(method, topology)
    return build_network(method, in_channels=channels, num_classes=outputs, **parts).to("meta").train()


def _values(network: nn.Module, image: torch.Tensor) -> int:
    """How many values the image and the outputs of all layers have."""
    found = [image.numel()]

    def count(_: nn.Module, __: Any, out: Any) -> None:
        if isinstance(out, torch.Tensor):
            found.append(out.numel())

    leaves = [module for module in network.modules() if not any(module.children())]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    network(image)
    for hook in hooks:
        hook.remove()
    return sum(found)


def _parts(method: str, topology: Topology) -> dict[str, Any]:
    """What of the row's network_def a topology sets."""
    kind, strides = _kind(method), [list(stride) for stride in topology.strides]
    stride, channels = min(topology.multiples), list(topology.channels)
    if kind == "unet":
        return {"network": {"strides": strides[1:]}, "features": {"channels": channels}, "stride": stride}
    if kind == "dynunet":
        network: dict[str, Any] = {
            "kernel_size": [list(kernel) for kernel in topology.kernels],
            "strides": strides,
            "upsample_kernel_size": strides[1:],
            "deep_supr_num": max(1, len(strides) - 3),
        }
        return {"network": network, "features": {"filters": channels}, "stride": stride}
    return {}


def _kind(method: str) -> str:
    return method.rpartition("_")[0]


def _method(given: str | None, median: Any, reasons: list[str]) -> str:
    if given is not None:
        if given not in PLANNED:
            raise unknown("method that can be planned", given, PLANNED)
        return given
    thick = median[0] >= _THICK
    method = "dynunet_3d" if thick else "dynunet_2d"
    reasons.append(f"{median[0]:g} slices are {'' if thick else 'not '}enough for three dimensions: {method}.")
    return method


def _first_size(median: Any, spacing: Any, reasons: list[str]) -> tuple[int, ...]:
    """A box of as many millimetres along every axis, no larger than the median case."""
    axes = len(median)
    cube = (_BEGIN_WITH[axes] * prod(spacing)) ** (1 / axes)
    size = tuple(int(min(most, round(cube / mm))) for most, mm in zip(np.ceil(median), spacing, strict=True))
    reasons.append(
        f"The patch begins with {_by(size)}: {cube:.0f} mm along every axis, or the median case where that is "
        "smaller."
    )
    return size


def _rounded(size: Sequence[int], topology: Topology) -> tuple[int, ...]:
    return tuple(-(-length // step) * step for length, step in zip(size, topology.multiples, strict=True))


def _smaller(size: Sequence[int], median: Any, topology: Topology) -> tuple[int, ...] | None:
    """The patch less one step along the axis that is largest beside the median; None for the smallest."""
    steps = topology.multiples
    least = 4 * _COARSEST  # of which three levels are made, as few as DynUNet has
    choices = [
        tuple(length - steps[axis] * (number == axis) for number, length in enumerate(size))
        for axis in sorted(range(len(size)), key=lambda axis: -size[axis] / median[axis])
        if size[axis] - steps[axis] >= least
    ]
    # Norms over the coarsest map need more than one voxel there.
    return next((choice for choice in choices if max(choice) >= 2 * max(steps)), None)


def _by(numbers: Any) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def _gb(size: float) -> str:
    return f"{size / GB:.2f} GB"
