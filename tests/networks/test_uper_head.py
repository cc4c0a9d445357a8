"""UPer head: against its formulas at any sizes, and what it refuses."""

import pytest
import torch
from golden import by_reference_name
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lively import lively, normalised, pyramid
from torch.nn import functional as F

from dsnet_med.errors import InputError
from dsnet_med.networks.heads import UPerHead
from dsnet_med.networks.reference import reference_names

CHANNELS = [3, 4, 5, 6]


def textbook_uper(features, state, pool_scales):
    """The head as its formulas read, on the reference's `state`, in eval."""

    def layer(name, x):
        convolved = F.conv2d(x, state[f"{name}.conv.weight"], padding="same")
        return F.relu(normalised(state, f"{name}.bn", convolved))

    def resized(x, like):
        return F.interpolate(x, like.shape[2:], mode="bilinear")

    top = features[-1]
    pooled = [
        resized(layer(f"psp_modules.{i}.1", F.adaptive_avg_pool2d(top, scale)), top)
        for i, scale in enumerate(pool_scales)
    ]
    maps = [layer("bottleneck", torch.cat([top, *pooled], 1))]
    for level in reversed(range(len(features) - 1)):  # from coarse to fine
        lateral = layer(f"lateral_convs.{level}", features[level])
        maps.insert(0, lateral + resized(maps[0], lateral))
    smooth = [layer(f"fpn_convs.{i}", x) for i, x in enumerate(maps[:-1])] + maps[-1:]
    fused = layer("fpn_bottleneck", torch.cat([resized(x, smooth[0]) for x in smooth], 1))
    return F.conv2d(fused, state["conv_seg.weight"], state["conv_seg.bias"])


@settings(max_examples=20)
@example(batch=2, height=17, width=12, pool_scales=(1, 2, 3, 6), seed=0)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 25),
    width=st.integers(1, 25),
    pool_scales=st.sampled_from([(1, 2, 3, 6), (1,), (2, 5), (4, 3, 1)]),
    seed=st.integers(0, 99),
)
def test_is_its_formulas(batch, height, width, pool_scales, seed):
    torch.manual_seed(seed)
    head = lively(UPerHead(CHANNELS, 2, channels=3, pool_scales=pool_scales))
    features = pyramid(CHANNELS, batch, height, width)
    state = by_reference_name(head, head.state_dict())
    expected = textbook_uper(features, state, pool_scales)
    assert expected.shape == (batch, 2, height, width)
    torch.testing.assert_close(head(features), expected, rtol=1e-10, atol=1e-10)


def test_the_pyramid_that_is_given_stays_as_it_was():
    head, features = UPerHead(CHANNELS, 2, channels=4).double(), pyramid(CHANNELS, 2, 9, 7)
    before = [level.clone() for level in features]
    head(features)
    assert all(torch.equal(level, other) for level, other in zip(features, before, strict=True))


def test_a_batch_of_one_trains_only_without_the_scale_of_one():
    features = pyramid(CHANNELS, 1, 16, 16)
    head = UPerHead(CHANNELS, 2, channels=4).double()
    with pytest.raises(InputError, match=r"UPerHead got a batch of one in training[^\n]*at least 2$"):
        head(features)
    assert head.eval()(features).shape == (1, 2, 16, 16)
    assert UPerHead(CHANNELS, 2, channels=4, pool_scales=(2, 3)).double()(features).shape == (1, 2, 16, 16)


def test_width_and_start():
    torch.manual_seed(0)
    head = UPerHead([64, 128], 9, width=0.25)
    assert head.classifier.weight.shape == (9, 128, 1, 1)
    assert head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert head.context.conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert (
        UPerHead([64, 128], 9, width=1e-4)([torch.randn(2, 64, 8, 8), torch.randn(2, 128, 4, 4)]).shape[1] == 9
    )


def test_dropout_is_of_whole_channels():
    head = UPerHead([4, 4], 2, channels=64, dropout=0.5)
    x = head.dropout(torch.ones(8, 64, 3, 3))
    assert set(x.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(x.amax((2, 3)), x.amin((2, 3)))


def test_more_than_ten_scales_have_names():
    head = UPerHead([4, 8], 3, channels=4, pool_scales=range(1, 13))
    names = set(reference_names(head).values())
    assert {"psp_modules.11.1.conv.weight", "psp_modules.1.1.bn.weight"} <= names
