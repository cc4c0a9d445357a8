"""What the tests of `compare` share: phantoms to train on, settings for small networks, results."""

import json
from pathlib import Path
from typing import Any

from dsnet_med.phantoms import make_synapse
from dsnet_med.prepare.convert import convert
from dsnet_med.prepare.recipe import load_recipe

PLACE = "layer4.*.act2"
ADAM = "optimizer={_target_: torch.optim.AdamW, params: '$@network.parameters()', lr: 0.005}"
TINY = [
    *("network_def#backbone#layers=[1, 1, 1, 1]", "batch_size=4", ADAM),
    *("train#augmentation#rotate_prob=0.0", "train#augmentation#flip_prob=0.0"),
]


def options(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def make_store(raw: Path, store: Path) -> Path:
    """Four phantoms to score and six to learn from."""
    list(make_synapse(raw, cases=10, seed=0, size=(64, 64, 8)))
    assert all(result.error is None for result in convert(load_recipe("synapse"), raw, store, workers=1))
    return store


def results_of(folder: Path) -> dict[str, Any]:
    """results.json without what was measured of time and memory, and the hashes of files that show it."""
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for arm in results["arms"].values():
        arm["cost"] = {name: arm["cost"].get(name) for name in ("parameters", "macs")}
    return {name: value for name, value in results.items() if name not in ("files", "seal", "pareto")}


def begun(out: Path) -> list[Path]:
    return sorted(out.glob("runs/*/*/checkpoints/last.pt"))
