"""Where a run's numbers and pictures go: metrics.jsonl and curves.png always, other loggers when asked.

A logger is an object with `numbers`, `picture` and `close`. All of a run's are behind one `Loggers`.
"""

import json
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from ignite.engine import Engine, Events
from numpy.typing import NDArray

from dsnet_med.engine.curves import draw_curves
from dsnet_med.errors import InputError, unknown
from dsnet_med.files import output_error, write_text

LOGGERS = ("none", "tensorboard", "wandb", "mlflow")  # but for none, the packages that they need
Picture = NDArray[np.uint8]  # (H, W, 3)


class Logger(Protocol):
    """One place that numbers by name, of which some may be mappings of more or None, and pictures go to."""

    def numbers(self, iteration: int, values: Mapping[str, Any]) -> None: ...

    def picture(self, iteration: int, name: str, pixels: Picture) -> None: ...

    def close(self) -> None: ...


def require_known(names: Any) -> list[str]:
    """`names`, one or several with commas or in a list, without "none".

    Raises InputError for a logger that does not exist or whose package is not installed.
    """
    several = names.split(",") if isinstance(names, str) else names if isinstance(names, Sequence) else [names]
    wanted = [str(name).strip() for name in several if name is not None]
    for name in wanted:
        if name not in LOGGERS:
            raise unknown("logger", name, LOGGERS)
        if name != "none" and getattr(find_spec(name), "origin", None) is None:  # or it is a folder here
            raise InputError(f"the logger {name} is not installed: pip install 'dsnet-med[loggers]'")
    return [name for name in dict.fromkeys(wanted) if name != "none"]


