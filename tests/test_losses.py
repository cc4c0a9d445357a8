"""What the bundle trains with (MONAI's loss, PyTorch's schedule) against the reference's loss and schedule."""

import json

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from torch.optim.lr_scheduler import PolynomialLR

DICE = "dice_0.8_legacy_softmax (mmseg 1.0.0 = dice_loss_legacy.py)"


@pytest.fixture
def losses(shared):
    with np.load(shared / "golden" / "losses.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "meta"}


def value_and_gradient(loss, losses):
    logits = losses["logits"].clone().requires_grad_()
    value = loss(logits, losses["label"].long().unsqueeze(1))
    value.backward()
    return value.detach(), logits.grad


def dice_ce(**changes):
    arguments = {"to_onehot_y": True, "softmax": True, "squared_pred": True, "smooth_nr": 1, "smooth_dr": 1}
    return DiceCELoss(**{**arguments, "lambda_ce": 1.2, "lambda_dice": 0.8, **changes})


@pytest.mark.parametrize(
    ("changes", "parts"),
    [({}, ["ce_1.2", DICE]), ({"lambda_dice": 0.0}, ["ce_1.2"]), ({"lambda_ce": 0.0}, [DICE])],
    ids=["both", "cross-entropy", "dice"],
)
def test_loss_is_that_of_the_published_tables(losses, changes, parts):
    value, slope = value_and_gradient(dice_ce(**changes), losses)
    torch.testing.assert_close(value, sum(losses[f"{part}|noign|value"] for part in parts).to(value.dtype))
    expected = sum(losses[f"{part}|noign|grad"] for part in parts)
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_other_dice_versions_are_other_losses(losses):
    value, _ = value_and_gradient(dice_ce(lambda_ce=0.0), losses)
    for name in (
        "dice_0.8_default (mmseg 1.1.2..1.2.2, use_sigmoid=True)",
        "dice_0.8_use_sigmoid_False (mmseg 1.2.2)",
    ):
        assert abs(value - losses[f"{name}|noign|value"]) > 0.01


def test_learning_rate_is_that_of_the_published_tables(shared):
    schedules = json.loads((shared / "golden" / "lr_schedules.json").read_text())
    expected = schedules["sgd_poly_40k_eta0 (the Synapse/ACDC R50 configs)"]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    schedule = PolynomialLR(optimizer, total_iters=39_999, power=0.9)
    rates = []
    for _ in range(40_000):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert len(expected) == 14
    for iteration, rate in expected.items():
        assert rates[int(iteration)] == pytest.approx(rate, rel=1e-9, abs=1e-15)
