"""What every plug-in promises, as checks that run on a stranger's class as on ours.

A plug-in is built anew for every check and its parameters are moved off their initial values, so that what
starts at zero takes part. Sizes are small and odd on purpose.
"""

import copy
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from dsnet_med.errors import InputError, one_line
from dsnet_med.networks.axes import made_for
from dsnet_med.networks.explaining import correction

Factory = Callable[[int], nn.Module]
_SIZES = {1: ((9,), (1,)), 2: ((9, 7), (1, 1), (4, 6)), 3: ((3, 5, 4), (1, 1, 1))}  # by spatial axes
_CHANNELS = 16
_FEW_CHANNELS = (1, 2, 3, 8)
_TYPES = (torch.float32, torch.float64, torch.bfloat16)
_TRIALS = 4  # a unit behind a ReLU may be dead for one set of weights
_LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


def check_plugin(plugin: Factory, *, without_gradient: Iterable[str] = ()) -> None:
    """Check `plugin(channels)` against what networks, exports and comparisons rely on.

    `without_gradient` are glob patterns of parameters whose gradient is zero by mathematics, such as a bias
    under a softmax. Raises InputError that lists every broken rule in one line. ONNX is checked where onnx,
    onnxscript and onnxruntime are installed.
    """
    subject = _Subject(plugin, tuple(without_gradient))
    subject.dims = [dims for dims in _SIZES if _takes(subject, dims)]
    if not subject.dims:
        raise InputError(
            f"{subject.title} takes no feature map: {_failure(subject, _runs) or 'it refuses all'}"
        )
    broken = {rule: message for rule, check in RULES.items() if (message := _failure(subject, check))}
    if broken:
        listed = "; ".join(f"{rule}: {message}" for rule, message in broken.items())
        raise InputError(f"{subject.title} breaks {len(broken)} of {len(RULES)} rules: {listed}")


