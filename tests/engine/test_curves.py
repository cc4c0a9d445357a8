"""curves.png has what metrics.jsonl says, where its axes say it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsnet_med.engine import curves
from dsnet_med.engine.curves import draw_curves
from dsnet_med.evaluate.overlay import organ_colour


def _drawn(folder: Path, lines: list[dict[str, object]]) -> np.ndarray:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curves(folder / "metrics.jsonl", folder / "curves.png")
    return np.asarray(Image.open(folder / "curves.png"))


def _rows(picture: np.ndarray, colour: tuple[int, int, int], x: int) -> np.ndarray:
    return np.flatnonzero((picture[:, x] == colour).all(axis=1))


def test_organs_lie_at_their_scores_in_the_colours_of_the_report(tmp_path: Path) -> None:
    dice = [
        {"absent": None, "aorta": 0.25, "left_kidney": 0.75},
        {"absent": None, "aorta": 0.5, "left_kidney": None},
    ]
    lines = [{"iteration": 10 * k, "val_mean_dice": 0.4, "val_dice": each} for k, each in enumerate(dice)]
    picture = _drawn(tmp_path, lines)
    assert picture.shape[1] == 1000
    top, bottom, left, right = 40, 260 - 34, 84, 1000 - 24  # of an axis from 0 to 1 and from iteration 0 to 10
    start, end, picture = left + 1, right - 1, picture[:260]  # without the legend
    assert _rows(picture, organ_colour(1), start).mean() == pytest.approx(bottom - 0.25 * (bottom - top), abs=1)
    assert _rows(picture, organ_colour(1), end).mean() == pytest.approx(bottom - 0.5 * (bottom - top), abs=1)
    assert _rows(picture, organ_colour(2), start).mean() == pytest.approx(bottom - 0.75 * (bottom - top), abs=1)
    assert not len(_rows(picture, organ_colour(2), (start + end) // 2))  # one point makes no line
    assert not (picture == organ_colour(0)).all(axis=2).any()


def test_every_panel_has_its_numbers_and_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
    lines: list[dict[str, object]] = [
        {"iteration": k, "loss": 2.0, "learning_rate": 1e-5 * k} for k in (10, 20)
    ]
    assert _drawn(tmp_path, lines).shape[0] == 2 * 260
    lines += [{"iteration": 30, "loss": None}, {"iteration": 30, "val_AP": 0.1, "val_AP50": 0.2}]
    assert _drawn(tmp_path, lines).shape[0] > 3 * 260
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("numbers", "wanted"),
    [([0.13, 1.28], (0.0, 1.5, 0.5)), ([2.0, 2.0], (1.0, 3.0, 0.5)), ([-0.3, 0.1], (-0.3, 0.1, 0.1))],
)
def test_axes_have_round_numbers_around_the_curves(numbers: list[float], wanted: tuple[float, ...]) -> None:
    panel = curves.Panel("x", {"x": list(enumerate(numbers))})
    assert curves._axis(panel) == pytest.approx(wanted)
    low, high, step = wanted
    assert len(curves._ticks(low, high, step)) == round((high - low) / step) + 1
