"""A network whose plug-ins are watched, or replaced, while something else runs it.

`Watched` stands in for the network of a `SliceModel`: what it gives is the network's logits with maps of the
plug-ins behind them as further channels. So the predictor's own geometry (size, windows, spacing, orientation)
brings the maps onto the image's grid, as it does the scores.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.explain.gates import (
    DECLARED,
    Correction,
    Forms,
    correction_of,
    declared_correction,
    explained,
    left_over,
    told,
)
from dsnet_med.explain.interventions import Image, Intervention, Means, Reservoir, replaced, shuffled
from dsnet_med.explain.measures import Measures
from dsnet_med.networks.attaching import plugins_of
from dsnet_med.networks.ensemble import main_output

CHANGE = "change"
MOST_MAPS = 64  # channels that are put beside the logits
_SMALL = 1e-30
_PROBED = 8
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
Maps = dict[tuple[str, str], Tensor]  # of (plug-in, map)


@dataclass(frozen=True)
class Pass:
    """One plug-in's turn in a forward: its `name` (`#2` where it runs a second time), and its images.

    `fresh` counts from where on they are new: images of a batch that ran out of memory come again.
    """

    name: str
    plugin: nn.Module
    images: list[Image]
    fresh: int


class Task(Protocol):
    """What is done with the maps x and y (B, C, *spatial) of a plug-in: the output to go on with."""

    def see(self, turn: Pass, x: Tensor, y: Tensor) -> Tensor: ...

    def maps(self, shape: torch.Size) -> list[Tensor]:
        """What is put behind logits of that shape, at the end of a forward."""
        ...

    def end(self, images: list[Image]) -> None:
        """A forward of these images has ended."""
        ...

    def wants(self, images: list[Image]) -> bool:
        """Whether the network is to run on these images at all."""
        ...


class Watched:
    """(B, C, *spatial) -> (B, K + M, *spatial), as the `task` of the moment has it; without one, the network.

    In its context hooks are on the plug-ins, which see maps as the plug-ins do. `unmeasured` says why a plug-in
    cannot be measured.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.plugins: Mapping[str, nn.Module] = plugins_of(network)
        self.unmeasured: dict[str, str] = {}
        self.task: Task | None = None
        self.case, self.count = "", 1
        self._next = self._done = 0
        self._seen: Counter[str] = Counter()
        self._turns: Counter[str] = Counter()
        self._images: list[Image] = []
        self._busy = False
        self._blank: Tensor | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> "Watched":
        self._handles = [
            plugin.register_forward_hook(partial(self._hook, name), prepend=True)
            for name, plugin in self.plugins.items()
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def on(self, case: str, task: Task, count: int = 1) -> Iterator[None]:
        """Do `task` with the images of a case, of which there are `count`."""
        self.case, self.count, self.task = case, count, task
        self._next = self._done = 0
        self._blank = None
        self._seen.clear()
        try:
            yield
        finally:
            self.task = None

    def advanced(self) -> int:
        """A batch is through: its images do not come again. How many have come."""
        self._done = self._next
        return self._done

    def put_back(self) -> None:
        """A batch ran out of memory, and comes again in parts."""
        self._next = self._done

    def __call__(self, images: Tensor) -> Tensor:
        numbers = range(self._next, self._next + len(images))
        self._images = [Image(self.case, number, self.count) for number in numbers]
        self._turns.clear()
        if self._blank is not None and self.task is not None and not self.task.wants(self._images):
            self._next += len(images)
            return self._blank.expand(len(images), *self._blank.shape[1:])
        logits = main_output(self.network(images)).float()
        self._blank = torch.zeros_like(logits[:1])
        if self.task is None:
            return logits
        maps = self.task.maps(logits.shape)
        result = torch.cat([logits, *maps], dim=1) if maps else logits
        self.task.end(self._images)
        self._next += len(images)
        return result

    def _hook(self, module: str, plugin: nn.Module, inputs: tuple[Any, ...], y: Any) -> Any:
        if self._busy or self.task is None:
            return None
        self._turns[module] += 1
        turn = self._turns[module]
        name = module if turn == 1 else f"{module}#{turn}"
        if name not in self.unmeasured and (why := self._cannot(inputs, y)):
            self.unmeasured[name] = why
        if name in self.unmeasured:
            return None
        self._busy = True
        try:
            fresh = max(0, self._seen[name] - self._next)
            result = self.task.see(Pass(name, plugin, self._images, fresh), inputs[0], y)
        finally:
            self._busy = False
        self._seen[name] = max(self._seen[name], self._next + len(self._images))
        return result

    def _cannot(self, inputs: tuple[Any, ...], y: Any) -> str:
        """Why a plug-in cannot be measured from these inputs and this output; nothing where it can."""
        x = inputs[0] if inputs else None
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            return "it does not turn one map into one"
        if x.shape != y.shape:
            return f"it turns a map of shape {tuple(x.shape)} into one of {tuple(y.shape)}"
        if x.ndim < 3 or len(x) != len(self._images):
            return f"it sees maps of shape {tuple(x.shape)} for {len(self._images)} images"
        return ""


class _Silent:
    """A task that puts nothing behind the logits."""

    def maps(self, _shape: torch.Size) -> list[Tensor]:
        return []

    def end(self, images: list[Image]) -> None:
        pass

    def wants(self, _images: list[Image]) -> bool:
        return True


@dataclass
class Probe(_Silent):
    """Finds the form in which each plug-in is measured, and the maps that there are of it.

    The first images tell, and some of all others.
    """

    forms: dict[str, Forms] = field(default_factory=dict)
    named: dict[str, list[str]] = field(default_factory=dict)

    def see(self, turn: Pass, x: Tensor, y: Tensor) -> Tensor:
        forms = self.forms.setdefault(turn.name, Forms(hasattr(turn.plugin, "explained")))
        forms.narrow(turn.plugin, x, y)
        maps = _maps_of(turn, x, y, forms.chosen)[1]
        self.named[turn.name] = [name for name, each in maps.items() if _has_places(each, x)]
        return y

    def wants(self, images: list[Image]) -> bool:
        return any(image.number < _PROBED or image.number % _PROBED == 0 for image in images)


@dataclass
class Observe:
    """Measures the plug-ins, sums up their mean corrections and keeps some for other images.

    `shown` are the maps that are put behind the logits: (plug-in, map).
    """

    forms: Mapping[str, str]
    measures: dict[str, Measures]
    means: Means
    reservoir: Reservoir
    shown: list[tuple[str, str]] = field(default_factory=list)
    _held: dict[str, Correction] = field(default_factory=dict)
    _maps: Maps = field(default_factory=dict)

    def see(self, turn: Pass, x: Tensor, y: Tensor) -> Tensor:
        form = self.forms.get(turn.name)
        if form is None:
            return y
        correction, maps = _maps_of(turn, x, y, form)
        self._held[turn.name] = correction
        for name, each in maps.items():
            if (turn.name, name) in self.shown:
                self._maps[turn.name, name] = each.mean(1, keepdim=True)
        if turn.fresh < len(x):
            new = slice(turn.fresh, None)
            fresh = Correction(
                *(None if one is None else one[new] for one in (correction.gate, correction.added))
            )
            own = {name: each[new] for name, each in maps.items() if name != CHANGE}
            rest = left_over(fresh, x[new].float(), y[new])
            self.measures.setdefault(turn.name, Measures()).add(x[new], y[new], fresh, own, rest)
            self.means.add(turn.name, fresh)
        return y

    def maps(self, shape: torch.Size) -> list[Tensor]:
        sized = []
        for key in self.shown:
            each = self._maps.pop(key, None)
            if each is None:
                sized.append(torch.zeros(shape[0], 1, *shape[2:]))
                continue
            mode = _MODES[each.ndim - 2]
            sized.append(F.interpolate(torch.nan_to_num(each), shape[2:], mode=mode, align_corners=False))
        return sized

    def end(self, images: list[Image]) -> None:
        for number, image in enumerate(images):
            one = slice(number, number + 1)
            self.reservoir.offer(
                image,
                {
                    name: Correction(*(None if each is None else each[one] for each in (held.gate, held.added)))
                    for name, held in self._held.items()
                },
            )
        self._held.clear()

    def wants(self, _images: list[Image]) -> bool:
        return True


@dataclass
class Replace(_Silent):
    """Puts an intervention in the place of plug-ins."""

    intervention: Intervention
    forms: Mapping[str, str]
    means: Means | None = None
    reservoir: Reservoir | None = None

    def see(self, turn: Pass, x: Tensor, y: Tensor) -> Tensor:
        chosen = self.intervention
        if turn.name.partition("#")[0] not in chosen.plugins:
            return y
        if chosen.kind == "identity":
            return x.clone()  # what runs next may overwrite it, and x may be needed elsewhere
        form = self.forms.get(turn.name, "nothing")
        if form == "nothing":
            return y
        now = correction_of(form, turn.plugin, x, y)
        return replaced(y, x, now, self._new(turn, now))

    def _new(self, turn: Pass, now: Correction) -> Correction:
        chosen = self.intervention
        if chosen.kind == "shuffled":
            return shuffled(now, chosen, turn.name, turn.images)
        if chosen.kind == "mean" and self.means is not None:
            mean = self.means.of(turn.name)
            return Correction(*(_like(one, had) for one, had in _pairs(mean, now)))
        if self.reservoir is None:
            raise ValueError(f"{chosen.kind} needs what the first pass keeps")
        others = [self.reservoir.other(image, chosen)[turn.name] for image in turn.images]
        return Correction(
            *(_stacked([getattr(each, part) for each in others], now) for part in ("gate", "added"))
        )


def _pairs(one: Correction, other: Correction) -> list[tuple[Tensor | None, Tensor | None]]:
    return [(one.gate, other.gate), (one.added, other.added)]


def _like(one: Tensor | None, had: Tensor | None) -> Tensor | None:
    return None if one is None or had is None else one.to(had.device).expand(had.shape)


def _stacked(parts: list[Tensor | None], now: Correction) -> Tensor | None:
    like = now.gate if now.gate is not None else now.added
    given = [each for each in parts if each is not None]
    return torch.cat(given).to(like.device) if given and like is not None else None


def _maps_of(turn: Pass, x: Tensor, y: Tensor, form: str) -> tuple[Correction, dict[str, Tensor]]:
    """The correction that a plug-in is, and all maps to show: its own, or those of its form, and `change`."""
    maps: dict[str, Tensor] = {}
    if hasattr(turn.plugin, "explained"):
        try:
            maps = explained(turn.plugin, x.float())
        except Exception:  # told once, by Forms
            maps = {}
    if form == DECLARED:
        correction = declared_correction(maps, x.float())
    else:
        correction = correction_of(form, turn.plugin, x, y)
        gate = correction.gate
        named = {"gate": None if gate is None else told(gate), "added": correction.added}
        maps |= {name: each for name, each in named.items() if each is not None and name not in maps}
    x, y = x.float(), y.float()
    size = x.norm(dim=1, keepdim=True)
    maps[CHANGE] = (y - x).norm(dim=1, keepdim=True) / size.clamp_min(_SMALL) * (size > 0)
    return correction, maps


def _has_places(each: Tensor, x: Tensor) -> bool:
    return each.shape[2:] == x.shape[2:] and any(length > 1 for length in each.shape[2:])
