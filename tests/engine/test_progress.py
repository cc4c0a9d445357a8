"""What is logged and shown of a run: means of losses, scores after each validation, bars that do not wait."""

import json
import re
import time
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from tiny_engines import engines

from dsnet_med.engine.loggers import Loggers
from dsnet_med.engine.progress import LossLog, Progress, ValidationLog


class _Best:
    def __init__(self) -> None:
        self.score, self.best = "val_mean_dice", {"val_mean_dice": -1.0, "iteration": 0}


def _lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_is_the_mean_of_the_steps_since_the_last_line_and_goes_on_after_a_resume(
    tmp_path: Path,
) -> None:
    trainer, _ = engines()
    losses: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output["loss"].item())
    )
    LossLog(Loggers("none", str(tmp_path)), trainer.optimizer, every=3).attach(trainer)
    trainer.run()
    wanted = [pytest.approx(sum(losses[k : k + 3]) / 3, abs=1e-6) for k in (0, 3)]
    assert [line["loss"] for line in _lines(tmp_path)] == wanted
    assert [line["iteration"] for line in _lines(tmp_path)] == [3, 6]
    assert {line["learning_rate"] for line in _lines(tmp_path)} == {0.1}

    trainer, _ = engines(iterations=3)
    resumed = LossLog(Loggers("none", str(tmp_path / "on")), trainer.optimizer, every=3)
    resumed.load_state_dict({"total": torch.tensor(2.0), "count": 1})
    resumed.attach(trainer)
    trainer.run()
    (line,) = _lines(tmp_path / "on")
    assert line["loss"] == pytest.approx((2 + sum(losses[:3])) / 4, abs=1e-6)


def test_scores_are_logged_when_a_validation_has_happened(tmp_path: Path) -> None:
    trainer, validator = engines()
    logger = Loggers("none", str(tmp_path))
    ValidationLog(logger, validator).attach(trainer)
    scores = {
        "val_mean_dice": 0.25,
        "val_dice": {"aorta": torch.tensor(0.5), "liver": float("nan")},
        "top1": 1,
        "x": "text",
    }
    validator.add_event_handler(Events.STARTED, lambda e: e.state.metrics.update(scores))
    trainer.run()
    wanted = {"val_mean_dice": 0.25, "val_dice": {"aorta": 0.5, "liver": None}, "val_top1": 1.0, "val_x": None}
    assert _lines(tmp_path) == [{"iteration": k, **wanted} for k in (3, 6)]


def test_the_bars_tell_loss_and_best_without_reading_every_loss(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dsnet_med.engine.progress._BAR_AFTER_S", 1e-9)
    monkeypatch.setattr("dsnet_med.engine.progress._SHOWN_EVERY_S", 1e9)
    trainer, validator = engines()
    Progress(6, best := _Best(), validator).attach(trainer)
    validator.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda _: time.sleep(0.12))
    validator.add_event_handler(Events.COMPLETED, lambda _: best.best.update(val_mean_dice=0.5))
    read, item = [], torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: read.append(1) or item(tensor))
    trainer.run()
    assert len(read) <= 2  # the first and the last
    text = capsys.readouterr().err
    assert re.search(r"train: 100%.*6/6 .*loss=\d\.\d{3}, best=0\.500", text)
    assert "validate" in text


def test_a_bar_is_closed_when_training_fails(capsys: pytest.CaptureFixture[str]) -> None:
    trainer, validator = engines()
    bars = Progress(6, _Best(), validator)
    bars.attach(trainer)

    def fail(_: object) -> None:
        raise ValueError("x")

    validator.add_event_handler(Events.ITERATION_COMPLETED, fail)
    with pytest.raises(ValueError, match="x"):
        trainer.run()
    assert not bars.bars
    assert capsys.readouterr().err.endswith("\n")
