"""Parameter groups and schedules of the rows: counted by hand from the reference's names, and built as data."""

import json
from collections import Counter

import pytest
import torch
from monai.bundle import ConfigParser

from dsnet_med import resources
from dsnet_med.engine.overrides import load
from dsnet_med.engine.parameter_groups import parameter_groups
from dsnet_med.errors import InputError
from dsnet_med.methods import build_network, published_ids

SMALL = {"backbone": {"layers": [1, 1, 1, 1]}}


def optimizer_of(method, **changes):
    """The optimiser that a run of `method` would make, with a narrow network in its place."""
    files = [resources.configs() / "train.yaml", resources.configs() / "datasets" / "synapse.yaml"]
    config = load(*files, resources.configs() / "methods" / f"{method}.yaml")
    network = build_network(method, num_classes=2, width=0.125, **SMALL)
    parser = ConfigParser({**config, "device": torch.device("cpu"), **changes})
    parser["network"] = network
    return network, parser.get_parsed_content("lr_scheduler"), parser


def sizes(optimizer):
    groups = Counter()
    for group in optimizer.param_groups:
        key = (round(group["initial_lr"], 12), round(group["weight_decay"], 12))
        groups[key] += sum(parameter.numel() for parameter in group["params"])
    return groups


@pytest.mark.parametrize("method", published_ids())
def test_every_parameter_is_trained_once_under_the_published_schedule(method):
    network, scheduler, parser = optimizer_of(method)
    optimizer = scheduler.optimizer
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in network.parameters())
    modern = "_b" in method[-2:]
    assert parser["iterations"] == (80_000 if modern else 40_000)
    assert parser["validate_every"] == parser["iterations"] // 10
    assert type(optimizer).__name__ == ("AdamW" if modern else "SGD")


def by_reference(golden, method, classify):
    """Numbers of weights per group, from the full-size reference's own names and shapes."""
    state = json.loads((golden / "full" / f"{method}.json").read_text())["state"]
    groups = Counter()
    for name, shape in state.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            groups[classify(name, shape)] += torch.Size(shape).numel()
    return groups


def mscan_rule(name, _shape):
    if "head" in name:
        return (6e-4, 0.01)
    return (6e-5, 0.0) if "norm" in name else (6e-5, 0.01)


def convnext_rule(name, shape):
    layer = 13
    if "downsample_layers" in name:
        layer = 0
    elif "backbone.stages" in name:
        layer = int(name.split(".")[2]) + 1
    decay = 0.0 if len(shape) == 1 or name.endswith(".bias") else 0.05
    return (round(1e-4 * 0.9 ** (13 - layer), 12), decay)


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        ("hamnet_mscan_b", mscan_rule),
        ("upernet_mscan_b", mscan_rule),
        ("dsnet_mscan_b", mscan_rule),
        ("upernet_convnext_b", convnext_rule),
    ],
)
def test_groups_hold_what_the_published_rules_say(golden, method, rule):
    _, _, parser = optimizer_of(method)
    options = {
        key: value for key, value in parser["optimizer"]["params"].items() if key not in ("_target_", "network")
    }
    with torch.device("meta"):
        network = build_network(method, in_channels=3, num_classes=9)
    groups = parameter_groups(network, **options)
    ours = {
        (round(group["lr"], 12), group["weight_decay"]): sum(each.numel() for each in group["params"])
        for group in groups
    }
    assert ours == by_reference(golden, method, rule)


def test_a_misspelt_rule_is_refused():
    with pytest.raises(InputError, match="unknown key of a parameter rule 'decya': did you mean 'decay'"):
        parameter_groups(torch.nn.Linear(2, 2), 0.1, 0.1, [{"match": "weight", "decya": 0.0}])


def test_the_first_rule_that_matches_counts():
    layer = torch.nn.Linear(3, 2)
    rules = [{"match": "weight", "lr": 2.0}, {"match": "e", "lr": 5.0, "decay": 0.5}]
    groups = parameter_groups(layer, 0.1, 0.4, rules)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.2, 0.4), (0.1, 0.4)]
    frozen = layer.requires_grad_(False)
    assert parameter_groups(frozen, 0.1, 0.4) == []