@dataclass
class _Subject:
    """The plug-in under examination, and for how many spatial axes it is meant."""

    factory: Factory
    without_gradient: tuple[str, ...] = ()
    dims: list[int] | tuple[int, ...] = ()

    @property
    def title(self) -> str:
        return str(getattr(self.factory, "__name__", self.factory))

    @property
    def main_dims(self) -> int:
        return 2 if 2 in self.dims else max(self.dims)

    def build(
        self,
        channels: int = _CHANNELS,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        dims: int | None = None,
    ) -> nn.Module:
        torch.manual_seed(seed)
        plugin = made_for(self.factory, channels, dims or self.main_dims)
        with torch.no_grad():
            for parameter in plugin.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        return plugin.to(dtype).eval()

    def image(self, batch: int = 2, channels: int = _CHANNELS, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(batch, channels, *_SIZES[self.main_dims][0], dtype=dtype)


class _BrokenError(Exception):
    """A rule does not hold; the message says how."""


def _failure(subject: _Subject, check: Callable[[_Subject], None]) -> str | None:
    try:
        with torch.random.fork_rng(devices=[]):
            check(subject)
    except _BrokenError as error:
        return str(error)
    except (Exception, SystemExit) as error:  # whatever a stranger's plug-in raises
        return f"{type(error).__name__}: {one_line(str(error))}"
    return None


def _takes(subject: _Subject, dims: int) -> bool:
    """False where the plug-in says in one of our errors that it is not for `dims` spatial axes."""
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            subject.build(dims=dims)(torch.zeros(2, _CHANNELS, *_SIZES[dims][0]))
    except InputError:
        return False
    except (Exception, SystemExit):  # a failure that a rule will report
        return True
    return True


def _runs(subject: _Subject) -> None:
    subject.build(dims=2)(torch.zeros(2, _CHANNELS, *_SIZES[2][0]))


@torch.no_grad()
def _shape_and_type(subject: _Subject) -> None:
    for dtype in _TYPES:
        for dims in subject.dims:
            for sizes in _SIZES[dims]:
                for batch in (1, 3):
                    x = torch.randn(batch, _CHANNELS, *sizes, dtype=dtype)
                    _same_kind(subject.build(dtype=dtype, dims=dims), x)


@torch.no_grad()
def _few_channels(subject: _Subject) -> None:
    for channels in _FEW_CHANNELS:
        _same_kind(subject.build(channels), subject.image(channels=channels))


def _same_kind(plugin: nn.Module, x: Tensor) -> None:
    before = x.clone()
    output = plugin(x)
    given, got = f"{tuple(x.shape)} {x.dtype}", type(output).__name__
    if not isinstance(output, Tensor):
        raise _BrokenError(f"gives a {got} for a tensor")
    if output.shape != x.shape or output.dtype != x.dtype:
        raise _BrokenError(f"gives {tuple(output.shape)} {output.dtype} for {given}")
    if not output.isfinite().all():
        raise _BrokenError(f"gives values that are not finite for {given}")
    if not torch.equal(x, before):
        raise _BrokenError(f"changes its input of {given} in place: it may be needed elsewhere")


def _gradients(subject: _Subject) -> None:
    reached: set[str] = set()
    names: set[str] = set()
    for seed in range(_TRIALS):
        plugin = subject.build(seed=seed, dtype=torch.float64).train()
        x = subject.image(dtype=torch.float64).requires_grad_()
        output = plugin(x)
        (output * torch.randn_like(output)).sum().backward()
        if x.grad is None or not x.grad.abs().max() > 0:
            raise _BrokenError("no gradient reaches the input")
        parameters = dict(plugin.named_parameters())
        names |= parameters.keys()
        reached |= {name for name, value in parameters.items() if _moved(value)}
    excepted = {name for name in names if any(fnmatchcase(name, glob) for glob in subject.without_gradient)}
    if missing := sorted(names - reached - excepted):
        raise _BrokenError(f"no gradient reaches {', '.join(missing)}")
    if wrong := sorted(reached & excepted):
        raise _BrokenError(f"a gradient reaches {', '.join(wrong)}, which is listed as without one")


def _moved(parameter: nn.Parameter) -> bool:
    """Whether a gradient above the rounding of float64 reaches it."""
    return parameter.grad is not None and bool(parameter.grad.abs().max() > 1e-10)


@torch.no_grad()
def _repeatable(subject: _Subject) -> None:
    plugin, x = subject.build(), subject.image()
    if not torch.equal(plugin(x), plugin(x)):
        raise _BrokenError("two runs in eval differ")


@torch.no_grad()
def _neighbours(subject: _Subject) -> None:
    plugin, x = subject.build(dtype=torch.float64), subject.image(batch=3, dtype=torch.float64)
    alone = torch.cat([plugin(x[i : i + 1]) for i in range(len(x))])
    _close(alone, plugin(x), "an image's result in eval depends on the others in its batch", 1e-9)


@torch.no_grad()
def _memory_format(subject: _Subject) -> None:
    plugin, x = subject.build(), subject.image()
    layout = _LAYOUTS.get(subject.main_dims)
    other = x.transpose(1, 2).contiguous().transpose(1, 2) if layout is None else x.to(memory_format=layout)
    _close(plugin(other), plugin(x), "a channels_last input gives another result")


@torch.no_grad()
def _state(subject: _Subject) -> None:
    plugin, x = subject.build(), subject.image()
    stream = io.BytesIO()
    torch.save(plugin.state_dict(), stream)
    stream.seek(0)
    other = subject.build(seed=1)
    other.load_state_dict(torch.load(stream, weights_only=True), strict=True)
    _close(other(x), plugin(x), "its state dict does not bring back its result")


@torch.no_grad()
def _copies(subject: _Subject) -> None:
    plugin, x = subject.build(), subject.image()
    expected, twin = plugin(x), copy.deepcopy(plugin)
    _close(twin(x), expected, "a deep copy gives another result")
    for parameter in twin.parameters():
        parameter.fill_(3.0)
    _close(plugin(x), expected, "a deep copy shares its parameters")


@torch.no_grad()
def _meta(subject: _Subject) -> None:
    x = subject.image()
    with torch.device("meta"):
        plugin = made_for(subject.factory, _CHANNELS, subject.main_dims)
        output = plugin.eval()(torch.empty_like(x, device="meta"))
    if not output.is_meta:
        raise _BrokenError("its result is not on the device of its input")


@torch.no_grad()
def _export(subject: _Subject) -> None:
    plugin, x = subject.build(), subject.image()
    _close(torch.export.export(plugin, (x,)).module()(x), plugin(x), "torch.export gives another result", 1e-4)


@torch.no_grad()
def _onnx(subject: _Subject) -> None:
    if not all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        return
    plugin, x = subject.build(), subject.image()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "plugin.onnx"
        torch.onnx.export(plugin, (x,), str(file), dynamo=True, verbose=False)
        session = import_module("onnxruntime").InferenceSession(str(file))
        output = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    _close(torch.from_numpy(output), plugin(x), "ONNX gives another result", 1e-4)


@torch.no_grad()
def _explained(subject: _Subject) -> None:
    for dims in subject.dims:
        plugin, x = subject.build(dims=dims), torch.randn(2, _CHANNELS, *_SIZES[dims][0])
        explained: Callable[[Tensor], dict[str, Tensor]] | None = getattr(plugin, "explained", None)
        if explained is None:
            return
        before, random = copy.deepcopy((x, plugin.state_dict())), torch.get_rng_state()
        output, maps = plugin(x), explained(x)
        for name, each in maps.items():
            _check_map(name, each, x)
        after = (x, *plugin.state_dict().values(), torch.get_rng_state())
        if not all(map(torch.equal, (before[0], *before[1].values(), random), after)) or plugin.training:
            raise _BrokenError("explained changes its input, the plug-in or the random numbers")
        gate, added = correction(maps, x)
        _close(gate * x + added, output, "gates times the input plus what is added is not the output")


def _check_map(name: str, values: Tensor, x: Tensor) -> None:
    kind, shape = name.partition("_")[0], tuple(values.shape)
    per_pixel = (len(x), 1, *x.shape[2:])
    if kind in ("gate", "added") and shape not in (x.shape[:2], per_pixel, x.shape):
        shapes = f"{tuple(x.shape[:2])}, {per_pixel} or {tuple(x.shape)}"
        raise _BrokenError(f"{name} has the shape {shape}, and an input of {tuple(x.shape)} wants {shapes}")
    if kind == "attention":
        _close(values.flatten(2).sum(2), torch.ones(shape[:2]), f"the weights of {name} do not sum to 1")


def _close(output: Tensor, expected: Tensor, complaint: str, tolerance: float = 1e-5) -> None:
    scale = max(expected.abs().max().item(), 1.0)
    difference = (output - expected).abs().max().item()
    if not difference <= tolerance * scale:
        raise _BrokenError(f"{complaint} (by {difference:.1g})")


RULES: dict[str, Callable[[_Subject], None]] = {
    "shape and type": _shape_and_type,
    "few channels": _few_channels,
    "gradients": _gradients,
    "repeatable": _repeatable,
    "neighbours": _neighbours,
    "memory format": _memory_format,
    "state dict": _state,
    "copies": _copies,
    "meta device": _meta,
    "export": _export,
    "ONNX": _onnx,
    "explained": _explained,
}
