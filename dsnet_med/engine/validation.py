"""When a run is validated: after every epoch, and at its last iteration, wherever that lies in an epoch."""

from ignite.engine import Engine, Events


class Validation:
    """Run `validator` when an epoch of a trainer ends, and end the trainer at `iterations` with a last one.

    MONAI's ValidationHandler knows whole epochs only. What happens after a validation listens to the validator.
    """

    def __init__(self, validator: Engine, iterations: int) -> None:
        self.validator, self.iterations = validator, iterations

    def attach(self, trainer: Engine) -> None:
        """Listen to `trainer`."""
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._stop)
        trainer.add_event_handler(Events.EPOCH_COMPLETED | Events.TERMINATE, self.validate)

    def validate(self, trainer: Engine) -> None:
        """Validate what `trainer` has reached."""
        self.validator.run(trainer.state.epoch)

    def _stop(self, trainer: Engine) -> None:
        if trainer.state.iteration == self.iterations and self.iterations % trainer.state.epoch_length:
            trainer.terminate()
