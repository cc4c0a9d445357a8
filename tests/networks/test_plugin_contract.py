"""Every plug-in on disk keeps the contract, and the contract finds every way to break it."""

import inspect
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dsnet_med.errors import InputError
from dsnet_med.networks import check_plugin, plugins
from dsnet_med.networks.contract import RULES

FILES = sorted(file.stem for file in Path(plugins.__file__).parent.glob("[!_]*.py"))
CLASSES = {name: getattr(plugins, name) for name in plugins.__all__ if isinstance(getattr(plugins, name), type)}

# Parameters by plug-in whose gradient is zero by mathematics, as glob patterns.
# A bias of keys or of a mask shifts all logits of one softmax alike.
WITHOUT_GRADIENT = {
    "CrissCross": ["key.bias"],
    "GlobalContext": ["mask.bias"],
    "PositionAttention": ["key.bias"],
}


def test_every_file_has_an_exported_plugin():
    homes = {cls.__module__.removeprefix(f"{plugins.__name__}.") for cls in CLASSES.values()}
    assert homes == set(FILES)
    assert len(CLASSES) == len(plugins.__all__) >= len(FILES)
    assert all(issubclass(cls, nn.Module) for cls in CLASSES.values())
    assert set(WITHOUT_GRADIENT) <= set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_keeps_the_contract(name):
    check_plugin(CLASSES[name], without_gradient=WITHOUT_GRADIENT.get(name, ()))


@pytest.mark.parametrize("name", CLASSES)
def test_traces_as_torchscript(name):
    torch.manual_seed(0)
    plugin, x = CLASSES[name](16).eval(), torch.randn(2, 16, 6, 5)
    traced = torch.jit.trace(plugin, x)
    torch.testing.assert_close(traced(x), plugin(x))
    other = torch.randn(2, 16, 6, 5)
    torch.testing.assert_close(traced(other), plugin(other))


