"""Models of a hub, a stand-in on localhost: sent, fetched, and refused in one line."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from hub_stand_in import TOKEN, Hub, serving
from huggingface_hub import constants
from safetensors.torch import save_file
from tiny import write_images

from dsnet_med import Predictor, build_network, cli
from dsnet_med.errors import InputError
from dsnet_med.inference import bundle_reader, hub
from dsnet_med.inference.bundle_reader import load_model
from dsnet_med.inference.trust import executed_files, is_own, remember

SMALL = {"backbone": {"layers": [1, 1, 1, 1]}}
NETWORK = {
    "_target_": "dsnet_med.build_network",
    "method": "fcn",
    "num_classes": "@num_classes",
    "width": 0.125,
    **SMALL,
}
PLUGIN = """
from pathlib import Path
from torch import nn
(Path(__file__).parent / "executed").touch()

class Mine(nn.Module):
    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return 2 * x
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub, a cache of this test's own, and no login."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving() as made:
        monkeypatch.setenv("HF_ENDPOINT", made.endpoint)
        place = f"{made.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", made.endpoint)  # which was read when it was imported
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place)
        yield made


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def bundle(folder: Path, *, plugged: bool = False) -> Path:
    """What export writes, as far as the hub is concerned."""
    for name in ("configs", "docs", "models", "scripts"):
        (folder / name).mkdir(parents=True)
    network: object = NETWORK
    if plugged:
        place = "$@bundle_root + '/scripts/mine.py:Mine'"
        network = {"_target_": "dsnet_med.methods.with_plugin", "network": NETWORK, "plugin": place}
        network["at"] = "layer4.*.act3"
        (folder / "scripts" / "mine.py").write_text(PLUGIN)
    config = {
        "class_names": ["background", "liver", "spleen"],
        "num_classes": "$len(@class_names)",
        "intensity": {"window": [-125, 275]},
        "size": [64, 64],
        "slice_network": network,
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    weights = build_network("fcn", num_classes=3, width=0.125, **SMALL).state_dict()
    save_file(weights, folder / "models" / "model.safetensors")
    torch.save(weights, folder / "models" / "model.pt")
    (folder / "docs" / "README.md").write_text("---\nlicense: other\n---\n# A model\n")
    (folder / "LICENSE").write_text("mine")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    found = {each.relative_to(folder).as_posix(): each for each in folder.rglob("*") if each.is_file()}
    return {name: file.read_bytes() for name, file in found.items()}


def logits(path: Path | str, *, trust: bool = False) -> torch.Tensor:
    network = load_model(path, trust=trust).network
    with torch.inference_mode():
        found: torch.Tensor = network(torch.linspace(0, 1, 64 * 64).reshape(1, 1, 64, 64))
    return found


def test_a_bundle_goes_to_the_hub_and_comes_back_as_the_same_model(
    stand_in: Hub, login: None, tmp_path: Path
) -> None:
    folder = bundle(tmp_path / "bundle")
    wanted = files_of(folder)
    (folder / "notes.txt").write_text("not for others")
    (folder / "scripts" / "__pycache__").mkdir()
    (folder / "scripts" / "__pycache__" / "mine.pyc").write_bytes(b"")
    assert hub.push(folder, "me/mine", private=True) == f"{stand_in.endpoint}/me/mine"
    assert stand_in.models["me/mine"].private
    (first,) = stand_in.models["me/mine"].commits
    assert stand_in.models["me/mine"].commits[first] == wanted | {"README.md": wanted["docs/README.md"]}

    torch.testing.assert_close(logits("hf://me/mine"), logits(folder), rtol=0, atol=0)
    assert Predictor.from_run("hf://me/mine").fingerprints == Predictor.from_run(folder).fingerprints
    assert {name for name in stand_in.fetched if name.startswith("models/")} == {"models/model.safetensors"}

    assert files_of(hub.located("hf://me/mine", whole=True)) == wanted

    (folder / "LICENSE").unlink()
    (folder / "docs" / "README.md").write_text("# Another\n")
    hub.push(folder, "me/mine")
    _, second = stand_in.models["me/mine"].commits  # what is gone went in the same commit
    assert set(stand_in.models["me/mine"].commits[second]) == {*wanted, "README.md"} - {"LICENSE"}
    assert (hub.fetched(f"hf://me/mine@{first}") / "LICENSE").read_text() == "mine"
    assert (hub.fetched(Path("hf://me/mine")) / "docs" / "README.md").read_text() == "# Another\n"


def test_without_the_hub_the_copy_in_the_cache_is_taken(stand_in: Hub, tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle")
    stand_in.put("you/yours", files_of(folder))
    hub.fetched("hf://you/yours")
    stand_in.down = True
    torch.testing.assert_close(logits("hf://you/yours"), logits(folder), rtol=0, atol=0)


def test_code_of_the_hub_runs_when_trusted_alone(
    stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bundle(tmp_path / "bundle", plugged=True)
    remember(executed_files(folder))
    assert is_own(folder)
    stand_in.put("you/yours", files_of(folder))
    with pytest.raises(InputError, match=r"^hf://you/yours: would run code of its own .*--trust"):
        load_model(Path("hf://you/yours"))
    assert not [*(tmp_path / "cache").rglob("executed")]
    ran: list[Path] = []
    plain = build_network("fcn", num_classes=3, width=0.125, **SMALL)
    monkeypatch.setattr(bundle_reader, "_built_by_monai", lambda file: ran.append(file) or plain)
    load_model("hf://you/yours", trust=True)
    assert [file.parents[1] for file in ran] == [hub.fetched("hf://you/yours")]


def test_other_weights_than_safetensors_are_not_even_fetched(stand_in: Hub, tmp_path: Path) -> None:
    files = files_of(bundle(tmp_path / "bundle"))
    del files["models/model.safetensors"]
    stand_in.put("you/pickled", files)
    with pytest.raises(InputError, match=r"^hf://you/pickled: has no models/model.safetensors"):
        load_model("hf://you/pickled", trust=True)
    assert "models/model.pt" not in stand_in.fetched


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("you/nobody", "no such model, or a private one; .*hf auth login, or HF_TOKEN"),
        ("you/hidden", "no such model, or a private one"),
        ("you/gated", "is gated; ask for access on its page"),
        ("you/open@v9", "has no such revision"),
        ("you", "wanted hf://OWNER/NAME"),
        ("you/../mine", "wanted hf://OWNER/NAME"),
        ("you/ours\x1b[1A", "wanted hf://OWNER/NAME"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(name: str, words: str, stand_in: Hub) -> None:
    for named, facts in {"hidden": {"private": True}, "gated": {"gated": True}, "open": {}}.items():
        stand_in.put(f"you/{named}", {"models/model.safetensors": b"", "LICENSE": b"x"}, **facts)
    with pytest.raises(InputError, match=f"^hf://{name.split(chr(27), maxsplit=1)[0]}.*{words}") as error:
        load_model(f"hf://{name}")
    assert str(error.value).isprintable()


def test_a_hub_that_is_not_there_or_fails_is_one_line(
    stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.down = True
    with pytest.raises(InputError, match=r"cannot be reached \(answered 500\), and the cache has no copy"):
        hub.fetched("hf://you/yours")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        InputError, match=r"^hf://you/yours: the hub cannot be reached .*connect, or give a folder"
    ):
        hub.fetched("hf://you/yours")
    with pytest.raises(InputError, match=r"^hf://you/yours: the hub cannot be reached"):
        hub.push(bundle(tmp_path / "bundle"), "you/yours")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"^hf://you/yours: the hub cannot be reached .*the cache has no copy"):
        hub.fetched("hf://you/yours")


def test_only_a_bundle_is_sent_and_only_by_who_may(stand_in: Hub, tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle")
    with pytest.raises(InputError, match=r"^hf://me/mine: the hub does not allow it \(401\); log in"):
        hub.push(folder, "me/mine")
    with pytest.raises(InputError, match="got 'mine' to push to, wanted OWNER/NAME"):
        hub.push(folder, "mine")
    (folder / "configs" / "inference.json").unlink()
    (folder / "configs" / "inference.yaml").write_text(yaml.safe_dump({}))
    with pytest.raises(InputError, match=r"has no configs/inference.json; wanted a bundle that export wrote"):
        hub.push(folder, "me/mine")
    assert not stand_in.models


def test_infer_takes_a_model_of_the_hub(
    stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in.put("you/yours", files_of(bundle(tmp_path / "bundle")))
    codes = []
    for model in ("hf://you/yours", "hf://you/nobody"):
        arguments = ["infer", "--model", model, *map(str, write_images(tmp_path / "images", "a"))]
        monkeypatch.setattr(sys, "argv", ["dsnet-med", *arguments, "--out", str(tmp_path / "masks")])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        codes.append(ended.value.code or 0)
    assert codes == [0, 2]
    assert (tmp_path / "masks" / "a.nii.gz").is_file()
    assert capsys.readouterr().err.splitlines()[-1].startswith("dsnet-med: hf://you/nobody: no such model")
