"""When a run is validated: after every so many epochs, and at its last iteration."""

from ignite.engine import Engine, Events


class Validation:
    """Run `validator` after every `interval` epochs of a trainer, and at `iterations`, where the trainer ends.

    MONAI's ValidationHandler knows whole epochs only. What happens after a validation listens to the validator.
    """

    def __init__(self, validator: Engine, iterations: int, interval: int = 1) -> None:
        self.validator, self.iterations, self.interval = validator, iterations, interval
        self.due = False

    def attach(self, trainer: Engine) -> None:
        """Listen to `trainer`."""
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._stop)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._at_epoch)
        trainer.add_event_handler(Events.TERMINATE, self._at_the_end)

    def _stop(self, trainer: Engine) -> None:
        at_the_end = trainer.state.iteration == self.iterations
        self.due = at_the_end and self.iterations % trainer.state.epoch_length > 0
        if self.due:
            trainer.terminate()

    def _at_epoch(self, trainer: Engine) -> None:
        if trainer.state.epoch % self.interval == 0 or trainer.state.iteration == self.iterations:
            self.validator.run(trainer.state.epoch)

    def _at_the_end(self, trainer: Engine) -> None:
        if self.due:  # and not ended for another reason, such as early stopping
            self.validator.run(trainer.state.epoch)
