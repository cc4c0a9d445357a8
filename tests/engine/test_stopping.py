"""What is said when a training fails."""

from typing import Any

import pytest
import torch
from ignite.engine import Engine

from dsnet_med.engine.stopping import FiniteLoss, explained, on_failure
from dsnet_med.errors import InputError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 ..."), "lower batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory:"), "batch_size"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "batch_size"),
        (OSError(12, "Cannot allocate memory"), "batch_size"),
        (MemoryError(), "out of memory"),
        (RuntimeError("unable to write to file </torch_7_12_0>: No space left on device (28)"), "--shm-size"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
                      "dataloader's workers are out of shared memory. Please raise it."), "--shm-size"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "fewer --set workers"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "fewer --set workers"),
        (ValueError("Expected more than 1 value per channel when training, got [1, 8]"), "at least 2"),
        (OSError(24, "Too many open files"), "ulimit -n"),
    ],
)  # fmt: skip
def test_what_a_user_can_mend_is_told_in_one_line(error: Exception, told: str) -> None:
    answer = explained(error)
    assert isinstance(answer, InputError) and told in str(answer)
    assert "\n" not in str(answer) and len(str(answer)) < 320


@pytest.mark.parametrize(
    "error", [InputError("out of memory"), KeyboardInterrupt(), RuntimeError("shape"), KeyError(1)]
)
def test_other_errors_stay_as_they_are(error: BaseException) -> None:
    assert explained(error) is error


def test_everything_is_tidied_whatever_comes_first_and_the_error_goes_on() -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    trainer, tidied = Engine(fail), []
    on_failure(trainer, lambda: tidied.append(1))
    on_failure(trainer, lambda: tidied.append(2))
    with pytest.raises(InputError, match="out of memory") as error:
        trainer.run([0])
    assert set(tidied) == {1, 2} and isinstance(error.value.__cause__, MemoryError)


def _run(losses: list[float], *, scaler: Any, epoch: int = 1000) -> int:
    """The steps that a trainer does whose losses these are."""
    trainer = Engine(lambda engine, _: {"loss": torch.tensor(losses[engine.state.iteration - 1])})
    trainer.scaler = scaler
    FiniteLoss(lambda: "the state after step 3 is in last.pt").attach(trainer)
    trainer.run(
        range(len(losses)), epoch_length=min(epoch, len(losses)), max_epochs=max(1, len(losses) // epoch)
    )
    return trainer.state.iteration


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_stops_and_names_its_step(bad: float) -> None:
    assert _run([1.0] * 40, scaler=None) == 40
    with pytest.raises(InputError, match=r"from step 14 on \(the state after step 3 is in last.pt\)"):
        _run([1.0] * 13 + [bad] + [1.0] * 20, scaler=None)
    with pytest.raises(InputError, match="from step 4 on"):  # looked at where an epoch ends
        _run([1.0, 1.0, 1.0, bad, 1.0] + [1.0] * 5, scaler=None, epoch=5)


def test_with_a_gradient_scaler_only_ten_in_a_row_stop() -> None:
    nan = float("nan")
    assert _run([1.0] * 10 + [nan] * 9 + [1.0] + [nan, 1.0] * 5, scaler=object()) == 30
    with pytest.raises(InputError, match="from step 11 on"):
        _run([1.0] * 10 + [nan] * 10 + [1.0] * 10, scaler=object())


def test_a_loss_is_not_waited_for_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: looks.append(len(self)) or tolist(self))
    _run([1.0] * 40, scaler=None)
    assert looks == [10, 10, 10, 10]
