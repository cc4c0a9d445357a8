"""Batches that do not fit are halved; what comes out is the same."""

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from dsnet_med.errors import InputError
from dsnet_med.inference.batches import Batches, first_guess


class _Hungry(nn.Module):
    """Runs out of memory with more than `most` slices."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__()
        self.inner, self.most, self.error = tiny.network(), most, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise self.error
        return self.inner(x)


_SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", _SHORTAGES, ids=["cuda", "cpu", "numpy"])
def test_a_batch_that_does_not_fit_is_halved(error: Exception) -> None:
    voxels, affine = tiny.volume()
    predictor = tiny.predictor(tiny.model(net=_Hungry(3, error)), batch_size=8)
    mask = predictor.predict(voxels, affine)
    np.testing.assert_array_equal(mask, tiny.predictor().predict(voxels, affine).voxels)
    assert predictor.batch_size == 2
    assert [notice[:35] for notice in mask.notices] == [
        "out of memory with 8 slices at a ti",
        "out of memory with 4 slices at a ti",
    ]
    assert predictor.predict(voxels, affine).notices == ()  # learnt


def test_not_even_one_slice() -> None:
    with pytest.raises(InputError, match="one slice at a time"):
        tiny.predictor(tiny.model(net=_Hungry(0, MemoryError()))).predict(*tiny.volume())


def test_other_failures_are_not_taken_for_a_shortage() -> None:
    with pytest.raises(RuntimeError, match="sizes"):
        tiny.predictor(tiny.model(net=_Hungry(0, RuntimeError("sizes do not match")))).predict(*tiny.volume())


@pytest.mark.parametrize(("count", "size"), [(1, 1), (7, 3), (8, 4), (3, 100)])
def test_every_slice_once(count: int, size: int) -> None:
    batches = Batches(size, pytest.fail)
    assert [each for part in batches.over(count, lambda part: range(count)[part]) for each in part] == list(
        range(count)
    )
    assert batches.size == size


def test_small_slices_come_in_larger_batches() -> None:
    cpu = torch.device("cpu")
    assert first_guess(512 * 512, 0, cpu) == 1
    assert first_guess(2048 * 2048, 0, cpu) == 1
    assert first_guess(128 * 128, 0, cpu) == 16
    assert first_guess(512 * 512, 0, torch.device("cuda")) == 32


def test_scores_count_by_what_they_take() -> None:
    """Nine classes of a slice weigh a fifth of the network that gives them, not nine times as much."""
    cpu = torch.device("cpu")
    assert first_guess(128 * 128, 9 * 128 * 128, cpu) == 16 * 200 // 236
    assert first_guess(224 * 224, 9 * 224 * 224, cpu) == 4
    assert first_guess(512 * 512, 9 * 512 * 512, torch.device("cuda")) == 27
    assert first_guess(128 * 128, 118 * 128 * 128, cpu) == 16 * 200 // 672
    assert first_guess(512 * 512, 118 * 512 * 512, cpu) == 1


def test_the_slices_size_and_the_classes_count() -> None:
    small, large = 28 * 22, 1024 * 1024
    predictor = tiny.predictor(batch_size=None)
    assert predictor.stream().suggested(small) == 512 * 512 * 200 // (32 * 32 * 200 + small * 4 * 4)
    assert predictor.stream().suggested(large) == 1
