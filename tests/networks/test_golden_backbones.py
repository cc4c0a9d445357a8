"""The vector files of MSCAN, ConvNeXt and the heads on them, and what is true of the backbones beside."""

from functools import partial

import pytest
import timm
import torch
from golden import check_close, check_gradients, check_running_statistics, load, start_from
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dsnet_med.errors import InputError
from dsnet_med.networks import from_reference
from dsnet_med.networks.backbones import mscan
from dsnet_med.networks.backbones.convnexts import ConvNeXt
from dsnet_med.networks.backbones.mscans import MSCAN, SIZES, Block
from dsnet_med.networks.heads import MultiScaleHead, UPerHead, light_ham_head
from dsnet_med.networks.layers import group_norm
from dsnet_med.networks.plugins import DSM, Hamburger


def inputs_of(golden):
    return [golden[f"in/{index}"].requires_grad_() for index in range(len(golden.group("in")))]


def test_mscan_block(vectors):
    golden = vectors("mscan_block")
    block = load(Block(16, 4), golden.state())
    for mode in ("eval", "train"):
        tokens = golden["in/0"]  # (B, H W, C), row-major
        output = block.train(mode == "train")(tokens.mT.unflatten(2, (8, 6)))
        check_close(output.flatten(2).mT, golden[f"out_{mode}/0"])
    check_running_statistics(block, golden)


def small_mscan():
    return MSCAN([8, 8, 12, 16], [1, 1, 2, 1], [4, 4, 2, 2])


def small_convnext():
    shape = {"depths": (1, 1, 2, 1), "dims": (8, 8, 12, 16), "ls_init_value": 1.0, "out_indices": (0, 1, 2, 3)}
    return ConvNeXt(timm.create_model("convnext_base", features_only=True, **shape))


@pytest.mark.parametrize(("name", "build"), [("mscan_small", small_mscan), ("convnext_small", small_convnext)])
def test_backbone(vectors, name, build):
    golden = vectors(name)
    backbone = load(build(), golden.state())
    assert sum(p.numel() for p in backbone.parameters()) == golden.meta["params"]
    for mode in ("eval", "train"):
        features = backbone.train(mode == "train")(golden["in/0"])
        expected = golden.group(f"out_{mode}")
        assert len(features) == len(expected) == 4
        for level, feature in enumerate(features):
            check_close(feature, expected[str(level)])
    check_running_statistics(backbone, golden)


HEADS = {
    "uper_head": lambda: UPerHead([8, 12, 16, 24], 5, channels=8),
    "msdsn_head": lambda: MultiScaleHead(
        [8, 16, 24], 5, channels=16, levels=(0, 1, 2), plugin=partial(DSM, ratio=2)
    ),
    "light_ham_head": lambda: light_ham_head(
        [8, 16, 24], 5, channels=16, levels=(0, 1, 2), groups=4, plugin=partial(Hamburger, rank=16)
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_head(vectors, name):
    golden = vectors(name)
    head = load(HEADS[name](), golden.state())
    assert sum(p.numel() for p in head.parameters()) == golden.meta["params"]
    bases = golden.group("aux").get("bases")
    if bases is not None:
        head.plugin.bases = bases
    features = inputs_of(golden)
    output = head(features)
    check_close(output, golden["out_eval/0"])
    assert check_gradients(head, output, features[0], golden) > 10
    for index, feature in enumerate(features):
        check_close(feature.grad, golden[f"grad_in/{index}"])
    if bases is not None:
        start_from(bases, head.plugin)
    check_close(head.train()(features), golden["out_train/0"])
    check_running_statistics(head, golden)


@pytest.mark.parametrize("name", SIZES)
def test_mscan_sizes(name):
    with torch.device("meta"):
        backbone = mscan(name)
        shapes = [tuple(each.shape) for each in backbone(torch.zeros(1, 3, 65, 97))]
    assert [shape[1] for shape in shapes] == list(SIZES[name].dims) == backbone.feature_info.channels()
    assert [shape[2:] for shape in shapes] == [(17, 25), (9, 13), (5, 7), (3, 4)]


def test_left_over_names_are_refused():
    network = nn.ModuleDict({"backbone": small_mscan()})
    with pytest.raises(InputError, match="unknown to this network"):
        from_reference({"backbone.block9.0.norm1.weight": torch.zeros(8)}, network)


@given(channels=st.integers(1, 2000), groups=st.integers(1, 64))
def test_group_norm_divides_any_width_and_works_on_one_pixel(channels, groups):
    norm = group_norm(channels, groups)
    assert norm.num_groups <= groups and channels % norm.num_groups == 0
    assert channels // norm.num_groups > 1 or channels == 1
    if groups <= channels // 2 and channels % groups == 0:
        assert norm.num_groups == groups
