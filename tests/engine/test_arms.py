"""The arms of a trial as people type them, the placebos that belong to them, and schedules that are equal."""

from pathlib import Path

import pytest
import yaml
from monai.bundle import ConfigParser
from narrow import NARROW
from torch import nn

from dsnet_med.engine.arms import Arm, parse_arms, placebos_of
from dsnet_med.engine.compose import compose_train
from dsnet_med.engine.plugin_choice import PluginChoice
from dsnet_med.engine.run import prepare
from dsnet_med.errors import InputError
from dsnet_med.inference.safe_config import code_in
from dsnet_med.methods import build_network, method_row, published_ids
from dsnet_med.networks.plugin_file import load_plugin, plugin_text
from dsnet_med.networks.plugins import DSM, SE

PLACE = "layer4.*.act2"
MINE = """
from torch import nn


class Mine(nn.Conv2d):
    def __init__(self, channels):
        super().__init__(channels, channels, 1)
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "my+file@.py"
    file.write_text(MINE)
    return file


def _count(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


def test_arms_are_typed_in_one_line() -> None:
    arms = parse_arms("fcn,fcn_se, fcn+SE ,fcn+ECA@layer[1,2].*.act2,fcn+CBAM(ratio=8,kernel_size=5)@layer1.0")
    assert arms == [
        Arm("fcn", "fcn"),
        Arm("fcn_se", "fcn_se"),
        Arm(f"fcn+SE@{PLACE}", "fcn", "SE", PLACE),
        Arm("fcn+ECA@layer[1,2].*.act2", "fcn", "ECA", "layer[1,2].*.act2"),
        Arm("fcn+CBAM(ratio=8,kernel_size=5)@layer1.0", "fcn", "CBAM(ratio=8,kernel_size=5)", "layer1.0"),
    ]
    assert parse_arms([arm.name for arm in arms]) == arms
    assert parse_arms("fcn+SE( ratio = 16 )@layer1") == [Arm("fcn+SE@layer1", "fcn", "SE", "layer1")]


def test_arms_of_files_are_named_by_what_is_in_them(mine: Path, tmp_path: Path) -> None:
    row = tmp_path / "my+row.yaml"
    content = method_row("fcn") | {"method_card": {"id": "tiny", "title": "Tiny"}}
    row.write_text(yaml.safe_dump(content))
    arms = parse_arms([f"{row}", f"{row}+{mine}:Mine@layer1.*.act2"])
    assert arms == [
        Arm("tiny", str(row)),
        Arm("tiny+Mine@layer1.*.act2", str(row), f"{mine}:Mine", "layer1.*.act2"),
    ]
    added, _, _ = placebos_of(arms)
    assert (
        Arm(
            "tiny+PointwiseConv(Mine)@layer1.*.act2", str(row), "PointwiseConv", "layer1.*.act2", f"{mine}:Mine"
        )
        in added
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fnc", "unknown method 'fnc': did you mean 'fcn'"),
        ("fcn+SEE", "unknown plug-in 'SEE': did you mean 'SE'"),
        ("fcn,danet,fcn", "got the arm fcn twice"),
        ("fcn+SE,fcn+SE@layer4.*.act2", "twice"),
        ("fcn+SE@", "wanted row.PLUGIN@PLACE"),
        ("fcn+", "wanted row.PLUGIN@PLACE"),
        ("fcn,,danet", "an arm without a name"),
        ("", "an arm without a name"),
        ("fcn+SE(ration=3)", "unknown argument of SE 'ration': did you mean 'ratio'"),
        ("fcn+SE(3)", "wanted SE, or with arguments such as SE.ratio=16."),
        ("fcn+SE(ratio=os.getpid())", "whose arguments are no values"),
        ("fcn+SE(ratio=", "whose arguments are no values"),
        ("fcn+PointwiseConv(SEE)", "unknown plug-in 'SEE'"),
        ("fcn+nowhere.py:Mine", "no plug-in file at nowhere.py"),
        ("nowhere.yaml+SE", "nowhere.yaml: no such file"),
    ],
)
def test_what_is_no_arm_is_said_in_one_line(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_arms(text)


def test_placebos_sit_where_the_plugin_sits() -> None:
    arms = parse_arms(
        "fcn,fcn_dsm,fcn+SE,fcn_se,gcnet,danet,hamnet,fcn+Identity@layer4.*.act2,fcn_dsm+ECA@layer1.*.act2"
    )
    added, belong, notes = placebos_of(arms)
    gates = [f"fcn+{name}@{PLACE}" for name in ("Identity", "RandomGate", "ConstantGate")]
    assert belong["fcn_dsm"] == [
        *gates,
        f"fcn+PointwiseConv(DSM(bias=True))@{PLACE}",
        f"fcn+UniformDSM(bias=True)@{PLACE}",
    ]
    assert belong[f"fcn+SE@{PLACE}"] == [*gates, f"fcn+PointwiseConv(SE)@{PLACE}"]
    assert belong["fcn_se"][-1] == "fcn+PointwiseConv(SE)@layer*.*.act1"
    assert belong["gcnet"][0] == "fcn+Identity@head.convs.0"
    assert belong["fcn_dsm+ECA@layer1.*.act2"][0] == "fcn_dsm+Identity@layer1.*.act2"
    assert belong.keys() == {"fcn_dsm", f"fcn+SE@{PLACE}", "fcn_se", "gcnet", "fcn_dsm+ECA@layer1.*.act2"}
    assert [note.partition(" ")[0] for note in notes] == ["danet", "hamnet"]
    names = [arm.name for arm in added]
    assert len(set(names)) == len(names) and not {arm.name for arm in arms} & set(names)
    assert {name for each in belong.values() for name in each} == {*names, f"fcn+Identity@{PLACE}"}
    assert parse_arms(names) == added
    assert placebos_of(added) == ([], {}, [])


def test_every_row_has_placebos_or_a_note() -> None:
    arms = parse_arms(",".join(published_ids()))
    _, belong, notes = placebos_of(arms)
    without = {arm.name for arm in arms} - belong.keys() - {note.partition(" ")[0] for note in notes}
    assert without == {"fcn", "upernet_convnext_b", "upernet_mscan_b"}


@pytest.mark.parametrize(("counted", "plugin"), [("SE", SE), ("DSM(bias=True)", lambda c: DSM(c, bias=True))])
def test_pointwise_convolutions_count_another_plugin(counted: str, plugin, store: Path, tmp_path: Path) -> None:
    (arm,) = parse_arms(f"fcn+PointwiseConv({counted})@{PLACE}")
    choice = PluginChoice(arm.plugin, arm.at, arm.counting)
    prepare("fcn", store, tmp_path, NARROW, plugin=choice)
    config = yaml.safe_load((tmp_path / "configs" / "train.yaml").read_text())
    assert config["method_card"]["id"] == f"fcn+PointwiseConv({counted})"
    assert code_in(config["network_def"]) is None  # so that others need not trust it
    network = ConfigParser(config).get_parsed_content("network_def")
    plain = build_network("fcn", num_classes=9, width=0.125, backbone={"layers": [1, 1, 1, 1]})
    added = sum(each.numel() for each in network.parameters()) - sum(
        each.numel() for each in plain.parameters()
    )
    assert added % 128 == 0
    assert abs(added - sum(each.numel() for each in plugin(64).parameters())) <= 64


def test_a_run_counts_a_plugin_of_a_file_by_its_own_copy(
    mine: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = PluginChoice("PointwiseConv", PLACE, f"{mine}:Mine")
    prepare("fcn", store, tmp_path / "run", NARROW, plugin=choice)
    mine.unlink()
    monkeypatch.chdir(tmp_path / "run")
    parser = ConfigParser(yaml.safe_load((tmp_path / "run" / "configs" / "train.yaml").read_text()))
    weights = parser.get_parsed_content("network_def").state_dict()
    assert weights["backbone.layer4.0.act2.plugin.reduce.weight"].shape == (round((64 * 64 + 64) / 128), 64)


def test_arguments_are_those_of_the_plugin() -> None:
    assert load_plugin("SE(ratio=8)")(64).reduce.weight.shape == (8, 64)
    assert plugin_text("DSM(ratio=2, bias=True)") == "DSM(bias=True)"
    assert plugin_text("SE") == "SE"


@pytest.mark.parametrize(("method", "baseline"), [("upernet_mscan_b", "fcn"), ("fcn", "upernet_mscan_b")])
def test_equal_arms_have_the_schedule_of_the_baseline(
    method: str, baseline: str, store: Path, tmp_path: Path
) -> None:
    settings = {"width": 0.125, "optimizer#lr": 0.123}
    for name, of in ((method, baseline), (baseline, None)):
        prepare(name, store, tmp_path / name, settings, schedule_of=of)
    own, other = (
        yaml.safe_load((tmp_path / name / "configs" / "train.yaml").read_text()) for name in (method, baseline)
    )
    for key in ("optimizer", "lr_scheduler", "iterations", "validate_every", "batch_size", "precision", "loss"):
        assert own[key] == other[key], key
    assert own["optimizer"]["lr"] == 0.123  # which --set says of both
    assert own["network_def"] != other["network_def"]
    assert own["method_card"]["schedule"] == method_row(baseline)["method_card"]["title"]
    assert "schedule" not in other["method_card"]


def test_deep_supervision_is_the_network_s_and_no_schedule_s(store: Path) -> None:
    for method, of in (("fcn", "dynunet_2d"), ("dynunet_2d", "fcn")):
        config = compose_train(method, store, {}, schedule_of=of)
        assert config["loss"]["deep_supervision"] == (method == "dynunet_2d")
        assert config["optimizer"] == compose_train(of, store, {})["optimizer"]


def test_a_schedule_of_another_task_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rows of one task"):
        prepare("fcn", store, tmp_path, NARROW, schedule_of="coco/resnet50")
