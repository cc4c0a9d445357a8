"""Several processes train one network: each takes its share of the samples, and the gradients are averaged.

The processes are torchrun's, srun's or those of `launch`. What they tell each other goes through ignite.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from timm.layers import BatchNormAct2d
from timm.layers.norm_act import SyncBatchNormAct
from torch import distributed, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import ProcessExitedException, start_processes
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from dsnet_med.errors import InputError, StoppedError, portable
from dsnet_med.inference.hardware import choose_device
from dsnet_med.processes import prepare_worker

_GO_ON = "the run can go on with --resume"
_SECONDS_TO_TELL, _SECONDS_TO_END = 10, 3
Item = TypeVar("Item")
Result = TypeVar("Result")


def device(name: str = "auto") -> torch.device:
    """The device called `auto`, `cpu`, `cuda` or `cuda:N`; of several processes on GPUs each has its own.

    Raises InputError when it is not there.
    """
    chosen = choose_device(name)
    if chosen.type == "cpu" or _started_together() == 1:
        return chosen
    if ":" in name:
        raise InputError(
            f"got device '{name}' for several processes: give 'cuda', and each takes a GPU of its own"
        )
    local = _number("LOCAL_RANK", "SLURM_LOCALID", 0)
    _require_gpus(local + 1)
    return torch.device("cuda", local)


def check_devices(count: int, name: str) -> None:
    """Raise InputError unless `launch` can start `count` processes on the devices called `name`."""
    if count < 1:
        raise InputError(f"got {count} devices, wanted at least 1")
    if count > 1 and _started_together() > 1:
        others = f"{_started_together()} processes that torchrun or srun has started"
        raise InputError(f"got --devices {count} in one of {others}: leave --devices out")
    chosen = choose_device(name)
    if count > 1 and ":" in name:
        raise InputError(f"got --devices {count} and --device {name}: give --device cuda, which takes all")
    if chosen.type == "cuda":
        _require_gpus(count)


def _require_gpus(count: int) -> None:
    if count > (there := torch.cuda.device_count()):
        raise InputError(
            f"got {count} processes on GPUs, and this machine has {there}: start at most {there}, "
            "or give --device cpu"
        )


def _started_together() -> int:
    """How many processes torchrun, `launch` or srun has started, joined or not."""
    return _number("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", 1)


def _number(of_torchrun: str, of_srun: str, otherwise: int) -> int:
    return int(os.environ.get(of_torchrun) or os.environ.get(of_srun) or otherwise)


def start(device: torch.device | str) -> None:
    """Join the processes that were started together, on this `device`; nothing where this is the only one.

    Raises InputError where what the processes have to know of each other is missing, StoppedError where the
    others do not come.
    """
    if _started_together() == 1 or distributed.is_initialized():
        return
    torchrun = "WORLD_SIZE" in os.environ
    if torchrun and (missing := {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} - os.environ.keys()):
        raise InputError(
            f"WORLD_SIZE is set, {' and '.join(sorted(missing))} not: start with torchrun or --devices"
        )
    on_gpu = torch.device(device).type == "cuda"
    # ignite would take Slurm's numbers, which count torchruns, not processes.
    slurm = os.environ.pop("SLURM_JOB_ID", None) if torchrun else None
    try:
        with _others():
            if torchrun and not on_gpu:  # ignite would put it on a GPU where there is one
                distributed.init_process_group("gloo")
                idist.sync()
            else:
                idist.initialize("nccl" if on_gpu else "gloo")
    finally:
        if slurm:
            os.environ["SLURM_JOB_ID"] = slurm


def stop() -> None:
    """Leave the other processes."""
    if distributed.is_initialized():
        idist.finalize()


def world_size() -> int:
    """How many processes train together."""
    return int(idist.get_world_size())


def rank() -> int:
    """Which of them this is, from 0."""
    return int(idist.get_rank())


def is_main() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return rank() == 0


def on_main(function: Callable[..., Result], *args: Any) -> Result:
    """What `function(*args)` gives in the first process, for all.

    Raises what it raises there; in the others a StoppedError without words.
    """
    if world_size() == 1:
        return function(*args)
    outcome: list[Any] = [None, False]
    try:
        if is_main():
            outcome = [function(*args), True]
    finally:
        with _others():
            distributed.broadcast_object_list(outcome, 0)
    if not outcome[1]:
        raise StoppedError("")
    result: Result = outcome[0]
    return result


def shard(items: Iterable[Item]) -> list[Item]:
    """This process's part of `items`, dealt out in turns. It is empty where there are fewer than processes."""
    return list(islice(items, rank(), None, world_size()))


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """The steps of all processes together over `samples`; InputError where these do not fill one."""
    if steps := samples // (batch_size * world_size()):
        return steps
    batch = f"a batch of {batch_size}" + f" in each of {world_size()} processes" * (world_size() > 1)
    raise InputError(f"{samples} images to train on do not make {batch}: give a smaller batch_size")


