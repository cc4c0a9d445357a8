"""MONAI's networks as rows, in two and three dimensions: sizes, widths, deep supervision, first values."""

import copy
import io

import pytest
import torch
from monai.bundle import ConfigParser

from dsnet_med.engine.initialisation import Initialisation
from dsnet_med.errors import InputError
from dsnet_med.inference.safe_config import code_in
from dsnet_med.methods import build_network, dimensions, method_ids, method_row, published_ids
from dsnet_med.networks import LibraryNetwork

NETWORKS = ("unet", "dynunet", "segresnet", "swinunetr")
ROWS = [f"{name}_{dims}d" for name in NETWORKS for dims in (2, 3)]
SMALLEST = {"unet": 1 / 8, "dynunet": 1 / 8, "segresnet": 1 / 4, "swinunetr": 1 / 4}
SIZES = {2: (64, 64), 3: (32, 32, 64)}


def narrow(method, **options):
    torch.manual_seed(0)
    width = SMALLEST[method.partition("_")[0]]
    return build_network(method, **{"in_channels": 2, "num_classes": 3, "width": width} | options)


def images(method, batch=2, channels=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, *SIZES[dimensions(method)], generator=generator)


def test_the_new_rows_are_beside_the_published_ones():
    assert set(method_ids()) - set(published_ids()) == {*ROWS, "timm_fcn", "timm_unet", "timm_upernet"}


@pytest.mark.parametrize("method", ROWS)
def test_a_row_says_its_dimensions_and_sizes(method):
    row = method_row(method)
    dims = int(method[-2])
    assert dimensions(method) == row["spatial_dims"] == row["method_card"]["dimensions"] == dims
    assert dims == 2 or row["stride"] == row["network_def"]["stride"]
    assert row["network_def"]["network"]["spatial_dims"] == dims
    assert row["method_card"]["id"] == method and "https://" in row["method_card"]["paper"]
    assert ("schedules/patches_3d.yaml" in row["laid_over"]) == (dims == 3)


@pytest.mark.parametrize("method", ROWS)
def test_logits_have_the_size_of_the_images(method):
    network, x = narrow(method).eval(), images(method, batch=1)
    with torch.no_grad():
        logits = network(x)
    assert logits.shape == (1, 3, *x.shape[2:]) and logits.isfinite().all()


@pytest.mark.parametrize("method", ["unet_2d", "segresnet_2d", "swinunetr_2d", "dynunet_2d"])
def test_ten_steps_lower_the_loss(method):
    network, x = narrow(method), images(method)
    labels = (x[:, 0] > 0).long()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        outputs = network.train()(x)
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", [row for row in ROWS if row != "swinunetr_3d"])
def test_parameters_are_those_on_the_card(method):
    network = build_network(method, in_channels=1, num_classes=2)
    assert sum(each.numel() for each in network.parameters()) == method_row(method)["method_card"]["parameters"]


def channels_of(method, width):
    row = method_row(method)["network_def"]
    ((name, value),) = row["features"].items()
    built = build_network(method, in_channels=1, num_classes=2, width=width).network
    return value, list(built.channels) if name == "channels" else built.filters


