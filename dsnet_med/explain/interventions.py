"""A plug-in replaced while its network runs: by the identity, its mean, another image's gate, a shuffled one.

With y = gate x + added, what is replaced is y + (gate' - gate) x + (added' - added): a plug-in whose gate and
what it adds stay as they are gives what it gave, bit for bit, and what no form explains stays. Random numbers
belong to (seed, draw, case, image, plug-in): the batch size does not matter.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import torch
from torch import Tensor

from dsnet_med.explain.gates import Correction

_APART = 0.25  # of the images of the only case that another image is away
_RESERVOIR_BYTES = 512 << 20
Held = Mapping[str, Correction]  # by plug-in


@dataclass(frozen=True)
class Image:
    """One slice, or window, of a case: its place among the `count` of them."""

    case: str
    number: int
    count: int


@dataclass(frozen=True)
class Intervention:
    """What replaces the plug-ins named in `plugins`, and by which random numbers."""

    kind: str
    plugins: frozenset[str]
    draw: int = 0
    seed: int = 0

    def number(self, *of: object) -> int:
        """A random number of 63 bits that belongs to what it is of."""
        return number_of(self.seed, self.draw, *of)


def number_of(*of: object) -> int:
    """A random number of 63 bits that belongs to what it is of."""
    return int.from_bytes(hashlib.sha256(repr(of).encode()).digest()[:8], "big") >> 1


def replaced(y: Tensor, x: Tensor, now: Correction, new: Correction) -> Tensor:
    """y (B, C, *spatial) with the correction `new` in place of `now`; y itself where they are the same.

    Where one of two gates is unknown, nothing is replaced.
    """
    moved = None
    if now.gate is not None and new.gate is not None and not torch.equal(now.gate, new.gate):
        difference = new.gate - now.gate
        moved = torch.where(difference.isnan(), 0.0, difference) * x.float()
    if now.added is not None and new.added is not None and not torch.equal(now.added, new.added):
        added = new.added - now.added
        moved = added if moved is None else moved + added
    return y if moved is None else (y.float() + moved).to(y.dtype)


def shuffled(now: Correction, intervention: Intervention, name: str, images: Sequence[Image]) -> Correction:
    """The gate and what is added of each image with channels and places exchanged, both in the same way.

    What is not known of a gate is exchanged like the rest: where it comes to lie, nothing changes.
    """
    return Correction(
        *(
            None
            if each is None
            else torch.stack(
                [_permuted(one, intervention, name, image) for one, image in zip(each, images, strict=True)]
            )
            for each in (now.gate, now.added)
        )
    )


def _permuted(one: Tensor, intervention: Intervention, name: str, image: Image) -> Tensor:
    """One image's map (C or 1, *spatial or 1s) in another order."""
    generator = torch.Generator().manual_seed(intervention.number(name, image.case, image.number))
    channels = torch.randperm(one.shape[0], generator=generator)
    places = torch.randperm(one[0].numel(), generator=generator)
    flat = one.flatten(1)[channels.to(one.device)]
    return flat[:, places.to(one.device)].reshape(one.shape)


@dataclass
class Means:
    """The mean correction of every plug-in over the images, of running sums in float64.

    Of a gate that is not known everywhere it is the mean over the images where it is, element by element.
    """

    gates: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # sums and counts
    added: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def add(self, name: str, correction: Correction) -> None:
        """Count the images of a correction in."""
        for sums, each in ((self.gates, correction.gate), (self.added, correction.added)):
            if each is not None:
                total = each.double().nansum(0, keepdim=True)
                count = (~each.isnan()).sum(0, keepdim=True)
                if name in sums:
                    total, count = total + sums[name][0], count + sums[name][1]
                sums[name] = total, count

    def of(self, name: str) -> Correction:
        """The mean, (1, ...); NaN where it was never known."""
        every = [sums.get(name) for sums in (self.gates, self.added)]
        return Correction(*(None if each is None else (each[0] / each[1]).float() for each in every))


@dataclass
class Reservoir:
    """Corrections of some images of every case, as many as `most_bytes` hold; which, numbers of the images say.

    Of each case the first come first: when there is room for one image of each alone, that is what is kept.
    """

    cases: int
    seed: int = 0
    most_bytes: int = _RESERVOIR_BYTES
    held: dict[tuple[str, int], Held] = field(default_factory=dict)
    bytes_of_one: int = 0

    def offer(self, image: Image, corrections: Held) -> None:
        """Keep what another image may be given, if it is among those to be kept."""
        self.bytes_of_one = max(self.bytes_of_one, _bytes_of(corrections), 1)
        key = (image.case, image.number)
        if key in self.held:
            return
        own = sorted(self._number(*other) for other in self.held if other[0] == image.case)
        if len(own) >= self._of_each and self._number(*key) > own[self._of_each - 1]:
            return
        self.held[key] = {
            name: Correction(
                *(None if one is None else one.detach().cpu().clone() for one in (each.gate, each.added))
            )
            for name, each in corrections.items()
        }
        self._drop()

    @property
    def _most(self) -> int:
        return max(2, min(256, self.most_bytes // max(self.bytes_of_one, 1)))

    @property
    def _of_each(self) -> int:
        return max(1, self._most // max(self.cases, 1))

    def _number(self, case: str, number: int) -> int:
        return number_of(self.seed, "reservoir", case, number)

    def _drop(self) -> None:
        """What is too much of a case, and then of all cases together."""
        ranks: dict[tuple[str, int], tuple[int, int]] = {}
        for case in {case for case, _ in self.held}:
            own = sorted((key for key in self.held if key[0] == case), key=lambda key: self._number(*key))
            ranks |= {key: (rank, self._number(*key)) for rank, key in enumerate(own)}
        kept = sorted((key for key in self.held if ranks[key][0] < self._of_each), key=ranks.__getitem__)
        self.held = {key: self.held[key] for key in kept[: self._most]}

    def other(self, image: Image, intervention: Intervention) -> Held:
        """The corrections of an image of another case; of the only case, of one that is far away."""
        keys = sorted(self.held)
        from_others = [key for key in keys if key[0] != image.case]
        if not from_others:
            apart = {key: abs(key[1] - image.number) for key in keys}
            from_others = [key for key in keys if apart[key] >= _APART * image.count]
            from_others = from_others or sorted(keys, key=lambda key: -apart.get(key, inf))[:1]
        chosen = from_others[intervention.number("other", image.case, image.number) % len(from_others)]
        return self.held[chosen]


def _bytes_of(corrections: Held) -> int:
    every = [one for each in corrections.values() for one in (each.gate, each.added) if one is not None]
    return sum(one.numel() * 4 for one in every)
