"""metadata.json says what is true of a run, by the rules of MONAI's schema."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import verify_metadata
from narrow import NARROW

from dsnet_med import resources
from dsnet_med.engine.compose import compose_train
from dsnet_med.engine.metadata import METADATA, describe, note_scores
from dsnet_med.engine.run import reopen
from dsnet_med.errors import InputError
from dsnet_med.inference.trust import is_noted
from dsnet_med.yaml_core import read_yaml

TEMPLATE = resources.configs() / "metadata.json"
SCHEMA = Path(__file__).parents[1] / "data" / "meta_schema_20240725.json"


def _of(run: Path) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads((run / METADATA).read_text())
    return metadata


def test_every_metadata_json_keeps_the_rules_of_the_schema(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")
    schema = shutil.copy(SCHEMA, tmp_path)
    natural = sorted((resources.configs() / "natural").glob("*/configs/metadata.json"))
    assert len(natural) == 3
    for file in (run / METADATA, TEMPLATE, *natural):
        verify_metadata(meta_file=str(file), filepath=schema)
    wrong = {**_of(run), "authors": ["A", "B"]}
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "wrong.json"), filepath=schema)


def test_a_run_says_what_is_installed_and_what_its_data_are(run: Path) -> None:
    said = _of(run)
    assert said["pytorch_version"] == version("torch").partition("+")[0]
    assert said["monai_version"] == version("monai") and said["numpy_version"] == version("numpy")
    assert said["required_packages_version"]["nibabel"] == version("nibabel")
    assert said["name"] == "fcn_dsm" and said["authors"] == said["license"] == "not stated"
    assert said["version"] in said["changelog"]
    assert "Synapse" in said["data_source"] and "no redistribution" in said["data_source"]
    assert "-125 to 275" in said["image_classes"] and "5 liver" in said["label_classes"]
    image = said["network_data_format"]["inputs"]["image"]
    assert image["modality"] == "CT" and image["format"] == "hounsfield" and image["value_range"] == [0, 1]
    assert len(image["spacing"]) == len(image["spatial_shape"]) == 3 and image["num_channels"] == 1
    mask = said["network_data_format"]["post_processed_outputs"]["pred"]
    assert mask["num_channels"] == 1 and mask["dtype"] == "uint8" and mask["value_range"] == [0, 8]
    best = json.loads((run / "summary.json").read_text())["best"]
    assert said["eval_metrics"] == {"val_mean_dice": best["val_mean_dice"]}


def test_what_the_caller_knows_better_and_what_a_store_that_is_gone_would_have_said(
    run: Path, tmp_path: Path
) -> None:
    train, before = read_yaml(run / "configs" / "train.yaml"), _of(run)
    train["dataset_dir"] = str(tmp_path)
    words = {"name": "Mine", "authors": "A. Uthor", "version": "2.0.0", "license": None}
    said = describe(TEMPLATE, train, before=before, **words)
    assert said["name"] == "Mine" and said["authors"] == "A. Uthor" and said["license"] == "not stated"
    assert said["changelog"] == {"2.0.0": before["changelog"]["0.1.0"]}
    for name in ("task", "data_source", "image_classes", "references"):
        assert said[name] == before[name]
    assert said["network_data_format"] == before["network_data_format"]
    assert describe(TEMPLATE, train)["network_data_format"]["inputs"]["image"]["modality"] == "CT or MR"


def test_a_rule_without_a_largest_value_has_no_range(store: Path, tmp_path: Path) -> None:
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["intensities"] = [{"unit_variance": [0.5, 99.5]}]
    manifest["recipe"]["modality"] = "MR"
    shutil.copytree(store, tmp_path / "store")
    (tmp_path / "store" / "manifest.json").write_text(json.dumps(resealed(manifest)))
    said = describe(TEMPLATE, compose_train("fcn", tmp_path / "store", NARROW))
    image = said["network_data_format"]["inputs"]["image"]
    assert image["format"] == "magnitude" and image["modality"] == "MR" and image["value_range"] == []
    assert "percentiles 0.5 and 99.5" in said["image_classes"]


def resealed(content: dict[str, Any]) -> dict[str, Any]:
    from dsnet_med.seal import sealed

    return sealed({name: value for name, value in content.items() if name != "seal"})


def test_scores_are_noted_and_a_stranger_s_words_stay_a_stranger_s(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / METADATA
    assert is_noted(file)
    note_scores(tmp_path / "run", {"val_mean_dice": 0.25})
    assert _of(tmp_path / "run")["eval_metrics"] == {"val_mean_dice": 0.25} and is_noted(file)
    reopen(tmp_path / "run", {})  # one's own still
    file.write_text(json.dumps({"name": "$changed"}))
    note_scores(tmp_path / "run", {"val_mean_dice": 0.5})
    assert _of(tmp_path / "run")["eval_metrics"] == {"val_mean_dice": 0.5} and not is_noted(file)
    with pytest.raises(InputError, match="--trust"):
        reopen(tmp_path / "run", {})
    file.write_text("no json")
    note_scores(tmp_path / "run", {})
    assert file.read_text() == "no json"
