"""Why a training ends before its last step: it fails, its loss is not finite, or it gets no better."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from torch import Tensor

from dsnet_med.engine import distributed
from dsnet_med.errors import InputError, StoppedError, one_line, want_of_means

_LOOK_EVERY = 10  # steps: to look at a loss, one waits for the device
_ADVICE = {  # words of an error, and what a user is told
    r"shared memory|</torch_": (
        "the processes that read data have no shared memory left: make /dev/shm larger (docker run "
        "--shm-size 8g) or train with --set workers=0"
    ),
    r"MemoryError|out of memory|(can't|not|cannot) (allocate|enough) memory|ALLOC_FAILED": (
        "out of memory ({}): lower batch_size (and accumulate more batches for the same steps), width or size, "
        "or take --precision bfloat16"
    ),
    r"DataLoader worker .*(killed by signal|exited unexpectedly)|Connection(Reset|Refused)Error|EOFError": (
        "a process that reads data was killed ({}), as the system does where memory is short: go on with "
        "--resume and fewer --set workers"
    ),
    r"Too many open files|received 0 items of ancdata": (
        "too many open files: raise the limit (ulimit -n 4096) or train with --set workers=0"
    ),
    r"\w+ does not have a deterministic implementation": (
        "{}, as --deterministic wants it: leave the option out, or train on another device"
    ),
    r"more than 1 value per channel when training": (
        "in training a batch norm sees one value per channel: take a batch_size of at least 2, or larger images"
    ),
}


def on_failure(trainer: Engine, tidy: Callable[[], object]) -> None:
    """Call `tidy`, which may happen twice, when `trainer` fails; then the error, `explained`, goes on.

    ignite calls no handler of a failure after one that raises; here the order does not matter.
    """
    calls = vars(trainer).setdefault("tidied_on_failure", [])
    if not calls:
        trainer.add_event_handler(Events.EXCEPTION_RAISED, _fail)
    calls.append(tidy)


def _fail(trainer: Engine, error: BaseException) -> None:
    for tidy in vars(trainer)["tidied_on_failure"]:
        tidy()
    told = explained(error)
    if told is error:
        raise error
    raise told from error


def explained(error: BaseException) -> BaseException:
    """`error`, or an InputError that says what the user can do about it, or that another process is lost."""
    if isinstance(error, InputError | StoppedError | KeyboardInterrupt | SystemExit):
        return error
    text = f"{type(error).__name__}: {error}"
    for words, advice in _ADVICE.items():
        if found := re.search(words, text, re.IGNORECASE):
            return InputError(advice.format(one_line(text[found.start() :], 100)))
    if isinstance(error, OSError) and error.filename is not None:  # writing is explained where it is done
        why = want_of_means(error) or f"{error.strerror}; put back what the run needs"
        return StoppedError(f"cannot read {error.filename}: {why}, and go on with --resume")
    return distributed.lost(error) or error


@contextmanager
def in_words() -> Iterator[None]:
    """Have what is raised within this `explained`: torch tells of a dead worker wherever Python just is."""
    try:
        yield
    except Exception as error:
        told = explained(error)
        if told is error:
            raise
        raise told from error


def diverged(step: int, kept: str) -> InputError:
    """The error for a loss or weights that are not finite from `step` on; `kept` says what is left."""
    return InputError(
        f"the training is not finite from step {step} on ({kept}): train anew with a lower optimizer#lr, with "
        "clip=1, or in --precision float32"
    )


class FiniteLoss:
    """Stop a trainer, with an InputError that names the step, when its loss is NaN or infinite.

    A gradient scaler leaves steps out whose gradients are not finite; with one, ten such losses in a row stop
    the trainer. `kept` says which state is on disk.
    """

    def __init__(self, kept: Callable[[], str]) -> None:
        self.kept, self.losses = kept, list[Tensor]()

    def attach(self, trainer: Engine) -> None:
        """Listen to `trainer`."""
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._watch)

    def _watch(self, trainer: Any) -> None:
        self.losses.append(trainer.state.output["loss"].detach())
        step = trainer.state.iteration
        if step % _LOOK_EVERY and step % trainer.state.epoch_length:
            return
        finite = torch.stack(self.losses).isfinite().tolist()
        self.losses.clear()
        tolerated = trainer.scaler is not None and (any(finite) or len(finite) < _LOOK_EVERY)
        if not all(finite) and not tolerated:
            raise diverged(step - len(finite) + 1 + finite.index(False), self.kept())


class EarlyStop(EarlyStopping):
    """ignite's early stopping: end a training after `patience` validations without a better `score`."""

    def __init__(self, patience: int, validator: Engine, score: str) -> None:
        self.validator = validator
        super().__init__(patience, lambda each: each.state.metrics[score], Engine(lambda *_: None))

    def attach(self, trainer: Engine) -> None:
        """End `trainer`; a trainer that goes on keeps what was counted before, unlike ignite's."""
        self.trainer = trainer
        self.validator.add_event_handler(Events.COMPLETED, self)
