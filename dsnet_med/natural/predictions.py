"""Inference on a folder of images: one record per image in predictions.json, and files beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from dsnet_med.errors import CasesFailedError, InputError
from dsnet_med.files import write_json

Write = Callable[[Any, str, Path], Any]


class Predictions:
    """Hand each prediction of an evaluator to `write`, with the image's file and its place under `output_dir`.

    `write(prediction, file, place)` may write files that are named as `place` with other suffixes, and gives
    what predictions.json is to say of the image. Of images that differ in their suffix alone the second
    keeps its suffix in the name. An image that could not be read, or whose files could not be
    written, is listed there as failed, and CasesFailedError is raised at the end, when all the others are
    finished. Raises InputError for an output folder inside that of the images.
    """

    def __init__(self, dataset_dir: str, output_dir: str, write: Write) -> None:
        self.source, self.out, self.write = Path(dataset_dir), Path(output_dir), write
        if self.out.resolve().is_relative_to(self.source.resolve()):
            raise InputError(f"got --output_dir {output_dir}, inside {dataset_dir}: choose a folder outside it")
        self.taken: set[Path] = set()
        self.records: dict[str, Any] = {}
        self.failures: dict[str, str] = {}

    def attach(self, evaluator: Engine) -> None:
        """Listen to `evaluator`."""
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._take)
        evaluator.add_event_handler(Events.COMPLETED, self._finish)

    def _take(self, evaluator: Engine) -> None:
        batch, predictions = evaluator.state.batch, evaluator.state.output["pred"]
        for file, error, prediction in zip(batch["path"], batch["error"], predictions, strict=True):
            name = Path(file).relative_to(self.source)
            if error:
                self.failures[str(name)] = error
                continue
            try:
                self.records[str(name)] = self.write(prediction, file, self._place(name))
            except InputError as reason:  # a picture that its format cannot hold
                self.failures[str(name)] = str(reason)

    def _place(self, name: Path) -> Path:
        stem, number = name.stem, 1
        while name.with_name(stem) in self.taken:
            stem = name.name if number == 1 else f"{name.name}_{number}"
            number += 1
        self.taken.add(name.with_name(stem))
        return self.out / name.with_name(f"{stem}{name.suffix}")

    def _finish(self, _: Engine) -> None:
        write_json(self.out / "predictions.json", {"predictions": self.records, "failed": self.failures})
        if self.failures:
            raise CasesFailedError(self.failures)
