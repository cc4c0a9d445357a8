"""Where a run's numbers and pictures go: metrics.jsonl and curves.png always, other loggers when asked."""

import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray
from torch import Tensor

from dsnet_med.engine.curves import draw_curves
from dsnet_med.errors import InputError, unknown
from dsnet_med.extras import missing
from dsnet_med.files import output_error, synchronise, write_text
from dsnet_med.yaml_core import read_yaml

Picture = NDArray[np.uint8]  # (H, W, 3)


class Logger(NamedTuple):
    """What one place does with finite numbers by name, a picture, and at the end; where people look at it."""

    numbers: Callable[[int, Mapping[str, float]], None]
    picture: Callable[[int, str, Picture], object]
    close: Callable[[], object]
    link: str = ""


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
            raise missing(name, f"the logger {name}")
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
        self.file, self.lines = self.folder / "metrics.jsonl", 0
        self.writes, self.run, self.others = writes, "", list[Logger]()

    @property
    def links(self) -> list[str]:
        """Where people look at this run: an address, or the name under which a tracker has it."""
        return [logger.link for logger in self.others if logger.link]

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
        """Send numbers by name, of which some may be mappings of more; what is not finite becomes null."""
        if not self.writes:
            return
        plain = finite(values)
        line = json.dumps({"iteration": iteration, **plain}, allow_nan=False) + "\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.file.open(
                "a" if self.lines else "w", encoding="utf-8"
            ) as stream:  # "w": another run's go
                stream.write(line)
        except OSError as error:
            raise output_error(self.file, error) from error
        self.lines += 1
        flat = {name: float(value) for name, value in _flat(plain).items() if value is not None}
        with self._writing():
            for logger in self.others:
                logger.numbers(iteration, flat)
        if any(name.startswith("val_") for name in values):
            draw_curves(self.file, self.folder / "curves.png")

    def picture(self, iteration: int, name: str, pixels: Picture) -> None:
        """Send a picture (H, W, 3)."""
        with self._writing():
            for logger in self.others:
                logger.picture(iteration, name, pixels)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise output_error(self.folder, error) from error

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with; the lines that it counts are on the disk."""
        if self.writes and self.lines:
            with self._writing():
                synchronise(self.file)
        return {"lines": self.lines, "run": self.run}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`: cut metrics.jsonl to the lines that it had then."""
        self.run = state.get("run", "")
        if self.writes:
            text = self.file.read_text(encoding="utf-8") if self.file.is_file() else ""
            kept = text.splitlines(keepends=True)[: state["lines"]]
            write_text(self.file, "".join(kept))
            self.lines = len(kept)

    def _open(self, trainer: Engine) -> None:
        if not self.names:
            return
        if self.names != ["tensorboard"]:  # others find a resumed run by its name
            self.run = self.run or f"{self.folder.resolve().name}-{secrets.token_hex(4)}"
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "configs" / "train.yaml"
        written = _flat(read_yaml(file)) if file.is_file() else {}
        settings = {**written, **_flat(self.settings)}
        with self._writing():
            self.others = [LOGGERS[name](self.folder, self.run, trainer, settings) for name in self.names]

    def _close(self, _: Engine) -> None:
        draw_curves(self.file, self.folder / "curves.png")
        with self._writing():
            for logger in self.others:
                logger.close()


def _tensorboard(folder: Path, _run: str, trainer: Engine, settings: Mapping[str, Any]) -> Logger:
    """Event files in `folder`/tensorboard; what an interrupted run wrote beyond its checkpoint is hidden.

    That is what comes after its step; at its step, too, where the validation is still to come, but for what
    metrics.jsonl has of it already.
    """
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 -- takes a second to import
    from torch.utils.tensorboard.summary import hparams  # noqa: PLC0415

    step, log = trainer.state.iteration, folder / "metrics.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if step and log.is_file() else []
    there = [line for line in map(json.loads, lines) if line["iteration"] == step]
    validated = any(name.startswith("val_") for line in there for name in line)
    writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + validated)
    # Not add_hparams, which opens a second file, after which TensorBoard no longer reads the first.
    writer._get_file_writer().add_summary(hparams(dict(settings), {})[1])

    def numbers(iteration: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, iteration)
        writer.flush()

    def picture(iteration: int, name: str, pixels: Picture) -> None:
        writer.add_image(name, pixels, iteration, dataformats="HWC")
        writer.flush()

    for line in [] if validated else there:
        values = {name: value for name, value in line.items() if name != "iteration"}
        numbers(step, {name: float(value) for name, value in _flat(values).items() if value is not None})
    return Logger(numbers, picture, writer.close)


