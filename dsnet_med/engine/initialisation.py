"""A network's first values as functions of the run's seed and of each parameter's name.

PyTorch draws them one after another from one generator, so a plug-in's would move all that are made after it:
two networks of one seed would differ in the layers that they share, and their scores by that. Here every
parameter has draws of its own, so that what two networks share (by name and shape) starts equal: common random
numbers (Law, Simulation Modeling and Analysis, 5th ed. 2015, section 11.2).

A parameter's name is known when the network is finished, and the code that draws its values may be anybody's.
So, while it is built, the operations on random tensors are recorded; then those that lead into a parameter are
made again in their order, in the same memory, each draw with the generator seeded by (seed, name of the
parameter, number of its draw). Nothing else changes: what distribution a parameter has, what was loaded over
it, and draws from generators of their own. What cannot be made again, because Python looked at random values to
say what comes next (by `.item()`, or a shape), keeps the values that it had.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from dsnet_med.engine.draws import _seed_all, kept_generators, seed_of

# What leaves nothing of what a tensor was; those that draw do so, too, where they write in place.
_OVERWRITING = {
    f"aten::{name}_"
    for name in (
        *("copy", "fill", "zero", "uniform", "normal", "random", "exponential", "bernoulli", "log_normal"),
        *("cauchy", "geometric"),
    )
}


class Nearest(NamedTuple):
    """Where a value goes: into a parameter rather than a buffer, by few operations, or the first by name."""

    is_buffer: bool
    operations: int
    name: str


@dataclass
class _Operation:
    """One operation with aliases of its tensors; memories are what `_memory` gives."""

    call: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    reads: set[int]
    writes: set[int]  # in place or new
    new: dict[int, Tensor]  # results in new memory, by their place among the results
    draws: bool
    owner: str = ""  # the parameter or buffer that its results lead into

    def again(self) -> None:
        results = tree_leaves(self.call(*self.args, **self.kwargs))
        for place, before in self.new.items():
            if results[place].shape != before.shape:
                raise ValueError("the shape depends on what was drawn")
            before.copy_(results[place])


class Initialisation(TorchDispatchMode):
    """While it is entered, it records a network's making; `draw_again` gives it keyed values."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[_Operation] = []
        self.seen: set[int] = set()  # memories that a recorded operation reads or writes; the records keep them
        self.made: set[int] = set()  # those whose content making the operations again brings back
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # what lay in others before they were written to

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        reads = _memories(leaves)
        draws = torch.Tag.nondeterministic_seeded in func.tags and not any(
            isinstance(each, torch.Generator) and each is not torch.default_generator for each in leaves
        )
        if not draws and self.seen.isdisjoint(reads):
            return func(*args, **kwargs)
        written = _written(func, args, kwargs)
        changed = _memories(written)
        for tensor in written:
            self._keep(func, tensor)
        args_then, kwargs_then = tree_map_only(
            Tensor, Tensor.detach, (args, kwargs)
        )  # not what `.data =` changes
        results = func(*args, **kwargs)
        new = {
            place: each.detach()
            for place, each in enumerate(tree_leaves(results))
            if isinstance(each, Tensor) and (memory := _memory(each)) is not None and memory not in reads
        }
        made = _memories(new.values())
        if made or changed:  # otherwise it gave a view, or a number
            self.operations.append(_Operation(func, args_then, kwargs_then, reads, changed | made, new, draws))
            self.seen |= reads | made
            self.made |= made
        return results

    def _keep(self, func: Any, tensor: Tensor) -> None:
        """Keep what is in a tensor's memory, which `func` will change, unless that will be made again."""
        memory = _memory(tensor)
        if memory is None or memory in self.made:
            return
        self.made.add(memory)
        whole = tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
        if memory in self.seen or not whole or func._schema.name not in _OVERWRITING:
            self.before[memory] = _all_of(tensor), _all_of(tensor).clone()

    @torch.no_grad()
    def draw_again(self, network: nn.Module, seed: int) -> None:
        """Give `network`, which was made meanwhile, the values of `seed`. Generators are left as found."""
        self._find_owners(network)
        draws: Counter[str] = Counter()
        with kept_generators():
            for group in _groups([each for each in self.operations if each.owner]):
                self._make_again(group, seed, draws)

    def _find_owners(self, network: nn.Module) -> None:
        """Say of every operation where its results end in `network`."""
        nearest: dict[int, Nearest] = {}
        for is_buffer, named in ((False, network.named_parameters), (True, network.named_buffers)):
            for name, tensor in named(remove_duplicate=False):
                if (memory := _memory(tensor)) is not None:
                    own = Nearest(is_buffer, 0, name)
                    nearest[memory] = min(nearest.get(memory, own), own)
        for each in reversed(self.operations):
            into = min((nearest[memory] for memory in each.writes if memory in nearest), default=None)
            if into is None:
                continue
            each.owner = into.name
            further = into._replace(operations=into.operations + 1)
            for memory in each.reads:
                nearest[memory] = min(nearest.get(memory, further), further)

    def _make_again(self, group: Sequence[_Operation], seed: int, draws: Counter[str]) -> None:
        """Make operations again that share memory, all or none."""
        tensors = [tensor for each in group for tensor in _tensors((each.args, each.kwargs, each.new))]
        wholes = {memory: tensor for tensor in tensors if (memory := _memory(tensor)) is not None}
        written = {memory for each in group for memory in each.writes}
        built = [(_all_of(wholes[memory]), _all_of(wholes[memory]).clone()) for memory in written]
        try:
            for memory in written & self.before.keys():
                whole, content = self.before[memory]
                whole.copy_(content)
            for each in group:
                if each.draws:
                    _seed_all(seed_of(seed, "init", each.owner, draws[each.owner]))
                    draws[each.owner] += 1
                each.again()
        except (RuntimeError, ValueError, IndexError):  # of other shapes than those before
            for whole, content in built:
                whole.copy_(content)


