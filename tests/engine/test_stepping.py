"""The options of a training step, on values worked by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from torch import nn

from dsnet_med.engine import stepping
from dsnet_med.engine.stepping import ClipGradients, Precision, WeightAverage, number_type
from dsnet_med.errors import InputError
from dsnet_med.inference import hardware


def _trainer(
    network: nn.Module, handlers: list[Any], *, steps: int, accumulate: int = 1, epoch: int = 100
) -> Any:
    """A trainer whose gradient is 4 at every weight: the loss is 4 w on an image of ones."""
    return SupervisedTrainer(
        device="cpu",
        max_epochs=-(-steps // epoch),
        epoch_length=min(epoch, steps),
        train_data_loader=[{"image": torch.ones(1, 1), "label": torch.zeros(1, 1)}] * steps,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 1.0),
        loss_function=lambda pred, _: 4 * pred.sum(),
        train_handlers=handlers,
        decollate=False,
        accumulation_steps=accumulate,
    )


def _network(weights: int = 1) -> nn.Linear:
    network = nn.Linear(1, weights, bias=False)
    network.weight.data.zero_()
    return network


def test_gradients_are_clipped_by_the_norm_of_all() -> None:
    network = _network(4)  # a gradient of norm sqrt(4 * 16) = 8
    _trainer(network, [ClipGradients(network, 2.0)], steps=1).run()
    assert network.weight.flatten().tolist() == pytest.approx([-1.0] * 4, rel=1e-5)
    network = _network(4)
    _trainer(network, [ClipGradients(network, 100.0)], steps=1).run()
    assert network.weight.flatten().tolist() == [-4.0] * 4


def test_clipping_with_accumulation_sees_the_whole_step() -> None:
    network = _network()
    _trainer(network, [ClipGradients(network, 3.0)], steps=4, accumulate=4).run()
    assert network.weight.item() == pytest.approx(-3.0, rel=1e-5)  # (4 + 4 + 4 + 4) / 4, clipped once


class _Scaler:
    """A gradient scaler that has scaled by 1024."""

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad /= 1024


def test_scaled_gradients_are_unscaled_before_they_are_clipped() -> None:
    network = _network()
    trainer = _trainer(network, [], steps=1)
    trainer.state.iteration, trainer.scaler = 1, _Scaler()
    network.weight.grad = torch.full((1, 1), 4.0 * 1024)
    ClipGradients(network, 2.0)._clip(trainer)
    assert network.weight.grad.item() == pytest.approx(2.0, rel=1e-5)


def test_the_average_follows_each_step_of_the_optimiser() -> None:
    network = _network()
    average = WeightAverage(network, 0.5)
    _trainer(network, [average], steps=2).run()
    assert average.ema_model.weight.item() == -5.0  # weights 0, -4, -8: 0.5 (0.5 * 0 + 0.5 * -4) + 0.5 * -8
    network = _network()
    average = WeightAverage(network, 0.5)
    _trainer(
        network, [average], steps=6, accumulate=2, epoch=3
    ).run()  # steps at 2, 5 and, an epoch's end, 3, 6
    assert network.weight.item() == -12.0  # -4, -6, -10, -12
    assert average.ema_model.weight.item() == -9.5  # -2, -4, -7, -9.5


@pytest.mark.parametrize("decay", [0, 1, -0.1, 1.5])
def test_a_decay_outside_of_0_and_1_is_refused(decay: float) -> None:
    with pytest.raises(InputError, match=f"got ema={decay}"):
        WeightAverage(_network(), decay)


def test_buffers_of_the_average_are_those_of_the_network() -> None:
    network = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))
    average = WeightAverage(network, 0.9).ema_model
    network(torch.tensor([[1.0], [3.0]]))
    assert torch.equal(average[1].running_mean, network[1].running_mean) and not average.training


def test_precisions_are_refused_where_they_are_not_computed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert number_type("float32", cpu) is torch.float32
    with pytest.raises(InputError, match="float16 trains on CUDA devices only"):
        number_type("float16", cpu)
    with pytest.raises(InputError, match="did you mean 'bfloat16'"):
        number_type("bfloat", cpu)
    assert number_type("float16", gpu) is torch.float16
    for answer in (True, False):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True, answer=answer: answer
        )
        assert hardware.computes_bfloat16(gpu) is answer
    for flags, answer in (
        ("flags: fpu avx512_bf16", True),
        ("Features: fp bf16", True),
        ("flags: avx512f", False),
    ):
        monkeypatch.setattr(Path, "read_text", lambda *_, flags=flags, **__: flags)
        assert hardware.computes_bfloat16(cpu) is answer
    with pytest.raises(InputError, match="does not compute in bfloat16"):
        number_type("bfloat16", cpu)


def test_a_network_runs_in_the_precision_and_layout_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "computes_bfloat16", lambda _: True)
    network, seen = nn.Conv2d(3, 2, 1), []
    network.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    image = torch.randn(1, 3, 4, 4)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        given = Precision(SimpleInferer(), precision, torch.device("cpu"), channels_last=True)(image, network)
        assert given.dtype is torch.float32 and seen[-1][1].dtype is dtype
        assert seen[-1][0].is_contiguous(memory_format=torch.channels_last)
    Precision(SimpleInferer(), "float32", torch.device("cpu"))(image, network)
    assert seen[-1][0] is image
    detected = Precision(lambda _, each: {"loss": each(image), "labels": torch.ones(1, dtype=torch.int64)},
                         "bfloat16", torch.device("cpu"))([image], network)  # fmt: skip
    assert detected["loss"].dtype is torch.float32 and detected["labels"].dtype is torch.int64
