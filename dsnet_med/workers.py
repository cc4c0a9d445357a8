"""Work in processes that neither outlive the parent nor take the other items down with them."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

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
    pool = _pool(min(workers, len(items)))
    try:
        futures = {}
        for item in items:
            try:
                futures[pool.submit(work, item)] = item
            except BrokenProcessPool:  # a worker died before the last item was handed in
                lost.append(item)
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                lost.append(futures[future])
    finally:  # also when the caller stops asking: only what is under way is waited for
        pool.shutdown(wait=True, cancel_futures=True)
    for item in lost:
        yield item, _alone(work, item)


def _alone(work: Callable[[Item], Result], item: Item) -> Result | None:
    try:
        with _pool(1) as pool:
            return pool.submit(work, item).result()
    except BrokenProcessPool:
        return None


def _pool(workers: int) -> ProcessPoolExecutor:
    # Forking starts at once; with torch loaded the caller may hold threads and a GPU, which must not be forked.
    method = "fork" if sys.platform == "linux" and "torch" not in sys.modules else "spawn"
    return ProcessPoolExecutor(workers, multiprocessing.get_context(method), _prepare_worker)


def _prepare_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
