"""A bundle's own inference, by MONAI's engine: the masks of `infer`, of channels, regions, at spacings."""

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from dsnet_med.engine.inferers import SliceWise, WindowWise
from dsnet_med.engine.predict import items
from dsnet_med.errors import InputError
from dsnet_med.inference import Predictor
from dsnet_med.inference.decision import Decision
from dsnet_med.inference.sources import find_sources
from dsnet_med.networks.ensemble import Ensemble, mean_logits
from dsnet_med.resources import configs
from dsnet_med.yaml_core import read_yaml, yaml_text

CHANNELS = ["t1", "flair"]
REGIONS = {"whole": {"of": [1, 2], "value": 1}, "core": {"of": [2], "value": 2}}
CASES = {
    "windows": {"spatial_dims": 3, "size": [8, 12, 12]},
    "windows at a spacing": {"spatial_dims": 3, "size": [8, 12, 12], "spacing_mm": [1.7, 1.0, 1.1]},
    "thick slices": {"spatial_dims": 3, "size": [4, 12, 12], "spacing_mm": [4.0, 1.0, 1.1]},
    "slices at a spacing": {"spatial_dims": 2, "size": [16, 16], "spacing_mm": [1.7, 1.0, 1.1]},
    "slices": {"spatial_dims": 2, "size": [16, 16], "fit": "resize"},
}


def _convolution(dims: int, outputs: int) -> dict[str, Any]:
    return {
        "_target_": f"torch.nn.Conv{dims}d",
        "in_channels": "@in_channels",
        "out_channels": "@num_classes",
        "kernel_size": 3,
        "padding": 1,
    }


def _run(folder: Path, regions: bool, **settings: Any) -> Path:
    """A run folder whose network has weights of chance."""
    config = read_yaml(configs() / "inference.yaml")
    config |= {"fit": "window", "channel_names": CHANNELS, "in_channels": 2} | settings
    config["intensity"] = [{"window": [0, 1]}, {"zscore": {"clip": [1, 99], "foreground": False}}]
    config["class_names"] = ["background", "a", "b"]
    config["regions"] = REGIONS if regions else None
    config["num_classes"] = 2 if regions else 3
    config["slice_network"] = _convolution(config["spatial_dims"], config["num_classes"])
    config["handlers"][0] = {"_target_": "monai.handlers.CheckpointLoader", "load_path": "@checkpoint"}
    config["handlers"][0]["load_dict"] = {"model": "@slice_network"}
    if config["spatial_dims"] == 3:
        config["network_def"]["_target_"] = "dsnet_med.engine.inferers.WindowWise"
        del config["network_def"]["fit"]
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    (folder / "configs" / "inference.yaml").write_text(yaml_text(config))
    torch.manual_seed(2)
    conv = nn.Conv2d if config["spatial_dims"] == 2 else nn.Conv3d
    weights = conv(2, config["num_classes"], 3, padding=1).state_dict()
    torch.save({name: 3 * value for name, value in weights.items()}, folder / "models" / "model.pt")
    return folder


def _images(folder: Path) -> Path:
    """Two cases: a file for each channel, and one file of both, on an oblique and flipped grid."""
    folder.mkdir()
    affine = np.array([[-1.2, 0.1, 0, 9], [0.1, 1.1, 0, -4], [0, 0, 2.0, 7], [0, 0, 0, 1.0]])
    noise = np.random.default_rng(0).normal(size=(2, 2, 20, 18, 12)).cumsum(axis=2).cumsum(axis=3)
    noise = ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)
    for channel, voxels in enumerate(noise[0]):
        nib.save(nib.Nifti1Image(voxels, affine), folder / f"a_{channel:04d}.nii.gz")
    nib.save(nib.Nifti1Image(np.moveaxis(noise[1], 0, -1), affine), folder / "b.nii.gz")
    return folder


@pytest.mark.parametrize("regions", [False, True], ids=["classes", "regions"])
@pytest.mark.parametrize("name", CASES)
def test_the_masks_are_those_of_infer(name: str, regions: bool, tmp_path: Path) -> None:
    run, images = _run(tmp_path / "run", regions, **CASES[name]), _images(tmp_path / "in")
    parser = ConfigParser()
    parser.read_config(str(run / "configs" / "inference.yaml"))
    parser["bundle_root"], parser["output_dir"] = str(run), str(tmp_path / "out")
    parser["dataset_dir"], parser["device"] = str(images), "$torch.device('cpu')"
    for expression in parser.get_parsed_content("run"):
        assert expression is None
    predictor = Predictor.from_run(run)
    files = {"a": sorted(images.glob("a_*")), "b": images / "b.nii.gz"}
    found = {file.name: file for file in (tmp_path / "out").iterdir()}
    assert sorted(found) == ["a_0000.nii.gz", "b.nii.gz"]
    for case, file in (("a", found["a_0000.nii.gz"]), ("b", found["b.nii.gz"])):
        mask, wanted = nib.load(file), predictor.predict(files[case])
        assert (np.asanyarray(mask.dataobj) == wanted.voxels).mean() >= 0.9999
        assert len(np.unique(wanted)) >= 2 and np.allclose(mask.affine, wanted.affine)


def test_items_of_several_channels(tmp_path: Path) -> None:
    images = _images(tmp_path / "in")
    one, two = items(str(images), CHANNELS)
    assert one["image"] == [str(images / f"a_{k:04d}.nii.gz") for k in range(2)]
    assert two["image"] == str(images / "b.nii.gz")
    (images / "a_0001.nii.gz").unlink()
    shutil.copy(images / "b.nii.gz", tmp_path / "a_0001.nii.gz")
    assert items(str(images), CHANNELS) == []
    assert [source.refused is None for source in find_sources([images], channels=CHANNELS)] == [False, True]


def test_windows_of_volumes_and_their_ensemble() -> None:
    torch.manual_seed(0)
    parts, volume = [nn.Conv3d(1, 3, 3, padding=1) for _ in range(2)], torch.rand(1, 1, 9, 12, 10)
    each = [WindowWise(part, (8, 8, 8))(volume) for part in parts]
    for regions in (None, REGIONS):
        whole = WindowWise(Ensemble(parts, bool(regions)), (8, 8, 8), regions=regions)(volume)
        torch.testing.assert_close(whole, mean_logits(each, bool(regions)))
        shares = [logits.sigmoid() if regions else logits.softmax(1) for logits in each]
        found = whole.sigmoid() if regions else whole.softmax(1)
        torch.testing.assert_close(found, sum(shares) / 2, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="lack"):
        WindowWise(parts[0], (8, 8, 8)).load_state_dict({}, strict=False)


def test_slices_of_several_channels() -> None:
    torch.manual_seed(0)
    network, volume = nn.Conv2d(2, 3, 1), torch.rand(1, 2, 4, 8, 8)
    logits = SliceWise(network, (8, 8), in_channels=2)(volume)
    torch.testing.assert_close(logits[0, :, 1], network(volume[0, :, 1][None])[0])
    assert Decision().values(logits).shape == (1, 4, 8, 8)
