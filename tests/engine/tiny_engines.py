"""A trainer and its validator in memory: a few convolutions, random slices, two cases to validate."""

from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import nn

from dsnet_med.networks import attach
from dsnet_med.networks.plugins import DSM, SE


def batches(count: int, seed: int) -> list[dict[str, Any]]:
    """Batches of four slices (1, 16, 24) with class ids 0 to 2 in two columns; two batches make a case."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for k in range(count):
        label = torch.zeros(4, 1, 16, 24)
        label[k % 4, :, :, 4:8], label[k % 4, :, 8:, 4:12] = 1, 2
        made.append(
            {"image": torch.rand(4, 1, 16, 24, generator=generator), "label": label, "case": f"case{k // 2}"}
        )
    return made


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 3, 1)
    )
    return attach(attach(layers, SE, at="2"), DSM, at="0")


def engines(iterations: int = 6, every: int = 3) -> tuple[Any, Any]:
    """A trainer of so many steps, and the validator that it runs after each `every` of them."""
    net, device = network(), torch.device("cpu")
    loss = nn.CrossEntropyLoss()
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=iterations // every,
        epoch_length=every,
        train_data_loader=batches(iterations, seed=1),
        network=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        loss_function=lambda logits, label: loss(logits, label[:, 0].long()),
        decollate=False,
    )
    validator = SupervisedEvaluator(
        device=device, val_data_loader=batches(4, seed=2), network=net, decollate=False
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: validator.run())
    return trainer, validator
