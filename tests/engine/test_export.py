"""A run as a bundle for others: every form equals the run, and what does not is not there, or is noticed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from torch import Tensor, nn

from dsnet_med.engine.checkpoints import save_state
from dsnet_med.engine.export import bundle as exporting
from dsnet_med.engine.export.bundle import export
from dsnet_med.engine.export.card import Words
from dsnet_med.engine.export.certificate import (
    Reference,
    changed_files,
    differences,
    examined,
    read_certificate,
)
from dsnet_med.engine.export.formats import FORMATS, open_torchscript
from dsnet_med.engine.overrides import load
from dsnet_med.engine.plugin_choice import PluginChoice
from dsnet_med.engine.run import prepare
from dsnet_med.errors import InputError
from dsnet_med.inference import Predictor
from dsnet_med.inference.bundle_reader import load_model
from dsnet_med.seal import sealed

_SIZES = ((64, 64), (96, 80), (72, 128))
_PLUGIN = """
import torch
from torch import nn

class Gate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.weight(x.mean((2, 3), keepdim=True)))

class Moody(Gate):
    def forward(self, x):
        return x if float(x.detach().sum()) > 1e9 else super().forward(x)
"""


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained narrow FCN+DSM in every form."""
    out = tmp_path_factory.mktemp("exported") / "bundle"
    made = export([run], out, words=Words(author="Jane Doe", licence="MIT"))
    assert not made.failed
    return out


def _untrained(
    method: str, store: Path, folder: Path, plugin: PluginChoice | None = None, size: int = 64
) -> Path:
    """A run whose weights were drawn, and make a difference."""
    settings = {"width": 0.125, "size": size, "network_def#backbone#layers": [1, 1, 1, 1]}
    prepare(method, store, folder, settings, plugin=plugin)
    config = load(folder / "configs" / "train.yaml") | {"bundle_root": str(folder)}
    torch.manual_seed(0)
    network = ConfigParser(config).get_parsed_content("network_def")
    weights = network.state_dict()
    for value in weights.values():
        if value.ndim == 1:
            value.mul_(1 + 0.3 * torch.rand_like(value))
    save_state(folder / "models" / "model.pt", weights)
    return folder


def _images(count: int, size: tuple[int, int]) -> Tensor:
    return torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(count))


def _require_equal(got: Tensor, wanted: Tensor) -> None:
    assert got.shape == wanted.shape
    assert float((got - wanted).abs().max()) <= 1e-4
    assert float((got.argmax(1) == wanted.argmax(1)).double().mean()) >= 0.9999


def _require_all_forms(run: Path, out: Path, *, size_of_training: int = 64) -> None:
    """Compare the forms with the run's network once more, without the certificate's code."""
    network = load_model(run).network
    assert all(form["sizes"] == "any" for form in read_certificate(out)["formats"].values() if "sizes" in form)
    graphs = [form.open(out / form.file) for form in FORMATS]
    script = open_torchscript(out / "models" / "model.ts")
    with torch.no_grad():
        for size in _SIZES:
            for count in (1, 3):
                images = _images(count, size)
                for graph in graphs:
                    _require_equal(graph(images), network(images))
                volume = script(images)
                small = nn.functional.interpolate(images, (size_of_training,) * 2, mode="bilinear")
                wanted = nn.functional.interpolate(network(small), size, mode="bilinear")
                _require_equal(volume, wanted)


def test_every_form_gives_the_logits_of_the_run(run: Path, exported: Path) -> None:
    certificate = json.loads((exported / "certificate.json").read_text())
    names = {"eager", "safetensors", "pt", "torchscript", "onnx", "pt2", "bundle"}
    assert set(certificate["formats"]) == names
    assert not certificate["left_out"]
    shapes = {check["input"] for check in certificate["formats"]["onnx"]["checks"]}
    assert sum(name.startswith("made up, 3 x") for name in shapes) == 3
    assert any(name.startswith("real volume") for name in shapes)
    _require_all_forms(run, exported)


