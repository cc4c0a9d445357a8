"""Options of a training step: numbers of fewer bits, clipped gradients, averaged weights."""

from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from dsnet_med.errors import InputError, unknown
from dsnet_med.inference.hardware import computes_bfloat16

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def number_type(precision: str, device: torch.device) -> torch.dtype:
    """What networks on `device` compute in; InputError for a precision that it emulates or does not have."""
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision == "bfloat16" and not computes_bfloat16(device):
        raise InputError(f"this {device.type} does not compute in bfloat16, it would be slower: use float32")
    if precision == "float16" and device.type != "cuda":
        raise InputError(f"float16 trains on CUDA devices only, not on the {device.type}: use float32")
    return PRECISIONS[precision]


class Precision(Inferer):
    """Run a network through `inferer` in the numbers that `precision` names; what it gives is float32.

    Weights stay float32: torch's autocast. `channels_last` lays 2-D images out as kernels on GPUs and recent
    CPUs want them. Raises InputError where the device does not compute so.
    """

    def __init__(
        self, inferer: Inferer, precision: str, device: torch.device, *, channels_last: bool = False
    ) -> None:
        super().__init__()
        self.inferer, self.device, self.channels_last = inferer, device, channels_last
        self.dtype = number_type(precision, device)

    def __call__(self, inputs: Any, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """What `inferer` gives."""
        if self.channels_last and isinstance(inputs, Tensor) and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if self.dtype is torch.float32:
            return self.inferer(inputs, network, *args, **kwargs)
        with torch.autocast(self.device.type, self.dtype):
            given = self.inferer(inputs, network, *args, **kwargs)
        return tree_map_only(Tensor, lambda each: each.float() if each.dtype == self.dtype else each, given)


def steps(trainer: SupervisedTrainer) -> bool:
    """Whether the optimiser steps at this iteration: every `accumulation_steps`, and at the end of an epoch."""
    place: int = (trainer.state.iteration - 1) % trainer.state.epoch_length + 1
    return bool(place % trainer.accumulation_steps == 0 or place == trainer.state.epoch_length)


class ClipGradients:
    """Scale the gradients of a whole network down to a norm of at most `max_norm` before each step."""

    def __init__(self, network: nn.Module, max_norm: float) -> None:
        self.network, self.max_norm = network, max_norm

    def attach(self, trainer: Engine) -> None:
        """Listen to `trainer`."""
        trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)

    def _clip(self, trainer: SupervisedTrainer) -> None:
        if steps(trainer):
            if trainer.scaler is not None:
                trainer.scaler.unscale_(trainer.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


class WeightAverage(EMAHandler):
    """ignite's moving average of a network's weights: `ema_model`, updated after each step of the optimiser.

    Each step keeps `decay` of the average; buffers, such as the statistics of norms, are the network's own.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise InputError(f"got ema={decay}, wanted a decay between 0 and 1 such as 0.999")
        super().__init__(network, 1 - decay)
        for average, buffer in zip(self.ema_model.buffers(), network.buffers(), strict=True):
            average.data = buffer.data  # one memory, as after a step: it is one in every checkpoint

    def attach(self, engine: SupervisedTrainer) -> None:
        """Listen to the trainer `engine`."""
        after = Events.ITERATION_COMPLETED(event_filter=lambda trainer, _: steps(trainer))
        super().attach(engine, warn_if_exists=False, event=after)
