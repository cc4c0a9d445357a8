"""From raw volumes of four channels to scores of nested regions, in 2-D and in 3-D: the whole way learns."""

import json
from pathlib import Path
from typing import Any

import pytest

from dsnet_med.cli import scoring
from dsnet_med.engine.run import prepare, train
from dsnet_med.engine.scored_cases import image_files
from dsnet_med.inference import Predictor
from dsnet_med.inference.segment import segment_cases
from dsnet_med.inference.sources import find_sources
from dsnet_med.phantoms import make_brats
from dsnet_med.prepare.convert import convert
from dsnet_med.prepare.recipe import load_recipe
from dsnet_med.prepare.store import Store

NARROW = {
    "network_def#stride": 4,
    "network_def#features#channels": [8, 16, 32],
    "network_def#network#strides": [2, 2],
    "network_def#network#num_res_units": 1,
    "optimizer": {"_target_": "torch.optim.AdamW", "params": "$@network.parameters()", "lr": 0.01},
    "workers": 0,
}
PLAIN = {f"train#augmentation#{name}_prob": 0.0 for name in ("affine", "resolution", "blur")}
TWO = {"size": [32, 32], "batch_size": 24, "iterations": 240, "validate_every": 80}
TWO |= {"loss#dice": "nnunet", "loss#ce_weight": 1.0, "loss#dice_weight": 1.0}
TWO |= {"train#augmentation#rotate_prob": 0.0, "train#augmentation#flip_prob": 0.0}
THREE = {"size": [24, 32, 32], "stride": 4, "batch_size": 2, "iterations": 120, "validate_every": 40, **PLAIN}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    place = tmp_path_factory.mktemp("brats")
    list(make_brats(place / "raw", cases=8, seed=0, size=(32, 32, 24), layout="nnunet"))
    results = convert(load_recipe("nnunet"), place / "raw", place / "store", workers=1)
    assert all(result.error is None for result in results)
    return Store.open(place / "store")


@pytest.mark.slow
@pytest.mark.parametrize(("method", "own"), [("unet_2d", TWO), ("unet_3d", THREE)])
def test_regions_are_learnt_and_scored(store: Store, tmp_path: Path, method: str, own: dict[str, Any]) -> None:
    prepare(method, store.path, tmp_path / "run", {**NARROW, **own})
    train(tmp_path / "run", {"device": "$engine.distributed.device('cpu')"})
    raw = store.path.parent / "raw"
    cases = [case.id for case in store.cases_of("test")]
    files = [file for case in cases for file in image_files(raw / "imagesTr", case, store)]
    predictor = Predictor.from_run(tmp_path / "run", device="cpu", trust=True)
    sources = find_sources(files, channels=store.channels)
    results = list(segment_cases(predictor, sources, tmp_path / "masks"))
    assert [result.error for result in results] == [None] * len(cases)
    (tmp_path / "cases.txt").write_text("\n".join(cases))
    scoring.evaluate(
        [tmp_path / "masks"],
        raw / "labelsTr",
        str(raw / "dataset.json"),
        tmp_path / "scores",
        images=raw / "imagesTr",
        options=scoring.Options(workers=1),
        cases=tmp_path / "cases.txt",
    )
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text(encoding="utf-8"))
    assert list(summary["labels"]) == ["whole tumor", "tumor core", "enhancing tumor"]
    assert summary["mean"]["dice"] > 0.8
    scoring.verify(tmp_path / "scores" / "summary.json")
