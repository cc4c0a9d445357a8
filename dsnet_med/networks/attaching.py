"""Put a plug-in after chosen submodules of any network.

The plug-in becomes a child named `plugin` of the submodule it follows, and a forward hook there applies it:
the host's modules and state-dict names stay as they are, and the plug-in's parameters are found at, for
example, `layer4.0.act2.plugin.*`. Copies, pickles, `torch.export`, ONNX and traces carry the hook along.

`torch.compile` keeps its code for a class and does not look for hooks: it would run what it made of a network
before it had plug-ins, or of another one without them. So a submodule with a plug-in becomes of a class of its
own, derived from its class and with the same name.
"""

import copyreg
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import Any, SupportsIndex, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dsnet_med.errors import InputError, one_line
from dsnet_med.networks import plugins
from dsnet_med.networks.axes import made_for
from dsnet_med.networks.layers import is_traced, refuse_script
from dsnet_med.networks.rezero import ReZero
from dsnet_med.networks.tracing import Place, trace

Network = TypeVar("Network", bound=nn.Module)
DEFAULT_PLACE = "layer4.*.act2"  # after conv2, its norm and ReLU, in every block of a ResNet's stage 4
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_CORNER = 12  # voxels along an axis: what every voxel sees of every other one grows with their number squared
_IS_PLUGIN, _BASE = "_is_plugin_of_attach", "_base_of_attach"
_OURS = (ReZero, *(getattr(plugins, name) for name in plugins.__all__))


def attach(
    module: Network,
    plugin: Callable[[int], nn.Module],
    at: str = DEFAULT_PLACE,
    example: Tensor | None = None,
    identity_at_start: bool = False,
    *,
    shared: bool = False,
) -> Network:
    """Put `plugin(channels)` after every submodule of `module` that the glob `at` names; returns `module`.

    Each match gets a plug-in of its own, (B, C, *spatial) -> the same shape, with the channels that the
    submodule gives when `module` runs on `example` (B, C, *spatial); by default a batch of one that fits the
    network's first convolution, 64x96 pixels in 2-D and 32x64x96 voxels in 3-D. Maps that the network keeps as
    (B, *spatial, C) are handed to the plug-in as (B, C, *spatial). A plug-in that takes `spatial_dims` is told
    the number of spatial axes.

    `identity_at_start` makes it x + alpha (plugin(x) - x) with a learned alpha that starts at 0, so that a
    trained network gives what it gave before. A submodule that runs several times in one forward is refused,
    unless one plug-in is to be `shared` by all its runs.

    What DataParallel and `torch.compile` put before names may be left out; compiled code may have run already.
    Plug-ins that are there are not named by a pattern; one more at the same place follows them.

    Raises InputError, and leaves `module` as it was, when the pattern names nothing, or something that does not
    give one feature map of fixed channels, or when the plug-in cannot take that map or changes its shape; for
    networks that are TorchScript, or wrapped in DistributedDataParallel already.
    """
    targets = _matches(module, at)
    places = trace(module, targets, example)
    if not shared:
        _check_runs(places)
    built = {name: _built(plugin, name, place, identity_at_start) for name, place in places.items()}
    for name, target in targets.items():
        _insert(target, built[name].train(target.training))
    if "torch._dynamo" in sys.modules:  # torch 2.9 does not look at the class either; code is made anew
        torch.compiler.reset()
    return module


def matching(module: nn.Module, pattern: str) -> list[str]:
    """The names of the submodules that a glob pattern names; what wrappers put before them may be left out."""
    names = [name for name, _ in _named(module)]
    whole = [name for name in names if fnmatchcase(name, pattern)]
    return whole or [name for name in names if fnmatchcase(_inside_wrappers(name), pattern)]


def plugins_of(network: nn.Module) -> dict[str, nn.Module]:
    """The plug-ins of a network by name: ours wherever they are, and whatever `attach` has put in.

    Of plug-ins within one another it is the outermost; a ReZero and the plug-in in it are one. What
    `torch.compile` and DataParallel put before names is left out.
    """
    found: dict[str, nn.Module] = {}
    for whole, module in network.named_modules():
        name = _inside_wrappers(whole)
        inside = any(name.startswith(f"{outer}.".lstrip(".")) for outer in found)
        if not inside and (isinstance(module, _OURS) or _IS_PLUGIN in vars(module)):
            found[name] = module
    return found