def test_the_bundle_segments_as_the_run_does(run: Path, exported: Path) -> None:
    voxels = np.random.default_rng(0).integers(-200, 300, (40, 50, 5)).astype(np.int16)
    affine = np.diag([-1.0, 1.0, 4.0, 1.0])
    masks = [Predictor.from_run(folder).predict(voxels, affine).voxels for folder in (run, exported)]
    np.testing.assert_array_equal(*masks)


def test_it_holds_when_compared_again(exported: Path) -> None:
    certificate = read_certificate(exported)
    results = {name: result for name, result in examined(exported, Reference.of(exported)) if name != "bundle"}
    results["bundle"] = {"holds": True}
    assert differences(certificate, results) == []
    assert changed_files(exported, certificate) == []


def test_it_has_the_form_of_the_model_zoo(exported: Path) -> None:
    files = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    wanted = {
        "LICENSE",
        "docs/README.md",
        "docs/data_license.txt",
        "docs/certificate.md",
        "configs/logging.conf",
    }
    wanted |= {f"configs/{name}.json" for name in ("inference", "train", "evaluate", "metadata")}
    wanted |= {f"models/model.{kind}" for kind in ("pt", "safetensors", "ts", "onnx", "pt2")}
    assert files - {".lock"} == wanted | {"certificate.json", "summary.json", "weights.json"}
    metadata = json.loads((exported / "configs" / "metadata.json").read_text())
    assert metadata["authors"] == "Jane Doe"
    assert metadata["license"] == "MIT"
    assert metadata["version"] in metadata["changelog"]
    assert all(value.startswith("#") is False for value in metadata["required_packages_version"].values())
    front = (exported / "docs" / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front)["license"] == "mit"
    train = json.loads((exported / "configs" / "train.json").read_text())
    assert (train["bundle_root"], train["dataset_dir"], train["store_id"]) == (".", "store", None)


def test_nothing_of_this_machine_is_in_it(run: Path, store: Path, exported: Path) -> None:
    places = [str(run.parent), str(store), str(Path.home()), str(Path(exporting.__file__).parents[3])]
    for file in exported.rglob("*"):
        if file.is_file() and file.name != ".lock":
            assert not [place for place in places if place.encode() in file.read_bytes()], file


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def _other_classes(bundle: Path) -> None:
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["class_names"], config["num_classes"] = config["class_names"][:-1], config["num_classes"] - 1
    file.write_text(json.dumps(config))


_DAMAGE: dict[str, Any] = {
    "models/model.safetensors is not the file": lambda to: _flip(to / "models" / "model.safetensors"),
    "models/model.onnx is not the file": lambda to: _flip(to / "models" / "model.onnx"),
    "models/model.pt is not there": lambda to: (to / "models" / "model.pt").rename(to / "models" / "best.pt"),
    "models/last.pt is not of this bundle": lambda to: (to / "models" / "last.pt").write_bytes(b"x"),
    "configs/inference.json is not the file": _other_classes,
    "certificate.json was changed": lambda to: (to / "certificate.json").write_text(
        (to / "certificate.json").read_text().replace('"holds": true', '"holds": true, "x": 1', 1)
    ),
}


