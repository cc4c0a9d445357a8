"""Efficient channel attention: the formulas, and that a gate sees its neighbours alone."""

import pytest
import torch
from agreement import MAPS, check_agreement, check_any_axes
from hypothesis import given, settings
from hypothesis import strategies as st
from textbook.eca import TextbookECA

from dsnet_med.errors import InputError
from dsnet_med.networks.plugins import ECA


@settings(max_examples=20)
@given(shape=MAPS, channels=st.integers(1, 20), kernel_size=st.sampled_from([1, 3, 5, 9]))
def test_equals_the_formulas(shape, channels, kernel_size):
    batch, height, width, seed = shape
    torch.manual_seed(seed)
    forms = ECA(channels, kernel_size), TextbookECA(channels, kernel_size)
    check_agreement(*forms, (batch, channels, height, width))


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_a_gate_sees_its_neighbours(kernel_size):
    torch.manual_seed(0)
    x = torch.randn(1, 12, 4, 4, requires_grad=True)
    ECA(12, kernel_size)(x)[0, 6].sum().backward()
    reached = x.grad.abs().sum((0, 2, 3)).nonzero().flatten().tolist()
    assert reached == list(range(6 - kernel_size // 2, 7 + kernel_size // 2))


@pytest.mark.parametrize("kernel_size", [0, 2, -3])
def test_even_kernels_are_refused(kernel_size):
    with pytest.raises(InputError, match=rf"kernel_size={kernel_size} and wants an odd number"):
        ECA(8, kernel_size)


def test_any_number_of_axes():
    torch.manual_seed(0)
    check_any_axes(ECA(24), 24)
