"""curves.png has what metrics.jsonl says, in the colours of the report."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from dsnet_med.engine.curves import draw_curves
from dsnet_med.organs import organ_of


def _drawn(folder: Path, lines: list[dict[str, object]]) -> np.ndarray:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curves(folder / "metrics.jsonl", folder / "curves.png")
    return np.asarray(Image.open(folder / "curves.png").convert("RGB"))


def _of(picture: np.ndarray, organ: str) -> np.ndarray:
    """The rows and columns of the pixels in an organ's colour, but for its legend below."""
    found = np.argwhere((picture == organ_of(organ).colour).all(axis=2))
    return found[found[:, 0] < 240]


def test_organs_have_the_colours_of_the_report_and_rise_with_their_scores(tmp_path: Path) -> None:
    dice = [
        {"pancreas": None, "aorta": 0.25, "left_kidney": 0.75},
        {"pancreas": None, "aorta": 0.5, "left_kidney": None},
    ]
    lines = [{"iteration": 10 * k, "val_mean_dice": 0.4, "val_dice": each} for k, each in enumerate(dice)]
    picture = _drawn(tmp_path, lines)
    assert not (picture == organ_of("pancreas").colour).all(axis=2).any()
    aorta, kidney = _of(picture, "aorta"), _of(picture, "left_kidney")
    start, end = aorta[aorta[:, 1].argmin(), 0], aorta[aorta[:, 1].argmax(), 0]
    assert kidney[:, 0].mean() < end < start  # 0.75, 0.5 and 0.25, from above
    assert np.ptp(kidney[:, 1]) < 12 < np.ptp(aorta[:, 1])  # one point makes a dot and no line


def test_every_panel_has_its_numbers_and_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
    lines: list[dict[str, object]] = [
        {"iteration": k, "loss": 2.0, "learning_rate": 1e-5 * k} for k in (10, 20)
    ]
    two = _drawn(tmp_path, lines)
    lines += [{"iteration": 30, "loss": None}, {"iteration": 30, "val_AP": 0.1, "val_AP50": 0.2}]
    three = _drawn(tmp_path, lines)
    assert three.shape[0] == two.shape[0] * 3 // 2
    assert not list(tmp_path.glob(".*"))