@pytest.mark.parametrize("line", list(_DAMAGE))
def test_what_changed_since_is_named(exported: Path, tmp_path: Path, line: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(exported, bundle)
    _DAMAGE[line](bundle)
    found = changed_files(bundle, read_certificate(bundle))
    assert any(each.startswith(line) for each in found), found


def test_another_network_behind_the_same_certificate_is_noticed(exported: Path) -> None:
    certificate = read_certificate(exported)
    eager = dict(next(examined(exported, Reference.of(exported)))[1])
    results = {name: {"holds": True} for name in certificate["formats"]} | {"eager": eager}
    assert differences(certificate, results) == []
    moved = json.loads(json.dumps(eager))
    moved["probes"][0]["logits"][3] += 0.01
    assert "logits differ" in differences(certificate, results | {"eager": moved})[0]
    fewer = json.loads(json.dumps(eager))
    fewer["probes"][1]["pixels"].pop()
    assert "8 classes" in differences(certificate, results | {"eager": fewer})[0]
    others = {**eager, "probes": [{**probe, "input": "another"} for probe in eager["probes"]]}
    assert "other slices" in differences(certificate, results | {"eager": others})[0]


def test_a_form_that_differs_is_left_out(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(run)

    def shifted(_: Path) -> Any:
        return lambda images: model.network(images) + 2e-4

    pt2 = next(form for form in FORMATS if form.name == "pt2")
    form = replace(pt2, write=lambda _, file: file.write_bytes(b"x"), open=shifted)
    monkeypatch.setattr(exporting, "FORMATS", (form,))
    monkeypatch.setattr(exporting, "graph_of", lambda *_, **__: None)
    made = export([run], tmp_path / "bundle", ["pt2"])
    assert "logits by 0.0002" in made.failed["pt2"]
    assert not (tmp_path / "bundle" / "models" / "model.pt2").exists()
    assert "pt2" in made.certificate["left_out"]
    assert "pt2" not in made.certificate["formats"]
    assert changed_files(tmp_path / "bundle", read_certificate(tmp_path / "bundle")) == []


@pytest.mark.parametrize("method", ["hamnet", "dsnet_mscan_b"])
def test_other_rows(store: Path, tmp_path: Path, method: str) -> None:
    run = _untrained(method, store, tmp_path / "run")
    made = export([run], tmp_path / "bundle")
    assert not made.failed
    _require_all_forms(run, tmp_path / "bundle")


def test_a_plug_in_goes_along_and_the_card_says_that_it_runs(store: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(_PLUGIN)
    plugin = PluginChoice(f"{tmp_path}/mine.py:Gate", "layer4.*.act2")
    run = _untrained("fcn", store, tmp_path / "run", plugin, size=96)
    made = export([run], tmp_path / "bundle")
    assert not made.failed
    _require_all_forms(run, tmp_path / "bundle", size_of_training=96)
    assert (tmp_path / "bundle" / "scripts" / "mine.py").read_text() == _PLUGIN
    assert "scripts/mine.py" in (tmp_path / "bundle" / "docs" / "README.md").read_text()


def test_a_network_that_no_graph_can_hold_is_exported_without_one(store: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(_PLUGIN)
    plugin = PluginChoice(f"{tmp_path}/mine.py:Moody", "layer4.*.act2")
    run = _untrained("fcn", store, tmp_path / "run", plugin)
    made = export([run], tmp_path / "bundle", ["pt2"])
    assert set(made.failed) == {"pt2"}
    assert not (tmp_path / "bundle" / "models" / "model.pt2").exists()
    assert "Not there: pt2" in (tmp_path / "bundle" / "docs" / "README.md").read_text()


def test_an_ensemble_is_one_bundle(run: Path, store: Path, tmp_path: Path) -> None:
    other = _untrained("fcn", store, tmp_path / "other")
    export([run, other], tmp_path / "bundle", ["torchscript"])
    voxels = np.random.default_rng(0).integers(-200, 300, (50, 40, 4)).astype(np.int16)
    wanted = Predictor.from_run(run, other).predict(voxels, np.eye(4)).voxels
    np.testing.assert_array_equal(
        Predictor.from_run(tmp_path / "bundle").predict(voxels, np.eye(4)).voxels, wanted
    )
    assert not (tmp_path / "bundle" / "configs" / "train.json").exists()  # nothing trains it as one


def test_large_files_are_listed_for_the_model_zoo(tmp_path: Path) -> None:
    from dsnet_med.engine.export.folder import write_large_files

    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "small.pt").write_bytes(b"x")
    write_large_files(tmp_path)
    assert not (tmp_path / "large_files.yml").exists()
    (tmp_path / "models" / "model.pt").write_bytes(bytes((25 << 20) + 1))
    write_large_files(tmp_path)
    (entry,) = yaml.safe_load((tmp_path / "large_files.yml").read_text())["large_files"]
    assert (entry["path"], entry["hash_type"], len(entry["hash_val"])) == ("models/model.pt", "sha256", 64)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"formats": ["tflite"]}, "tflite"),
        ({"out": "full"}, "not empty"),
        ({"out": "deepedit_mine"}, "MONAI Label"),
        ({"folders": ["nowhere"]}, "no such folder"),
        ({"folders": ["full"]}, "not a run folder"),
        ({"words": Words(author="Jane\nDoe")}, "one line"),
        ({"scores": "full"}, "summary.json: cannot be read"),
    ],
)
def test_what_cannot_be_is_refused(run: Path, tmp_path: Path, change: dict[str, Any], told: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "theirs.txt").write_text("x")
    given: dict[str, Any] = {"folders": [run], "out": "out", **change}
    folders = [tmp_path / folder for folder in given.pop("folders")]
    if "scores" in given:
        given["scores"] = tmp_path / given["scores"]
    with pytest.raises(InputError, match=told):
        export(folders, tmp_path / given.pop("out"), **given)
    assert (tmp_path / "full" / "theirs.txt").read_text() == "x"
    assert not (tmp_path / "out" / "certificate.json").exists()


