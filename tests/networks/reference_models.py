"""Whole models of the reference: their weights, which are made from names, their input and their outputs."""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor


@contextmanager
def without_initial_values() -> Iterator[None]:
    """For networks that get their weights afterwards: drawing the first ones takes most of the time."""
    with (
        patch.object(Tensor, "normal_", lambda weights, *_, **__: weights),
        patch.object(Tensor, "uniform_", lambda weights, *_, **__: weights),
    ):
        yield


class Full:
    """The models in the folder golden/full."""

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.spec_from_file_location("params_by_name", folder / "params_by_name.py")
        self.arrays = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.arrays)
        self.folder, self.states, self.made = folder, {}, {}

    def state(self, method: str) -> dict[str, Tensor]:
        """The state dict of a row's model."""
        if method not in self.states:
            shapes = json.loads((self.folder / f"{method}.json").read_text())["state"]
            self.states[method] = {name: self.array(name, tuple(shape)) for name, shape in shapes.items()}
        return dict(self.states[method])

    def array(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The weights called `name`, made once for all rows."""
        if (name, shape) not in self.made:
            self.made[name, shape] = torch.from_numpy(np.asarray(self.arrays.array_for(name, shape, seed=1)))
        return self.made[name, shape]

    def image(self, shape: tuple[int, ...]) -> Tensor:
        """The input."""
        return torch.from_numpy(self.arrays.image(1, shape))

    def output(self, method: str) -> Tensor:
        """A row's logits at every third pixel down and across, where they are stored."""
        return torch.from_numpy(np.load(self.folder / f"{method}.npz")["a"])
