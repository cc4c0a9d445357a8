"""The kernel, run step by step on the CPU by Triton's interpreter; started by test_softmax_mean.py.

Prints, as JSON, the largest relative differences from the plain form in double precision over random cases.
"""

import json
import random
import sys

import torch
from torch.nn import functional as F

from dsnet_med.networks.softmax_mean import fused_works, series_softmax_mean
from dsnet_med.networks.softmax_mean_triton import fused_softmax_mean

SHAPES = [(1, 1, 1), (1, 8, 128), (2, 9, 129), (1, 17, 300)]
TYPES = [torch.float32, torch.bfloat16, torch.float16]


def difference(shape, dtype, rectify, layout):
    """Of the mean and its gradients, each relative to its largest."""
    batch, channels, pixels = shape
    value = torch.randn(batch, channels, pixels) + 0.1
    value = (value.mT.contiguous().mT if layout == "channels last" else value).to(dtype).requires_grad_()
    slope, level = torch.rand(batch, channels).requires_grad_(), torch.rand(batch, pixels).requires_grad_()
    weight = torch.randn(batch, channels)
    mean = fused_softmax_mean(value, slope, level, rectify)
    found = (mean, *torch.autograd.grad((mean * weight).sum(), (value, slope, level)))
    exact = tuple(each.detach().double().requires_grad_() for each in (value, slope, level))
    expected_mean = series_softmax_mean(F.relu(exact[0]) if rectify else exact[0], *exact[1:])
    expected = (expected_mean, *torch.autograd.grad((expected_mean * weight).sum(), exact))
    return [
        ((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-3)).item()
        for a, b in zip(found, expected, strict=True)
    ]


def main():
    torch.manual_seed(0)
    random.seed(0)
    cases = []
    for shape in SHAPES:
        for dtype in TYPES:
            rectify, layout = random.random() < 0.5, random.choice(["channels first", "channels last"])
            cases.append({"dtype": str(dtype), "differences": difference(shape, dtype, rectify, layout)})
    cases += [
        {"dtype": "torch.float32", "differences": difference((2, 9, 129), torch.float32, rectify, layout)}
        for rectify in (False, True)
        for layout in ("channels first", "channels last")
    ]
    sys.stdout.write(json.dumps({"cases": cases, "trial": fused_works(torch.device("cpu"))}))


if __name__ == "__main__":
    main()
