"""The validation Dice against hand-worked cases and the evaluator's own Dice."""

from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine

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


def test_ignored_voxels_count_for_no_class() -> None:
    metric = CaseDice(range(3), ignore=True)
    _update(metric, "a", [1, 1, 2, 2, 0], [1, 0, 2, 255, 255])
    assert metric.by_class().tolist() == pytest.approx([2 / 3, 1.0])


@pytest.mark.parametrize("ignore", [False, True])
def test_regions_by_hand(ignore: bool) -> None:
    """Labels 1, 2, 2, 0 and one of 255; the whole is found in three of three and one too many, the core not."""
    metric = CaseDice(["none", "oedema", "core"], regions={"whole": [1, 2], "core": [2]}, ignore=ignore)
    masks = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1]], dtype=torch.bool)[None, :, None, None]
    metric.update(("a", masks, torch.tensor([1, 2, 2, 0, 255])[None, None, None]))
    whole = 6 / 7 if ignore else 6 / 8
    assert metric.by_class().tolist() == pytest.approx([whole, 0.0])
    assert metric.compute() == pytest.approx(whole / 2)


def test_an_evaluator_gives_volumes_and_logits() -> None:
    logits = torch.randn(1, 2, 3, 4, 5)
    labels = torch.randint(0, 3, (1, 1, 3, 4, 5))
    wanted = {
        "whole": dice(labels[0, 0].numpy() > 0, logits[0, 0].numpy() > 0),
        "core": dice(labels[0, 0].numpy() == 2, logits[0, 1].numpy() > 0),
    }
    for pred in (logits, logits > 0):
        state = _evaluated({"whole": [1, 2], "core": [2]}, pred, labels)
        assert state.metrics["val_dice"] == pytest.approx(wanted)
    logits = torch.randn(1, 3, 3, 4, 5)
    for pred in (logits, logits.argmax(1, keepdim=True).to(torch.uint8)):
        state = _evaluated(None, pred, labels)
        each = [dice(labels[0, 0].numpy() == k, logits[0].argmax(0).numpy() == k) for k in (1, 2)]
        assert list(state.metrics["val_dice"].values()) == pytest.approx(each)


def _evaluated(regions: Any, pred: torch.Tensor, labels: torch.Tensor) -> Any:
    metric = CaseDice(["none", "oedema", "core"], regions=regions)
    evaluator = Engine(lambda *_: {"pred": pred, "label": labels})
    metric.attach(evaluator, "val_mean_dice")
    return evaluator.run([{"case": "a"}])