def _groups(operations: Iterable[_Operation]) -> list[list[_Operation]]:
    """The operations, each with all others that it shares memory with; their order is kept."""
    group_of: dict[int, list[_Operation]] = {}  # by memory
    memories: dict[int, set[int]] = {}  # by group
    groups: dict[int, list[_Operation]] = {}
    for each in operations:
        touched = each.reads | each.writes
        shared = {id(group): group for memory in touched if (group := group_of.get(memory)) is not None}
        merged = max(shared.values(), key=len, default=[])
        for key, group in shared.items():
            if group is not merged:
                merged.extend(group)
                touched |= memories.pop(key)
                del groups[key]
        merged.append(each)
        groups[id(merged)] = merged
        memories.setdefault(id(merged), set()).update(touched)
        group_of.update(dict.fromkeys(touched, merged))
    places = {id(each): place for place, each in enumerate(operations)}
    return [sorted(group, key=lambda each: places[id(each)]) for group in groups.values()]


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operation changes."""
    given = [
        (each, args[i] if i < len(args) else kwargs.get(each.name))
        for i, each in enumerate(func._schema.arguments)
    ]
    return _tensors(
        [value for each, value in given if each.alias_info is not None and each.alias_info.is_write]
    )


def _tensors(tree: Any) -> list[Tensor]:
    return [each for each in tree_leaves(tree) if isinstance(each, Tensor)]


def _memory(tensor: Tensor) -> int | None:
    """What tells a tensor's memory from others; None where it has none."""
    try:
        return None if tensor.is_meta else int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse ones
        return None


def _memories(tensors: Iterable[Any]) -> set[int]:
    found = (_memory(each) for each in tensors if isinstance(each, Tensor))
    return {each for each in found if each is not None}


def _all_of(tensor: Tensor) -> Tensor:
    """All of a tensor's memory, as one row of its numbers."""
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())
