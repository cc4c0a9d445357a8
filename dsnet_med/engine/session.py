"""The process of a run: whose folder it is, where its random numbers begin, what summary.json says of it."""

import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import monai
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from torch import nn

import dsnet_med
from dsnet_med.engine import distributed
from dsnet_med.engine.checkpoints import Checkpoints
from dsnet_med.engine.initialisation import Initialisation
from dsnet_med.engine.loggers import finite
from dsnet_med.engine.metadata import note_scores
from dsnet_med.errors import InputError, root_cause
from dsnet_med.files import locked, output_error, write_json
from dsnet_med.seal import sealed

_OF_A_TRAINING = ("curves.png", "certificate.json", "docs/certificate.md", "docs/README.md")
_USED_MEANWHILE = ("models/model.pt", "weights.json")  # until a validation finds better ones
BEGUN = ("summary.json", "metrics.jsonl", "models/model.pt", "checkpoints/last.pt")


def owned(folder: Path) -> AbstractContextManager[None]:
    """A run's folder for this process and those that it starts; InputError while another run has it."""
    return locked(folder, "trains in")


def set_aside(folder: Path) -> None:
    """Keep what a run's or a bundle's folder has of its training in before/N; model.pt stays where it is, too.

    What was made of the weights (model.ts, a certificate, the model card) would be of others soon, and goes.
    Raises InputError where that cannot be written.
    """
    made = [path.relative_to(folder).as_posix() for path in sorted((folder / "models").glob("model.*"))]
    names = dict.fromkeys((*BEGUN, *_USED_MEANWHILE, *made, *_OF_A_TRAINING))
    found = [name for name in names if (folder / name).is_file()]
    if not found:
        return
    before = folder / "before"
    try:
        into = before / str(1 + sum(each.is_dir() for each in before.glob("*")))
        for name in found:
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, into / name)
        for name in found:
            if name not in _USED_MEANWHILE:
                (folder / name).unlink()
    except OSError as error:
        raise output_error(before, error) from error


class Session:
    """What a bundle's `initialize`, `run` and `finalize` do around the trainer.

    With `deterministic`, a GPU gives the same bits each time, or an error where PyTorch has no such operation.
    With `replaces`, a run that lies in the folder is set aside: this one begins with its weights, on other data
    (see handed_over.py).
    """

    def __init__(
        self,
        folder: str,
        seed: int,
        *,
        resume: bool = False,
        deterministic: bool = False,
        replaces: bool = False,
    ) -> None:
        self.folder, self.seed, self.resume, self.deterministic = Path(folder), seed, resume, deterministic
        self.replaces = replaces
        self.held = ExitStack()
        self.started = time.monotonic()
        self.before: tuple[bool, bool, bool] | None = None

    def begin(self, device: torch.device) -> None:
        """Join the other processes, if any, and seed what comes first."""
        distributed.start(device)
        torch.manual_seed(self.seed)
        self.before = _numerics()
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which cuBLAS refuses
        # Products in TF32, as PyTorch has convolutions by default.
        _set_numerics(self.deterministic, not self.deterministic, True)

    def initialise(self, name: str) -> None:
        """Make the network called `name` in the configuration whose expression calls this.

        Each parameter starts from the seed and its own name.
        """
        parser = reading()
        try:
            with Initialisation() as making:
                network = parser.get_parsed_content(name)
        except RuntimeError as error:  # MONAI's, which is going to wrap it once more
            if isinstance(cause := root_cause(error), InputError):
                raise cause from error
            raise
        making.draw_again(network, self.seed)

    def claim(self) -> None:
        """Own the folder until `end`. Raises InputError where another run does, or one lies there."""
        distributed.on_main(self._claim)

    def _claim(self) -> None:
        self.held.enter_context(owned(self.folder))
        if self.replaces:
            set_aside(self.folder)
        elif not self.resume and any((self.folder / name).exists() for name in BEGUN):
            raise InputError(f"{self.folder} already holds a run; go on with --resume or choose another folder")

    def summarise(
        self,
        facts: Mapping[str, Any],
        card: Mapping[str, Any],
        network: nn.Module,
        checkpoints: Checkpoints,
        validator: Engine,
    ) -> None:
        """Write summary.json: `facts`, and what a reader of the run's numbers has to know besides."""
        parameters = sum(parameter.numel() for parameter in network.parameters())
        summary = {
            "method": {**card, "parameters": parameters},
            **facts,
            "parameters": parameters,
            "scores": finite(validator.state.metrics, 6),
            "best": finite(checkpoints.best, 6),
            "processes": distributed.world_size(),
            "seconds": round(time.monotonic() - self.started, 1),
            "device": str(next(network.parameters()).device),
            "versions": versions(),
        }
        best = {name: value for name, value in summary["best"].items() if name != "iteration"}
        distributed.on_main(note_scores, self.folder, best)
        write = partial(write_json, durable=True)
        distributed.on_main(write, self.folder / "summary.json", sealed(summary))

    def end(self) -> None:
        """Give the folder back and leave the other processes."""
        self.held.close()
        if self.before is not None:
            _set_numerics(*self.before)
        distributed.stop()


def reading() -> ConfigParser:
    """The configuration of which MONAI evaluates an expression now; MONAI hands it to none of them."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if isinstance(parser := frame.f_locals.get("self"), ConfigParser):
            return parser
        frame = frame.f_back
    raise RuntimeError("no configuration is being read: call this from an expression in one")


def _numerics() -> tuple[bool, bool, bool]:
    """How this process computes: deterministically, by the fastest convolutions, products in TF32."""
    cuda: Any = torch.backends.cuda
    return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, cuda.matmul.allow_tf32


def _set_numerics(deterministic: bool, benchmark: bool, tf32: bool) -> None:
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = benchmark
    cuda: Any = torch.backends.cuda
    cuda.matmul.allow_tf32 = tf32


def versions() -> dict[str, str]:
    """The versions of what a run's numbers depend on."""
    return {"dsnet-med": dsnet_med.__version__, "monai": monai.__version__, "torch": str(torch.__version__)}