@pytest.mark.parametrize("method", ["unet_2d", "dynunet_2d"])
def test_the_width_multiplies_the_channels(method):
    value, built = channels_of(method, 0.125)
    assert built == [each // 8 for each in value]


def test_channels_stay_multiples_of_heads_and_groups():
    swin = build_network("swinunetr_2d", in_channels=1, num_classes=2, width=0.3)  # of 24: 7.2
    assert swin.network.swinViT.patch_embed.proj.out_channels == 12
    seg = build_network("segresnet_2d", in_channels=1, num_classes=2, width=0.3)  # of 32: 9.6
    assert seg.network.convInit.conv.out_channels == 8


@pytest.mark.parametrize("dims", [2, 3])
def test_dynunet_is_supervised_at_coarser_levels_in_training_alone(dims):
    method = f"dynunet_{dims}d"
    network, x = narrow(method), images(method, batch=1)
    outputs = network.train()(x)
    assert len(outputs) == method_row(method)["network_def"]["network"]["deep_supr_num"] + 1
    for level, each in enumerate(outputs):
        assert each.shape == (1, 3, *(size // 2**level for size in x.shape[2:]))
    sum(each.square().mean() for each in outputs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    with torch.no_grad():
        assert network.eval()(x).shape == outputs[0].shape


def test_dynunet_gives_what_monai_stacks():
    """MONAI enlarges the coarser logits (nearest) and stacks all: the same numbers before that."""
    network, x = narrow("dynunet_2d").train(), images("dynunet_2d", batch=1)
    ours = network(x)
    stacked = network.network(x)
    for ours_of_level, theirs in zip(ours, stacked.unbind(1), strict=True):
        enlarged = torch.nn.functional.interpolate(ours_of_level, x.shape[2:])
        torch.testing.assert_close(enlarged, theirs)


def test_a_step_leaves_nothing_that_copies_or_pickles_trip_over():
    network, x = narrow("dynunet_2d").train(), images("dynunet_2d", batch=1)
    network(x)[0].mean().backward()
    twin = copy.deepcopy(network)
    stream = io.BytesIO()
    torch.save(network, stream)
    with torch.no_grad():
        assert torch.equal(twin(x)[0], network(x)[0])


def test_evaluation_does_not_compute_the_coarser_logits():
    network, x = narrow("dynunet_2d").eval(), images("dynunet_2d", batch=1)
    ran = []
    for head in network.network.deep_supervision_heads:
        head.register_forward_hook(lambda *_: ran.append(1))
    for twin in (network, copy.deepcopy(network)):
        with torch.no_grad():
            twin(x)
        assert not ran
        assert len(twin.train()(x)) == len(network.network.deep_supervision_heads) + 1 and ran
        ran.clear()
        twin.eval()
    for module in network.modules():  # as `attach` turns training on again
        module.training = True
    assert isinstance(network(x), tuple)


def test_without_deep_supervision_training_gives_one_map():
    network = narrow("dynunet_2d", network={"deep_supervision": False}).train()
    assert isinstance(network(images("dynunet_2d", batch=1)), torch.Tensor)


@pytest.mark.parametrize(
    ("method", "size", "wanted"),
    [("dynunet_3d", (40, 48, 33), "[48, 48, 48]"), ("swinunetr_2d", (48, 64), "[64, 64]")],
)
def test_other_sizes_are_refused_with_the_next_larger(method, size, wanted):
    with pytest.raises(InputError, match="wants sides that are multiples of") as caught:
        narrow(method)(torch.zeros(1, 2, *size))
    assert wanted in str(caught.value)


@pytest.mark.parametrize("training", [True, False])
def test_a_coarsest_map_of_one_value_is_refused(training):
    network = narrow("swinunetr_2d").train(training)
    with pytest.raises(InputError, match="one value per channel of images of shape"):
        network(torch.randn(1, 2, 32, 32))


def test_settings_that_make_no_network_are_refused():
    with pytest.raises(InputError, match="DynUNet cannot be made of these settings"):
        narrow("dynunet_2d", network={"deep_supr_num": 9})
    with pytest.raises(InputError, match="unknown part of a network 'netwrk'"):
        narrow("dynunet_2d", netwrk={})


@pytest.mark.parametrize("method", ["unet_2d", "dynunet_3d", "segresnet_3d", "swinunetr_2d"])
def test_monai_builds_a_row_as_we_do(method):
    values = {"in_channels": 2, "num_classes": 3, "pretrained": False, "width": 0.25}
    parser = ConfigParser({**values, "network_def": method_row(method)["network_def"]})
    theirs = parser.get_parsed_content("network_def").state_dict()
    ours = build_network(method, **values).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items()
    }


@pytest.mark.parametrize("method", ["unet_2d", "dynunet_2d", "segresnet_2d", "swinunetr_2d"])
def test_first_values_are_those_of_the_seed_and_the_names(method):
    """What two networks share starts equal, whatever a plug-in between draws."""

    def made(plugin=None, seed=3, noise=0):
        torch.manual_seed(noise)
        place = {"unet": "model.0", "dynunet": "input_block", "segresnet": "convInit", "swinunetr": "encoder1"}
        with Initialisation() as record:
            network = narrow(method, plugin=plugin, at=plugin and place[method.partition("_")[0]])
        record.draw_again(network, seed)
        return network.state_dict()

    plain, other = made(), made("SE", noise=5)
    shared = plain.keys() & other.keys()
    assert shared == set(plain) and all(torch.equal(plain[name], other[name]) for name in shared)
    different = made(seed=4)
    assert not all(torch.equal(plain[name], different[name]) for name in plain)


@pytest.mark.parametrize("method", ["dynunet_3d", pytest.param("swinunetr_3d", marks=pytest.mark.slow)])
def test_channels_last_gives_the_same(method):
    network, x = narrow(method).eval(), images(method, batch=1)
    with torch.no_grad():
        expected = network(x)
        last = network.to(memory_format=torch.channels_last_3d)
        got = last(x.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", [*ROWS, "timm_fcn", "timm_upernet", "timm_unet"])
def test_the_definitions_need_no_trust(method):
    assert code_in(method_row(method)["network_def"]) is None


def test_a_network_without_sizes_of_its_own():
    network = LibraryNetwork(lambda channels: torch.nn.Conv2d(1, channels, 1), {"channels": 4}, width=0.5)
    assert network(torch.zeros(1, 1, 5, 7)).shape == (1, 2, 5, 7)
