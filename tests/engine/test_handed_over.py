"""Training on images and labels that a tool hands over, by monailabel 0.8.5's rules (tasks/train/bundle.py)."""

import json
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from narrow import NARROW

from dsnet_med import Predictor
from dsnet_med.engine.run import prepare
from dsnet_med.engine.session import set_aside
from dsnet_med.errors import InputError, root_cause

_CLASSES = 9


@pytest.fixture
def bundle(store: Path, tmp_path: Path) -> Path:
    """A run folder with weights, whose store is elsewhere."""
    folder = tmp_path / "bundle"
    prepare("fcn", store, folder, NARROW | {"size": [32, 32]})
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "train.yaml"))
    parser["dataset_dir"] = "nowhere"
    ConfigParser.export_config_file(parser.get(), str(folder / "configs" / "train.json"))
    torch.manual_seed(0)
    (folder / "models").mkdir()
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "models" / "model.pt")
    (folder / "metrics.jsonl").write_text("{}\n")
    return folder


def _volumes(folder: Path, count: int, largest: int = _CLASSES - 1) -> list[dict[str, str]]:
    """Images of blocks whose brightness is their class, and their label maps, of an oblique grid."""
    affine = np.array([[-1.9, 0.3, 0, 5], [0.3, 1.9, 0.2, 7], [0, -0.2, 4, 3], [0, 0, 0, 1.0]])
    folder.mkdir()
    items = []
    for number in range(count):
        label = np.zeros((24, 20, 4), np.uint8)
        label[4:20, 4:16] = 1 + (number + 8 + np.arange(4)) % largest
        paths = [folder / f"case {number}.nii.gz", folder / f"label_{number}.nii"]
        for path, voxels in zip(paths, (label * 25.0 - 100, label), strict=True):
            nibabel.save(nibabel.Nifti1Image(voxels, affine, dtype=voxels.dtype), path)
        items.append({"image": str(paths[0]), "label": str(paths[1])})
    return items


def _train(bundle: Path, items: list[dict[str, str]], epochs: int, **more: Any) -> None:
    """What BundleTrainTask does, with the bundle's own train#handlers."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.json"))
    handlers = parser.get("train#handlers")
    loader = {"_target_": "CheckpointLoader", "load_path": str(bundle / "models" / "model.pt"), "strict": False}
    handlers.insert(0, loader | {"load_dict": {"model": "$@network"}})
    overrides = {
        "bundle_root": str(bundle),
        "train#trainer#max_epochs": epochs,
        "train#dataset#data": items,
        "device": "cpu",
        "train#handlers": handlers,
    }
    monai.bundle.run(
        run_id="run",
        init_id=None,
        final_id=None,
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "train.json"),
        **overrides | more,
    )


def test_a_bundle_trains_on_images_and_labels_that_are_handed_over(bundle: Path, tmp_path: Path) -> None:
    items, before = _volumes(tmp_path / "data", 3), (bundle / "models" / "model.pt").read_bytes()
    _train(bundle, items[:2], 2, **{"validate#dataset#data": items[2:]})
    summary = json.loads((bundle / "summary.json").read_text())
    assert summary["iterations"] == 2 * 4  # two passes over 2 * 4 slices in batches of 2
    assert summary["cases"] == {"train": ["case_0", "case_1"], "val": ["case_2"]}
    assert (bundle / "before" / "1" / "models" / "model.pt").read_bytes() == before
    assert (bundle / "before" / "1" / "metrics.jsonl").read_text() == "{}\n"
    assert [path.name for path in (bundle / "models").iterdir()] == ["model.pt"]
    assert (bundle / "models" / "model.pt").read_bytes() != before
    assert Predictor.from_run(bundle, device="cpu").predict(items[0]["image"]).voxels.shape == (24, 20, 4)


def test_weights_of_another_network_are_no_start(bundle: Path, tmp_path: Path) -> None:
    torch.save({"another": torch.zeros(1)}, bundle / "models" / "model.pt")
    with pytest.raises(RuntimeError) as raised:
        _train(bundle, _volumes(tmp_path / "data", 2), 1)
    assert "Missing key(s)" in str(root_cause(raised.value))


def _initialised(bundle: Path, **values: Any) -> ConfigParser:
    workflow = ConfigWorkflow(
        str(bundle / "configs" / "train.json"), workflow_type="train", bundle_root=str(bundle), **values
    )
    workflow.init_id = "first"
    workflow.parser["first"] = workflow.parser["initialize"][:1]
    try:
        workflow.initialize()
    except RuntimeError as error:
        raise root_cause(error) from error
    return workflow.parser


def test_one_volume_is_trained_and_validated_on(bundle: Path, tmp_path: Path) -> None:
    parser = _initialised(bundle, **{"train#dataset#data": _volumes(tmp_path / "data", 1), "device": "cpu"})
    assert parser.get("cases") == {"train": ["case_0"], "val": ["case_0"]}
    assert parser.get_parsed_content("device") == torch.device("cpu")
    assert len(parser.get_parsed_content("train#dataset")) == 4


def test_some_of_several_volumes_are_held_out(bundle: Path, tmp_path: Path) -> None:
    items = _volumes(tmp_path / "data", 4)
    cases = _initialised(bundle, **{"train#dataset#data": items, "validate#dataset#data": []}).get("cases")
    assert (len(cases["train"]), len(cases["val"])) == (3, 1)


def test_what_cannot_be_trained_on_is_told(bundle: Path, tmp_path: Path) -> None:
    items = _volumes(tmp_path / "data", 1, largest=12)
    with pytest.raises(InputError, match=r"label values 9.*classes 0 background, 1 aorta"):
        _initialised(bundle, **{"train#dataset#data": items + _volumes(tmp_path / "more", 3, 12)})
    with pytest.raises(InputError, match=r"gone.nii: no such file"):
        _initialised(bundle, **{"train#dataset#data": [items[0] | {"label": str(tmp_path / "gone.nii")}]})
    with pytest.raises(InputError, match=r"wanted \{image: a file, label: its label map\}"):
        _initialised(bundle, **{"train#dataset#data": [{"image": items[0]["image"], "label": [0]}]})


def test_configurations_without_files_stay_as_they_are(bundle: Path) -> None:
    parser = _initialised(bundle)
    assert parser.get("dataset_dir") == "nowhere"
    assert "replaces" not in parser.get("session")


def test_every_training_is_set_aside_in_a_folder_of_its_own(tmp_path: Path) -> None:
    set_aside(tmp_path)
    assert list(tmp_path.iterdir()) == []
    for number in (1, 2):
        (tmp_path / "summary.json").write_text(str(number))
        set_aside(tmp_path)
        assert (tmp_path / "before" / str(number) / "summary.json").read_text() == str(number)
        assert not (tmp_path / "summary.json").exists()


def test_what_was_made_of_the_weights_goes_with_them(tmp_path: Path) -> None:
    names = ("model.pt", "model.safetensors", "model.ts", "model.onnx", "model.pt2")
    (tmp_path / "models").mkdir()
    for name in (*(f"models/{each}" for each in names), "certificate.json"):
        (tmp_path / name).write_text(name)
    set_aside(tmp_path)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["model.pt"]
    assert sorted(path.name for path in (tmp_path / "before" / "1" / "models").iterdir()) == sorted(names)
    assert not (tmp_path / "certificate.json").exists()
