"""The mean under a softmax of rank one: the series, the kernel interpreted and compiled, and the choice."""

import inspect
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dsnet_med.networks import softmax_mean as module
from dsnet_med.networks.plugins import DSM
from dsnet_med.networks.softmax_mean import fused_works, series_softmax_mean, softmax_mean

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
CPU = torch.device("cpu")


def arguments(batch, channels, pixels, dtype=torch.float64):
    value = torch.randn(batch, channels, pixels, dtype=dtype)
    return value, torch.rand(batch, channels, dtype=dtype), torch.rand(batch, pixels, dtype=dtype)


@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 9),
    pixels=st.integers(1, 40),
    rectify=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_is_the_mean_under_the_softmax(*, batch, channels, pixels, rectify, seed):
    torch.manual_seed(seed)
    given_ = [each.requires_grad_() for each in arguments(batch, channels, pixels)]
    value, slope, level = given_
    logits = slope.unsqueeze(2) * level.unsqueeze(1)
    expected = (logits.softmax(2) * (F.relu(value) if rectify else value)).sum(2)
    found = softmax_mean(value, slope, level, rectify=rectify)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad((found * weight).sum(), given_),
        torch.autograd.grad((expected * weight).sum(), given_),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("slope", "level"), [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_the_ends_of_the_range(slope, level):
    value = torch.randn(1, 3, 4)
    mean = softmax_mean(value, torch.full((1, 3), slope), torch.full((1, 4), level))
    torch.testing.assert_close(mean, value.mean(2))


@settings(max_examples=30)
@given(slope=st.floats(0, 1), seed=st.integers(0, 2**16))
def test_nine_terms_are_enough_for_single_precision(slope, seed):
    torch.manual_seed(seed)
    value, _, level = arguments(1, 1, 50)
    slope = torch.full((1, 1), slope, dtype=torch.float64)
    exact = series_softmax_mean(value, slope, level)
    single = series_softmax_mean(value.float(), slope.float(), level.float())
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def interpreted():
    pytest.importorskip("triton", reason="no Triton, which comes with PyTorch for GPUs")
    file = Path(__file__).with_name("interpreted_kernel.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, check=True, env=environment
    )
    return json.loads(done.stdout)


def test_the_kernel_interpreted_gives_values_and_gradients(interpreted):
    assert len(interpreted["cases"]) == 16
    for case in interpreted["cases"]:
        # the gradient of a map in half precision is rounded to that: one unit of bfloat16
        limits = [1e-5, 1e-5 if case["dtype"] == "torch.float32" else 2**-7, 2e-5, 2e-5]
        assert all(d < limit for d, limit in zip(case["differences"], limits, strict=True)), case


def test_the_trial_accepts_a_kernel_that_works(interpreted):
    assert interpreted["trial"] is True


@pytest.mark.parametrize("capability", [75, 90])
@pytest.mark.parametrize("name", ["_forward", "_backward"])
def test_the_kernel_compiles_for_gpus(name, capability, tmp_path, monkeypatch):
    """To machine code, which needs no GPU."""
    triton = pytest.importorskip("triton", reason="no Triton, which comes with PyTorch for GPUs")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dsnet_med.networks import softmax_mean_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(kernels, name)
    fixed = {"rectify": True, "CHANNELS": kernels._CHANNELS, "PIXELS": kernels._PIXELS}
    pointers = {"slopes", "levels", "means", "totals", "gradients", "of_slope", "of_level"}
    maps = {"value", "of_value"}
    signature, constants = {}, {}
    for index, each in enumerate(inspect.signature(kernel.fn).parameters):
        kind = "*fp32" if each in pointers else "*bf16" if each in maps else "i32"
        signature[each] = "constexpr" if each in fixed else kind
        if each in fixed:
            constants[(index,)] = fixed[each]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert len(compiled.asm["cubin"]) > 1000


@pytest.fixture
def fresh_trial():
    fused_works.cache_clear()
    yield
    fused_works.cache_clear()


def test_without_triton_the_plain_form_is_used_silently(monkeypatch, fresh_trial):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not fused_works(CPU)


def failing(device):
    raise RuntimeError("Failed to find C compiler")


@pytest.mark.parametrize(
    ("trial", "message"), [(failing, "RuntimeError: Failed to find"), (lambda device: 0.5, "differs by 0.5")]
)
def test_a_kernel_that_fails_is_not_used_and_says_why(trial, message, monkeypatch, fresh_trial):
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setattr(module, "_largest_difference", trial)
    with pytest.warns(RuntimeWarning, match=message):
        assert not fused_works(CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not fused_works(CPU)  # said once


def test_compiled_graphs_and_double_precision_keep_the_plain_form(monkeypatch):
    class OnGpu(torch.Tensor):
        is_cuda = True

    value = torch.zeros(1, 2, 3).as_subclass(OnGpu)
    assert module._can_fuse(value)
    assert not module._can_fuse(value.double())
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not module._can_fuse(value)


@GPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dsm_on_a_gpu_gives_what_it_gives_on_a_cpu(dtype):
    assert fused_works(torch.device("cuda", torch.cuda.current_device()))
    torch.manual_seed(0)
    plugin, x = DSM(64, bias=True).eval(), torch.randn(2, 64, 33, 31)
    expected = plugin(x)
    found = plugin.cuda().to(dtype)(x.cuda().to(dtype)).float().cpu()
    assert (found - expected).abs().max() < (1e-4 if dtype is torch.float32 else 0.05) * expected.abs().max()
