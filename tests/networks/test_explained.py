"""What plug-ins say they compute: it is what they compute, and saying it changes nothing."""

import importlib
import inspect
import math
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lively import lively
from torch import nn
from torch.nn import functional as F

from dsnet_med.errors import InputError
from dsnet_med.networks import attach, check_plugin, plugins
from dsnet_med.networks.attaching import plugins_of
from dsnet_med.networks.axes import made_for
from dsnet_med.networks.contract import RULES
from dsnet_med.networks.explaining import correction, spread_places
from dsnet_med.networks.plugins import (
    CBAM,
    DSM,
    SE,
    CrissCross,
    Identity,
    PooledDSM,
    PositionAttention,
    Squeezed,
)
from dsnet_med.networks.rezero import ReZero

FUSIONS = ("dsa", "dam", "sq", "pr", "sq_plain", "pr_plain", "channel", "spatial")
CLASSES = {name: getattr(plugins, name) for name in plugins.__all__}


class Rectified(nn.Module):
    """A stranger's plug-in, which says nothing."""

    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return x.relu()


def rezero(inner, channels, spatial_dims=2):
    plugin = ReZero(made_for(inner, channels, spatial_dims))
    nn.init.constant_(plugin.alpha, 0.4)
    return plugin


FACTORIES = (
    CLASSES
    | {f"DSM {fusion}": partial(DSM, fusion=fusion, bias=True) for fusion in FUSIONS}
    | {
        "DSM group": partial(DSM, norm="group"),
        "PSA in series": partial(plugins.PSA, mode="sequential"),
        "CBAM of channels": partial(CBAM, spatial=False),
        "PooledDSM without value": partial(PooledDSM, value=False),
        "GlobalContext times": partial(plugins.GlobalContext, fusions=("channel_mul",)),
        "GlobalContext times and plus": partial(
            plugins.GlobalContext, pooling="avg", fusions=("channel_mul", "channel_add")
        ),
        "ExternalAttention as published": partial(plugins.ExternalAttention, reference_layout=True),
        "CrissCross twice": partial(CrissCross, recurrence=2),
        "Squeezed SE": partial(Squeezed, plugin=SE),
        "Squeezed stranger": partial(Squeezed, plugin=Rectified),
        "ReZero DSM": lambda channels, spatial_dims=2: rezero(DSM, channels, spatial_dims),
        "ReZero CBAM": lambda channels, spatial_dims=2: rezero(CBAM, channels, spatial_dims),
        "ReZero Identity": lambda channels, spatial_dims=2: rezero(Identity, channels, spatial_dims),
    }
)
CASES = [(name, dims) for name in FACTORIES for dims in (2, 3) if (name, dims) != ("FrequencyChannel", 3)]
SIZES = {2: (9, 7), 3: (5, 4, 6)}


def make(name, dims, channels=16):
    torch.manual_seed(0)
    plugin = lively(made_for(FACTORIES[name], channels, dims))
    if hasattr(plugin, "gamma"):
        nn.init.constant_(plugin.gamma, 0.7)
    return plugin


def kind(name):
    return name.partition("_")[0]


def test_every_plugin_says_what_it_computes():
    assert len(CLASSES) == 20
    assert all(inspect.isfunction(vars(cls).get("explained")) for cls in CLASSES.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "dims"), CASES)
def test_the_maps_rebuild_the_output(name, dims, dtype):
    plugin, x = make(name, dims).to(dtype), torch.randn(3, 16, *SIZES[dims], dtype=dtype)
    maps, output = plugin.explained(x), plugin(x)
    gate, added = correction(maps, x)
    difference = (gate * x + added - output).abs().max()
    assert difference <= (1e-5 if dtype == torch.float32 else 1e-12) * output.abs().max().clamp(1)
    for each in maps:
        assert maps[each].isfinite().all() and len(maps[each]) == 3
        if kind(each) in ("gate", "added"):
            assert maps[each].shape in (x.shape[:2], (3, 1, *x.shape[2:]), x.shape)
        if kind(each) == "attention":
            assert maps[each].shape[2:] in (x.shape[2:], (16,))
            total = maps[each].flatten(2).sum(2)
            torch.testing.assert_close(total, torch.ones_like(total))
            assert (maps[each] >= 0).all()
    if name not in ("Identity", "ReZero Identity"):
        assert (output - x).abs().max() > 1e-2, "the case shows nothing"
        assert {kind(each) for each in maps} & {"gate", "added"}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("name", "dims"), CASES)
