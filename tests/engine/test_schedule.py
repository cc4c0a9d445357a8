"""How often a run validates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsnet_med.engine.schedule import epoch_length
from dsnet_med.errors import InputError


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_epochs_fill_the_run_exactly(iterations: int, every: int) -> None:
    length = epoch_length(iterations, every)
    assert iterations % length == 0
    assert length == iterations or 2 * length >= every


@pytest.mark.parametrize(
    ("iterations", "every", "wanted"),
    [(40000, 4000, 4000), (300, 100, 100), (250, 100, 125), (251, 100, 251), (20, 100, 20)],
)
def test_worked_examples(iterations: int, every: int, wanted: int) -> None:
    assert epoch_length(iterations, every) == wanted


def test_refuses_nothing_to_do() -> None:
    with pytest.raises(InputError, match="at least 1"):
        epoch_length(0, 10)
