"""Models from folders, bundles and archives; strangers' code only on request."""

import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from dsnet_med.errors import InputError
from dsnet_med.inference import Predictor
from dsnet_med.inference.bundle_reader import load_model
from dsnet_med.inference.safe_config import code_in
from dsnet_med.inference.trust import executed_files, is_own, remember
from dsnet_med.methods import build_network, method_row, published_ids

SMALL = {"backbone": {"layers": [1, 1, 1, 1]}}
PLUGIN = """
from pathlib import Path
from torch import nn

Path(__file__).with_name("executed").touch()


class Mine(nn.Module):
    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return 2 * x
"""


def _config(**changes: Any) -> dict[str, Any]:
    network = {
        "_target_": "dsnet_med.build_network",
        "method": "fcn",
        "in_channels": "@in_channels",
        "num_classes": "@num_classes",
        "pretrained": "@pretrained",
        "width": "@width",
        **SMALL,
    }
    return {
        "class_names": ["background", "liver", "spleen"],
        "num_classes": "$len(@class_names)",
        "in_channels": 1,
        "intensity": {"window": [-125, 275]},
        "slice_axis": "superior",
        "size": [64, 64],
        "fit": "resize",
        "pretrained": True,
        "width": 0.125,
        "slice_network": network,
    } | changes


def _folder(folder: Path, network: torch.nn.Module | None = None, **changes: Any) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.yaml").write_text(yaml.safe_dump(_config(**changes)))
    torch.manual_seed(0)
    network = network or build_network("fcn", num_classes=3, width=0.125, **SMALL)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def _plugged(folder: Path) -> Path:
    """A run with a plug-in of a file of its own, as `train --plugin` writes it."""
    network = {
        "_target_": "dsnet_med.methods.with_plugin",
        "network": _config()["slice_network"],
        "plugin": "$@bundle_root + '/scripts/mine.py:Mine'",
        "at": "layer4.*.act3",
    }
    _folder(folder, slice_network=network)
    (folder / "scripts").mkdir()
    (folder / "scripts" / "mine.py").write_text(PLUGIN)
    return folder


