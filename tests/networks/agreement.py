"""A plug-in against its textbook form: outputs, every gradient and running statistics, in float64."""

import warnings

import torch
from golden import by_reference_name, load
from hypothesis import strategies as st

MAPS = st.tuples(st.integers(2, 3), st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**16))


def check_agreement(ours, textbook, shape, training=False, without_gradient=()):
    """Same values from the same random weights, in either memory format.

    `without_gradient`: names of zero gradients by mathematics.
    """
    textbook = lively(textbook).double()
    ours = load(ours.double(), textbook.state_dict())
    x = torch.randn(shape, dtype=torch.float64)
    if x.ndim == 4 and x[0, 0].numel() % 2:  # in half of all cases
        x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn_like(x)
    *theirs, expected = gradients(textbook.train(training), x, weight)
    *mine, found = gradients(ours.train(training), x, weight)
    found = by_reference_name(ours, found)
    for name in without_gradient:
        assert found.pop(name).abs().max() < 1e-8 > expected.pop(name).abs().max()
    state = by_reference_name(ours, ours.state_dict())
    found |= {f"after {name}": value for name, value in state.items()}
    expected |= {f"after {name}": value for name, value in textbook.state_dict().items()}
    names = ("output", "gradient of x")
    found |= dict(zip(names, mine, strict=True))
    expected |= dict(zip(names, theirs, strict=True))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        found_value = found[name].reshape(value.shape)
        torch.testing.assert_close(found_value, value, rtol=1e-6, atol=1e-7, msg=lambda text, n=name: n + text)


def gradients(module, x, weight, *more):
    """The output of module(x, *more), and the gradients of <output, weight>: of x and of every parameter."""
    x = x.clone().requires_grad_()
    output = module(x, *more)
    (output * weight).sum().backward()
    return output.detach(), x.grad, {name: value.grad for name, value in module.named_parameters()}


def check_close_gradients(ours, textbook, x, *more, tolerances):
    """Both modules on (x, *more); `tolerances` (rtol, atol) of the output, x's gradient and the parameters'."""
    weight = torch.randn_like(x)
    *expected, expected_parameters = gradients(textbook, x, weight, *more)
    *found, parameters = gradients(ours, x, weight, *more)
    for mine, theirs, (rtol, atol) in zip(found, expected, tolerances, strict=False):
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol)
    parameters, (rtol, atol) = by_reference_name(ours, parameters), tolerances[2]
    for name, value in expected_parameters.items():
        mine = parameters[name].reshape(value.shape)
        torch.testing.assert_close(mine, value, rtol=rtol, atol=atol, msg=name)


def lively(module, spread=0.5):
    """`module` with random weights, none of which starts at zero or one."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(spread * torch.randn_like(parameter))
    return module


def check_formats(module, x):
    """The same values in channels-last order, and in bfloat16 nearly."""
    expected = module(x)
    if x.ndim == 4:
        torch.testing.assert_close(module(x.to(memory_format=torch.channels_last)), expected)
    low = module.bfloat16()(x.bfloat16())
    assert (low.float() - expected).abs().max() / expected.abs().max() < 5e-2


def check_shapes_and_formats(module, x):
    """Also: the shape kept, and the axes one after another the same as side by side."""
    expected = module(x)
    assert expected.shape == x.shape
    torch.testing.assert_close(expected.flatten(2), module(x.flatten(2)))
    check_formats(module, x)


def check_free_batch(module, x):
    """An export made for two samples takes the three of `x`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(x), module(x))


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


def kept_values(module, x):
    """How many values autograd keeps of module(x) for the backward pass."""
    storages = {}

    def note(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.itemsize
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = module(x)
    del output
    return sum(storages.values())