def test_saying_it_changes_nothing(name, dims, training):
    plugin, x = make(name, dims).float().train(training), torch.randn(2, 16, *SIZES[dims])
    if name == "ReZero DSM":
        plugin.plugin.spatial.eval()  # modes of parts are kept as they are
    modes = [module.training for module in plugin.modules()]
    state = {key: value.clone() for key, value in plugin.state_dict().items()}
    random, before = torch.get_rng_state(), x.clone()
    maps = plugin.explained(x)
    assert torch.equal(torch.get_rng_state(), random) and torch.equal(x, before)
    assert [module.training for module in plugin.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in plugin.state_dict().items())
    again = plugin.eval().explained(x)
    assert maps.keys() == again.keys() and all(torch.equal(maps[each], again[each]) for each in maps)


@pytest.mark.parametrize("name", FACTORIES)
def test_an_image_is_explained_alone(name):
    plugin, x = make(name, 2), torch.randn(3, 16, 9, 7, dtype=torch.float64)
    together = plugin.explained(x)
    for each in range(3):
        for key, value in plugin.explained(x[each : each + 1]).items():
            torch.testing.assert_close(value[0], together[key][each])


WORDS = {
    "dsa": {"added", "attention", "series", "parallel", "channel", "spatial", "attention_channel"},
    "dam": {"gate", "series", "parallel", "channel", "spatial", "attention_channel"},
    "channel": {"gate", "channel", "attention_channel"},
    "spatial": {"gate", "spatial"},
} | {each: {"gate", "channel", "spatial", "attention_channel"} for each in ("sq", "pr", "sq_plain", "pr_plain")}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_dsm_by_its_formulas(fusion):
    """From its own branches, what the module's first paragraph says."""
    plugin, x = make(f"DSM {fusion}", 2), torch.randn(2, 16, 5, 4, dtype=torch.float64)
    maps = plugin.explained(x)
    assert set(maps) == WORDS[fusion]
    c = maps["channel"][..., None, None] if "channel" in maps else None  # (B, C, 1, 1)
    s = maps.get("spatial")  # (B, 1, H, W)
    for branch in (c, s):
        assert branch is None or ((branch > 0) & (branch < 1)).all()
    m = {"sq": lambda: c * s, "pr": lambda: c + s, "channel": lambda: c, "spatial": lambda: s}
    if fusion in ("dsa", "dam"):
        torch.testing.assert_close(maps["series"] + maps["parallel"], torch.ones_like(maps["series"]))
        a1, a2 = (maps[each][..., None, None] for each in ("series", "parallel"))
        mixed = a1 * (c * s) + a2 * (c + s)
    else:
        mixed = m[fusion.removesuffix("_plain")]()
    if fusion == "dsa":
        torch.testing.assert_close(maps["attention"], mixed.flatten(2).softmax(2).reshape(mixed.shape))
        value = F.relu(plugin.fusion.value(x.movedim(1, -1))).movedim(-1, 1)
        torch.testing.assert_close(maps["added"], (maps["attention"] * value).sum((2, 3)))
    elif fusion in ("dam", "sq", "pr"):
        combined = plugin.fusion.combine(mixed.movedim(1, -1)).movedim(-1, 1)
        torch.testing.assert_close(maps["gate"], combined.sigmoid())
    else:
        torch.testing.assert_close(maps["gate"].reshape(mixed.shape), mixed)


def scaled(plugin, scale, adversarial):
    """Weights as large as they come; adversarial: such that channels saturate and pixels lie far apart."""
    with torch.no_grad():
        for parameter in plugin.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
        if adversarial and plugin.spatial is not None and isinstance(plugin, DSM):
            plugin.spatial.value.weight.copy_(scale * torch.ones_like(plugin.spatial.value.weight))
            plugin.channel.expand.bias.fill_(abs(scale) * 100)  # c is 1
            plugin.fusion.mix.expand.weight.zero_()
    return plugin.double().eval()


