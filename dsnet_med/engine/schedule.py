"""How many iterations lie between two validations."""

from dsnet_med.errors import InputError


def epoch_length(iterations: int, validate_every: int) -> int:
    """The divisor of `iterations` nearest to `validate_every`, not under half of it.

    An epoch ends with a validation and a checkpoint, and the last epoch ends with the run: a number of
    iterations that cannot be divided so (a prime, say) is validated at its end only.
    """
    if iterations < 1 or validate_every < 1:
        raise InputError(
            f"got {iterations} iterations, validation every {validate_every}; wanted at least 1 of each"
        )
    divisors = [n for n in range(1, iterations + 1) if iterations % n == 0 and 2 * n >= validate_every]
    return min(divisors, key=lambda n: abs(n - validate_every), default=iterations)