class Loggers:
    """All loggers of a run; a handler of its trainer, and a part of its checkpoints.

    They write below `folder` and are opened when training starts or goes on. A checkpoint holds how many lines
    metrics.jsonl had, so that a resumed run has none twice. The configuration in `folder`, with `settings` over
    it, is shown as hyper-parameters. Where not `writes`, as in all but one of several processes, nothing is
    done. Raises InputError as `require_known` does.
    """

    def __init__(
        self, names: Any, folder: str, settings: Mapping[str, Any] | None = None, *, writes: bool = True
    ) -> None:
        self.names, self.folder, self.settings = require_known(names), Path(folder), settings or {}
        self.writes, self.run = writes, ""
        self.lines, self.others = _JsonLines(self.folder / "metrics.jsonl"), list[Logger]()

    @property
    def shows_pictures(self) -> bool:
        """Whether a picture would go anywhere."""
        return self.writes and bool(self.names)

    def attach(self, trainer: Engine) -> None:
        """Open when `trainer` starts and close when it has completed."""
        if self.writes:
            trainer.add_event_handler(Events.STARTED, self._open)
            trainer.add_event_handler(Events.COMPLETED, self._close)

    def numbers(self, iteration: int, values: Mapping[str, Any]) -> None:
        """Send numbers by name; None, and what is not finite, becomes null in metrics.jsonl."""
        if self.writes:
            self.lines.numbers(iteration, values)
            for logger in self.others:
                logger.numbers(iteration, values)
            if any(name.startswith("val_") for name in values):
                self._draw()

    def picture(self, iteration: int, name: str, pixels: Picture) -> None:
        """Send a picture (H, W, 3)."""
        if self.writes:
            for logger in self.others:
                logger.picture(iteration, name, pixels)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return {"lines": self.lines.count, "run": self.run}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`: cut metrics.jsonl to the lines that it had then."""
        self.run = state.get("run", "")
        if self.writes:
            self.lines.cut(state["lines"])

    def _open(self, trainer: Engine) -> None:
        makers: dict[str, Callable[..., Logger]] = {
            "tensorboard": _TensorBoard,
            "wandb": _WeightsAndBiases,
            "mlflow": _MLflow,
        }
        if self.names:
            if self.names != ["tensorboard"]:  # others find a resumed run by its name
                self.run = self.run or f"{self.folder.resolve().name}-{secrets.token_hex(4)}"
            settings = {**_settings_in(self.folder), **_flat(self.settings)}
            self.others = [makers[name](self.folder, self.run, trainer, settings) for name in self.names]

    def _close(self, _: Engine) -> None:
        self._draw()
        for logger in self.others:
            logger.close()

    def _draw(self) -> None:
        draw_curves(self.lines.path, self.folder / "curves.png")


class _JsonLines:
    """Append one JSON object per line to `path`; what is there before the first, of another run, goes."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0

    def numbers(self, iteration: int, values: Mapping[str, Any]) -> None:
        line = json.dumps({"iteration": iteration, **_finite(values)}, allow_nan=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a" if self.count else "w", encoding="utf-8") as stream:
                stream.write(line)
        except OSError as error:
            raise output_error(self.path, error) from error
        self.count += 1

    def cut(self, count: int) -> None:
        """Keep the first `count` lines."""
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        kept = text.splitlines(keepends=True)[:count]
        write_text(self.path, "".join(kept))
        self.count = len(kept)


class _TensorBoard:
    """Event files in `folder`/tensorboard; what an interrupted run wrote beyond its checkpoint is hidden."""

    def __init__(self, folder: Path, _run: str, trainer: Engine, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 -- takes a second to import
        from torch.utils.tensorboard.summary import hparams  # noqa: PLC0415

        purged = trainer.state.iteration + 1 if trainer.state.iteration else None
        self.writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=purged)
        # Not add_hparams, which opens a second file, after which TensorBoard no longer reads the first.
        self.writer._get_file_writer().add_summary(hparams(dict(settings), {})[1])

    def numbers(self, iteration: int, values: Mapping[str, Any]) -> None:
        for name, value in _numbers(values).items():
            self.writer.add_scalar(name, value, iteration)
        self.writer.flush()

    def picture(self, iteration: int, name: str, pixels: Picture) -> None:
        self.writer.add_image(name, pixels, iteration, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class _WeightsAndBiases:
    """A Weights & Biases run; without an API key or WANDB_MODE it stays offline, below `folder`."""

    def __init__(self, folder: Path, run: str, _trainer: Engine, settings: Mapping[str, Any]) -> None:
        import wandb  # noqa: PLC0415 -- takes seconds to import

        mode: Any = os.environ.get("WANDB_MODE", "online" if os.environ.get("WANDB_API_KEY") else "offline")
        folder.mkdir(parents=True, exist_ok=True)
        resume: Any = "allow" if mode == "online" else None
        try:
            self.run = wandb.init(
                project="dsnet-med",
                name=run,
                id=run,
                resume=resume,
                config=dict(settings),
                dir=str(folder),
                mode=mode,
            )
        except wandb.errors.Error as error:
            raise InputError(f"Weights & Biases did not start ({error}); set WANDB_MODE=offline") from error
        self.image = wandb.Image

    def numbers(self, iteration: int, values: Mapping[str, Any]) -> None:
        self.run.log(_numbers(values), step=iteration)

    def picture(self, iteration: int, name: str, pixels: Picture) -> None:
        self.run.log({name: self.image(pixels)}, step=iteration)

    def close(self) -> None:
        self.run.finish()


class _MLflow:
    """A run of MLflow, by MONAI's handler: on the server of MLFLOW_TRACKING_URI, else in `folder`/mlruns.db."""

    def __init__(self, folder: Path, run: str, trainer: Engine, settings: Mapping[str, Any]) -> None:
        from monai.handlers import MLFlowHandler  # noqa: PLC0415 -- not all have MLflow

        folder.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{(folder.resolve() / 'mlruns.db').as_posix()}"
        self.handler = MLFlowHandler(tracking_uri=uri, experiment_name="dsnet-med", run_name=run)
        self.handler.start(trainer)
        self.client, self.run = self.handler.client, self.handler.cur_run.info.run_id
        known = self.client.get_run(self.run).data.params  # which cannot be changed
        for name, value in settings.items():
            if (key := _mlflow_name(name)) not in known and value is not None:
                self.client.log_param(self.run, key, str(value)[:500])

    def numbers(self, iteration: int, values: Mapping[str, Any]) -> None:
        for name, value in _numbers(values).items():
            self.client.log_metric(self.run, _mlflow_name(name), value, step=iteration)

    def picture(self, iteration: int, name: str, pixels: Picture) -> None:
        self.client.log_image(self.run, pixels, f"{_mlflow_name(name)}/{iteration:07d}.png")

    def close(self) -> None:
        self.handler.close()


def _mlflow_name(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name)


def _settings_in(folder: Path) -> dict[str, Any]:
    """The values in a run folder's configuration as they are written there."""
    file = folder / "configs" / "train.yaml"
    return _flat(yaml.safe_load(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Mappings of mappings as one, a/b/c; lists as text."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = (
                json.dumps(value, default=str) if isinstance(value, list | tuple) else value
            )
    return flat


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in _flat(values).items() if value is not None}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(each) for name, each in value.items()}
    if value is None or isinstance(value, str | int):
        return value
    return float(value) if isfinite(value) else None  # of NumPy's and torch's numbers, too