@given(
    channels=st.integers(1, 6),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    scale=st.sampled_from([0.1, 1.0, 30.0, -1e4, 1e8]),
    adversarial=st.booleans(),
    pooled=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_the_attention_of_dsm_is_within_e_of_the_plain_mean(
    *, channels, size, scale, adversarial, pooled, seed
):
    """docs/plugins.md: whatever is learned, each weight lies between 1/e and e times that of the plain mean."""
    torch.manual_seed(seed)
    plugin = scaled(PooledDSM(channels) if pooled else DSM(channels, bias=True), scale, adversarial)
    x = abs(scale) * torch.randn(2, channels, *size, dtype=torch.float64)
    with torch.no_grad():
        maps = plugin.explained(x)
    over_even = maps["attention"] * math.prod(size)
    slack = 1e-9
    assert over_even.min() >= 1 / math.e - slack and over_even.max() <= math.e + slack
    slope = maps["series"] * maps["channel"] + maps["parallel"]
    logits = slope[..., None, None] * maps["spatial"]
    assert logits.min() >= 0 and logits.max() <= 1 + slack
    torch.testing.assert_close(maps["attention"], logits.flatten(2).softmax(2).reshape(logits.shape))


def test_the_bound_of_dsm_is_reached():
    """One pixel of nine hundred stands out: the weight is e times the mean's, and not more."""
    torch.manual_seed(0)
    plugin = scaled(DSM(4, bias=True), 50.0, adversarial=True)
    x = -torch.ones(1, 4, 30, 30, dtype=torch.float64)
    x[..., 3, 5] = 1
    with torch.no_grad():
        attention = plugin.explained(x)["attention"]
    assert 0.95 * math.e < (attention * 900)[0, :, 3, 5].min() <= (attention * 900).max() <= math.e


def test_few_pixels_ask_for_all():
    """PositionAttention: the rows of the whole attention, at the places that are said to be shown."""
    plugin, x = make("PositionAttention", 2), torch.randn(2, 16, 20, 30, dtype=torch.float64)
    maps, places = plugin.explained(x), spread_places((20, 30))
    assert maps["attention"].shape == (2, 64, 20, 30)
    pixels = x.flatten(2).mT  # (B, N, C)
    whole = (plugin.query(pixels) @ plugin.key(pixels).mT).softmax(2)  # (B, N, N)
    index = places[:, 0] * 30 + places[:, 1]
    torch.testing.assert_close(maps["attention"].flatten(2), whole[:, index])


def test_a_large_map_is_never_squared():
    """1.7 GB it would be; the maps are a few megabytes."""
    plugin = PositionAttention(4).eval()
    with torch.no_grad():
        maps = plugin.explained(torch.randn(1, 4, 128, 160))
    assert sum(each.numel() for each in maps.values()) == (64 + 4) * 128 * 160


@pytest.mark.parametrize("dims", [2, 3])
def test_rows_and_columns_are_shown_on_the_map(dims):
    """Each query's map is zero off its lines, and gives the average that is added, over the rounds."""
    size = SIZES[dims]
    plugin, x = make("CrissCross twice", dims), torch.randn(2, 16, *size, dtype=torch.float64)
    maps, places = plugin.explained(x), spread_places(size)
    assert set(maps) == {"added", "attention_1", "attention_2"}
    first = make("CrissCross", dims)
    first.load_state_dict(plugin.state_dict())
    for attention, before in ((maps["attention_1"], x), (maps["attention_2"], first(x))):
        value = plugin.gamma * plugin.value(before)
        for query, place in enumerate(places.tolist()):
            grid = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij"))
            away = (grid != torch.tensor(place).reshape(-1, *[1] * dims)).sum(0)
            assert ((attention[:, query] > 0) == (away <= 1)).all()
            mean = (attention[:, query, None] * value).flatten(2).sum(2)
            at = (slice(None), slice(None), *place)
            torch.testing.assert_close(before[at] + mean, first(before)[at])


@pytest.mark.parametrize("shape", [(1,), (200,), (8, 8), (512, 3), (1, 1, 1), (96, 5, 160)])
def test_places_are_spread(shape):
    places = spread_places(shape)
    assert (
        len(places.unique(dim=0))
        == len(places)
        == math.prod(min(n, round(64 ** (1 / len(shape)))) for n in shape)
    )
    assert (places >= 0).all() and (places < torch.tensor(shape)).all()
    for axis, size in enumerate(shape):
        along = places[:, axis].unique()
        gaps = torch.cat([along[:1], along.diff(), (size - 1 - along[-1]).reshape(1)])
        assert gaps.max() <= math.ceil(size / len(along))  # no part of the axis is without one


def test_the_channels_that_channel_attention_asks():
    plugin, x = make("ChannelAttention", 2), torch.randn(2, 16, 5, 4, dtype=torch.float64)
    maps = plugin.explained(x)
    assert maps["attention"].shape == (2, 16, 16)
    expected = plugin.gamma * torch.einsum("bij,bjhw->bihw", maps["attention"], x)
    torch.testing.assert_close(maps["added"], expected)


def test_squeezed_shows_what_is_inside():
    maps = make("Squeezed", 2).explained(torch.randn(2, 16, 9, 7, dtype=torch.float64))
    assert {"added", "attention_inner", "inner_added", "inner_channel", "inner_spatial"} <= set(maps)
    assert maps["inner_added"].shape == (2, 4)
    assert set(make("Squeezed stranger", 2).explained(torch.randn(2, 16, 9, 7, dtype=torch.float64))) == {
        "added"
    }


def test_rezero_says_as_much_as_what_it_wraps():
    x = torch.randn(2, 8, 6, 5)
    fresh = ReZero(SE(8)).eval()
    assert torch.equal(fresh.explained(x)["gate"], torch.ones(2, 8))
    assert not hasattr(ReZero(Rectified(8)), "explained")
    plugin = rezero(DSM, 8).eval()
    outside, inside = plugin.explained(x), plugin.plugin.explained(x)
    assert outside.keys() == inside.keys()
    torch.testing.assert_close(outside.pop("added"), 0.4 * inside.pop("added"))
    assert all(torch.equal(outside[name], inside[name]) for name in inside)


def test_rezero_is_scripted_as_before():
    class Plain(nn.Module):
        def forward(self, x):
            return 2 * x

    scripted = torch.jit.script(ReZero(Plain()))
    x = torch.randn(1, 2, 3)
    assert torch.equal(scripted(x), x)


@pytest.mark.parametrize("identity_at_start", [False, True])
def test_what_is_attached_says_it_too(identity_at_start):
    host = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1))
    attach(host, DSM, at="0", example=torch.zeros(1, 1, 9, 8), identity_at_start=identity_at_start)
    (plugin,) = plugins_of(host).values()
    assert "attention" in plugin.eval().explained(torch.randn(1, 8, 9, 8))