@pytest.mark.parametrize("name", CLASSES)
def test_gradients_are_those_of_finite_differences(name):
    torch.manual_seed(0)
    plugin = CLASSES[name](16).double().eval()
    x = torch.randn(2, 16, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(plugin, (x,))


@pytest.mark.parametrize("name", CLASSES)
def test_keeps_the_type_under_autocast(name):
    """A wider map would take twice the memory, and be narrowed again by the next convolution."""
    plugin, x = CLASSES[name](16), torch.randn(2, 16, 6, 5, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert plugin(x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "name", ["DSM", "ChannelAttention", "PositionAttention", "PSA"]
)  # with gradients of their own
def test_gradients_of_single_images(name):
    """As torch.func takes them, for per-sample gradients."""
    torch.manual_seed(0)
    plugin, x = CLASSES[name](16).eval(), torch.randn(3, 16, 5, 6)
    parameters = dict(plugin.named_parameters())

    def loss(values, image):
        return torch.func.functional_call(plugin, values, (image[None],)).square().sum()

    single = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    plugin(x).square().sum().backward()
    for key, value in parameters.items():
        torch.testing.assert_close(single[key].sum(0), value.grad, rtol=1e-4, atol=1e-4)


class Good(nn.Module):
    """A plug-in to spoil: one gate per channel from the mean."""

    def __init__(self, channels):
        super().__init__()
        self.gate = nn.Linear(channels, channels)

    def forward(self, x):
        return x * self.gate(x.flatten(2).mean(2)).sigmoid().reshape(*x.shape[:2], *[1] * (x.ndim - 2))


class ChangesShape(Good):
    def forward(self, x):
        return super().forward(x)[:, :1]


class ChangesType(Good):
    def forward(self, x):
        return super().forward(x).float()


class InPlace(Good):
    def forward(self, x):
        return x.mul_(0.5) + super().forward(x)


class FourChannels(Good):
    def __init__(self, channels):
        if channels < 4:
            raise ValueError("too few")
        super().__init__(channels)


class Unused(Good):
    def __init__(self, channels):
        super().__init__(channels)
        self.extra = nn.Parameter(torch.ones(channels))


class Detached(Good):
    def forward(self, x):
        return super().forward(x.detach())


class Noisy(Good):
    def forward(self, x):
        return super().forward(F.dropout(x, 0.5))


class BatchMean(Good):
    def forward(self, x):
        return super().forward(x - x.mean(0, keepdim=True)) + x


class ReadsMemory(Good):
    """Takes the storage's order for that of the axes."""

    def forward(self, x):
        wrong = x if x.is_contiguous() else x.flip(1)
        return super().forward(wrong)


class Forgets(Good):
    def __init__(self, channels):
        super().__init__(channels)
        self.offset = torch.randn(channels)

    def forward(self, x):
        return super().forward(x) + self.offset.to(x).reshape(-1, *[1] * (x.ndim - 2))


class Shares(Good):
    def __deepcopy__(self, memo):
        return self


class OnCpu(Good):
    def forward(self, x):
        return super().forward(x) if x.device.type == "cpu" else torch.zeros(x.shape, device="cpu")


class DependsOnValues(Good):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x + super().forward(x)


class OneBatchSize(Good):
    def forward(self, x):
        return super().forward(x) if len(x) > 1 else x + super().forward(x)


class NaNs(Good):
    def forward(self, x):
        return super().forward(x) / (x.std((2, 3), keepdim=True) if x.ndim == 4 else 1)


class OtherInOnnx(Good):
    def forward(self, x):
        return super().forward(x) * (2 if torch.onnx.is_in_onnx_export() else 1)


class Refuses(Good):
    def forward(self, x):
        raise InputError("not today")


class TwoD(Good):
    def forward(self, x):
        if x.ndim != 4:
            raise InputError(f"TwoD got {x.ndim - 2} spatial axes, and takes 2")
        return super().forward(x)


class TwoDWithoutSayingSo(Good):
    def forward(self, x):
        return F.avg_pool2d(x, 1) + super().forward(x) if x.ndim != 3 else super().forward(x)


@pytest.fixture
def quick(monkeypatch):
    """The rules but for those that take a second."""
    for rule in ("export", "ONNX"):
        monkeypatch.delitem(RULES, rule)


def test_a_good_one_passes():
    check_plugin(Good)
    check_plugin(TwoD)


@pytest.mark.parametrize(
    ("plugin", "rule", "message"),
    [
        (ChangesShape, "shape and type", r"gives \(1, 1, 9\) torch.float32 for \(1, 16, 9\) torch.float32"),
        (ChangesType, "shape and type", r"gives .* torch.float32 for .* torch.float64"),
        (InPlace, "shape and type", "changes its input .* in place"),
        (NaNs, "shape and type", "not finite"),
        (TwoDWithoutSayingSo, "shape and type", "RuntimeError"),
        (FourChannels, "few channels", "ValueError: too few"),
        (Unused, "gradients", "no gradient reaches extra"),
        (Detached, "gradients", "no gradient reaches the input"),
        (Noisy, "repeatable", "two runs in eval differ"),
        (BatchMean, "neighbours", "depends on the others"),
        (OneBatchSize, "neighbours", "depends on the others"),
        (ReadsMemory, "memory format", "channels_last input gives another result"),
        (Forgets, "state dict", "does not bring back"),
        (Shares, "copies", "shares its parameters"),
        (OnCpu, "meta device", "not on the device"),
    ],
)
def test_each_rule_finds_its_breach(plugin, rule, message, quick):
    with pytest.raises(InputError, match=rf"^{plugin.__name__} breaks .*{rule}: .*{message}") as refused:
        check_plugin(plugin)
    assert "\n" not in str(refused.value)


def test_export_is_tried(monkeypatch):
    monkeypatch.delitem(RULES, "ONNX")
    with pytest.raises(InputError, match=r"DependsOnValues breaks 3 of .*export: .*[Dd]ata-dependent"):
        check_plugin(DependsOnValues)


def test_each_rule_has_a_breach():
    breaches = next(
        mark.args[1] for mark in test_each_rule_finds_its_breach.pytestmark if mark.name == "parametrize"
    )
    elsewhere = {"export", "ONNX", "explained"}  # the last in test_explained.py
    assert {rule for _, rule, _ in breaches} | elsewhere == set(RULES)


def test_onnx_is_compared():
    with pytest.raises(InputError, match="OtherInOnnx breaks 1 of 12 rules: ONNX: ONNX gives another result"):
        check_plugin(OtherInOnnx)


def test_exceptions_to_the_gradient_are_named_and_true(quick):
    check_plugin(Unused, without_gradient=["extra"])
    with pytest.raises(InputError, match=r"a gradient reaches gate.bias, which is listed as without one"):
        check_plugin(Good, without_gradient=["*.bias"])


def test_one_that_takes_nothing():
    with pytest.raises(InputError, match="Refuses takes no feature map: InputError: not today"):
        check_plugin(Refuses)


def test_random_numbers_outside_are_left_alone(quick):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    check_plugin(TwoD)
    assert torch.equal(torch.get_rng_state(), before)


ARGUMENTS = sorted(
    (name, argument)
    for name in plugins.__all__
    for argument in inspect.signature(getattr(plugins, name)).parameters
)
VALUES = [0, -1, -8, 1, 3, 7, 64, 10**12, 2.5, 2.0, 0.25, 1e-9, float("nan"), float("inf"), True, False, None]
VALUES += ["dsa", "no", "", [], ["avg"], (1, 2), {}, int, torch.nn.Identity, Exception]


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_an_argument_is_honoured_or_refused_in_one_line_of_ours(name, argument):
    """Every value of every argument either makes a plug-in that runs, or is an error that names it."""
    plugin = getattr(plugins, name)
    if argument in ("plugin", "norm", "parameters"):  # a stranger's class raises what it raises
        values = [value for value in VALUES if not callable(value)]
    else:
        values = VALUES
    refused = 0
    for value in values:
        arguments = {"channels": 8} | {argument: value}
        try:
            made = plugin(**arguments).eval()
        except InputError as error:
            assert "\n" not in str(error) and (argument in str(error) or argument.rstrip("s") in str(error))
            refused += 1
            continue
        dims = value if argument == "spatial_dims" else 2
        with torch.no_grad():
            x = torch.rand(2, arguments["channels"], *[5] * dims)
            assert made(x).isfinite().all() and made(x).shape == x.shape, value
    assert refused >= 10, "nearly everything was taken"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plugins.SE(8, ratio=0), "SE got ratio=0 and wants a whole number, at least 1"),
        (lambda: plugins.DSM(8, ratio=2.5), "DSM got ratio=2.5 and wants a whole number, at least 1"),
        (lambda: plugins.DSM(8, bias="no"), "DSM got bias='no' and wants True or False"),
        (
            lambda: plugins.CBAM(8, kernel_size=-1),
            "CBAM got kernel_size=-1 and wants an odd number, such as 3 or 7",
        ),
        (
            lambda: plugins.GlobalContext(8, ratio=16),
            "GlobalContext got ratio=16 and wants a number above 0 and at most 4, such as 0.25",
        ),
        (lambda: plugins.Hamburger(8, rank=0), "Hamburger got rank=0 and wants a whole number, at least 1"),
        (
            lambda: plugins.Squeezed(8, plugin="SE"),
            "Squeezed got plugin='SE' and wants a class or function that is called with the channels",
        ),
    ],
)
def test_what_was_wrong_with_an_argument(make, message):
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message