def _logits(folder: Path, **options: Any) -> torch.Tensor:
    network = load_model(folder, **options).network
    torch.manual_seed(5)
    with torch.inference_mode():
        logits: torch.Tensor = network(torch.rand(1, 1, 64, 64))
    return logits


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_run_a_bundle_and_archives_of_them_are_one_model(tmp_path: Path) -> None:
    run = _folder(tmp_path / "run")
    wanted = _logits(run)
    (run / "configs" / "inference.json").write_text(json.dumps(_config(), indent="\t"))
    (run / "configs" / "inference.yaml").unlink()
    save_file(torch.load(run / "models" / "model.pt", weights_only=True), run / "models" / "model.safetensors")
    (run / "models" / "model.pt").unlink()
    torch.testing.assert_close(_logits(run), wanted)
    for name, root in (("flat.zip", run), ("nested.zip", tmp_path)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file in sorted(run.rglob("*")):
                archive.write(file, file.relative_to(root))
        torch.testing.assert_close(_logits(tmp_path / name), wanted)
        assert load_model(tmp_path / name).fingerprint == load_model(run).fingerprint


def test_weights_of_the_slice_wise_wrapper(tmp_path: Path) -> None:
    run = _folder(tmp_path / "run")
    wanted = _logits(run)
    weights = torch.load(run / "models" / "model.pt", weights_only=True)
    torch.save({f"network.{name}": value for name, value in weights.items()}, run / "models" / "model.pt")
    torch.testing.assert_close(_logits(run), wanted)


def test_three_equal_channels(tmp_path: Path) -> None:
    network = build_network("fcn", in_channels=3, num_classes=3, width=0.125, **SMALL)
    assert load_model(_folder(tmp_path / "run", network, in_channels=3)).in_channels == 3


def test_the_fingerprint_follows_what_matters(tmp_path: Path) -> None:
    run = _folder(tmp_path / "run")
    first = load_model(run).fingerprint
    (run / "notes.txt").write_text("nothing")
    assert load_model(run).fingerprint == first
    config = run / "configs" / "inference.yaml"
    config.write_text(config.read_text().replace("64", "96"))
    second = load_model(run).fingerprint
    weights = torch.load(run / "models" / "model.pt", weights_only=True)
    weights["head.classifier.bias"] += 1
    torch.save(weights, run / "models" / "model.pt")
    assert len({first, second, load_model(run).fingerprint}) == 3


@pytest.mark.parametrize("method", published_ids())
def test_every_row_is_plain(method: str) -> None:
    assert code_in(method_row(method)["network_def"]) is None


@pytest.mark.parametrize(
    "definition",
    [
        {"_target_": "os.system", "command": "touch executed"},
        {"_target_": "subprocess.run", "args": ["touch", "executed"]},
        {"_target_": "builtins.exec", "source": "1"},
        {"_target_": "dsnet_med.networks.plugin_file.load_plugin", "name": "x.py:X"},
        {"_target_": "dsnet_med.networks.definition.build", "definition": {}},
        {"_target_": "torch.nn.modules.module.sys.exit"},
        {"_target_": "torch.nn.init.kaiming_normal_"},
        {"_target_": "torch.load", "f": "x.pt", "weights_only": False},
        {"_target_": "torch.hub.load", "repo_or_dir": "x"},
        "$__import__('os').system('touch executed')",
        {"_target_": "dsnet_med.build_network", "method": "$print('x')"},
        {"_target_": "dsnet_med.build_network", "method": "fcn", "plugin": "mine.py:Mine"},
        {"_target_": "dsnet_med.networks.backbones.resnet", "name": "hf-hub:stranger/model"},
        {"_target_": "torch.nn.Conv2d", "_requires_": "$print(1)"},
        {"_target_": "torch.nn.Conv2d", "_mode_": "debug"},
        "%configs/other.yaml::network",
        ["$1"],
    ],
)
def test_a_strangers_code_is_not_run_unasked(definition: Any, tmp_path: Path, home: Path) -> None:
    assert code_in(definition) is not None
    run = _folder(tmp_path / "run", slice_network=definition)
    with pytest.raises(InputError, match=r"would run code of its own .*--trust"):
        load_model(run)
    assert not (Path.cwd() / "executed").exists()


def test_a_plugin_file_runs_when_trusted(tmp_path: Path, home: Path) -> None:
    run = _plugged(tmp_path / "run")
    with pytest.raises(InputError, match="--trust"):
        load_model(run)
    assert not (run / "scripts" / "executed").exists()
    assert not torch.equal(_logits(run, trust=True), _logits(_folder(tmp_path / "bare")))
    assert (run / "scripts" / "executed").exists()


def test_ones_own_runs_need_no_word_until_they_change(tmp_path: Path, home: Path) -> None:
    run = _plugged(tmp_path / "run")
    assert not is_own(run)
    for _ in range(2):
        remember(executed_files(run))
    assert len((home / "dsnet-med" / "own-runs.txt").read_text().splitlines()) == 2
    load_model(run)
    (run / "scripts" / "executed").unlink(missing_ok=True)  # which the plug-in made
    moved = Path(shutil.copytree(run, tmp_path / "moved"))
    assert is_own(moved)
    for change in (
        lambda folder: (folder / "scripts" / "mine.py").write_text(PLUGIN + "#"),
        lambda folder: (folder / "scripts" / "more.py").write_text(""),
        lambda folder: (folder / "scripts" / "more").symlink_to(tmp_path),
        lambda folder: (folder / "configs" / "inference.yaml").write_text("a: 1"),
    ):
        shutil.rmtree(moved)
        change(Path(shutil.copytree(run, moved)))
        assert not is_own(moved)
    shutil.rmtree(moved)
    shutil.copytree(run, moved)
    (moved / "scripts" / "__pycache__").mkdir()  # which Python may leave, and is not read
    (moved / "scripts" / "__pycache__" / "mine.cpython-311.pyc").write_bytes(b"x")
    assert is_own(moved)
    (home / "dsnet-med" / "own-runs.txt").write_bytes(b"\xff of another program")
    assert not is_own(run)


def test_a_home_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    run = _plugged(tmp_path / "run")
    remember(executed_files(run))
    assert not is_own(run)


@pytest.mark.parametrize("name", ["size", "class_names", "fit", "slice_network", "other"])
def test_a_few_kilobytes_of_aliases_are_one_line(name: str, tmp_path: Path) -> None:
    run = _folder(tmp_path / "run")
    parts = ["&a0 [" + ", ".join("x" * 10) + "]"]
    parts += [f"&a{level} [" + ", ".join([f"*a{level - 1}"] * 10) + "]" for level in range(1, 9)]
    config = {key: value for key, value in _config().items() if key != name}
    (run / "configs" / "inference.yaml").write_text(f"{yaml.safe_dump(config)}{name}: [{', '.join(parts)}]\n")
    with pytest.raises(InputError, match="more than 100000 values") as caught:
        load_model(run)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["class_names", "size", "fit", "in_channels", "slice_axis"])