def _named(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The submodules by name, under all their names, without plug-ins and what is in them."""
    named = [pair for pair in module.named_modules(remove_duplicate=False) if pair[0]]
    plugins = tuple(f"{name}." for name, child in named if _IS_PLUGIN in vars(child))
    return [pair for pair in named if not f"{pair[0]}.".startswith(plugins)]


def _inside_wrappers(name: str) -> str:
    """A submodule's name without what DataParallel and `torch.compile` put before it."""
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _matches(module: nn.Module, pattern: str) -> dict[str, nn.Module]:
    """The submodules that a pattern names, each once."""
    names, named = matching(module, pattern), dict(_named(module))
    if not names:
        near = _near(pattern, map(_inside_wrappers, named))
        raise InputError(f"no submodule is named '{pattern}': the network has, for example, {', '.join(near)}")
    found = {named[name]: name for name in reversed(names)}  # of several names the first
    for child, name in found.items():
        _check_container(name, child)
        _check_fixed(name, child, module)
    return {name: child for child, name in reversed(found.items())}


def _check_fixed(name: str, child: nn.Module, module: nn.Module) -> None:
    """Raise InputError where a plug-in would not run, or its gradients would not be averaged."""
    if isinstance(child, torch.jit.ScriptModule):
        raise InputError(
            f"'{name}' is TorchScript, whose code is fixed: attach to the network before torch.jit.script or "
            "torch.jit.trace"
        )
    parts = name.split(".")
    around = [module, *(module.get_submodule(".".join(parts[:i])) for i in range(1, len(parts)))]
    if any(isinstance(each, DistributedDataParallel) for each in around):
        raise InputError(
            f"'{name}' is wrapped in DistributedDataParallel, which would not average the gradients of a "
            "plug-in: attach to the network before it is wrapped"
        )


def _check_runs(places: Mapping[str, Place]) -> None:
    for name, place in places.items():
        if place.runs > 1:
            raise InputError(
                f"'{name}' runs {place.runs} times in one forward, and all would share one plug-in: name a "
                "submodule that runs once, or say shared=True"
            )


def _near(pattern: str, names: Iterable[str]) -> list[str]:
    options = list(names)
    return get_close_matches(pattern, options, n=3, cutoff=0.3) or options[:3]


def _check_container(name: str, module: nn.Module) -> None:
    if isinstance(module, _LISTS) and not _plain_sequence(module):
        raise InputError(
            f"'{name}' is a {type(module).__name__} that runs its children itself: name one of them instead"
        )


def _plain_sequence(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _built(factory: Callable[[int], nn.Module], name: str, place: Place, identity_at_start: bool) -> nn.Module:
    """The plug-in for one place, tried out on the map it will get; of a volume on a corner of it."""
    channels, shape = place.features.shape[1], tuple(place.features.shape)
    features = place.features
    if len(shape) == 5:
        features = features[..., :_CORNER, :_CORNER, :_CORNER].contiguous()
    try:
        plugin = made_for(factory, channels, len(shape) - 2)
        plugin = (ReZero(plugin) if identity_at_start else plugin).to(features.device, features.dtype)
        with torch.no_grad():
            output = plugin.eval()(features)
    except (Exception, SystemExit) as error:  # whatever a stranger's plug-in raises
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(
            f"{_title(factory)} cannot follow '{name}', which gives {shape}: {one_line(reason, 300)}"
        ) from error
    title = type(plugin.plugin if isinstance(plugin, ReZero) else plugin).__name__
    if not isinstance(output, Tensor) or output.shape != features.shape:
        got = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise InputError(f"{title} turns the {shape} of '{name}' into {got}: a plug-in must keep the shape")
    if place.overwritten:  # which the gradient of a plug-in that ends in a ReLU, say, would not survive
        plugin.register_forward_hook(_copied)
    return _moving_axes(plugin) if place.channels_last else plugin


def _copied(_plugin: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return output.clone() if output.requires_grad and not is_traced() else output


def _moving_axes(plugin: nn.Module) -> nn.Module:
    """`plugin` taking and giving (B, *spatial, C)."""
    plugin.register_forward_pre_hook(_channels_to_front)
    plugin.register_forward_hook(_channels_to_back)
    return plugin


def _channels_to_front(_plugin: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].movedim(-1, 1),)


def _channels_to_back(_plugin: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return output.movedim(1, -1).contiguous()  # the host may call view


def _insert(target: nn.Module, plugin: nn.Module) -> None:
    name = _free_name(target)
    vars(plugin)[_IS_PLUGIN] = True
    target.add_module(name, plugin)
    if not _plain_sequence(target):  # which runs a new child anyway
        target.register_forward_hook(partial(_apply, name))
    cls: Any = type(target)
    target.__class__ = _followed(cls)


@cache
def _followed(base: type[nn.Module]) -> type[nn.Module]:
    """A class that only differs from `base` in being another one."""
    parts = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": _reduced,
        "__prepare_scriptable__": refuse_script,
        _BASE: base,
    }
    return type(base.__name__, (base,), parts)


def _reduced(module: nn.Module, protocol: SupportsIndex) -> Any:
    """What pickles and copies a module: its class is made again, as it cannot be found by its name."""
    base: Any = type(module)
    times = 0
    while _BASE in vars(base):
        base, times = vars(base)[_BASE], times + 1
    reduced = base.__reduce_ex__(module, protocol)
    plain = reduced[0] is copyreg.__newobj__  # type: ignore[attr-defined]
    return (_remade, (base, times), *reduced[2:]) if plain else reduced


def _remade(base: Any, times: int) -> Any:
    for _ in range(times):
        base = _followed(base)
    return base.__new__(base)


def _free_name(target: nn.Module) -> str:
    number = 1
    while hasattr(target, name := "plugin" if number == 1 else f"plugin{number}"):
        number += 1
    return name


def _apply(name: str, module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    result: Tensor = getattr(module, name)(output)
    return result


def _title(factory: Callable[[int], nn.Module]) -> str:
    name = str(getattr(getattr(factory, "func", factory), "__name__", "<"))  # `func` is that of a partial
    return "the plug-in" if name.startswith("<") else name
