"""What happens around a training step: the newest state kept."""

from collections.abc import Sequence
from math import inf, isnan
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Engine, Events
from torch import nn

from dsnet_med.engine.metrics import CaseDice
from dsnet_med.errors import InputError
from dsnet_med.files import write_json, written_whole
from dsnet_med.networks.checkpoint import read_pickle

UNMEASURED = -1.0  # worse than any score


class Scored(Protocol):
    """What gives the score of the last validation."""

    def compute(self) -> float:
        """The score."""


def validated(trainer: Engine, validator: Engine | None) -> bool:
    """Whether `validator` has run after the last epoch of `trainer`; True where there is none."""
    return validator is None or validator.state.epoch == trainer.state.epoch


class Checkpoints:
    """Keep two files: model.pt, the weights with the best validation, and last.pt, all that it takes to go on.

    Both are whole at every moment. model.pt holds the network's state dict alone, and the newest one until a
    validation has given a score. `metric` gives that of the last run of `validator`, called `score`, negative
    where it is not defined; `writes` is False in all but one of several processes.
    """

    def __init__(
        self,
        folder: str,
        network: nn.Module,
        optimizer: Any,
        lr_scheduler: Any,
        metric: Scored,
        *,
        score: str = "val_mean_dice",
        writes: bool = True,
        validator: Engine | None = None,
    ) -> None:
        self.validator = validator
        self.folder, self.metric, self.score, self.writes = Path(folder), metric, score, writes
        self.parts = {"network": network, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
        self.best = {score: -inf, "iteration": 0}

    def attach(self, trainer: Engine) -> None:
        """Save after every epoch of `trainer`; comes after the handler that validates."""
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _save(self, trainer: Engine) -> None:
        if not self.writes:
            return
        score = self.metric.compute() if validated(trainer, self.validator) else UNMEASURED
        if score > self.best[self.score] or max(score, self.best[self.score]) < 0:
            self.best = {self.score: score, "iteration": trainer.state.iteration}
            save_state(self.folder / "model.pt", self.parts["network"].state_dict())
        state = {name: part.state_dict() for name, part in self.parts.items()}
        save_state(self.folder / "last.pt", state | {"iteration": trainer.state.iteration, "best": self.best})

    def resume(self, trainer: Engine) -> None:
        """Go on where last.pt says. Raises InputError when there is nothing to go on from."""
        path = self.folder / "last.pt"
        if not path.is_file():
            raise InputError(f"nothing to resume: {path} does not exist; train without --resume")
        try:
            state = read_pickle(path)
        except InputError as error:
            raise InputError(f"nothing to resume: {error}") from error
        iteration, total = state["iteration"], trainer.state.epoch_length * trainer.state.max_epochs
        if iteration >= total:
            raise InputError(f"nothing to resume: {self.folder.parent} has done all {total} iterations")
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        lengths = {"epoch_length": trainer.state.epoch_length, "max_epochs": trainer.state.max_epochs}
        trainer.load_state_dict({"iteration": iteration, **lengths})
        self.best = state["best"]


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state dict, whole or not at all."""
    with written_whole(path) as temporary:
        torch.save(state, temporary)


class ScoreFile:
    """Write the Dice of an evaluation to a JSON file."""

    def __init__(self, path: str, metric: CaseDice, class_names: Sequence[str]) -> None:
        self.path, self.metric, self.names = Path(path), metric, class_names

    def attach(self, evaluator: Engine) -> None:
        """Write when `evaluator` has finished."""
        evaluator.add_event_handler(Events.COMPLETED, self._write)

    def _write(self, _: Engine) -> None:
        write_json(self.path, dice_by_name(self.metric, self.names))


def dice_by_name(metric: CaseDice, names: Sequence[str]) -> dict[str, Any]:
    """The mean Dice and that of every class but background; None for a class that no case has."""
    values = [None if isnan(value) else round(value, 4) for value in metric.by_class().tolist()]
    return {"mean_dice": round(metric.compute(), 4), "dice": dict(zip(names[1:], values, strict=True))}