def test_a_large_value_is_printed_in_short(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_model(_folder(tmp_path / "run", **{name: ["x" * 1000] * 50}))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("place", ["configs/inference.json", "summary.json", "models/model.safetensors"])
def test_pipes_and_devices_are_not_opened(place: str, tmp_path: Path) -> None:
    for number, make in enumerate((os.mkfifo, lambda path: path.symlink_to("/dev/zero"))):
        run = _folder(tmp_path / str(number))
        make(run / place)
        load_model(run)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_other_archives_are_named(mode: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "run.tar", mode) as archive:
        archive.add(_folder(tmp_path / "run"), "run")
    with pytest.raises(InputError, match=r"run\.tar: it is .*; unpack it first"):
        load_model(tmp_path / "run.tar")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="a pipe"):
        load_model(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": "liver"}, "class_names is 'liver'"),
        ({"class_names": ["background"]}, "wanted a list of names"),
        ({"size": [64]}, r"wanted \[rows, columns\]"),
        ({"size": "$[64, 64]"}, r"wanted \[rows, columns\]"),
        ({"fit": "stretch"}, "unknown fit 'stretch'"),
        ({"slice_axis": "sagittal"}, "unknown slice_axis"),
        ({"intensity": None}, "intensity"),
        ({"in_channels": 2}, "in_channels is 2"),
        ({"in_channels": True}, "in_channels is True"),
        ({"size": [True, 64]}, r"wanted \[rows, columns\]"),
        ({"slice_network": None}, "no slice_network"),
        ({"slice_network": {"_target_": "torch.nn.Linear", "wrong": 1}}, "cannot be built"),
        ({"slice_network": {"_target_": "dsnet_med.build_network", "method": "fnc"}}, "did you mean|cannot be"),
        ({"slice_network": "@width"}, "wanted a network"),
        ({"class_names": ["background", "a", "b", "c"]}, "not the weights of this network"),
        ({"class_names": ["background", "a", "a"]}, "one name twice"),
        ({"class_names": ["background", "a", "b\nc"]}, "wanted a list of names"),
        ({"class_names": ["background", "a", " "]}, "wanted a list of names"),
        ({"size": [200000, 200000]}, "at most 8192"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load_model(_folder(tmp_path / "run", **changes))


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a run folder"):
        load_model(tmp_path / "empty")
    with pytest.raises(InputError, match="no such file or folder"):
        load_model(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="neither a folder nor a zip"):
        load_model(tmp_path / "file")
    run = _folder(tmp_path / "run")
    (run / "models" / "model.pt").write_bytes(b"damaged")
    with pytest.raises(InputError, match="it is damaged, or no PyTorch checkpoint"):
        load_model(run)
    (run / "models" / "model.pt").unlink()
    with pytest.raises(InputError, match="no such checkpoint"):
        load_model(run)
    (run / "configs" / "inference.yaml").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        load_model(run)
    (run / "configs" / "inference.yaml").write_text("- 1")
    with pytest.raises(InputError, match="holds no settings"):
        load_model(run)


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "executed",)  # type: ignore[return-value]

    run = _folder(tmp_path / "run")
    torch.save({"weights": Evil()}, run / "models" / "model.pt")
    with pytest.raises(InputError):
        load_model(run)
    assert not (tmp_path / "executed").exists()


def test_a_summary_that_is_none_does_not_matter(tmp_path: Path) -> None:
    run = _folder(tmp_path / "run")
    for content in ("[", "[]", '{"method": "fcn"}', '{"method": {"title": "FCN"}}'):
        (run / "summary.json").write_text(content)
        assert load_model(run).title in ("dsnet-med", "FCN")


def _aliases(levels: int) -> str:
    """YAML of a few lines that stands for 9 ** levels parts."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return "\n".join([*lines, f"slice_network: *a{levels - 1}"])


@pytest.mark.parametrize("text", [_aliases(10), "slice_network: &a {_target_: torch.nn.Identity, x: *a}"])
def test_configurations_that_grow_without_end(text: str, tmp_path: Path) -> None:
    run = _folder(tmp_path / "run")
    config = _config()
    del config["slice_network"]
    (run / "configs" / "inference.yaml").write_text(yaml.safe_dump(config) + text)
    with pytest.raises(InputError, match=r"more than 10000 parts|holds itself"):
        load_model(run)


def test_a_summary_too_deep_to_read(tmp_path: Path) -> None:
    run = _folder(tmp_path / "run")
    (run / "summary.json").write_text("[" * 100_000)
    assert load_model(run).title == "dsnet-med"


def test_loading_leaves_the_callers_random_numbers(tmp_path: Path) -> None:
    run = _folder(tmp_path / "run")
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        Predictor.from_run(run, device="cpu")
        drawn.append(float(torch.rand(1)))
    assert drawn[0] != drawn[1]


def test_more_outputs_than_names(tmp_path: Path) -> None:
    network = build_network("fcn", num_classes=5, width=0.125, **SMALL)
    definition = {**_config()["slice_network"], "num_classes": 5}
    run = _folder(tmp_path / "run", network, slice_network=definition)
    with pytest.raises(InputError, match="class_names has 3 names"):
        Predictor.from_run(run, device="cpu")


def test_a_network_that_does_not_run(tmp_path: Path) -> None:
    definition = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 3}
    run = _folder(tmp_path / "run", torch.nn.Linear(3, 3), slice_network=definition)
    with pytest.raises(InputError, match="does not run"):
        Predictor.from_run(run, device="cpu")
