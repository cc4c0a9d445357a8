"""Work in processes that neither outlive the parent nor take the other items down with them."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

import psutil

from dsnet_med.errors import InputError, StoppedError, one_line, want_of_means
from dsnet_med.extras import needed_for

_CONNECT_SECONDS = 10
_LOOK_EVERY_S = 5
_ITEMS_EACH = 16  # PyTorch grows by some 70 MB with every network that it has trained
_SAVING_S = 5  # that a process has for saving where it is
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[Item, Result | None]]:
    """Each item with what `work` made of it, as they end; None where its process died.

    `work` and the items must pickle, and what `work` raises is raised here. Nothing says which item broke a
    pool of processes, so every item that was lost is tried once more, alone.
    """
    lost: list[Item] = []
    others = set(multiprocessing.active_children())
    pool = _started_pool(min(workers, len(items)))
    try:
        futures = {}
        for item in items:
            try:
                futures[pool.submit(work, item)] = item
            except BrokenProcessPool:  # a worker died before the last item was handed in
                lost.append(item)
        pending = set(futures)
        while pending:
            done, pending = wait(pending, _LOOK_EVERY_S, FIRST_COMPLETED)
            for future in done:
                try:
                    yield futures[future], future.result()
                except BrokenProcessPool:
                    lost.append(futures[future])
            if not done and not _is_led(pool):
                raise _cannot_start(RuntimeError("can't start new thread"))
    except (KeyboardInterrupt, SystemExit, StoppedError):  # nobody waits for what is under way
        _end_all_but(others)  # what is written is whole
        raise
    finally:  # also when the caller stops asking: only what is under way is waited for
        pool.shutdown(wait=True, cancel_futures=True)
    for item in lost:
        yield item, _alone(work, item)


class Places:
    """So many processes that work side by side, each started once and used again; a killed one is replaced.

    Where one is killed, only what it was working on is lost; after some items it is renewed, since what
    libraries keep in memory grows. `prepare` is called in each with the number of its place, from 0, before
    anything else; they are started at once, so that it can import meanwhile.
    """

    def __init__(self, count: int, prepare: Callable[[int], None]) -> None:
        self._prepare = prepare
        self._others = set(multiprocessing.active_children())
        try:
            self._pools = [self._started(place) for place in range(count)]
        except (OSError, RuntimeError, MemoryError) as error:
            _end_all_but(self._others)
            raise _cannot_start(error) from error

    def __enter__(self) -> "Places":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # nobody waits for what is under way, which may save where it is
            workers = [each for each in multiprocessing.active_children() if each not in self._others]
            for worker in workers:
                worker.terminate()
            begun = time.monotonic()
            for worker in workers:
                worker.join(max(0.0, _SAVING_S - (time.monotonic() - begun)))
            _end_all_but(self._others)
        for pool in self._pools:
            pool.shutdown(wait=kind is None, cancel_futures=True)

    def run(
        self, work: Callable[[int, Item], Result], items: Sequence[Item], *, begun: Callable[[Item], None]
    ) -> Iterator[tuple[Item, Result | None]]:
        """Each item with what `work(place, item)` made of it, as they end; None where its process was killed.

        `begun` is told when an item is handed out. `work` and the items must pickle; what `work` raises is
        raised here.
        """
        waiting, running = list(reversed(items)), dict[Future[Result], tuple[int, Item]]()
        free, done = list(reversed(range(len(self._pools)))), [0] * len(self._pools)
        while waiting or running:
            while waiting and free:
                place, item = free.pop(), waiting.pop()
                begun(item)
                running[self._submitted(place, work, item)] = place, item
            for future in wait(running, None, FIRST_COMPLETED).done:
                place, item = running.pop(future)
                free.append(place)
                done[place] += 1
                result: Result | None = None
                try:
                    result = future.result()
                except BrokenProcessPool:
                    done[place] = _ITEMS_EACH
                if done[place] >= _ITEMS_EACH:
                    self._pools[place].shutdown(wait=False)
                    self._pools[place], done[place] = self._started(place), 0
                yield item, result

    def _submitted(self, place: int, work: Callable[[int, Item], Result], item: Item) -> Future[Result]:
        try:
            return self._pools[place].submit(work, place, item)
        except BrokenProcessPool:  # it was killed while it had nothing to do
            self._pools[place] = self._started(place)
            return self._pools[place].submit(work, place, item)

    def _started(self, place: int) -> ProcessPoolExecutor:
        with ctrl_c_later():
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(1, context, _prepare_place, (self._prepare, place))
            pool.submit(int)
        return pool


def _prepare_place(prepare: Callable[[int], None], place: int) -> None:
    prepare_worker()
    prepare(place)


def on_cluster(
    work: Callable[[Item], Result], items: Sequence[Item], address: str
) -> Iterator[tuple[Item, Result | None]]:
    """As `in_parallel`, on the Dask cluster whose scheduler listens at `address`. Raises InputError.

    The workers of the cluster must see the same files under the same names.
    """
    with needed_for("a Dask scheduler"):
        from distributed import Client, KilledWorker, as_completed  # noqa: PLC0415 -- an extra
    try:
        client = Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise InputError(f"no Dask scheduler answers at '{address}' ({error})") from error
    with client:
        futures = {client.submit(work, item, pure=False): item for item in items}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except (KilledWorker, CancelledError, OSError):  # the worker died, or the scheduler went away
                yield futures[future], None


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far; else what it holds."""
    status = Path("/proc/self/status")
    if status.is_file():  # psutil does not read Linux's peak
        return 1024 * int(status.read_text(encoding="ascii").partition("VmHWM:")[2].split()[0])
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))


