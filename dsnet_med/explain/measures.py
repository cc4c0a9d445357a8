"""Numbers about what a plug-in computes, summed up image by image: no map is kept.

For a plug-in y = f(x): the energy that it changes, |y - x|^2 / |x|^2, and the share of the change that no
constant can make: what the best constant per element of the map (a factor where the plug-in is a gate, a
summand where it adds) leaves of |y - x|^2 over all images, with the n / (n - 1) of a variance. For a gate or
an attention map: mean and spread of its values; its profile over channels; its entropy over places or channels,
from 0 (all in one) to 1 (even); the effective rank of its images (the exponential of the entropy of their
principal variances: Roy and Vetterli 2007); and of an attention, its smallest and largest weight times the
number of places.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp, inf, log, prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dsnet_med.explain.gates import Correction, is_called, kind_of

_PROFILE = 512
_FEATURES = 256  # that the rank is taken of: channels, or places pooled to as many
_ELEMENTS = 1 << 21  # of a map; of larger ones constants are per channel
_SMALL = 1e-30
_POOLS: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


@dataclass
class Spread:
    """Count, sum, sum of squares and extremes of numbers."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = inf
    high: float = -inf

    def add(self, values: Tensor) -> None:
        """Count values of any shape in."""
        values = values.double()
        self.count += values.numel()
        self.total += float(values.sum())
        self.squares += float((values * values).sum())
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def summary(self) -> dict[str, float | None]:
        """mean, sd, min and max."""
        if not self.count:
            return {"mean": None, "sd": None, "min": None, "max": None}
        mean = self.total / self.count
        variance = max(0.0, self.squares / self.count - mean * mean)
        return {"mean": mean, "sd": variance**0.5, "min": self.low, "max": self.high}


@dataclass
class Change:
    """What a plug-in changes of its input."""

    energy: Spread = field(default_factory=Spread)
    images: int = 0
    changed: float = 0.0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, x: Tensor, y: Tensor, correction: Correction) -> None:
        """Count images x and y (B, C, *spatial) in."""
        x, y = x.double(), y.double()
        change = ((y - x) ** 2).flatten(1).sum(1)
        self.energy.add(change / (x * x).flatten(1).sum(1).clamp_min(_SMALL))
        self.images += len(x)
        self.changed += float(change.sum())
        if correction.gate is None:
            x, y = torch.ones_like(x), y - x
        parts = {"xx": x * x, "xy": x * y, "yy": y * y}
        for name, part in parts.items():
            total = (part.flatten(2).sum(2) if prod(part.shape[1:]) > _ELEMENTS else part).sum(0)
            self.sums[name] = self.sums[name] + total if name in self.sums else total

    def not_constant(self) -> float | None:
        """The share of the change that no constant per element makes; None where nothing is changed."""
        if self.images < 2 or not self.changed:
            return None
        xx, xy, yy = (self.sums[name] for name in ("xx", "xy", "yy"))
        rest = (yy - xy * xy / xx.clamp_min(_SMALL)).clamp_min(0)
        rest = torch.where(rest <= 1e-12 * yy, 0.0, rest)  # what rounding leaves
        return min(1.0, float(rest.sum()) * self.images / (self.images - 1) / self.changed)


