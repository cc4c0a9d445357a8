"""The reference's weights under our names: whole models, checkpoints as saved, and what is left over."""

import pytest
import torch
from networks.direct import direct_network, with_reference_names
from networks.reference_models import Full, without_initial_values

from dsnet_med.errors import InputError
from dsnet_med.methods import build_network, published_ids
from dsnet_med.networks import from_reference
from dsnet_med.networks.backbones import resnet
from dsnet_med.networks.reference import reference_names


@pytest.fixture(scope="module")
def full(golden):
    return Full(golden / "full")


# The rows whose outputs the reference's folder holds.
STORED = [
    *("danet", "dsnet_r50", "fcn", "fcn_cbam", "fcn_dsm", "fcn_psa_p", "fcn_se", "gcnet"),
    *("upernet_convnext_b", "upernet_mscan_b"),
]


def test_stored_outputs_and_direct_forms_cover_all_rows(full):
    assert sorted(file.stem for file in full.folder.glob("*.npz")) == STORED
    assert sorted(file.stem for file in full.folder.glob("*.json")) == published_ids()


@pytest.mark.parametrize("method", STORED)
def test_whole_models_give_the_reference_outputs(full, method):
    with without_initial_values():
        network = build_network(method, in_channels=3, num_classes=9)
    network = loaded(network, full.state(method))
    expected = full.output(method)
    with torch.no_grad():
        output = network(full.image((2, 3, 64, 96)))[..., ::3, ::3]
    assert (output - expected).abs().max() < 2e-5 * expected.std()


def loaded(network, state):
    """`network` with the reference's `state`, in eval."""
    network.load_state_dict(from_reference(state, network), strict=True)
    return network.eval()


@pytest.mark.parametrize("method", sorted(set(published_ids()) - set(STORED)))
def test_whole_models_equal_the_direct_form(full, method):
    """On the reference's weights; where its outputs are not stored, its formulas stand for it."""
    state, image = full.state(method), full.image((2, 3, 64, 96))
    with without_initial_values():
        ours, direct = (
            build_network(method, in_channels=3, num_classes=9),
            direct_network(method, num_classes=9),
        )
    ours, direct = loaded(ours, state), loaded(with_reference_names(direct), state)
    if "hamnet" in method:
        ours.head.plugin.bases = drawn_bases(ours.head.plugin, len(image))
    with torch.no_grad():
        output = ours(image)
        torch.manual_seed(0)  # as the reference starts its factorisation
        expected = direct(image)
    assert (output - expected).abs().max() < 2e-5 * expected.std()


def drawn_bases(plugin, batch):
    torch.manual_seed(0)
    return torch.nn.functional.normalize(torch.rand(batch, plugin.reduce.out_features, plugin.rank), dim=1)


@pytest.mark.parametrize("method", ["fcn_cbam", "hamnet_mscan_b"])
def test_checkpoints_as_saved(full, method):
    state = full.state(method)
    plain = from_reference(state, method)
    wrapped = {"meta": {}, "state_dict": {f"module.{key}": value for key, value in state.items()}}
    again = from_reference(wrapped, method)
    assert plain.keys() == again.keys()
    assert all(plain[key] is again[key] or torch.equal(plain[key], again[key]) for key in plain)
    without = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert from_reference(without, method).keys() == plain.keys()


def test_nothing_is_left_over_on_either_side(full):
    state = full.state("fcn_dsm")
    with pytest.raises(
        InputError, match=r"1 entries are unknown to this network: auxiliary_head\.conv_seg\.bias$"
    ):
        from_reference({**state, "auxiliary_head.conv_seg.bias": torch.zeros(9)}, "fcn_dsm")
    del state["backbone.layer4.1.dsa.sk.bn.running_mean"]
    with pytest.raises(
        InputError, match=r"missing from the checkpoint: backbone\.layer4\.1\.dsa\.sk\.bn\.running_mean"
    ):
        from_reference(state, "fcn_dsm")
    with pytest.raises(InputError, match=r"entries are unknown to this network: .*layer4\.0\.dsa.*, \.\.\.$"):
        from_reference(full.state("fcn_dsm"), "fcn")
    with pytest.raises(InputError, match="unknown method 'fnc'"):
        from_reference(state, "fnc")


@pytest.mark.parametrize("content", [None, [], 3, {"state_dict": None}, {1: torch.zeros(1)}, {"a": 1}])
def test_what_is_no_state_dict(content):
    with pytest.raises(InputError, match="the checkpoint holds no state dict"):
        from_reference(content, "fcn")


@pytest.mark.parametrize("name", ["resnet50", "resnet50c", "resnet101c"])
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_resnets_of_both_stems_alone_and_in_a_network(name, prefix):
    backbone = resnet(name, width=1 / 16, layers=[1, 1, 1, 1])
    host = torch.nn.ModuleDict({"backbone": backbone}) if prefix else backbone
    names = reference_names(host)
    first = "stem.0.weight" if name.endswith("c") else "conv1.weight"
    norm = "stem.7.weight" if name.endswith("c") else "bn1.weight"
    assert {prefix + first, prefix + norm, f"{prefix}layer1.0.bn1.weight"} <= set(names.values())
    state = {theirs: host.state_dict()[ours] for ours, theirs in names.items()}
    assert len(state) == len(names)
    host.load_state_dict(from_reference(state, host), strict=True)


def test_a_weight_of_another_shape_is_named(full):
    state = full.state("fcn_dsm")
    name = "backbone.layer4.0.dsa.conv_v_left.weight"
    with pytest.raises(InputError, match=r"conv_v_left\.weight' has shape"):
        from_reference({**state, name: torch.zeros(256, 512, 3, 3)}, "fcn_dsm")