def parallel(network: nn.Module, *, sync_norm: bool = False) -> nn.Module:
    """What to train: `network` itself, or in several processes a wrapper that averages its gradients.

    `sync_norm` is `synchronise_norms` on GPUs; there is no such norm on a CPU.
    """
    if world_size() == 1:
        return network
    on_gpu = next(network.parameters()).is_cuda
    if sync_norm and on_gpu:
        synchronise_norms(network)
    return DistributedDataParallel(network, [torch.cuda.current_device()] if on_gpu else None)


def synchronise_norms(network: nn.Module) -> None:
    """Make the batch norms of feature maps in `network` see the batches of all processes (SyncBN).

    Those of vectors (BatchNorm1d), such as in DSM's selective kernel, stay: they are plain ones in the
    reference, too. PyTorch's own conversion would make them anew, also those of a plug-in after a norm.
    """
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):  # it stays what hooks, names and copies refer to
            activated = isinstance(norm, BatchNormAct2d)
            norm.__class__ = SyncBatchNormAct if activated else nn.SyncBatchNorm  # type: ignore[assignment]
            vars(norm)["process_group"] = None  # all


class BroadcastBuffers:
    """Give all processes the running statistics of the first before an evaluator runs.

    So they evaluate one network: what a norm has counted in the last step is each process's own.
    """

    def attach(self, evaluator: Engine) -> None:
        """Listen to `evaluator`, one of MONAI's."""
        evaluator.add_event_handler(Events.STARTED, self._share)

    def _share(self, evaluator: Any) -> None:
        if world_size() > 1:
            for buffer in evaluator.network.buffers():
                distributed.broadcast(buffer, 0)


class LostError(StoppedError):
    """Another process has gone; why, that one or whoever started it has to tell."""


def lost(error: BaseException) -> StoppedError | None:
    """What an error of PyTorch's means that came of another process's end; None for any other."""
    if isinstance(error, distributed.DistError) or "gloo/transport" in str(error):
        place = f"process {rank() + 1} of {world_size()}" if distributed.is_initialized() else "this process"
        return LostError(f"{place} has lost another one, whose own message says why; {_GO_ON}")
    return None


@contextmanager
def _others() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if told := lost(error):
            raise told from error
        raise


def launch(function: Callable[..., Result], devices: int, *args: Any) -> Result:
    """What `function(*args)` gives in the first of `devices` processes on this machine, as if under torchrun.

    Of one device it is this process. `function` and `args` must pickle. On CPUs the processes share the
    threads. They end with this one, and all when one fails, whose error is raised; SIGTERM and Ctrl-C are
    handed on to them, and raised here when the first process has ended. Raises StoppedError for a process that
    was killed.
    """
    if devices == 1:
        return function(*args)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(devices)}
    environment["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the store is this process's
    threads = max(1, torch.get_num_threads() // devices)
    outcomes = multiprocessing.get_context("spawn").SimpleQueue()
    given = environment, threads, outcomes, partial(function, *args)
    processes: list[Any] = []
    with _handing_on_signals(processes) as came:
        started = start_processes(_work, given, devices, join=False, start_method="spawn")
        processes += started.processes
        if came:  # before there was anyone to tell
            for process in processes:
                process.terminate()
        try:
            while not started.join(grace_period=_SECONDS_TO_END):
                pass
        except ProcessExitedException as ended:
            while not outcomes.empty():
                if error := outcomes.get()[1]:
                    raise error from None
            how = (
                f"was killed (signal {-ended.exit_code}" if ended.exit_code < 0 else f"ended ({ended.exit_code}"
            )
            memory = ", as the system does where memory runs out" * (ended.exit_code == -signal.SIGKILL)
            raise StoppedError(
                f"process {ended.error_index + 1} of {devices} {how}{memory}); {_GO_ON}"
            ) from None
    result: Result = outcomes.get()[0]
    return result


@contextmanager
def _handing_on_signals(processes: Sequence[Any]) -> Iterator[list[int]]:
    """Hand on the first signal as SIGTERM, the next as SIGKILL, and raise the first again at the end."""
    came: list[int] = []

    def hand_on(number: int, _: Any) -> None:
        came.append(number)
        for process in processes:
            process.terminate() if len(came) == 1 else process.kill()

    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield came
        return
    ours = [
        each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) not in (signal.SIG_IGN, None)
    ]
    before = {each: signal.signal(each, hand_on) for each in ours}
    try:
        yield came
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        if came:
            signal.raise_signal(came[0])


def _work(
    number: int, environment: dict[str, str], threads: int, outcomes: Any, work: Callable[[], Any]
) -> None:
    """One of the processes: run `work`, and send what the first one's gives, or what was raised."""
    prepare_worker()
    multiprocessing.set_start_method(None, force=True)  # the default, for loaders' processes
    os.environ.update(environment, RANK=str(number), LOCAL_RANK=str(number))
    tqdm.set_lock(
        threading.RLock()
    )  # its own is one for all processes, and reported as lost when one is killed
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    try:
        result = work()
    except Exception as error:
        told = lost(error) or error
        if isinstance(told, LostError):
            time.sleep(_SECONDS_TO_TELL)  # until the one that failed has told why, which ends this one, too
        outcomes.put((None, portable(told)))
        sys.exit(1)
    if number == 0:
        outcomes.put((result, None))