def _wandb(folder: Path, run: str, _trainer: Engine, settings: Mapping[str, Any]) -> Logger:
    """A Weights & Biases run; without an API key or WANDB_MODE it stays offline, below `folder`."""
    mode: Any = os.environ.get("WANDB_MODE", "online" if os.environ.get("WANDB_API_KEY") else "offline")
    if mode != "online":  # not even for reports of errors, whose host it asks for at once
        os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb  # noqa: PLC0415 -- takes seconds to import

    resume: Any = "allow" if mode == "online" else None
    options = {"project": "dsnet-med", "name": run, "id": run, "resume": resume, "mode": mode}
    try:
        begun = wandb.init(config=dict(settings), dir=str(folder), **options)
    except wandb.errors.Error as error:
        raise InputError(f"Weights & Biases did not start ({error}); set WANDB_MODE=offline") from error
    return Logger(
        lambda iteration, values: begun.log(dict(values), step=iteration),
        lambda iteration, name, pixels: begun.log({name: wandb.Image(pixels)}, step=iteration),
        begun.finish,
        str(begun.url) if begun.url else f"Weights & Biases, run {run} (offline)",
    )


def _mlflow(folder: Path, run: str, trainer: Engine, settings: Mapping[str, Any]) -> Logger:
    """A run of MLflow, by MONAI's handler: on the server of MLFLOW_TRACKING_URI, else in `folder`/mlruns.db."""
    from monai.handlers import MLFlowHandler  # noqa: PLC0415 -- not all have MLflow

    uri = f"sqlite:///{(folder.resolve() / 'mlruns.db').as_posix()}"
    handler = MLFlowHandler(tracking_uri=uri, experiment_name="dsnet-med", run_name=run)
    handler.start(trainer)
    client, number = handler.client, handler.cur_run.info.run_id
    known = client.get_run(number).data.params  # which cannot be changed
    for name, value in settings.items():
        if (key := _mlflow_name(name)) not in known and value is not None:
            client.log_param(number, key, str(value)[:500])

    def numbers(iteration: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            client.log_metric(number, _mlflow_name(name), value, step=iteration)

    return Logger(
        numbers,
        lambda iteration, name, pixels: client.log_image(
            number, pixels, f"{_mlflow_name(name)}/{iteration:07d}.png"
        ),
        handler.close,
        _mlflow_page(number, handler.cur_run.info.experiment_id),
    )


def _mlflow_page(number: str, experiment: str) -> str:
    """Where a person looks at a run of MLflow; of a server the address without what it was logged in with."""
    uri = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if uri.scheme not in ("http", "https") or not uri.hostname:
        return f"MLflow, run {number}"
    place = uri.hostname + (f":{uri.port}" if uri.port else "")
    return f"{uri.scheme}://{place}{uri.path.rstrip('/')}/#/experiments/{experiment}/runs/{number}"


def _mlflow_name(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name)


LOGGERS: dict[str, Any] = {"none": None, "tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Mappings of mappings as one, a/b/c; lists as text."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/")
        else:
            text = json.dumps(value, default=str) if isinstance(value, list | tuple) else value
            flat[f"{prefix}{name}"] = text
    return flat


def finite(value: Any, digits: int | None = None) -> Any:
    """Numbers of whatever kind, and mappings of them, as JSON has them, rounded to `digits`; None for none."""
    if isinstance(value, Mapping):
        return {str(name): finite(each, digits) for name, each in value.items()}
    if isinstance(value, int):
        return value
    number = float(value) if isinstance(value, Real | Tensor) else float("nan")
    return (number if digits is None else round(number, digits)) if isfinite(number) else None
