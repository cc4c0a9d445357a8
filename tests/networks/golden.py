"""Reading the reference's vectors into our modules."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dsnet_med.networks import from_reference
from dsnet_med.networks.reference import reference_names


class Golden:
    """One vector file: `meta`, and its arrays as tensors by group ("param", "out_eval", ...)."""

    def __init__(self, folder: Path, name: str) -> None:
        with np.load(folder / f"{name}.npz") as arrays:
            self.arrays = {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "meta"}
            self.meta = json.loads(str(arrays["meta"]))

    def __getitem__(self, key: str) -> Tensor:
        return self.arrays[key]

    def group(self, prefix: str) -> dict[str, Tensor]:
        start = f"{prefix}/"
        return {key.removeprefix(start): value for key, value in self.arrays.items() if key.startswith(start)}

    def state(self) -> dict[str, Tensor]:
        """The reference module's state before its training pass."""
        return self.group("param") | self.group("buffer")


def load(network: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """`network` in eval mode with the reference's `state`, and dropout switched off in training too."""
    network.load_state_dict(from_reference(state, network), strict=True)
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return network.eval()


def start_from(bases: Tensor, hamburger: nn.Module) -> None:
    """In training too, where it draws its start otherwise."""
    hamburger.register_forward_pre_hook(lambda _module, inputs: (inputs[0], bases))


def by_reference_name(network: nn.Module, values: dict[str, Tensor]) -> dict[str, Tensor]:
    names = reference_names(network)
    return {names[key]: value for key, value in values.items()}


def check_close(ours: Tensor, theirs: Tensor, rtol: float = 1e-5) -> None:
    """Equal within `rtol` of the largest magnitude in `theirs`, whatever trailing axes of size 1 there are."""
    scale = max(theirs.abs().max().item(), 1e-6)
    torch.testing.assert_close(ours.detach().reshape(theirs.shape), theirs, rtol=0, atol=rtol * scale)


def check_running_statistics(network: nn.Module, golden: Golden, prefix: str = "") -> None:
    state = by_reference_name(network, network.state_dict())
    for name, value in golden.group("post").items():
        check_close(state[prefix + name], value)


def check_training(head: nn.Module, golden: Golden) -> None:
    """All outputs and running statistics of a head of one level and several outputs."""
    with torch.no_grad():
        outputs = head.train()([golden["in/0"]])
    expected = golden.group("out_train")
    assert len(outputs) == len(expected)
    for index, value in enumerate(outputs):
        check_close(value, expected[str(index)])
    check_running_statistics(head, golden)


def check_gradients(network: nn.Module, output: Tensor, inputs: Tensor, golden: Golden) -> int:
    """Gradients of <output, gradw>, of the input and of every parameter the file holds; returns how many."""
    network.zero_grad()
    (output * golden["gradw/0"]).sum().backward()
    check_close(inputs.grad, golden["grad_in/0"])
    ours = by_reference_name(network, {key: value.grad for key, value in network.named_parameters()})
    expected = golden.group("grad_param")
    largest = max((value.abs().max().item() for value in expected.values()), default=0.0)
    for name, value in expected.items():
        check_gradient(name, ours[name], value, largest)
    return len(expected)


def check_module(module: nn.Module, golden: Golden, run=lambda module, x: module(x)) -> int:
    """Outputs, gradients and running statistics of one input; returns how many parameters' gradients."""
    inputs = golden["in/0"].requires_grad_()
    output = run(module, inputs)
    check_close(output, golden["out_eval/0"])
    count = check_gradients(module, output, inputs, golden)
    with torch.no_grad():
        check_close(run(module.train(), inputs), golden["out_train/0"])
    check_running_statistics(module, golden)
    return count


def check_attention(module: nn.Module, golden: Golden, silent: str) -> None:
    """A module of pairwise attention, whose key bias `silent` a softmax drops: its gradient is rounding."""
    assert sum(p.numel() for p in module.parameters()) == golden.meta["params"]
    x = golden["in/0"].requires_grad_()
    output = module(x)
    check_close(output, golden["out_eval/0"])
    check_close(module.train()(x), golden["out_train/0"])
    (output * golden["gradw/0"]).sum().backward()
    check_close(x.grad, golden["grad_in/0"])
    ours = by_reference_name(module, {name: value.grad for name, value in module.named_parameters()})
    theirs = golden.group("grad_param")
    assert ours[silent].abs().max() < 1e-4
    assert theirs.pop(silent).abs().max() < 1e-4
    assert len(theirs) == 6
    for name, value in theirs.items():
        check_close(ours[name], value)


def check_gradient(name: str, ours: Tensor, theirs: Tensor, largest: float) -> None:
    """Small gradients carry the rounding of the `largest`: float32 has no more to give."""
    if name.endswith("conv_q_right.bias"):  # zero by the softmax's invariance: only rounding is left
        assert ours.abs().max() < 1e-4
    else:
        atol = max(2e-4 * theirs.abs().max().item(), 1e-7 * largest)
        torch.testing.assert_close(ours.detach().reshape(theirs.shape), theirs, rtol=0, atol=atol)
