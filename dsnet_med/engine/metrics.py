"""The score that picks a checkpoint: Dice per case and class, counted over whole volumes."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from torch import Tensor


class CaseDice(Metric):
    """Mean Dice over cases, then over the classes but background (id 0).

    Slices may come in any order and number, and to any process; a batch holds slices of one case, named by
    `batch["case"]`. A class that a case has neither in its reference nor in its prediction is not counted for
    it; a missed or invented one counts 0. Classes never seen are left out of the mean.

    An evaluator's `state.metrics` get the mean under the metric's name, and `val_dice`, the Dice of each of
    `class_names` but background, NaN where no case has it.
    """

    def __init__(
        self, class_names: Sequence[str], output_transform: Callable[[Any], Any] = lambda output: output
    ) -> None:
        self.class_names = list(class_names)
        super().__init__(output_transform=output_transform)

    def reset(self) -> None:
        """Forget all cases."""
        self._counts: dict[str, Tensor] = defaultdict(self._zeros)

    def iteration_completed(self, engine: Engine) -> None:
        """Count one batch of the evaluator: output["pred"] are logits (B, K, H, W), output["label"] ids."""
        output = self._output_transform(engine.state.output)
        self.update((engine.state.batch["case"], output["pred"].argmax(1), output["label"][:, 0]))

    def update(self, output: tuple[str, Tensor, Tensor]) -> None:
        """Count predicted and reference class ids (B, H, W) of one case."""
        case, prediction, reference = output
        prediction, reference = prediction.flatten().long(), reference.flatten().long()
        both = self._histogram(reference[prediction == reference])
        self._counts[case] += torch.stack([both, self._histogram(prediction) + self._histogram(reference)])

    def completed(self, engine: Engine, name: str) -> None:
        """Put the scores into the evaluator's metrics."""
        by_class = self.by_class()
        engine.state.metrics[name] = _mean(by_class)
        engine.state.metrics["val_dice"] = dict(zip(self.class_names[1:], by_class.tolist(), strict=True))

    def compute(self) -> float:
        """The mean Dice; 0 when nothing was counted."""
        return _mean(self.by_class())

    def by_class(self) -> Tensor:
        """Mean Dice over cases of every class but background (K - 1), NaN where no case has it.

        Of several processes all have to ask at the same time; each gets that of all cases.
        """
        counts: dict[str, Tensor] = defaultdict(self._zeros)
        for part in idist.all_gather(dict(self._counts)):
            for case, count in part.items():
                counts[case] += count
        if not counts:
            return torch.full((len(self.class_names) - 1,), float("nan"))
        both, sizes = torch.stack(
            [counts[case] for case in sorted(counts)], dim=1
        )  # sums depend on their order
        return torch.nanmean(2.0 * both / sizes, dim=0)[1:]  # 0 / 0 is NaN: the class is absent

    def _zeros(self) -> Tensor:
        return torch.zeros(2, len(self.class_names), dtype=torch.float64)

    def _histogram(self, ids: Tensor) -> Tensor:
        classes = len(self.class_names)
        return torch.bincount(ids, minlength=classes)[:classes].cpu().double()


def _mean(by_class: Tensor) -> float:
    present = by_class[~by_class.isnan()]
    return float(present.mean()) if len(present) else 0.0