def test_a_strangers_run_is_not_executed(run: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "run"
    shutil.copytree(run, theirs)
    file = theirs / "configs" / "inference.yaml"
    file.write_text(file.read_text() + "hello: $print('run')\n")
    with pytest.raises(InputError, match="trust"):
        export([theirs], tmp_path / "out")


def test_a_resealed_certificate_of_other_files_does_not_hold(exported: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(exported, bundle)
    certificate = json.loads((bundle / "certificate.json").read_text())
    certificate["files"]["models/model.pt"] = "0" * 64
    (bundle / "certificate.json").write_text(json.dumps(sealed(certificate)))
    assert changed_files(bundle, read_certificate(bundle)) == [
        "models/model.pt is not the file that was exported"
    ]


def _summary(**changes: Any) -> dict[str, Any]:
    dice = {"mean": 0.8, "std": 0.1, "n": 4, "ci95": [0.75, 0.85]}
    distance = {"mean": 3.25, "std": 1.0, "n": 4}
    return {
        "protocol": "strict",
        "hd95": {"rule": "pooled", "unit": "mm"},
        "labels": {"liver": {"dice": dice, "hd95_mm": distance}},
        "mean": {"dice": 0.8, "hd95_mm": 3.25},
        "mean_ci95": {"dice": [0.75, 0.85]},
        "cases": 4,
        **changes,
    }


def test_scores_of_this_run_go_into_the_card_and_others_are_refused(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    file.write_text(json.dumps(sealed(_summary(run={"recipe": "synapse", "seed": 0}))))
    export([run], tmp_path / "out", ["bundle"], scores=file)
    card = (tmp_path / "out" / "docs" / "README.md").read_text()
    assert "| liver | 0.8000 | 0.7500 to 0.8500 | 3.25 | 4 |" in card
    metadata = json.loads((tmp_path / "out" / "configs" / "metadata.json").read_text())
    assert metadata["eval_metrics"]["mean_dice"] == 0.8
    for other, told in (
        ({"run": {"seed": 1}}, "another run, seed 1"),
        ({"labels": {"spine": _summary()["labels"]["liver"]}}, "'spine'"),
    ):
        file.write_text(json.dumps(sealed(_summary(**other))))
        with pytest.raises(InputError, match=told):
            export([run], tmp_path / "other", ["bundle"], scores=file)
