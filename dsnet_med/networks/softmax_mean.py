"""The mean of a map's pixels under a softmax whose logits have rank one: DSM's last reduction.

    mean_c = sum_n softmax_n(slope_c level_n) value_cn,   slopes and levels in [0, 1]

exp(slope (level - 1/2)) is its power series to rounding within a few terms, so the sums over the pixels are
one matrix product with the powers of level - 1/2, and no (B, C, N) weights exist. On a GPU with Triton one
kernel does it in a single pass instead (`softmax_mean_triton`), where a first trial of it gives what this
form gives.
"""

import warnings
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from dsnet_med.errors import one_line
from dsnet_med.networks.layers import becomes_a_graph, weighted_sums

_TERMS = {torch.float64: 16}  # of exp on (-1/2, 1/2): the next one is below rounding; 9 suffice for float32
_FUSED_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def softmax_mean(value: Tensor, slope: Tensor, level: Tensor, *, rectify: bool = False) -> Tensor:
    """`value` (B, C, N), `slope` (B, C) and `level` (B, N) in [0, 1] -> (B, C).

    `rectify` takes relu(value) for the value.
    """
    if _can_fuse(value) and fused_works(value.device):
        from dsnet_med.networks.softmax_mean_triton import fused_softmax_mean  # noqa: PLC0415 -- needs Triton

        return fused_softmax_mean(value, slope, level, rectify)
    return series_softmax_mean(F.relu(value) if rectify else value, slope, level)


def series_softmax_mean(value: Tensor, slope: Tensor, level: Tensor) -> Tensor:
    """`softmax_mean` as a matrix product with the terms of a power series, on any device."""
    count = _TERMS.get(value.dtype, 9)
    powers = _powers(level - 0.5, count) / level.shape[1]  # (B, count, N): means, for sums leave half precision
    series = _powers(slope, count, factorial=True)  # (B, count, C)
    numerator = (series * weighted_sums(value, powers)).sum(1)
    return numerator / (series * powers.sum(2, keepdim=True)).sum(1)


def _powers(base: Tensor, count: int, factorial: bool = False) -> Tensor:
    """base^k for k = 0 to count - 1, over k! if `factorial`: (B, M) -> (B, count, M)."""
    powers = [torch.ones_like(base)]
    for power in range(1, count):
        powers.append(powers[-1] * base / (power if factorial else 1))
    return torch.stack(powers, dim=1)


def _can_fuse(value: Tensor) -> bool:
    """Graphs keep the plain form: compilers fuse it, and ONNX has no such kernel."""
    return value.is_cuda and value.dtype in _FUSED_TYPES and not becomes_a_graph()


@cache
def fused_works(device: torch.device) -> bool:
    """Whether the kernel runs on `device` and gives the plain form's values and gradients; tried once.

    It needs Triton, which needs a C compiler and a GPU that it knows. Where it is there and fails, a warning
    says why, and the plain form is used.
    """
    if find_spec("triton") is None:
        return False
    try:
        difference = _largest_difference(device)
    except Exception as error:  # whatever a compiler raises
        reason = f"{type(error).__name__}: {one_line(str(error))}"
    else:
        if difference < 1e-4:
            return True
        reason = f"it differs by {difference:.1g}"
    warnings.warn(f"the Triton kernel of DSM is not used on {device}: {reason}", RuntimeWarning, stacklevel=2)
    return False


def _largest_difference(device: torch.device) -> float:
    """Between both forms on a small example: of the means and of all three gradients."""
    with torch.inference_mode(False):  # the first call may come of an inference, without gradients
        return _difference(device)


def _difference(device: torch.device) -> float:
    from dsnet_med.networks.softmax_mean_triton import fused_softmax_mean  # noqa: PLC0415 -- needs Triton

    generator = torch.Generator("cpu").manual_seed(0)
    sizes = ((2, 5, 67), (2, 5), (2, 67))
    value, slope, level = (torch.rand(size, generator=generator, device="cpu") for size in sizes)
    value, slope, level = (each.to(device).requires_grad_() for each in (value - 0.5, slope, level))
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        means = (
            fused_softmax_mean(value, slope, level, rectify=True),
            series_softmax_mean(F.relu(value), slope, level),
        )
        fused, plain = (torch.autograd.grad(mean.square().sum(), (value, slope, level)) for mean in means)
    pairs = zip((means[0], *fused), (means[1], *plain), strict=True)
    return max((mine - theirs).abs().max().item() for mine, theirs in pairs)
