"""The learning rate: the reference's numbers, and any number of iterations."""

import io
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import LambdaLR

from dsnet_med.engine.schedule import poly
from dsnet_med.errors import InputError

# ---------------------------------------------------------------- learning rate

WARM = {"power": 1.0, "warmup": 1500}
PUBLISHED = {  # name in the reference's file: base rate, iterations, options
    "sgd_poly_40k_eta0 (the Synapse/ACDC R50 configs)": (0.01, 40_000, {}),
    "sgd_poly_40k_eta1e-4 (base schedule, Cityscapes)": (0.01, 40_000, {"floor": 1e-4}),
    "adamw_6e-5_linear1500_poly1_80k (MSCAN configs, backbone groups)": (6e-5, 80_000, WARM),
    "adamw_6e-4_same (head groups, lr_mult 10)": (6e-4, 80_000, WARM),
    "adamw_1e-4_linear1500_poly1_80k (ConvNeXt, lr_scale 1 groups)": (1e-4, 80_000, WARM),
}


def schedule_of(bases: list[float], iterations: int, **options: float) -> LambdaLR:
    """The schedule of an optimizer whose groups have these base rates."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": base} for base in bases]
    return poly(torch.optim.SGD(groups, lr=1.0), iterations, **options)


def rates_of(bases: list[float], iterations: int, steps: int, **options: float) -> list[tuple[float, ...]]:
    """The learning rates of these groups at each of `steps` iterations, one step after the other."""
    schedule = schedule_of(bases, iterations, **options)
    rates = []
    for _ in range(steps):
        rates.append(tuple(group["lr"] for group in schedule.optimizer.param_groups))
        schedule.optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_learning_rates(name: str, golden: Path) -> None:
    schedules = json.loads((golden / "lr_schedules.json").read_text())
    assert schedules.keys() == PUBLISHED.keys()
    base, iterations, options = PUBLISHED[name]
    schedule = schedule_of([2 * base, base], iterations, **options)
    assert len(schedules[name]) >= 14
    for iteration, rate in schedules[name].items():
        assert base * schedule.lr_lambdas[1](int(iteration)) == pytest.approx(rate, rel=1e-11, abs=1e-18)


@given(st.integers(1, 400), st.integers(0, 600), st.sampled_from([0.5, 0.9, 1.0, 2.0]), st.floats(0, 0.9))
def test_rates_rise_to_the_base_rate_and_fall_to_the_floor(
    n: int, warmup: int, power: float, part: float
) -> None:
    rates = rates_of([0.5, 2.0], n, n + 3, power=power, floor=0.5 * part, warmup=warmup)
    warm = warmup if warmup < n else n // 10
    for group, base in enumerate((0.5, 2.0)):
        values = [rate[group] for rate in rates]
        assert values[warm] == pytest.approx(base)
        assert values[:warm] == sorted(values[:warm])
        assert values[warm:] == sorted(values[warm:], reverse=True)
        if n - warm > 1:
            assert values[n - 1 :] == pytest.approx([0.5 * part] * 4)
        if warm:
            assert values[0] == pytest.approx(1e-6 * base)


def test_a_short_warm_up_by_hand() -> None:
    rates = [rate for (rate,) in rates_of([1.0], 8, 8, power=1.0, warmup=3, warmup_start=0.5)]
    assert rates == pytest.approx([0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0])


def test_a_resumed_schedule_goes_on() -> None:
    optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1) for _ in range(2)]
    first, second = (poly(optimizer, 50, warmup=5) for optimizer in optimizers)
    for _ in range(20):
        optimizers[0].step()
        first.step()
    buffer = io.BytesIO()
    torch.save({"schedule": first.state_dict(), "optimizer": optimizers[0].state_dict()}, buffer)
    state = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    optimizers[1].load_state_dict(state["optimizer"])
    second.load_state_dict(state["schedule"])
    for optimizer, schedule in zip(optimizers, (first, second), strict=True):
        optimizer.step()
        schedule.step()
    assert first.get_last_lr() == second.get_last_lr()
    assert optimizers[0].param_groups[0]["lr"] == optimizers[1].param_groups[0]["lr"]


@pytest.mark.parametrize(("iterations", "warmup"), [(0, 0), (10, -1)])
def test_refuses_impossible_schedules(iterations: int, warmup: int) -> None:
    with pytest.raises(InputError, match="wanted at least 1"):
        rates_of([0.1], iterations, 1, warmup=warmup)
