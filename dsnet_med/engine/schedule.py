"""The learning rate over the iterations of a run."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dsnet_med.errors import InputError


def poly(
    optimizer: Optimizer,
    iterations: int,
    *,
    power: float = 0.9,
    floor: float = 0.0,
    warmup: int = 0,
    warmup_start: float = 1e-6,
) -> LambdaLR:
    """Linear warm-up, then a polynomial down to `floor` at the last iteration; step it after every iteration.

    Iteration t = 0, 1, ... of w = `warmup` iterations, n = `iterations` in all, learns at

        lr (s + (1 - s) t / (w - 1))                            t < w, with s = warmup_start
        (lr - floor) (1 - (t - w) / (n - w - 1))^power + floor  otherwise

    where lr is each parameter group's own. This is the reference's schedule to the last iteration; a run that
    is not longer than the warm-up, which the reference cannot schedule, warms up over its first tenth.

    Raises InputError for less than one iteration or a negative warm-up.
    """
    if iterations < 1 or warmup < 0:
        raise InputError(f"got {iterations} iterations, {warmup} of warm-up; wanted at least 1, and at least 0")
    if warmup >= iterations:
        warmup = iterations // 10

    def factor(iteration: int, rate: float) -> float:
        if iteration < warmup:
            return warmup_start + (1 - warmup_start) * iteration / max(1, warmup - 1)
        left = max(0.0, 1 - (iteration - warmup) / max(1, iterations - warmup - 1))
        return (1 - floor / rate) * left**power + floor / rate if rate else 0.0

    rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    return LambdaLR(optimizer, [lambda iteration, rate=rate: factor(iteration, rate) for rate in rates])  # type: ignore[misc]