@dataclass
class Gate:
    """One of the maps that a plug-in is explained by."""

    name: str
    kind: str = ""
    values: Spread = field(default_factory=Spread)
    profile: tuple[int, Tensor, Tensor] | None = None
    entropy: tuple[int, float] = (0, 0.0)
    gram: tuple[int, Tensor, Tensor] | None = None
    even: tuple[float, float] | None = None

    def add(self, each: Tensor, places: int) -> None:
        """Count a map (B, C), or (B, C or 1, *spatial), in; `places` are those of the plug-in's input."""
        named = next((kind for kind in ("attention",) if is_called(self.name, kind)), "")
        mixes = is_called(self.name, "gate") or is_called(self.name, "added")
        shape = kind_of(each if each.ndim > 2 else each[..., None])
        self.kind = named or (shape if mixes else "other")
        self.values.add(each)
        maps = each.double().flatten(2) if each.ndim > 2 else each.double()[..., None]
        self._add_profile(maps.mean(2))
        self._add_entropy(maps)
        features = maps[..., 0] if maps.shape[2] == 1 else _pooled(each)
        self._add_gram(features)
        if self.kind == "attention" and maps.shape[2] == places:
            low, high = float(maps.min()) * places, float(maps.max()) * places
            self.even = (min(low, self.even[0]), max(high, self.even[1])) if self.even else (low, high)

    def _add_profile(self, means: Tensor) -> None:
        if means.shape[1] < 2:
            return
        count, total, squares = self.profile or (0, 0.0, 0.0)
        self.profile = count + len(means), total + means.sum(0), squares + (means * means).sum(0)

    def _add_entropy(self, maps: Tensor) -> None:
        """Over the places of each channel, where there are some, else over the channels."""
        weights = maps.abs() if maps.shape[2] > 1 else maps.abs().transpose(1, 2)
        number = weights.shape[2]
        if number < 2:
            return
        shares = weights / weights.sum(2, keepdim=True).clamp_min(_SMALL)
        each = -torch.special.xlogy(shares, shares).sum(2) / log(number)
        count, total = self.entropy
        self.entropy = count + each.numel(), total + float(each.sum())

    def _add_gram(self, features: Tensor) -> None:
        count, total, gram = self.gram or (0, 0.0, 0.0)
        self.gram = count + len(features), total + features.sum(0), gram + features.T @ features

    def rank(self) -> tuple[float | None, int]:
        """The effective rank of the images' maps about their mean, and how large it could be."""
        if self.gram is None or self.gram[0] < 2:
            return None, 0
        count, total, gram = self.gram
        mean = total / count
        covariance = gram / count - mean[:, None] * mean[None]
        variances = torch.linalg.eigvalsh(covariance.cpu()).clamp_min(0)
        most = min(count - 1, len(mean))
        if float(variances.sum()) <= 1e-12 * float((gram.diagonal() / count).sum()):
            return 0.0, most
        shares = variances / variances.sum()
        return exp(float(-torch.special.xlogy(shares, shares).sum())), most

    def summary(self) -> dict[str, Any]:
        """As explain.json has it."""
        rank, most = self.rank()
        found: dict[str, Any] = {"kind": self.kind, **self.values.summary(), "profile": [], "profile_sd": []}
        if self.profile is not None:
            count, total, squares = self.profile
            mean = total / count
            spread = (squares / count - mean * mean).clamp_min(0).sqrt()
            order = mean.argsort(descending=True)
            order = order[
                torch.linspace(0, len(order) - 1, min(len(order), _PROFILE)).round().long().to(order.device)
            ]
            found |= {"profile": mean[order].tolist(), "profile_sd": spread[order].tolist()}
        number, entropies = self.entropy
        found |= {"entropy": entropies / number if number else None, "rank": rank, "rank_of": most}
        return found | {"over_even": list(self.even) if self.even else None}


def _pooled(each: Tensor) -> Tensor:
    """A map (B, C, *spatial) as a few numbers an image, (B, F): its mean over channels, pooled to places."""
    mean = each.double().mean(1, keepdim=True)
    sides = [min(length, round(_FEATURES ** (1 / (mean.ndim - 2)))) for length in mean.shape[2:]]
    return _POOLS[mean.ndim - 2](mean, sides).flatten(1)


@dataclass
class Measures:
    """Of one plug-in: what it changes, and its maps."""

    change: Change = field(default_factory=Change)
    left_over: float = 0.0
    gates: dict[str, Gate] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    form: str = "nothing"

    def add(
        self, x: Tensor, y: Tensor, correction: Correction, maps: dict[str, Tensor], left_over: Tensor
    ) -> None:
        """Count images x and y (B, C, *spatial) in, with the maps that they are explained by."""
        self.shape, self.form = tuple(x.shape[1:]), correction.form
        self.change.add(x, y, correction)
        self.left_over = max(self.left_over, float(left_over.max()))
        for name, each in maps.items():
            self.gates.setdefault(name, Gate(name)).add(each, prod(x.shape[2:]))
