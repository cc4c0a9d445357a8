"""The networks of the natural rows on the reference's weights, and against the formulas of their plug-ins."""

import pytest
import torch
from networks.counting import NATURAL_ROWS
from networks.direct import direct_network, with_reference_names
from networks.golden import Golden, check_close, load
from networks.reference_models import Full

from dsnet_med.methods import build_network
from dsnet_med.networks.reference import from_reference, reference_names

SMALL = {"width": 1 / 32, "backbone": {"stem_width": 2}}
ROUNDED = 5e-5  # of the vectors, in training: see networks/test_golden.py


@pytest.fixture(scope="module")
def full(golden):
    return Full(golden / "full")


def with_auxiliary(state, network):
    """`state` of a reference model without auxiliary head, which gets the weights that ours has."""
    own = {name: network.state_dict()[ours] for ours, name in reference_names(network).items()}
    return state | {name: value for name, value in own.items() if name.startswith("auxiliary_head.")}


@pytest.mark.parametrize(
    ("row", "name"),
    [("cityscapes/resnet50", "resnet50v1c_d8_small"), ("cityscapes/dsnet50_a", "resnet50v1c_d8_dsm_small")],
)
def test_features_of_cityscapes_backbones(golden, row, name):
    reference = Golden(golden, name)
    backbone = build_network(row, in_channels=3, num_classes=19, **SMALL).backbone
    host = torch.nn.ModuleDict({"backbone": backbone})
    load(host, {f"backbone.{key}": value for key, value in reference.state().items()})
    for level, feature in enumerate(backbone(reference["in/0"])):
        check_close(feature, reference[f"out_eval/{level}"])
    host.double().train()
    for level, feature in enumerate(backbone(reference["in/0"].double())):
        check_close(feature.float(), reference[f"out_train/{level}"], ROUNDED)


@pytest.mark.parametrize(
    ("row", "name"),
    [("cityscapes/resnet50", "model_fcn_small"), ("cityscapes/dsnet50_a", "model_fcn_dsm_small")],
)
def test_logits_of_small_cityscapes_models(golden, row, name):
    reference = Golden(golden, name)
    network = build_network(row, in_channels=3, num_classes=9, head={"channels": 256}, **SMALL)
    load(network, with_auxiliary(reference.state(), network))
    check_close(network.coarse(reference["in/0"]), reference["out_eval/low_res_logits"])
    network.double().train()
    main, auxiliary = network.coarse(reference["in/0"].double())
    check_close(main.float(), reference["out_train/low_res_logits"], ROUNDED)
    assert auxiliary.shape == main.shape


@pytest.mark.parametrize(
    ("row", "method"), [("cityscapes/resnet50", "fcn"), ("cityscapes/dsnet50_a", "fcn_dsm")]
)
def test_whole_cityscapes_models_give_the_reference_outputs(full, row, method):
    network = build_network(row, in_channels=3, num_classes=9)
    state = with_auxiliary(full.state(method), network)
    network.load_state_dict(from_reference(state, network), strict=True)
    with torch.no_grad():
        output = network.eval()(full.image((2, 3, 64, 96)))[..., ::3, ::3]
    expected = full.output(method)
    assert (output - expected).abs().max() < 2e-5 * expected.std()


@pytest.mark.parametrize("row", NATURAL_ROWS)
def test_every_row_equals_the_formulas_of_its_plugin(row):
    """On the same weights, none of which is what it starts at."""
    torch.manual_seed(0)
    shape = {"num_classes": 4, "width": 1 / 16}
    ours, direct = (
        build_network(row, in_channels=3, **shape),
        with_reference_names(direct_network(row, **shape)),
    )
    state = ours.state_dict()
    theirs = {name: draw(state[key], name) for key, name in reference_names(ours).items()}
    ours.load_state_dict({key: theirs[name] for key, name in reference_names(ours).items()})
    direct.load_state_dict(
        {
            key: theirs[name].reshape(direct.state_dict()[key].shape)
            for key, name in reference_names(direct).items()
        }
    )
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        for one, other in zip(parts(ours.eval(), images), parts(direct.eval(), images), strict=True):
            check_close(one, other, 1e-4)


def draw(value, name):
    """As the reference's vectors are drawn: positive variances, weights that keep the scale."""
    if not value.is_floating_point():
        return value
    if "dct" in name:
        return value
    if value.ndim > 1:
        return torch.randn_like(value) / value[0].numel() ** 0.5
    return torch.rand_like(value) + 0.5


def parts(network, images):
    """What a network gives, but for detections, which are a choice: what they are chosen from."""
    if hasattr(network, "rpn"):
        levels = network.backbone(images)
        return [*levels.values(), *network.rpn.head(list(levels.values()))[0]]
    return [network(images)]
