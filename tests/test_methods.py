"""The rows on disk: found, counted, built, trained."""

import subprocess
import sys

import pytest
import torch
from networks.counting import CASES, TABLES

import dsnet_med
from dsnet_med import resources
from dsnet_med.errors import InputError
from dsnet_med.methods import build_network, method_ids, method_row, published_ids
from dsnet_med.networks.plugins import DSM

ROWS = published_ids()


def on_meta(method, num_classes, in_channels=3, **parts):
    with torch.device("meta"):
        return build_network(method, in_channels=in_channels, num_classes=num_classes, **parts)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


PUBLISHED = {
    *("fcn", "fcn_se", "fcn_encnet", "fcn_eca", "fcn_cbam", "danet", "ccnet", "gcnet", "hamnet", "eanet"),
    *("fcn_psa_p", "fcn_psa_s", "upernet_convnext_b", "upernet_mscan_b", "hamnet_mscan_b"),
    *("dsnet_r50", "fcn_dsm", "dsnet_mscan_b"),
}


def test_every_file_is_a_row():
    assert len(PUBLISHED) == 18
    assert sorted(PUBLISHED) == ROWS
    assert sorted(file.stem for file in (resources.configs() / "methods").iterdir()) == method_ids()
    assert set(ROWS) < set(method_ids())


@pytest.mark.parametrize("method", ROWS)
def test_a_row_has_its_card(method):
    card = method_row(method)["method_card"]
    keys = ["id", "title", "paper", "backbone", "plugin", "place", "head", "parameters", "flops", "acdc"]
    assert list(card) == keys[: len(card)] and "flops" in card
    assert card["id"] == method
    assert (
        "https://" in card["paper"] or "Does the Attention Mechanism" in card["paper"]
    )  # ours has no address yet


@pytest.mark.parametrize("method", ROWS)
def test_parameters_are_those_on_the_card(method):
    assert parameters(on_meta(method, 9)) == method_row(method)["method_card"]["parameters"]


def test_both_tables_are_covered(counts):
    for table, count in zip(TABLES, (18, 14), strict=True):
        rows = {row for each, row in CASES if each == table}
        assert rows == set(counts[table]) and len(rows) == count


@pytest.mark.parametrize(("table", "method"), CASES)
def test_parameters_are_the_published_ones(counts, method, table):
    assert parameters(on_meta(method, TABLES[table][1])) == counts[table][method]["params"]


@pytest.mark.parametrize("method", ROWS)
def test_cards_carry_the_published_counts(counts, method):
    card = method_row(method)["method_card"]
    synapse, acdc = (counts[table].get(method) for table in TABLES)
    assert {"params": card["parameters"], "flops": card["flops"]} == synapse
    assert (
        {"params": card["acdc"]["parameters"], "flops": card["acdc"]["flops"]} if "acdc" in card else None
    ) == acdc


@pytest.mark.parametrize("method", ROWS)
def test_monai_builds_the_same_network(method):
    from monai.bundle import ConfigParser

    values = {"in_channels": 3, "num_classes": 4, "pretrained": False, "width": 0.125}
    parser = ConfigParser({**values, "network_def": method_row(method)["network_def"]})
    theirs = parser.get_parsed_content("network_def").state_dict()
    ours = build_network(method, **values).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items()
    }


def small(method, **options):
    """The row at an eighth of its width, with one block per stage."""
    torch.manual_seed(0)
    shallow = {"backbone": {"layers": [1, 1, 1, 1]}}
    return build_network(method, num_classes=2, width=0.125, **{**shallow, **options})


def square():
    """Noise with a brighter square in the middle, and that square."""
    images = torch.randn(4, 1, 64, 64)
    images[:, :, 16:48, 16:48] += 2.0
    labels = torch.zeros(4, 1, 64, 64, dtype=torch.long)
    labels[:, :, 16:48, 16:48] = 1
    return images, labels


@pytest.mark.parametrize("method", ROWS)
def test_twenty_steps_lower_the_loss(method):
    from dsnet_med.engine.losses import SegmentationLoss

    network, (images, labels) = small(method), square()
    loss_of = SegmentationLoss()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(20):
        loss = loss_of(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_only_danet_has_auxiliary_outputs():
    several = {}
    for method in ROWS:
        output = small(method).train()(torch.randn(2, 1, 64, 64))
        shapes = {tuple(each.shape) for each in (output if isinstance(output, tuple) else [output])}
        assert shapes == {(2, 2, 64, 64)}
        several[method] = len(output) if isinstance(output, tuple) else 1
    assert {method: count for method, count in several.items() if count > 1} == {"danet": 3}


@pytest.mark.parametrize("method", ROWS)
def test_autocast_gives_no_nan(method):
    network, (images, labels) = small(method), square()
    with torch.autocast("cpu", torch.bfloat16):
        output = network.train()(images)
    outputs = output if isinstance(output, tuple) else (output,)
    sum(torch.nn.functional.cross_entropy(each.float(), labels[:, 0]) for each in outputs).backward()
    assert all(each.isfinite().all() for each in outputs)
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


# One row for each head and backbone: what the other rows add is exported by test_plugin_contract.py.
EXPORTED = {"fcn_dsm", "danet", "upernet_convnext_b", "hamnet_mscan_b", "dsnet_mscan_b"}


@pytest.mark.parametrize(
    "method", [row if row in EXPORTED else pytest.param(row, marks=pytest.mark.slow) for row in ROWS]
)
def test_exported_programs_and_onnx_give_the_same(method, tmp_path):
    import onnxruntime

    network, image = small(method).eval(), torch.randn(2, 1, 64, 64)
    expected = network(image).detach()
    exported = torch.export.export(network, (image,))
    torch.testing.assert_close(exported.module()(image), expected, rtol=0, atol=1e-4)
    file = tmp_path / "network.onnx"
    torch.onnx.export(exported, (image,), str(file), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=0, atol=1e-4)


def test_parts_can_be_overridden():
    network = build_network(
        "fcn_dsm", num_classes=2, width=0.125, backbone={"layers": [1, 1, 1, 1]}, head={"dropout": 0.0}
    )
    assert len(network.backbone.layer4) == 1
    assert sum(isinstance(module, DSM) for module in network.modules()) == 1
    assert network.head.dropout.p == 0.0


def test_dsm_sits_in_the_three_blocks_of_stage_4_after_conv2():
    network = on_meta("fcn_dsm", 2)
    places = [name for name, module in network.named_modules() if isinstance(module, DSM)]
    assert places == [f"backbone.layer4.{block}.act2.plugin" for block in range(3)]


def test_unknown_names_get_a_suggestion():
    with pytest.raises(InputError, match="unknown method 'fcn_dms': did you mean 'fcn_dsm'"):
        build_network("fcn_dms", num_classes=2)
    with pytest.raises(InputError, match="unknown part of a network 'haed': did you mean 'head'"):
        build_network("fcn", num_classes=2, haed={})


def test_listing_rows_imports_no_torch():
    code = (
        "import sys, dsnet_med, dsnet_med.methods as m; [m.method_row(i) for i in m.method_ids()];"
        "raise SystemExit(bool({'torch', 'monai', 'timm'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_gives_build_network():
    assert dsnet_med.build_network is build_network
    with pytest.raises(AttributeError, match="build_netwrk"):
        dsnet_med.build_netwrk  # noqa: B018
