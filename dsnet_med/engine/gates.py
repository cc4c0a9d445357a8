"""What the gates of a network's plug-ins are on some images: their mean and spread.

A gate is what a sigmoid in a plug-in gives, or a hard one, a clamp to between 0 and 1: the numbers that it
multiplies by. A plug-in without one is told by the factor g for which g times its input is nearest to its
output, by least squares, and the size of what is then left over the size of the input.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dsnet_med.networks.attaching import plugins_of

_ATEN = torch.ops.aten
_SIGMOIDS = {_ATEN.sigmoid.default, _ATEN.sigmoid_.default, _ATEN.hardsigmoid.default}


class Gates(TorchDispatchMode):
    """In this context, the forwards of `network` are watched; `summary` is of all of them together.

    Compiled code is left aside: the network runs as it is written.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.plugins = plugins_of(network)
        self.active: list[str] = []  # the names of modules within plug-ins whose forward runs
        self.seen: Counter[str] = Counter()
        self.sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(3, dtype=torch.float64))
        self.fits: dict[str, Tensor] = defaultdict(lambda: torch.zeros(3, dtype=torch.float64))

    def __enter__(self) -> "Gates":
        self.stack = ExitStack()
        for name, plugin in self.plugins.items():
            for child, module in plugin.named_modules():
                whole = f"{name}.{child}".rstrip(".")
                before = module.register_forward_pre_hook(partial(self._begin, whole), prepend=True)
                after = module.register_forward_hook(partial(self._end, whole), always_call=True)
                self.stack.callback(before.remove)
                self.stack.callback(after.remove)
        if "torch._dynamo" in sys.modules:
            self.stack.enter_context(torch.compiler.set_stance("force_eager"))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self.stack.close()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **kwargs or {})
        hard = function is _ATEN.clamp.default and args[1:] == (0, 1)
        if self.active and (hard or function in _SIGMOIDS):
            name = self.active[-1]
            self.seen[name] += 1
            values = result.detach().double()
            sums = torch.stack([torch.full_like(values, 1.0), values, values**2]).flatten(1).sum(1)
            self.sums[name if self.seen[name] == 1 else f"{name}/{self.seen[name]}"] += sums.cpu()
        return result

    def summary(self) -> dict[str, tuple[float, float]]:
        """By the name of the module that a gate is in: the mean of its values and their standard deviation."""
        found = {}
        for name, (count, total, squares) in ((name, sums.tolist()) for name, sums in self.sums.items()):
            found[name] = total / count, sqrt(max(0.0, squares / count - (total / count) ** 2))
        for name, (inputs, both, outputs) in ((name, sums.tolist()) for name, sums in self.fits.items()):
            if inputs and not any(
                gate == name or gate.startswith((f"{name}.", f"{name}/")) for gate in self.sums
            ):
                factor = both / inputs
                found[name] = factor, sqrt(max(0.0, outputs / inputs - factor**2))
        return found

    def _begin(self, name: str, _module: nn.Module, _inputs: Any) -> None:
        if name in self.plugins:
            self.seen.clear()
        self.active.append(name)

    def _end(self, name: str, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.active.pop()
        same = isinstance(output, Tensor) and inputs and output.shape == inputs[0].shape
        if name in self.plugins and same:
            x, y = inputs[0].detach().double(), output.detach().double()
            self.fits[name] += torch.stack([(x * x).sum(), (x * y).sum(), (y * y).sum()]).cpu()


def gates_of(network: nn.Module, run: Callable[[], object]) -> dict[str, tuple[float, float]]:
    """The mean and spread of every gate of `network` while `run` runs it; nothing where it has no plug-in."""
    gates = Gates(network)
    if not gates.plugins:
        return {}
    with gates:
        run()
    return gates.summary()
