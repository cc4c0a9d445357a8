"""A row of one's own: a file anywhere, of any network, laid over the package's schedules."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from dsnet_med.engine.compose import compose_train
from dsnet_med.engine.plugin_choice import PluginChoice
from dsnet_med.engine.run import prepare, train
from dsnet_med.errors import InputError
from dsnet_med.inference.bundle_reader import load_model
from dsnet_med.methods import build_network, dimensions, method_row, row_file

CARD = {
    "id": "mine",
    "title": "Mine",
    "paper": "none",
    "backbone": "AttentionUnet",
    "plugin": "none",
    "place": "-",
    "head": "its own",
}
MINE: dict[str, Any] = {  # of MONAI, and none of the shipped rows
    "method_card": CARD,
    "spatial_dims": 2,
    "network_def": {
        "_target_": "monai.networks.nets.AttentionUnet",
        "spatial_dims": 2,
        "in_channels": "@in_channels",
        "out_channels": "@num_classes",
        "channels": [4, 8, 8],
        "strides": [2, 2],
    },
    "laid_over": ["schedules/adamw.yaml"],
}


def written(folder: Path, row: dict[str, Any]) -> str:
    file = folder / "elsewhere" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(row))
    return str(file)


def test_any_network_trains_from_a_file_and_is_loaded(store: Path, tmp_path: Path) -> None:
    method = written(tmp_path, MINE)
    assert dimensions(method) == 2
    settings = {"iterations": 2, "validate_every": 2, "workers": 0, "size": [32, 32]}
    prepare(method, store, tmp_path / "run", settings, plugin=PluginChoice("SE", "model.0"))
    config = yaml.safe_load((tmp_path / "run" / "configs" / "train.yaml").read_text())
    assert config["optimizer"]["_target_"] == "torch.optim.AdamW"
    assert config["method_card"]["title"] == "Mine + SE at model.0"
    train(tmp_path / "run", {})
    network = load_model(tmp_path / "run").network
    assert type(network).__name__ == "AttentionUnet"


def test_a_row_of_volumes_takes_what_patches_need(store: Path, tmp_path: Path) -> None:
    row = {**method_row("dynunet_3d"), "method_card": {**CARD, "dimensions": 3}, "stride": 8}
    row["network_def"]["stride"] = 8
    row["network_def"]["network"] |= {
        "kernel_size": [3, 3, 3, 3],
        "strides": [1, 2, 2, 2],
        "upsample_kernel_size": [2, 2, 2],
        "deep_supr_num": 1,
    }
    method = written(tmp_path, row)
    config = compose_train(method, store, {"width": 0.125})
    shipped = compose_train("dynunet_3d", store, {"width": 0.125, "stride": 8})
    differing = {name for name in config.keys() | shipped.keys() if config.get(name) != shipped.get(name)}
    assert differing == {"method_card", "network_def"}
    assert all(side % 8 == 0 for side in config["size"]) and config["optimizer"]["nesterov"] is True
    network = build_network(method, num_classes=2, width=0.125)
    assert len(network.network.upsamples) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"laid_over": ["schedules/adamv.yaml"]}, "adamv.yaml"),
        ({"spatail_dims": 3}, "unknown setting|spatail_dims"),
        ({"network_def": None, "method_card": None}, "holds no row"),
    ],
)
def test_what_is_no_row_is_refused(changes: dict[str, Any], message: str, store: Path, tmp_path: Path) -> None:
    method = written(tmp_path, {**MINE, **changes})
    with pytest.raises(InputError, match=message):
        compose_train(method, store, {})


def test_the_file_may_be_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = written(tmp_path, MINE)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert row_file("mine.yaml") == Path("mine.yaml")
    assert method_row("mine.yaml") == method_row(method) == MINE
    with pytest.raises(InputError, match="nowhere"):
        method_row(str(tmp_path / "nowhere.yaml"))


def test_the_row_in_the_documentation_is_one(store: Path, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "networks.md").read_text()
    row = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    config = compose_train(
        written(tmp_path, row), store, {"size": [16, 32, 32], "network_def#img_size": [16, 32, 32]}
    )
    assert config["spatial_dims"] == 3 and config["fit"] == "window"
    network = ConfigParser(config).get_parsed_content("network_def")
    assert network.eval()(torch.zeros(1, 1, 16, 32, 32)).shape[2:] == (16, 32, 32)
