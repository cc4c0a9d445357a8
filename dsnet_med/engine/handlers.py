"""Handlers of ignite's engines that belong to no other idea."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ignite.engine import Engine, Events

from dsnet_med.engine.distributed import on_main
from dsnet_med.engine.progress import rounded
from dsnet_med.files import write_json


class Handler(Protocol):
    """What listens to an engine."""

    def attach(self, engine: Engine) -> None:
        """Begin to listen."""


class AttachAll:
    """Attach the handlers of a mapping in its order, but for None: in a configuration they have names."""

    def __init__(self, handlers: Mapping[str, Handler | None]) -> None:
        self.handlers = [handler for handler in handlers.values() if handler is not None]

    def attach(self, engine: Engine) -> None:
        """Let all listen to `engine`."""
        for handler in self.handlers:
            handler.attach(engine)


class ScoreFile:
    """Write some metrics of an evaluation to a JSON file."""

    def __init__(self, path: str, names: Sequence[str]) -> None:
        self.path, self.names = Path(path), names

    def attach(self, evaluator: Engine) -> None:
        """Write when `evaluator` has finished."""
        evaluator.add_event_handler(Events.COMPLETED, self._write)

    def _write(self, evaluator: Engine) -> None:
        scores = {name.removeprefix("val_"): evaluator.state.metrics[name] for name in self.names}
        on_main(write_json, self.path, rounded(scores))
