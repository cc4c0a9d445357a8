"""Commands silence what is known to be noise, word by word, and nothing else."""

import logging
import warnings
from collections.abc import Iterator

import pytest

from dsnet_med.cli.noise import quiet

NOISE = "This DataLoader will create 4 worker processes in total. Our suggested max number of worker ..."
ENGINE = "ignite.engine.engine.SupervisedTrainer"
ENDS = "Current run is terminating due to exception: x"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (ENGINE, "pydicom", "highdicom")]
    before = [(logger.filters[:], logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:  # a bundle's logging.conf, read before, disables what it does not name
        logger.disabled = False
        logger.filters.clear()
    yield
    for logger, (filters, handlers, propagate) in zip(loggers, before, strict=True):
        logger.filters, logger.handlers, logger.propagate = filters, handlers, propagate


def _heard(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is heard of noise, a plug-in's warning and two messages of a trainer."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        quiet()
        warnings.warn(NOISE, UserWarning, stacklevel=1)
        warnings.warn("my plug-in: the gate is saturated", UserWarning, stacklevel=1)
    for message in (ENDS, "something new"):
        logging.getLogger(ENGINE).error(message)
    return [str(each.message) for each in warned] + [record.message for record in caplog.records]


def test_only_what_is_known_is_silenced(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DSNET_MED_DEBUG", raising=False)
    assert _heard(caplog) == ["my plug-in: the gate is saturated", "something new"]


def test_everything_is_heard_for_debugging(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSNET_MED_DEBUG", "1")
    assert _heard(caplog) == [NOISE, "my plug-in: the gate is saturated", ENDS, "something new"]
