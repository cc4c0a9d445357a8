"""Every random number of a run as a function of its seed and of which draw it is.

Which sample is drawn, what augmentation does to it and what the network draws in a step depend on (seed, number
of the draw) alone. So the weights are the same whatever the number of loader processes, and wherever a run was
interrupted; several training processes share the draws of one.
"""

import hashlib
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from traceback import walk_tb
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms import Randomizable
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from dsnet_med.engine.stopping import explained
from dsnet_med.errors import InputError, StoppedError, one_line, portable, want_of_means
from dsnet_med.processes import ctrl_c_later

_FILES_EACH, _FILES_BESIDE = 12, 6  # of a loader's process: pipes, and the tensors of the batches under way


def seed_of(seed: int, *what: str | int) -> int:
    """63 bits for one purpose of a run, for example `seed_of(seed, "augment", 1234)`; the same everywhere."""
    text = "/".join(map(str, (seed, *what)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def kept_generators() -> Iterator[None]:
    """Leave the random generators of PyTorch, NumPy and Python as they were found."""
    on_cuda = torch.cuda.is_initialized()
    states = torch.get_rng_state(), torch.cuda.get_rng_state_all() if on_cuda else []
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        if on_cuda:
            torch.cuda.set_rng_state_all(states[1])
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _seed_all(number: int) -> None:
    """As torch.manual_seed and the like do, in a hundredth of its time where CUDA is not in use."""
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)
    np.random.seed(number & 0xFFFFFFFF)
    random.seed(number)


class SeedSteps:
    """Before every iteration of an engine, seed all generators from (seed, iteration, rank)."""

    def __init__(self, seed: int, rank: int = 0) -> None:
        self.seed, self.rank = seed, rank

    def attach(self, engine: Engine) -> None:
        """Listen to `engine`."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        _seed_all(seed_of(self.seed, "step", engine.state.iteration, self.rank))


class Draw(int):
    """An index into a data set, and the `number` of the draw in the run."""

    number: int

    def __new__(cls, index: int, number: int) -> "Draw":
        draw = super().__new__(cls, index)
        draw.number = number
        return draw

    def __reduce__(self) -> tuple[type["Draw"], tuple[int, int]]:  # on the way to a loader process
        return Draw, (int(self), self.number)


class Draws(Sampler[Draw]):
    """What one of `world` processes draws from `size` samples: `count` draws, `batch_size` in each step.

    The draws of all processes together are one sequence, of which each step takes the next world * batch_size.
    It goes through all samples in a random order, then through all in another, and so on; with `weights`, one
    for each sample, they are drawn with replacement in proportion to these.

    Raises InputError where there is nothing to draw.
    """

    def __init__(
        self,
        size: int,
        count: int,
        *,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        weights: Sequence[float] | None = None,
    ) -> None:
        if size < 1:
            raise InputError("there are no samples to train on")
        if weights is not None and (len(weights) != size or min(weights) < 0 or not sum(weights) > 0):
            raise InputError(f"got {len(weights)} weights for {size} samples, wanted one each, some above 0")
        self.size, self.count, self.seed, self.batch_size = size, count, seed, batch_size
        self.rank, self.world = rank, world
        self.weights = None if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        self.first = 0

    def start(self, iteration: int) -> None:
        """Let the next iterator begin with the first draw after `iteration` steps."""
        self.first = iteration * self.batch_size

    def __len__(self) -> int:
        return max(0, self.count - self.first)

    def __iter__(self) -> Iterator[Draw]:
        order, current = [], -1
        for own in range(self.first, self.count):
            step, place = divmod(own, self.batch_size)
            number = (step * self.world + self.rank) * self.batch_size + place
            if number // self.size != current:
                current = number // self.size
                order = self._order(current)
            yield Draw(order[number % self.size], number)

    def _order(self, one_pass: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, "order", one_pass))
        if self.weights is None:
            indices = torch.randperm(self.size, generator=generator)
        else:
            indices = torch.multinomial(self.weights, self.size, replacement=True, generator=generator)
        found: list[int] = indices.tolist()
        return found


class Loader(DataLoader[Any]):
    """PyTorch's DataLoader whose samples are functions of (`seed`, number of the draw), in any process.

    `sampler` is a Draws, or any other, whose indices then count as numbers. Items are dictionaries, or lists of
    such, and become batches of plain tensors, unless `collate_fn` makes others. `pin_memory` counts where there
    is a GPU. Processes wait for the next iterator. The calling process's generators stay as they were.

    Raises, while iterated, what the data set raised, whichever process it ran in; InputError with advice where
    a loader process was killed, or shared memory or open files ran out.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        **options: Any,
    ) -> None:
        self._fetch = _Fetch(dataset, seed, collate_fn or _collated)
        options = {
            "persistent_workers": num_workers > 0,
            "worker_init_fn": partial(_leave_signals, os.getpid()),
            **options,
        }
        super().__init__(
            self._fetch,
            num_workers=num_workers,
            pin_memory=pin_memory and torch.cuda.is_available(),
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # else the process's own is drawn from
            **options,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = None
        while True:
            try:
                if batches is None:
                    _require_open_files(self.num_workers)
                    with ctrl_c_later():
                        batches = super().__iter__()
                batch = next(batches, None)
            except (RuntimeError, OSError, EOFError) as error:
                if batches is None:
                    _abandon(error)
                told = _explained(error, self.num_workers)
                if told is error:
                    raise
                raise told from error
            if batch is None:
                return
            if isinstance(batch, _Failure):
                try:
                    raise batch.error
                finally:
                    del (
                        batch,
                        batches,
                    )  # names for the error in its own traceback would keep the processes alive
            yield batch


def _require_open_files(processes: int) -> None:
    """Raise InputError where the loader's processes could not send what they read, which has no end."""
    if not processes or sys.platform == "win32":
        return
    import resource

    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = psutil.Process().num_fds() + _FILES_BESIDE + _FILES_EACH * processes
    if 0 <= most < wanted:
        raise InputError(
            f"at most {most} files may be open, and {processes} processes that read data take {wanted}: raise "
            "the limit (ulimit -n 4096) or train with --set workers=0"
        )


def _abandon(error: Exception) -> None:
    """End the processes of an iterator that could not be made, which would print a traceback when it goes."""
    for frame, _ in walk_tb(error.__traceback__):
        half = frame.f_locals.get("self")
        if isinstance(half, _MultiProcessingDataLoaderIter):
            half._shutdown = True
            with suppress(ValueError):  # else torch tells of their end, as an error, wherever Python just is
                torch._C._remove_worker_pids(id(half))
            for worker in getattr(half, "_workers", ()):
                if worker.is_alive():
                    worker.kill()


def _explained(error: Exception, processes: int) -> BaseException:
    """What an error of a loader itself means: with processes, that one of them could not begin or has ended."""
    told = explained(error)
    if told is error and processes and isinstance(error, OSError | EOFError):
        why = want_of_means(error) or one_line(error)
        return StoppedError(
            f"the processes that read data could not be started, or one was killed ({why}): go on with "
            "--resume, with fewer of them or without (--set workers=0)"
        )
    return told


def _leave_signals(trainer: int, _: int) -> None:
    """Let signals to all processes of a run (Ctrl-C, a scheduler's) be answered by the one that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = lambda *_: None  # of a thread that hands out what nobody takes any more; else see _Failure
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_with, args=(trainer,), daemon=True).start()


def _end_with(trainer: int) -> None:
    """End this process when the one that trains says so or is gone, which PyTorch sees only if it was there."""
    while os.getppid() == trainer:
        told = signal.sigtimedwait([signal.SIGTERM], 0.2)
        if told is not None and told.si_pid == trainer:
            break
    os._exit(0)


class _Failure(NamedTuple):
    """An error on its way from a loader process; PyTorch would keep its type and a printed traceback."""

    error: Exception


class _Fetch(Dataset[Any]):
    """What makes items and batches, in the calling process or in a loader's."""

    def __init__(self, dataset: Dataset[Any], seed: int, collate: Callable[[list[Any]], Any]) -> None:
        self.dataset, self.seed, self.collate = dataset, seed, collate
        self.generators = list(_own_generators(dataset))
        self.shared = np.random.RandomState(0)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        """One item (DataLoader's batch_size=None)."""
        return self._answer(lambda: self._item(index))

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """A batch."""
        return self._answer(lambda: self.collate([self._item(index) for index in indices]))

    def _answer(self, make: Callable[[], Any]) -> Any:
        if get_worker_info() is None:
            return _undisturbed(make)
        try:
            return make()
        except Exception as error:
            return _Failure(portable(error))

    def _item(self, index: int) -> Any:
        number = index.number if isinstance(index, Draw) else index
        _seed_all(seed_of(self.seed, "augment", number))
        for place, generator in enumerate([self.shared, *self.generators]):
            generator.seed(seed_of(self.seed, "transform", place, number) & 0xFFFFFFFF)
        before, Randomizable.R = Randomizable.R, self.shared  # that of all that were not given one of their own
        try:
            return self.dataset[index]
        finally:
            Randomizable.R = before


def _own_generators(part: Any, seen: set[int] | None = None) -> Iterator[np.random.RandomState]:
    """The generators that MONAI's transforms in a data set were given by `set_random_state`."""
    seen = set() if seen is None else seen
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, np.random.RandomState):
        yield part
    for value in list(getattr(part, "__dict__", {}).values()):
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, np.random.RandomState) or (hasattr(each, "__dict__") and not _is_code(each)):
                yield from _own_generators(each, seen)


def _is_code(part: Any) -> bool:
    return isinstance(part, type | ModuleType | FunctionType)


def _undisturbed(make: Callable[[], Any]) -> Any:
    """Call `make` as a loader process would: in one thread, with generators that are nobody else's."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with kept_generators():
            return make()
    finally:
        torch.set_num_threads(threads)


def _as_it_is(batch: Any) -> Any:
    return batch


def _collated(items: Sequence[Any]) -> Any:
    """Items as a batch of plain tensors; a list in place of an item stands for several."""
    every = [each for item in items for each in (item if isinstance(item, list) else [item])]
    return default_collate(tree_map_only(MetaTensor, MetaTensor.as_tensor, every))
