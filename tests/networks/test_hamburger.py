"""Hamburger and its NMF: the reference's vectors, the formulas, and deterministic predictions."""

import copy

import pytest
import torch
from agreement import check_close_gradients, check_formats, check_free_batch, lively
from golden import check_close, load
from hypothesis import given, settings
from hypothesis import strategies as st
from textbook.hamburger import TextbookHamburger
from torch import nn
from torch.nn import functional as F

from dsnet_med.errors import InputError
from dsnet_med.networks.plugins import Hamburger
from dsnet_med.networks.plugins.hamburger import nmf


@pytest.mark.parametrize(("mode", "steps"), [("eval", 7), ("train", 6)])
def test_nmf_is_the_reference(vectors, mode, steps):
    golden = vectors("nmf2d")
    x = golden["in/0"].requires_grad_()
    output = nmf(x.flatten(2), golden["aux/bases"], steps).reshape(x.shape)
    check_close(output, golden[f"out_{mode}/0"])
    if mode == "eval":
        (output * golden["gradw/0"]).sum().backward()
        check_close(x.grad, golden["grad_in/0"])


def pair(*arguments, **options):
    """The textbook module with lively weights, and ours with the same, in float64."""
    textbook = lively(TextbookHamburger(*arguments, **options), 1)
    return textbook.double(), load(Hamburger(*arguments, **options), textbook.state_dict()).double()


@settings(max_examples=25)
@given(
    channels=st.integers(1, 9),
    hidden=st.one_of(st.none(), st.integers(1, 9)),
    rank=st.integers(1, 20),
    steps=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    train=st.booleans(),
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    seed=st.integers(0, 2**16),
)
def test_equals_the_formulas_in_float64(*, channels, hidden, rank, steps, train, batch, size, seed):
    torch.manual_seed(seed)
    textbook, lean = pair(channels, hidden, rank, *steps, norm=nn.BatchNorm2d)  # exact on 1x1 maps as well
    textbook.eval().ham_out.gn.eval(), lean.eval()
    if train:
        textbook.training = lean.training = True
    x = torch.randn(batch, channels, *size, dtype=torch.float64)
    bases = torch.rand(batch, hidden or channels, rank, dtype=torch.float64)
    check_close_gradients(lean, textbook, x, bases, tolerances=[(1e-9, 1e-9), (1e-6, 1e-7), (1e-6, 1e-6)])


def test_factorises_a_matrix_of_low_rank():
    torch.manual_seed(0)
    x = torch.rand(2, 12, 3).double() @ torch.rand(2, 3, 40).double()
    start = F.normalize(torch.rand(2, 12, 8).double(), dim=1)
    errors = [(nmf(x, start, steps) - x).norm().item() / x.norm().item() for steps in (0, 7, 500)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-2


def test_predictions_are_deterministic_and_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    first, x = Hamburger(8), torch.randn(3, 8, 6, 5)
    torch.manual_seed(1)
    second = Hamburger(8)
    second.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(first.eval()(x), second.eval()(x))
    torch.testing.assert_close(first(x)[1:2], first(x[1:2]), rtol=1e-5, atol=1e-6)


def test_start_is_the_first_draw_of_a_seeded_generator():
    torch.manual_seed(0)
    expected = F.normalize(torch.rand(1, 8, 64), dim=1)
    module = Hamburger(8)
    assert torch.equal(module.bases, expected)
    assert not any("bases" in name for name in module.state_dict())


def test_training_draws_anew_and_takes_given_bases():
    torch.manual_seed(0)
    module, x = Hamburger(8).train(), torch.randn(2, 8, 6, 5)
    assert not torch.allclose(module(x), module(x))
    bases = torch.rand(2, 8, 64)
    torch.testing.assert_close(module(x, bases), module(x, bases), rtol=0, atol=0)


def test_eval_takes_given_bases_both_ways():
    torch.manual_seed(0)
    module, x, bases = Hamburger(8).eval(), torch.randn(2, 8, 6, 5), torch.rand(2, 8, 64)
    default, given_once = module(x), module(x, bases)
    assert not torch.allclose(default, given_once)
    module.bases = bases
    assert torch.equal(module(x), given_once)
    assert torch.equal(copy.deepcopy(module)(x), given_once)
    module.reset_parameters()
    assert torch.equal(module(x), default)


@pytest.mark.parametrize("shape", [(3, 8, 64), (1, 8, 63), (1, 9, 64), (8, 64)])
def test_bases_of_another_shape_are_refused(shape):
    with pytest.raises(InputError, match=r"wants \(1, 8, 64\) or one such matrix for each of the 2 samples"):
        Hamburger(8)(torch.randn(2, 8, 4, 4), torch.rand(shape))


def test_built_on_the_meta_device():
    built, x = Hamburger(8).eval(), torch.randn(2, 8, 4, 4)
    with torch.device("meta"):
        emptied, assigned = Hamburger(8).eval(), Hamburger(8).eval()
        assert emptied(torch.zeros(1, 8, 4, 4)).is_meta
    emptied.to_empty(device="cpu").reset_parameters()
    emptied.load_state_dict(built.state_dict())
    assert torch.equal(emptied(x), built(x))
    assigned.load_state_dict(built.state_dict(), assign=True)
    assert torch.equal(assigned(x), built(x))


@pytest.mark.parametrize("spatial", [(11,), (5, 3), (4, 3, 5), (1, 1)])
@pytest.mark.parametrize("channels", [1, 8])
def test_takes_any_number_of_spatial_axes(spatial, channels):
    torch.manual_seed(0)
    module, x = Hamburger(channels).eval(), torch.randn(2, channels, *spatial)
    assert module(x).shape == x.shape
    torch.testing.assert_close(module(x).flatten(2), module(x.flatten(2)))


def test_channels_last_and_low_precision():
    torch.manual_seed(0)
    module, x = Hamburger(32).eval(), torch.randn(2, 32, 9, 5)
    check_formats(module, x)


def test_exports_with_a_free_batch():
    torch.manual_seed(0)
    module, x = Hamburger(8).eval(), torch.randn(3, 8, 6, 5)
    check_free_batch(module, x)


def test_initialisation_is_the_reference():
    torch.manual_seed(0)
    module = Hamburger(256, ham_channels=64)
    assert module.reduce.bias.abs().max() == 0
    for layer, outputs in ((module.reduce, 64), (module.expand, 256)):
        assert layer.weight.std().item() == pytest.approx((2 / outputs) ** 0.5, rel=0.05)  # Kaiming, fan out
