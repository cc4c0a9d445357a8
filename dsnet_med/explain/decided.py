"""What a network decides at every voxel of a case, how probable that is to it and to others, and its scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsnet_med.evaluate import arrays, backend
from dsnet_med.evaluate.classes import Classes, measured, scored
from dsnet_med.evaluate.labels import Labels
from dsnet_med.evaluate.mask_scores import dice_of_counts
from dsnet_med.evaluate.protocols import STRICT, record
from dsnet_med.explain.records import CaseMasks, Score
from dsnet_med.geometry import SliceOrder
from dsnet_med.inference.decision import Decision
from dsnet_med.inference.predictor import Predictor
from dsnet_med.volumes import Volume

Whole = NDArray[np.unsignedinteger[Any]]


@dataclass
class Decided:
    """A case as a network decides it: label map `ids` (X, Y, Z), of regions a bit for each in `bits`.

    `probability` is that of what is decided.
    """

    ids: Whole
    bits: Whole | None
    probability: NDArray[np.float16]

    @property
    def choice(self) -> Whole:
        """What tells one decision from another."""
        return self.ids if self.bits is None else self.bits

    def save(self, folder: Path, name: str) -> None:
        """Keep it in files of a folder."""
        for part, each in (("ids", self.ids), ("bits", self.bits), ("probability", self.probability)):
            if each is not None:
                np.save(folder / f"{name}.{part}.npy", each)

    @classmethod
    def load(cls, folder: Path, name: str) -> "Decided":
        """What `save` has kept."""
        has_bits = (folder / f"{name}.bits.npy").is_file()
        ids, probability = (np.load(folder / f"{name}.{part}.npy") for part in ("ids", "probability"))
        return cls(ids, np.load(folder / f"{name}.bits.npy") if has_bits else None, probability)


class Taking:
    """Takes a network's scores slice by slice and makes of them what it decides.

    With `plain` also how probable is to it what another network decides: `of_plain`.
    """

    def __init__(self, predictor: Predictor, volume: Volume, plain: Decided | None = None) -> None:
        self.decision = predictor.decision
        self.outputs = len(predictor.output_names)
        self.order = SliceOrder.of(volume.affine, predictor.slice_axis)
        kind = np.uint8 if len(predictor.class_names) <= 256 else np.uint16
        shape = volume.shape
        self.decided = Decided(
            np.empty(shape, kind, order="F"),
            np.empty(shape, np.uint32, order="F") if predictor.regions else None,
            np.empty(shape, np.float16, order="F"),
        )
        self.plain = plain
        self.of_plain = None if plain is None else np.empty(shape, np.float16, order="F")

    def keep(self, part: slice, scores: Tensor) -> None:
        """Take the scores (B, K + M, H, W) of some slices; what is behind the first K is not looked at."""
        scores = scores[:, : self.outputs]
        self._into(self.decided.ids, part, self.decision.values(scores))
        shares = self.decision.probabilities(scores)
        if self.decided.bits is None:
            choice = scores.argmax(1)
        else:
            masks = self.decision.masks(scores).long()
            choice = torch.stack([mask << bit for bit, mask in enumerate(masks.unbind(1))]).sum(0)
            self._into(self.decided.bits, part, choice)
        self._into(self.decided.probability, part, probability_of(choice, shares, self.decision))
        if self.plain is not None and self.of_plain is not None:
            kept = self.order.to_slices(self.plain.choice)[part].astype(np.int64)
            theirs = torch.from_numpy(kept).to(scores.device)
            self._into(self.of_plain, part, probability_of(theirs, shares, self.decision))

    def _into(self, whole: NDArray[Any], part: slice, values: Tensor) -> None:
        self.order.to_slices(whole)[part] = values.cpu().numpy()


def probability_of(choice: Tensor, shares: Tensor, decision: Decision) -> Tensor:
    """The probability (B, H, W) of decisions (B, H, W), by the probabilities (B, K, H, W) of all outputs.

    A decision is a class, or of regions a bit for each that is there; then it is the product over the regions,
    which each are there or not.
    """
    if not decision.regions:
        return shares.gather(1, choice[:, None])[:, 0]
    there = torch.stack([(choice >> bit) & 1 for bit in range(shares.shape[1])], 1).bool()
    return torch.where(there, shares, 1 - shares).prod(1)


def raw_classes(decided: Decided, predictor: Predictor) -> Classes:
    """A mask as `evaluate` reads one: a label map, or of regions that overlap freely one for each."""
    if not predictor.overlapping or decided.bits is None:
        return Classes((decided.ids,))
    bits = decided.bits
    layers = tuple(
        ((bits >> bit) & 1).astype(np.uint8) * np.uint8(bit + 1) for bit in range(len(predictor.regions))
    )
    return Classes(layers, {i + 1: ((i, frozenset([i + 1])),) for i in range(len(layers))})


@dataclass(frozen=True)
class Scored:
    """Masks of one case of a run, as `evaluate` scores them against the `reference`, where there is one."""

    run: str
    case: str
    affine: NDArray[np.float64]
    labels: Labels
    reference: Classes | None

    def masks(self, intact: Classes) -> CaseMasks:
        """With the intact network's mask. Raises InputError for values without a name."""
        first, second = self._both(intact)
        reference = None if self.reference is None else first
        return CaseMasks(self.run, self.case, self.labels.names, self.affine, reference, second)

    def altered(self, mask: Classes) -> Classes:
        """A mask as it is scored: regions as classes, what the reference ignores as background."""
        return self._both(mask)[1]

    def _both(self, mask: Classes) -> tuple[Classes, Classes]:
        there = self.reference or Classes((np.zeros_like(mask.layers[0], np.uint8),))
        reference, own, _ = scored(there, mask, self.labels)
        return reference, own


def scores_of(masks: CaseMasks, altered: Classes, of: tuple[str, str, int]) -> list[Score]:
    """The rows of one mask: against the reference under `strict`, and against the intact network's mask.

    It is `of` a plug-in, a kind of intervention and a draw.
    """
    step = masks.affine[:3, :3]
    voxel_ml = float(abs(np.linalg.det(step))) / 1000
    known = {}
    if masks.reference is not None:
        measures = measured(masks.reference, altered, step, masks.labels)
        known = {measure.label: (record(measure, STRICT), measure.reference_voxels) for measure in measures}
    counts = _counts(masks.intact, altered, list(masks.labels))
    rows = []
    for label, name in masks.labels.items():
        intact, own, both = counts[label]
        found, size = known.get(label, (None, intact))
        dice, hd95 = (found.dice, found.hd95_mm) if found else (nan, nan)
        changed = (intact + own - 2 * both) * voxel_ml
        agreement = dice_of_counts(both, intact, own)
        row = (dice, hd95, agreement, changed, size * voxel_ml)
        rows.append(Score(masks.run, *of, masks.case, name, *row))
    return rows


def _counts(one: Classes, other: Classes, labels: Sequence[int]) -> dict[int, tuple[int, int, int]]:
    """Of each label the voxels in one mask, in the other, and in both."""
    if all(len(each.layers) == 1 and not each.parts for each in (one, other)):
        maps = arrays.aligned(*arrays.label_maps(one.layers[0], other.layers[0]))
        voxels = backend.BACKEND.survey(maps.reference, maps.prediction).voxels
        return {
            label: tuple(map(int, voxels[label])) if label < len(voxels) else (0, 0, 0)  # type: ignore[misc]
            for label in labels
        }
    found = {}
    for label in labels:
        a, b = one.mask(label), other.mask(label)
        found[label] = (int(a.sum()), int(b.sum()), int((a & b).sum()))
    return found
