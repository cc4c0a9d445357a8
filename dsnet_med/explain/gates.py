"""A plug-in's output as a correction of its input: y = gate x + added.

What the plug-in itself says (`explained`) is taken where it rebuilds the output. Of any other plug-in, input
and output alone tell: forms are tried from the plainest on, until one rebuilds the output of every image that
was tried.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Any

import torch
from torch import Tensor, nn

from dsnet_med.errors import InputError, one_line

_TOLERANCE, _TOLERANCE_16 = 1e-4, 2e-2  # of the norm of the output; in numbers of 16 bits
_LARGEST_RATIO = 10.0
_SMALL = 1e-30
DECLARED = "declared"


@dataclass(frozen=True)
class Correction:
    """gate x + added of a map x (B, C, *spatial); each (B, C or 1, *spatial or 1s), None for 1 and for 0.

    A gate found from input and output is NaN where it is unknown, as x is 0 there.
    """

    gate: Tensor | None = None
    added: Tensor | None = None

    def of(self, x: Tensor) -> Tensor:
        """The corrected map."""
        y = x if self.gate is None else told(self.gate) * x
        return y if self.added is None else y + self.added

    @property
    def form(self) -> str:
        """nothing, channel, place, element (what the gate differs over), added, or mixed: gate and added."""
        if self.gate is None:
            return "nothing" if self.added is None else "added"
        return kind_of(self.gate) if self.added is None else "mixed"


def told(gate: Tensor) -> Tensor:
    """A gate with 1 where it is unknown."""
    return torch.where(gate.isnan(), 1.0, gate)


def kind_of(gate: Tensor) -> str:
    """What a gate (B, C, *spatial), with ones where it does not differ, differs over."""
    over_places = any(length > 1 for length in gate.shape[2:])
    if gate.shape[1] == 1 and over_places:
        return "place"
    return "element" if over_places else "channel"


@dataclass
class Forms:
    """Which forms rebuild the output of a plug-in, narrowed by every map that is tried."""

    declared: bool
    left: list[str] = field(default_factory=lambda: list(_FITS))
    note: str = ""

    def narrow(self, plugin: nn.Module, x: Tensor, y: Tensor) -> None:
        """Drop what does not hold for the maps x and y (B, C, *spatial)."""
        x = x.float()
        if self.declared:
            try:
                correction = declared_correction(explained(plugin, x), x)
                worst = float(left_over(correction, x, y).max())
            except InputError as error:
                self.declared, self.note = False, str(error)
            else:
                if not worst <= tolerance_of(y):
                    self.declared = False
                    self.note = f"its own maps do not rebuild its output (by {worst:.1g} of it)"
        self.left = [name for name in self.left if name == _LAST or self._holds(name, x, y)]

    def _holds(self, name: str, x: Tensor, y: Tensor) -> bool:
        correction = _FITS[name](x, y.float())
        return correction is not None and bool((left_over(correction, x, y) <= tolerance_of(y)).all())

    @property
    def chosen(self) -> str:
        """The form to measure by: what the plug-in says, unless it does nothing; else the plainest."""
        return "nothing" if self.left[0] == "nothing" else DECLARED if self.declared else self.left[0]


def correction_of(form: str, plugin: nn.Module, x: Tensor, y: Tensor) -> Correction:
    """The correction in one form, float32, of maps x and y (B, C, *spatial)."""
    x = x.float()
    if form == DECLARED:
        return declared_correction(explained(plugin, x), x)
    return _FITS[form](x, y.float()) or Correction(added=y.float() - x)


def explained(plugin: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What a plug-in says it computes on x (B, C, *spatial), float32. Raises InputError where it cannot."""
    title = type(plugin).__name__
    try:
        with torch.autocast(x.device.type, enabled=False):
            maps: Any = plugin.explained(x)  # type: ignore[operator]
    except Exception as error:  # whatever a stranger's plug-in raises
        raise InputError(f"{title}.explained: {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(maps, Mapping) or not all(isinstance(each, Tensor) for each in maps.values()):
        raise InputError(f"{title}.explained gives a {type(maps).__name__}, wanted a dict of tensors by name")
    for name, each in maps.items():
        dims = (3,) if is_called(name, "attention") else ()  # over channels, say, and not over places
        if each.ndim not in (2, x.ndim, *dims) or len(each) != len(x):
            raise InputError(
                f"{title}.explained: '{name}' has the shape {tuple(each.shape)}, wanted (B, C) or (B, C or 1, "
                f"*spatial) for a map of {tuple(x.shape)}"
            )
    return {str(name): each.float() for name, each in maps.items()}


def declared_correction(maps: Mapping[str, Tensor], x: Tensor) -> Correction:
    """The product of the gates and the sum of what is added, of what `explained` gives."""
    gate: Tensor | None = None
    added: Tensor | None = None
    for name, each in maps.items():
        spread = _spread(each, x)
        if is_called(name, "gate"):
            gate = spread if gate is None else gate * spread
        elif is_called(name, "added"):
            added = spread if added is None else added + spread
    for whole in (gate, added):
        if whole is not None and any(n not in (1, m) for n, m in zip(whole.shape, x.shape, strict=True)):
            raise InputError(f"explained gives a map of shape {tuple(whole.shape)} for one of {tuple(x.shape)}")
    return Correction(gate, added)


def is_called(name: str, kind: str) -> bool:
    """Whether a map's name says that it is of a kind: `gate` or `gate_<word>`."""
    return name == kind or name.startswith(f"{kind}_")


def left_over(correction: Correction, x: Tensor, y: Tensor) -> Tensor:
    """How much of y (B, C, *spatial) a correction of x does not rebuild: (B,), shares of the norm of y."""
    y = y.double().flatten(1)
    rest = correction.of(x).double().flatten(1) - y
    shares: Tensor = rest.norm(dim=1) / y.norm(dim=1).clamp_min(_SMALL)
    return shares


def tolerance_of(y: Tensor) -> float:
    """The share of y's norm that may be left over."""
    return _TOLERANCE if y.dtype in (torch.float32, torch.float64) else _TOLERANCE_16


def _spread(each: Tensor, x: Tensor) -> Tensor:
    return each if each.ndim == x.ndim else each[(...,) + (None,) * (x.ndim - 2)]


def _nothing(x: Tensor, y: Tensor) -> Correction | None:
    return Correction() if torch.equal(x, y) else None


def _channel(x: Tensor, y: Tensor) -> Correction | None:
    a, b = x.double().flatten(2), y.double().flatten(2)
    size = (a * a).sum(2)
    gate = torch.where(size > _SMALL, (a * b).sum(2) / size.clamp_min(_SMALL), nan)
    return Correction(_spread(gate.float(), x))


def _channel_and_offset(x: Tensor, y: Tensor) -> Correction | None:
    a, b = x.double().flatten(2), y.double().flatten(2)
    a_mean, b_mean = a.mean(2, keepdim=True), b.mean(2, keepdim=True)
    spread = ((a - a_mean) ** 2).sum(2, keepdim=True)
    even = spread <= 1e-12 * (a * a).sum(2, keepdim=True)
    slope = ((a - a_mean) * (b - b_mean)).sum(2, keepdim=True) / spread.clamp_min(_SMALL)
    slope = torch.where(even, 1.0, slope)
    offset = b_mean - slope * a_mean
    slope = torch.where((a * a).sum(2, keepdim=True) > _SMALL, slope, nan)
    return Correction(_spread(slope[..., 0].float(), x), _spread(offset[..., 0].float(), x))


def _offset(x: Tensor, y: Tensor) -> Correction | None:
    return Correction(added=_spread((y.double() - x.double()).flatten(2).mean(2).float(), x))


def _place(x: Tensor, y: Tensor) -> Correction | None:
    a, b = x.double(), y.double()
    size = (a * a).sum(1, keepdim=True)
    gate = torch.where(size > _SMALL, (a * b).sum(1, keepdim=True) / size.clamp_min(_SMALL), nan)
    return Correction(gate.float())


def _element(x: Tensor, y: Tensor) -> Correction | None:
    if bool(((x == 0) & (y != 0)).any()):
        return None
    ratio = torch.where(x == 0, nan, y / torch.where(x == 0, 1.0, x))
    return Correction(ratio) if bool((told(ratio).abs() <= _LARGEST_RATIO).all()) else None


def _added(x: Tensor, y: Tensor) -> Correction | None:
    return Correction(added=y - x)


_LAST = "added"
_FITS: dict[str, Callable[[Tensor, Tensor], Correction | None]] = {
    "nothing": _nothing,
    "channel": _channel,
    "offset": _offset,
    "channel and offset": _channel_and_offset,
    "place": _place,
    "element": _element,
    _LAST: _added,
}
