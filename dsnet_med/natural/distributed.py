"""One process or, under torchrun, several: each takes its share of the images, the gradients are averaged."""

import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler

from dsnet_med.errors import InputError


def start() -> None:
    """Join the processes that torchrun has started; nothing where it has not."""
    if world_size() > 1 and not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(_local_rank())
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def stop() -> None:
    """Leave the other processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return rank() == 0


def device() -> torch.device:
    """This process's GPU, or the CPU where there is none."""
    return torch.device("cuda", _local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def parallel(network: nn.Module, *, sync_norm: bool = False) -> nn.Module:
    """What to train: `network` itself, or in several processes a wrapper that averages its gradients.

    `sync_norm` is `synchronise_norms` on GPUs; there is no such norm on a CPU.
    """
    if world_size() == 1:
        return network
    if sync_norm and next(network.parameters()).is_cuda:
        synchronise_norms(network)
    return DistributedDataParallel(network)


class SharedBuffers:
    """Give all processes the running statistics of the first before an evaluator runs: they evaluate one
    network.

    Training shares weights alone: each process has followed its own batches.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def attach(self, evaluator: Engine) -> None:
        """Listen to `evaluator`."""
        evaluator.add_event_handler(Events.STARTED, self._share)

    def _share(self, _: Engine) -> None:
        if distributed.is_initialized():
            for buffer in self.network.buffers():
                distributed.broadcast(buffer, 0)


def synchronise_norms(network: nn.Module) -> None:
    """Make the batch norms of feature maps in `network` see the batches of all processes (SyncBN).

    That of DSM's selective kernel stays as it is: it is a plain one in the reference, too.
    """
    for module in list(network.modules()):
        for name, norm in list(module.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(norm)
                # They run the plug-ins that follow a norm, and PyTorch drops them.
                synchronised._forward_hooks.update(norm._forward_hooks)
                setattr(module, name, synchronised)


def steps_per_epoch(loader: DataLoader[Any]) -> int:
    """The batches of an epoch; InputError where the images do not fill one."""
    if not len(loader):
        images: int = len(loader.dataset)  # type: ignore[arg-type]
        batch = f"a batch of {loader.batch_size}" + (
            f" in each of {world_size()} processes" * (world_size() > 1)
        )
        raise InputError(f"{images} images to train on do not make {batch}: give a smaller batch_size")
    return len(loader)


class Share(Sampler[int]):
    """This process's part of what `sampler` draws, which must draw the same in every process.

    All parts are equally long where `even`, as training wants: what is left over is left out. Raises InputError
    where a process would have no part: the others would wait for it for ever.
    """

    def __init__(self, sampler: Sampler[int], *, even: bool = True) -> None:
        self.sampler, self.even = sampler, even
        total: int = len(sampler)  # type: ignore[arg-type]
        if total < world_size():
            raise InputError(f"{total} images for {world_size()} processes: start at most {total}")

    def __iter__(self) -> Iterator[int]:
        count = len(self) * world_size() if self.even else None
        return islice(iter(self.sampler), rank(), count, world_size())

    def __len__(self) -> int:
        total = len(self.sampler)  # type: ignore[arg-type]
        return total // world_size() if self.even else len(range(rank(), total, world_size()))


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))