def workers_that_fit(workers: int, bytes_each: int) -> int:
    """As many of `workers` as have `bytes_each` of memory, at least one."""
    return max(1, min(workers, psutil.virtual_memory().available // bytes_each))


def lives(process: int) -> bool:
    """Whether a process of this number runs; one that ended unnoticed by its parent does not."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.AccessDenied:
        return True
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return False


def _started_pool(workers: int) -> ProcessPoolExecutor:
    """A pool whose processes have begun. Raises StoppedError where they cannot."""
    others = set(multiprocessing.active_children())
    pool = None
    try:
        with ctrl_c_later():
            pool = _pool(workers)
            pool.submit(int)
    except (OSError, RuntimeError, MemoryError) as error:
        _end_all_but(others)
        if pool is not None:
            pool.shutdown(wait=False)
        raise _cannot_start(error) from error
    return pool


def _end_all_but(others: Collection[BaseProcess]) -> None:
    workers = [each for each in multiprocessing.active_children() if each not in others]
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()


def _cannot_start(error: Exception) -> StoppedError:
    why = want_of_means(error) or one_line(error)
    return StoppedError(f"the processes that work cannot be started: {why}")


def _is_led(pool: ProcessPoolExecutor) -> bool:
    """Whether the thread that hands out the work lives; where memory is short it ends, and nothing says so."""
    thread = getattr(pool, "_executor_manager_thread", None)
    return not isinstance(thread, threading.Thread) or thread.is_alive()


def _alone(work: Callable[[Item], Result], item: Item) -> Result | None:
    try:
        with _pool(1) as pool:
            return pool.submit(work, item).result()
    except BrokenProcessPool:
        return None


def _pool(workers: int) -> ProcessPoolExecutor:
    # Forking starts at once; with torch loaded the caller may hold threads and a GPU, which must not be forked.
    method = "fork" if sys.platform == "linux" and "torch" not in sys.modules else "spawn"
    return ProcessPoolExecutor(workers, multiprocessing.get_context(method), prepare_worker)


@contextmanager
def ctrl_c_later() -> Iterator[None]:
    """Answer Ctrl-C after this, where that can be had; processes that are started meanwhile do not hear it.

    Until a new process ignores it by itself, it would end with a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def prepare_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked one has its parent's handler
    try:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    except RuntimeError:  # no more may be started: this process would outlive its parent
        os._exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
