"""One network under examination: its passes over a case, watched and with its plug-ins replaced."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dsnet_med.errors import InputError
from dsnet_med.explain.decided import Decided, Taking
from dsnet_med.explain.interventions import Intervention, Means, Reservoir
from dsnet_med.explain.measures import Measures
from dsnet_med.explain.records import EVERY
from dsnet_med.explain.watching import CHANGE, MOST_MAPS, Observe, Probe, Replace, Task, Watched
from dsnet_med.inference.predictor import Predictor
from dsnet_med.volumes import Volume

Tell = Callable[[float], None]
_RANDOM_KINDS = ("shuffled",)
_PICTURED = 6  # plug-ins of a network
_LARGEST = 65504.0  # of float16


@dataclass(frozen=True)
class Plan:
    """What is done with every network.

    `kinds` are the interventions, on all plug-ins together and, with `each`, on each alone; `shuffles` how
    often gates are shuffled.
    """

    kinds: tuple[str, ...]
    each: bool = True
    shuffles: int = 4
    seed: int = 0


@dataclass
class Subject:
    """A run by its `name`, with what is known of its plug-ins so far. Use it as a context."""

    name: str
    path: str
    predictor: Predictor
    plan: Plan
    cases: int
    forms: dict[str, str] = field(default_factory=dict)
    declared: dict[str, bool] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    maps: list[tuple[str, str]] = field(default_factory=list)
    measures: dict[str, Measures] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.predictor.models) != 1:
            count, where = len(self.predictor.models), self.path or self.name
            raise InputError(
                f"{where}: is an ensemble of {count} networks, wanted one; give the runs that it was made of, "
                "each with --model"
            )
        (model,) = self.predictor.models
        if not isinstance(model.network, nn.Module):
            raise InputError(f"{self.path or self.name}: its network is compiled; leave that out")
        self.watched = Watched(model.network)
        self.watching = replace(self.predictor, models=(replace(model, network=self.watched),))
        self.means = Means()
        self.reservoir = Reservoir(self.cases, self.plan.seed)

    def __enter__(self) -> "Subject":
        self.watched.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.watched.__exit__(*error)

    @property
    def plugins(self) -> list[str]:
        """The modules of the network that are plug-ins."""
        return list(self.watched.plugins)

    @property
    def inferences(self) -> int:
        """How often a case goes through the network, interventions and all; the first case once more."""
        return 1 + sum(len(self.interventions(target)) for target in self.targets())

    @property
    def replaceable(self) -> list[str]:
        """The plug-ins that can be replaced: those that a probe could measure; before it, all."""
        if not self.forms and not self.watched.unmeasured:
            return self.plugins
        measured = {name.partition("#")[0] for name in self.forms}
        return [name for name in self.plugins if name in measured]

    def targets(self) -> list[str]:
        """On what interventions are made: all plug-ins, and each of several."""
        names = self.replaceable
        if not names or not self.plan.kinds:
            return []
        return [EVERY, *(names if self.plan.each and len(names) > 1 else [])]

    def interventions(self, target: str) -> list[Intervention]:
        """Those on one target, in order."""
        of = frozenset(self.replaceable if target == EVERY else [target])
        return [
            Intervention(kind, of, draw, self.plan.seed)
            for kind in self.plan.kinds
            for draw in range(self.plan.shuffles if kind in _RANDOM_KINDS else 1)
        ]

    def pictured(self) -> set[str]:
        """The plug-ins whose maps are shown: of many some, evenly from the first to the last."""
        names = list(dict.fromkeys(name for name, _ in self.maps))
        count = min(len(names), _PICTURED)
        return {names[round(place * (len(names) - 1) / max(count - 1, 1))] for place in range(count)}

    def probe(self, case: str, channels: Sequence[Volume], tell: Tell) -> None:
        """Find out, on one case, in which form each plug-in is measured."""
        if not self.plugins:
            return
        probe = Probe()
        self._run(case, channels, probe, lambda _part, _scores: None, tell)
        for name, forms in probe.forms.items():
            self.forms[name], self.declared[name] = forms.chosen, forms.declared
            if forms.note:
                self.notes[name] = forms.note
        every = [(name, each) for name, named in probe.named.items() for each in named]
        first = sorted(every, key=lambda key: key[1] == CHANGE)  # what a plug-in computes comes first
        kept = set(first[:MOST_MAPS])
        self.maps = [key for key in every if key in kept]

    def intact(
        self,
        case: str,
        channels: Sequence[Volume],
        tell: Tell,
        plain: Decided | None = None,
        maps: NDArray[Any] | None = None,
    ) -> Taking:
        """The network as it is, measured; `maps` (M, X, Y, Z) are filled where given."""
        shown = [] if maps is None else self.maps
        task = Observe(self.forms, self.measures, self.means, self.reservoir, shown)
        taking = Taking(self.predictor, channels[0], plain)

        def keep(part: slice, scores: Tensor) -> None:
            taking.keep(part, scores)
            if maps is not None:
                for into, each in zip(maps, scores[:, taking.outputs :].unbind(1), strict=True):
                    values = each.clamp(-_LARGEST, _LARGEST).cpu().numpy()
                    taking.order.to_slices(into)[part] = values

        self.images[case] = self._run(case, channels, task, keep, tell)
        return taking

    def altered(
        self,
        case: str,
        channels: Sequence[Volume],
        intervention: Intervention,
        tell: Tell,
        plain: Decided | None = None,
    ) -> Taking:
        """The network with plug-ins replaced."""
        task = Replace(intervention, self.forms, self.means, self.reservoir)
        taking = Taking(self.predictor, channels[0], plain)
        self._run(case, channels, task, taking.keep, tell)
        return taking

    def _run(
        self,
        case: str,
        channels: Sequence[Volume],
        task: Task,
        keep: Callable[[slice, Tensor], None],
        tell: Tell,
    ) -> int:
        """One case through the network; how many images (slices or windows) that were."""

        def progress(share: float) -> None:
            self.watched.advanced()
            tell(share)

        def notice(line: str) -> None:
            self.watched.put_back()
            self.notices.append(f"{case}: {line}")

        with self.watched.on(case, task, self.images.get(case, 1)), torch.inference_mode():
            self.watching.score(channels, keep, progress, notice)
            return self.watched.advanced()
