"""The score that picks a checkpoint: Dice per case and class, counted over whole volumes."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from torch import Tensor

from dsnet_med.regions import IGNORED, code_table, parse


class CaseDice(Metric):
    """Mean Dice over cases, then over the classes but background (id 0), or over `regions`.

    Slices or parts of volumes may come in any order and number, and to any process; a batch is of one case,
    named by `batch["case"]`. A class that a case has neither in its reference nor in its prediction is not
    counted for it; a missed or invented one counts 0. Classes never seen are left out of the mean.

    `regions`, `{name: {of: [label values], value: number}}`, are decided one by one: there where the logit is
    above 0. With `ignore`, what has the label IGNORED counts for no class and no region.

    An evaluator's `state.metrics` get the mean under the metric's name, and `val_dice`, the Dice of each of
    `class_names` but background or of each region, NaN where no case has it.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        output_transform: Callable[[Any], Any] = lambda output: output,
        *,
        regions: Mapping[str, Any] | None = None,
        ignore: bool = False,
    ) -> None:
        self.class_names, self.ignore = list(class_names), ignore
        self.table = torch.from_numpy(code_table(parse(regions))) if regions else None
        self.targets = list(regions) if regions else self.class_names[1:]
        super().__init__(output_transform=output_transform)

    def reset(self) -> None:
        """Forget all cases."""
        self._counts: dict[str, Tensor] = defaultdict(self._zeros)

    def iteration_completed(self, engine: Engine) -> None:
        """Count one batch: output["pred"] are logits (B, K, *S), output["label"] labels (B, 1, *S).

        What is no floating-point number is decided already: class ids (B, 1, *S), masks of regions (B, R, *S).
        """
        output = self._output_transform(engine.state.output)
        decided: Tensor = output["pred"]
        if decided.is_floating_point():
            decided = decided > 0 if self.table is not None else decided.argmax(1, keepdim=True)
        decided = decided if self.table is not None else decided[:, 0]
        self.update((engine.state.batch["case"], decided, output["label"][:, 0]))

    def update(self, output: tuple[str, Tensor, Tensor]) -> None:
        """Count what is predicted of a case, class ids (B, *S) or masks of regions (B, R, *S), and its labels.

        The labels (B, *S) are class ids, or the values that the regions are made of.
        """
        case, prediction, reference = output
        if self.table is not None:
            self._counts[case] += self._of_regions(self.table, prediction, reference)
            return
        prediction, reference = prediction.flatten().long(), reference.flatten().long()
        if self.ignore:
            kept = reference != IGNORED
            prediction, reference = prediction[kept], reference[kept]
        both = self._histogram(reference[prediction == reference])
        self._counts[case] += torch.stack([both, self._histogram(prediction) + self._histogram(reference)])

    def completed(self, engine: Engine, name: str) -> None:
        """Put the scores into the evaluator's metrics."""
        by_class = self.by_class()
        engine.state.metrics[name] = _mean(by_class)
        engine.state.metrics["val_dice"] = dict(zip(self.targets, by_class.tolist(), strict=True))

    def compute(self) -> float:
        """The mean Dice; 0 when nothing was counted."""
        return _mean(self.by_class())

    def by_class(self) -> Tensor:
        """Mean Dice over cases of every class but background (K - 1), or region; NaN where no case has it.

        Of several processes all have to ask at the same time; each gets that of all cases.
        """
        counts: dict[str, Tensor] = defaultdict(self._zeros)
        for part in idist.all_gather(dict(self._counts)):
            for case, count in part.items():
                counts[case] += count
        if not counts:
            return torch.full((len(self.targets),), float("nan"))
        both, sizes = torch.stack(
            [counts[case] for case in sorted(counts)], dim=1
        )  # sums depend on their order
        means = torch.nanmean(2.0 * both / sizes, dim=0)  # 0 / 0 is NaN: the class is absent
        return means if self.table is not None else means[1:]

    def _zeros(self) -> Tensor:
        counted = self.class_names if self.table is None else self.targets
        return torch.zeros(2, len(counted), dtype=torch.float64)

    def _of_regions(self, table: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
        """The voxels that prediction and reference share, and the sum of their sizes: (2, R)."""
        ids, counts = labels.long(), self._zeros()
        kept = labels != IGNORED if self.ignore else None
        for place, codes in enumerate(table.to(labels.device)):
            theirs, ours = codes[ids], masks[:, place]
            if kept is not None:
                theirs, ours = theirs & kept, ours & kept
            counts[0, place] = int((theirs & ours).sum())
            counts[1, place] = int(theirs.sum()) + int(ours.sum())
        return counts

    def _histogram(self, ids: Tensor) -> Tensor:
        classes = len(self.class_names)
        return torch.bincount(ids, minlength=classes)[:classes].cpu().double()


def _mean(by_class: Tensor) -> float:
    present = by_class[~by_class.isnan()]
    return float(present.mean()) if len(present) else 0.0
