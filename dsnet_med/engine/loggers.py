"""Where the numbers of a run go: always a JSON-lines file, and TensorBoard or Weights & Biases when asked."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dsnet_med.errors import InputError, unknown

Sink = Callable[[int, dict[str, Any]], None]
LOGGERS = ("none", "tensorboard", "wandb")


def open_sinks(names: Sequence[str], folder: str, facts: dict[str, Any]) -> list[Sink]:
    """The sinks called `names`, writing below `folder`; `facts` describe the run. Raises InputError."""
    require_known(names)
    sinks: list[Sink] = [json_lines(Path(folder) / "metrics.jsonl")]
    if "tensorboard" in names:
        sinks.append(tensorboard(Path(folder) / "tensorboard"))
    if "wandb" in names:
        sinks.append(weights_and_biases(Path(folder), facts))
    return sinks


def require_known(names: Sequence[str]) -> None:
    """Raise InputError for a logger that does not exist."""
    for name in names:
        if name not in LOGGERS:
            raise unknown("logger", name, LOGGERS)


def json_lines(path: Path) -> Sink:
    """Append one JSON object per line to `path`."""

    def write(iteration: int, values: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"iteration": iteration, **values}) + "\n")

    return write


def tensorboard(folder: Path) -> Sink:
    """Scalars for TensorBoard in `folder`."""
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 -- takes a second to import

    writer = SummaryWriter(str(folder))

    def write(iteration: int, values: dict[str, Any]) -> None:
        for name, value in _scalars(values).items():
            writer.add_scalar(name, value, iteration)
        writer.flush()

    return write


def weights_and_biases(folder: Path, facts: dict[str, Any]) -> Sink:
    """A Weights & Biases run; without an API key or WANDB_MODE it stays offline, below `folder`."""
    import wandb  # noqa: PLC0415 -- takes seconds to import

    mode: Any = os.environ.get("WANDB_MODE", "online" if os.environ.get("WANDB_API_KEY") else "offline")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        run = wandb.init(project="dsnet-med", config=facts, dir=str(folder), mode=mode)
    except wandb.errors.Error as error:
        raise InputError(f"Weights & Biases did not start ({error}); set WANDB_MODE=offline") from error

    def write(iteration: int, values: dict[str, Any]) -> None:
        run.log(_scalars(values), step=iteration)

    return write


def _scalars(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _scalars(value, f"{prefix}{name}/")
        elif value is not None:
            flat[prefix + name] = float(value)
    return flat