class Said(SE):
    """To be spoilt."""


class OtherGate(Said):
    def explained(self, x):
        return {"gate": 0.9 * self._gate(x)}


class OddShape(Said):
    def explained(self, x):
        return {"gate": self._gate(x).reshape(*x.shape[:2], *[1] * (x.ndim - 2))}


class NoWeights(Said):
    def explained(self, x):
        return super().explained(x) | {"attention": x.square()}


class Counts(Said):
    def __init__(self, channels):
        super().__init__(channels)
        self.register_buffer("calls", torch.zeros(()))

    def explained(self, x):
        self.calls += 1
        return super().explained(x)


class Draws(Said):
    def explained(self, x):
        torch.rand(1)
        return super().explained(x)


class Trains(Said):
    def explained(self, x):
        return self.train() and super().explained(x)


class Spoils(Said):
    def explained(self, x):
        gate = super().explained(x)
        x.zero_()
        return gate


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (OtherGate, r"gates times the input plus what is added is not the output \(by"),
        (
            OddShape,
            r"gate has the shape \(2, 16, 1\), and an input of \(2, 16, 9\) wants \(2, 16\), \(2, 1, 9\) or ",
        ),
        (NoWeights, "the weights of attention do not sum to 1"),
        *(
            (each, "explained changes its input, the plug-in or the random")
            for each in (Counts, Draws, Trains, Spoils)
        ),
    ],
)
def test_check_plugin_finds_maps_that_are_not_true(plugin, message, monkeypatch):
    for rule in ("export", "ONNX"):
        monkeypatch.delitem(RULES, rule)
    with pytest.raises(InputError, match=f"breaks 1 of 10 rules: explained: .*{message}"):
        check_plugin(plugin)
    check_plugin(Said)


def test_the_example_of_the_documentation(tmp_path, monkeypatch):
    """docs/plugins.md: both files as they stand, and the commands' check of them."""
    text = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    files = re.findall(r"```python\n# (mine\w*)\.py\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in files] == ["mine", "mine_explained"]
    for name, code in files:
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    for rule in ("export", "ONNX"):
        monkeypatch.delitem(RULES, rule)
    explained = importlib.import_module("mine_explained").Explained
    check_plugin(explained)
    x = torch.randn(2, 8, 5, 4)
    plugin = explained(8).eval()
    torch.testing.assert_close(plugin(x), plugin.explained(x)["gate"][..., None, None] * x)
