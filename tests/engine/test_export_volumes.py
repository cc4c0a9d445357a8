"""Runs of volumes, of several channels and of regions as bundles: every form equals the run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dsnet_med.engine.export.bundle import export
from dsnet_med.engine.export.certificate import Reference, differences, examined, read_certificate
from dsnet_med.engine.export.formats import FORMATS, open_torchscript
from dsnet_med.engine.export.inputs import made_up, made_up_images, real, sizes_around
from dsnet_med.engine.plugin_choice import PluginChoice
from dsnet_med.engine.run import prepare, train
from dsnet_med.errors import InputError
from dsnet_med.inference import Predictor
from dsnet_med.inference.bundle_reader import load_model
from dsnet_med.phantoms.brats import make_brats
from dsnet_med.prepare.convert import convert
from dsnet_med.prepare.recipe import load_recipe
from dsnet_med.prepare.store import Store

SETTINGS: dict[str, Any] = {"iterations": 2, "validate_every": 2, "workers": 0}
CHANNELS = ["FLAIR", "T1w", "t1gd", "T2w"]
REGIONS = ["whole_tumour", "tumour_core", "enhancing"]


@pytest.fixture(scope="module")
def brats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of four channels and three regions."""
    raw, folder = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("store")
    list(make_brats(raw, cases=4, seed=0))
    assert not [each.error for each in convert(load_recipe("brats"), raw, folder, workers=1) if each.error]
    return folder


def trained(method: str, store: Path, run: Path, plugin: str, at: str, **settings: Any) -> Path:
    prepare(method, store, run, {**SETTINGS, **settings}, plugin=PluginChoice(plugin, at))
    train(run, {})
    return run


def of_volumes(store: Path, run: Path, seed: int = 0) -> Path:
    settings = {"width": 0.125, "size": [32, 32, 32], "seed": seed}
    return trained("dynunet_3d", store, run, "CBAM", "downsamples.?", **settings)


def of_slices(store: Path, run: Path, seed: int = 0) -> Path:
    settings = {"width": 0.125, "size": [64, 64], "seed": seed}
    return trained("dynunet_2d", store, run, "SE", "bottleneck", **settings)


def require_all(out: Path, *, forms: set[str]) -> dict[str, Any]:
    certificate = read_certificate(out)
    assert forms <= certificate["formats"].keys()
    assert all(form["holds"] for form in certificate["formats"].values())
    results = dict(examined(out, Reference.of(out, trust=True), fixed=["pt2", "onnx"], trust=True))
    assert not differences(certificate, results)
    return certificate


FORMS = {"eager", "safetensors", "pt", "torchscript", "bundle", "pt2"}


@pytest.mark.slow
def test_a_run_of_volumes(brats: Path, tmp_path: Path) -> None:
    run, out = of_volumes(brats, tmp_path / "run"), tmp_path / "bundle"
    made = export([run], out)
    assert set(made.failed) <= {"onnx"}  # whose instance norms over eight voxels may round too much
    certificate = require_all(out, forms=FORMS)
    assert certificate["sees"] == "window" and certificate["channels"] == CHANNELS
    assert {certificate["formats"][name]["sizes"] for name in ("pt2", "torchscript")} == {"32x32x32"}
    checked = [check["input"] for check in certificate["formats"]["pt2"]["checks"]]
    assert any(name.startswith("real volume") for name in checked) and any("volume 36x" in n for n in checked)
    metadata = json.loads((out / "configs" / "metadata.json").read_text())["network_data_format"]
    assert metadata["inputs"]["image"]["num_channels"] == 4
    assert list(metadata["inputs"]["image"]["channel_def"].values()) == CHANNELS
    assert list(metadata["outputs"]["pred"]["channel_def"].values()) == REGIONS
    card = (out / "docs" / "README.md").read_text()
    assert (
        "Windows of 32x32x32 voxels, half overlapping" in card and "windows (B, 4, D, H, W), 32x32x32" in card
    )
    images = torch.rand(1, 4, 32, 32, 32)
    expected = load_model(run).network(images).detach()
    for form in (each for each in FORMATS if each.name not in made.failed):
        torch.testing.assert_close(form.open(out / form.file)(images), expected, rtol=1e-3, atol=1e-3)
    script = open_torchscript(out / "models" / "model.ts", windows=True)
    torch.testing.assert_close(script(images), expected, rtol=1e-4, atol=1e-4)
    image = np.random.default_rng(0).random((4, 33, 20, 18)).astype(np.float32)
    masks = [Predictor.from_run(each, device="cpu").predict(image, np.eye(4)) for each in (run, out)]
    assert np.array_equal(masks[0].voxels, masks[1].voxels)


@pytest.mark.slow
def test_a_run_of_slices_with_channels(brats: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export([of_slices(brats, tmp_path / "run")], out)
    certificate = require_all(out, forms=FORMS)
    assert certificate["sees"] == "slice" and certificate["regions"].keys() == set(REGIONS)
    assert "volumes (B, 4, D, H, W) of any size" in (out / "docs" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("make", [of_volumes, of_slices])
def test_an_ensemble_of_regions_is_averaged_as_infer_does(make: Any, brats: Path, tmp_path: Path) -> None:
    runs = [make(brats, tmp_path / f"run{seed}", seed) for seed in (0, 1)]
    out = tmp_path / "bundle"
    export(runs, out, ["bundle", "torchscript"])
    require_all(out, forms=FORMS - {"pt2"})
    image = np.random.default_rng(0).random((4, 64, 64, 18)).astype(np.float32)
    several = Predictor.from_run(*runs, device="cpu").predict(image, np.eye(4))
    one = Predictor.from_run(out, device="cpu", trust=True).predict(image, np.eye(4))
    assert (several.voxels == one.voxels).mean() > 0.9999


@pytest.mark.slow
def test_runs_that_see_other_things_are_no_ensemble(brats: Path, tmp_path: Path) -> None:
    runs = [of_volumes(brats, tmp_path / "a"), of_slices(brats, tmp_path / "b")]
    with pytest.raises(InputError, match="differ in size") as caught:
        export(runs, tmp_path / "bundle")
    assert "\n" not in str(caught.value)


def test_what_volumes_are_compared_on(brats: Path) -> None:
    size = (16, 16, 32)
    assert sizes_around(size) == [size]
    given = made_up(size, sizes_around(size), channels=4)
    assert [tuple(each.images.shape) for each in given] == [
        (1, 4, 16, 16, 32),
        (2, 4, 16, 16, 32),
        (1, 4, 18, 16, 23),
    ]
    assert [each.first for each in given] == [True, False, False] and all(each.made_up for each in given)
    store = Store.open(brats)
    found = list(real(store, list(store.cases), sizes_around(size)))
    assert [tuple(each.images.shape) for each in found] == [(1, 4, 24, 24, 48)] * 2
    assert all(each.volume and not each.made_up for each in found)


def test_made_up_slices_are_those_of_before() -> None:
    """Certificates that were written keep the logits of these."""
    images = made_up_images((40, 24), 2)
    assert images.shape == (2, 1, 40, 24)
    random = np.random.Generator(np.random.PCG64([20240725, 40, 24]))
    blobs, fine = random.random((2, 1, 6, 4), np.float32), random.random((2, 1, 40, 24), np.float32)
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(blobs), (40, 24), mode="bilinear", align_corners=True
    )
    assert torch.equal(images, (0.9 * smooth + 0.1 * torch.from_numpy(fine)).clamp(0, 1))
