"""Batches on their way from a loader's processes, through memory that is shared once and used in turn.

PyTorch makes a file in /dev/shm for every tensor of every batch: that takes longer than most augmentation, and
in containers /dev/shm is small.
"""

import mmap
from typing import Any, NamedTuple

import torch
from torch import Tensor

SLOT_BYTES = 64 << 20  # of address space; memory is taken as batches fill it

Place = tuple[torch.dtype, torch.Size, int]  # the last the first byte


class Rows(list[Tensor]):
    """Tensors of one shape and type that are to be stacked."""


class Stored(NamedTuple):
    """A batch whose tensors lie in a slot; the rest is here."""

    worker: int
    slot: int
    tensors: dict[str, Place]
    rest: dict[str, Any]


class Slots:
    """For each of a loader's processes, `prefetch_factor` + 1 slots, of 64 MB at most.

    It has at most `prefetch_factor` batches on their way; one slot more is that which the loader reads.
    Raises OSError where there is no such address space.
    """

    def __init__(self, workers: int, prefetch_factor: int) -> None:
        shape = (workers, prefetch_factor + 1, SLOT_BYTES)
        memory = mmap.mmap(-1, workers * (prefetch_factor + 1) * SLOT_BYTES)  # shared with forked processes
        self.bytes = torch.frombuffer(memory, dtype=torch.uint8).view(shape)
        self.turn = 0  # in each process its own

    def put(self, batch: Any, worker: int) -> Any:
        """Write a batch's tensors to the next slot; no dictionary, or too large a one, is only stacked."""
        if not isinstance(batch, dict):
            return batch
        tensors: dict[str, Place] = {}
        end = 0
        for key, value in batch.items():
            if isinstance(value, Rows) or type(value) is Tensor:
                shape = torch.Size([len(value), *value[0].shape]) if isinstance(value, Rows) else value.shape
                tensors[key] = value[0].dtype if isinstance(value, Rows) else value.dtype, shape, end
                end += -(-shape.numel() * tensors[key][0].itemsize // 64) * 64
        if end > SLOT_BYTES:
            return stacked(batch)
        slot = self.turn % self.bytes.shape[1]
        self.turn += 1
        for key, place in tensors.items():
            view, value = self._view(worker, slot, place), batch[key]
            torch.stack(value, out=view) if isinstance(value, Rows) else view.copy_(value)
        return Stored(worker, slot, tensors, {key: batch[key] for key in batch.keys() - tensors.keys()})

    def taken(self, stored: Stored, pin_memory: bool) -> dict[str, Any]:
        """The batch, in memory of its own."""
        batch = dict(stored.rest)
        for key, place in stored.tensors.items():
            view = self._view(stored.worker, stored.slot, place)
            batch[key] = torch.empty(view.shape, dtype=view.dtype, pin_memory=pin_memory).copy_(view)
        return batch

    def _view(self, worker: int, slot: int, place: Place) -> Tensor:
        dtype, shape, first = place
        count = shape.numel() * dtype.itemsize
        return self.bytes[worker, slot, first : first + count].view(dtype).view(shape)


def stacked(batch: Any) -> Any:
    """A batch with tensors in place of its Rows."""
    if not isinstance(batch, dict):
        return batch
    return {key: torch.stack(value) if isinstance(value, Rows) else value for key, value in batch.items()}
