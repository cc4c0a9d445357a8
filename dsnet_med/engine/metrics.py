"""The score that picks a checkpoint: Dice per case and class, counted over whole volumes."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from torch import Tensor


class CaseDice(Metric):
    """Mean Dice over cases, then over the classes but background (id 0).

    Slices may come in any order and number; a batch holds slices of one case, named by `batch["case"]`. A class
    that a case has neither in its reference nor in its prediction is not counted for it; a missed or invented
    one counts 0. Classes never seen are left out of the mean.
    """

    def __init__(
        self, num_classes: int, output_transform: Callable[[Any], Any] = lambda output: output
    ) -> None:
        self.num_classes = num_classes
        super().__init__(output_transform=output_transform)

    def reset(self) -> None:
        """Forget all cases."""
        self._both: dict[str, Tensor] = defaultdict(self._zeros)
        self._sizes: dict[str, Tensor] = defaultdict(self._zeros)

    def iteration_completed(self, engine: Engine) -> None:
        """Count one batch of the evaluator: output["pred"] are logits (B, K, H, W), output["label"] ids."""
        output = self._output_transform(engine.state.output)
        self.update((engine.state.batch["case"], output["pred"].argmax(1), output["label"][:, 0]))

    def update(self, output: tuple[str, Tensor, Tensor]) -> None:
        """Count predicted and reference class ids (B, H, W) of one case."""
        case, prediction, reference = output
        prediction, reference = prediction.flatten().long(), reference.flatten().long()
        self._both[case] += self._histogram(reference[prediction == reference])
        self._sizes[case] += self._histogram(prediction) + self._histogram(reference)

    def compute(self) -> float:
        """The mean Dice; 0 when nothing was counted."""
        by_class = self.by_class()
        present = by_class[~by_class.isnan()]
        return float(present.mean()) if len(present) else 0.0

    def by_class(self) -> Tensor:
        """Mean Dice over cases of every class but background (K - 1), NaN where no case has it."""
        if not self._sizes:
            return torch.full((self.num_classes - 1,), float("nan"))
        sizes = torch.stack(list(self._sizes.values()))
        both = torch.stack([self._both[case] for case in self._sizes])
        return torch.nanmean(2.0 * both / sizes, dim=0)[1:]  # 0 / 0 is NaN: the class is absent

    def _zeros(self) -> Tensor:
        return torch.zeros(self.num_classes, dtype=torch.float64)

    def _histogram(self, ids: Tensor) -> Tensor:
        return torch.bincount(ids, minlength=self.num_classes)[: self.num_classes].cpu().double()
