"""The validation Dice against hand-worked cases and the evaluator's own Dice."""

import numpy as np
import pytest
import torch

from dsnet_med.engine.metrics import CaseDice
from dsnet_med.evaluate import dice


def _update(metric: CaseDice, case: str, prediction: list[int], reference: list[int]) -> None:
    metric.update((case, torch.tensor(prediction).view(1, 1, -1), torch.tensor(reference).view(1, 1, -1)))


def test_hand_worked() -> None:
    metric = CaseDice(range(3))
    _update(metric, "a", [1, 1, 0, 0], [1, 0, 0, 0])  # class 1: 2*1/(2+1); class 2 absent
    _update(metric, "b", [0, 0, 2, 2], [1, 0, 2, 0])  # class 1 missed: 0; class 2: 2/3
    assert metric.by_class().tolist() == pytest.approx([1 / 3, 2 / 3])
    assert metric.compute() == pytest.approx(0.5)


def test_slices_add_up_to_the_volume() -> None:
    rng = np.random.default_rng(0)
    prediction, reference = rng.integers(0, 4, (2, 6, 8, 8))
    metric = CaseDice(range(4))
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        metric.update(("a", torch.from_numpy(prediction[part]), torch.from_numpy(reference[part])))
    wanted = [dice(reference == label, prediction == label) for label in (1, 2, 3)]
    assert metric.by_class().tolist() == pytest.approx(wanted)


def test_nothing_counted_is_zero() -> None:
    metric = CaseDice(range(2))
    assert metric.compute() == 0.0
    _update(metric, "a", [0, 0], [0, 0])
    assert metric.compute() == 0.0


def test_missing_an_organ_never_helps() -> None:
    found, missed = CaseDice(range(3)), CaseDice(range(3))
    _update(found, "a", [1, 2, 0, 0], [1, 2, 2, 0])
    _update(missed, "a", [1, 0, 0, 0], [1, 2, 2, 0])
    assert missed.compute() < found.compute()


def test_reset_forgets() -> None:
    metric = CaseDice(range(2))
    _update(metric, "a", [1], [0])
    metric.reset()
    _update(metric, "a", [1], [1])
    assert metric.compute() == 1.0
