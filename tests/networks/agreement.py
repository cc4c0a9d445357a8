"""A plug-in against its textbook form: outputs, every gradient and running statistics, in float64."""

import torch
from golden import by_reference_name, load
from hypothesis import strategies as st

MAPS = st.tuples(st.integers(2, 3), st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**16))


def check_agreement(ours, textbook, shape, training=False, without_gradient=()):
    """Same values from the same random weights; `without_gradient`: names of zero gradients by mathematics."""
    textbook = lively(textbook).double()
    ours = load(ours.double(), textbook.state_dict())
    x = torch.randn(shape, dtype=torch.float64)
    weight = torch.randn_like(x)
    theirs = values(textbook.train(training), x, weight)
    mine = values(ours.train(training), x, weight)
    expected = {name: parameter.grad for name, parameter in textbook.named_parameters()}
    found = by_reference_name(ours, {name: parameter.grad for name, parameter in ours.named_parameters()})
    for name in without_gradient:
        assert found.pop(name).abs().max() < 1e-8 > expected.pop(name).abs().max()
    state = by_reference_name(ours, ours.state_dict())
    found |= {f"after {name}": value for name, value in state.items()} | mine
    expected |= {f"after {name}": value for name, value in textbook.state_dict().items()} | theirs
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        found_value = found[name].reshape(value.shape)
        torch.testing.assert_close(found_value, value, rtol=1e-6, atol=1e-7, msg=lambda text, n=name: n + text)


def values(module, x, weight):
    x = x.clone().requires_grad_()
    output = module(x)
    (output * weight).sum().backward()
    return {"output": output.detach(), "gradient of x": x.grad}


def lively(module):
    """`module` with random weights, none of which starts at zero or one."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return module


def check_any_axes(module, channels):
    """One or three axes give what two axes with the same pixels do, and bfloat16 nearly the same."""
    lively(module).eval()
    x = torch.randn(2, channels, 6, 5)
    expected = module(x)
    for spatial in ((30,), (2, 3, 5)):
        found = module(x.reshape(2, channels, *spatial))
        torch.testing.assert_close(found.reshape(x.shape), expected)
    low = module.bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16
    assert (low.float() - expected).abs().max() < 0.05 * expected.abs().max()
