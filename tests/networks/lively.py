"""Modules and pyramids on which an independent form can be told from a wrong one."""

import torch


def lively(module):
    """`module` in float64 and eval, with norms, biases and scales that matter."""
    with torch.no_grad():
        for name, value in module.double().state_dict().items():
            if value.ndim == 1:
                value.copy_(torch.rand_like(value) + (0.5 if name.endswith(("weight", "var")) else -0.5))
    return module.eval()


def normalised(state, name, x):
    """`x` after the batch norm `name` of a reference's `state`, in eval."""
    entries = ("running_mean", "running_var", "weight", "bias")
    mean, variance, weight, bias = (state[f"{name}.{entry}"][:, None, None] for entry in entries)
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def pyramid(channels, batch, height, width):
    """Random levels, each half as large as the one before, sizes rounded up."""
    sizes = [(-(-height // 2**level), -(-width // 2**level)) for level in range(len(channels))]
    return [torch.randn(batch, c, *size, dtype=torch.float64) for c, size in zip(channels, sizes, strict=True)]
