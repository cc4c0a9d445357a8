"""The volume network as TorchScript: the same logits at any size, and no trace that is silently wrong."""

import io

import pytest
import torch
from monai.networks import copy_model_state
from torch import Tensor, nn

from dsnet_med import build_network
from dsnet_med.engine.inferers import SliceWise
from dsnet_med.engine.scripted import scripted, traced
from dsnet_med.errors import InputError
from dsnet_med.networks import Ensemble

_SHAPES = ((1, 1, 3, 16, 24), (2, 1, 5, 31, 20), (1, 1, 1, 40, 10))
_METHODS = (
    *("fcn", "fcn_se", "fcn_encnet", "fcn_eca", "fcn_cbam", "danet", "ccnet", "gcnet", "hamnet", "eanet"),
    *("fcn_psa_p", "fcn_psa_s", "upernet_convnext_b", "upernet_mscan_b", "hamnet_mscan_b", "dsnet_r50"),
    *("fcn_dsm", "dsnet_mscan_b"),
)


class _Places(nn.Module):
    """A network whose logits depend on where a pixel lies, so that seams, shifts and wrong sizes show."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 3, 3, padding=1)
        self.drop = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        ramp = torch.arange(images.shape[-1], device=images.device) / images.shape[-1]
        return self.drop(self.conv(images)) * ramp


def _again(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize("fit", ["resize", "window"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_script_gives_the_logits_of_the_volume_network(fit: str, channels: int) -> None:
    torch.manual_seed(0)
    whole = SliceWise(_Places(channels), (16, 24), fit, batch_size=2, in_channels=channels)
    script = _again(torch.jit.script(whole))
    assert whole.network.training  # as it was
    whole.eval()
    with torch.no_grad():
        for shape in _SHAPES:
            image = torch.rand(shape)
            torch.testing.assert_close(script(image), whole(image), rtol=0, atol=1e-6)
        with pytest.raises(torch.jit.Error, match="wanted"):
            script(image[0])


@pytest.mark.parametrize("fit", ["resize", "window"])
def test_an_ensemble_is_averaged_behind_the_resize(fit: str) -> None:
    torch.manual_seed(0)
    both = [_Places().eval(), _Places().eval()]
    whole, image = SliceWise(Ensemble(both), (16, 24), fit).eval(), torch.rand(_SHAPES[1])
    script = _again(torch.jit.script(whole))
    with torch.no_grad():
        parts = [SliceWise(each, (16, 24), fit)(image).softmax(1) for each in both]
        wanted = torch.stack(parts).mean(0)
        torch.testing.assert_close(whole(image).softmax(1), wanted, rtol=0, atol=1e-6)
        torch.testing.assert_close(script(image).softmax(1), wanted, rtol=0, atol=1e-6)
    assert whole.state_dict().keys() == Ensemble(both).state_dict().keys()


@pytest.mark.slow
@pytest.mark.parametrize("method", _METHODS)
def test_every_row_can_be_scripted(method: str) -> None:
    torch.manual_seed(0)
    whole = SliceWise(build_network(method, num_classes=9, width=0.125), (64, 64), batch_size=4).eval()
    script = _again(torch.jit.script(whole))
    with torch.no_grad():
        for shape in ((1, 1, 1, 64, 64), (2, 1, 5, 64, 64), (1, 1, 6, 50, 100), (1, 1, 3, 40, 40)):
            image = torch.rand(shape)
            torch.testing.assert_close(script(image), whole(image), rtol=1e-5, atol=1e-6)


class _Branches(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images * 2 if len(images) == 2 else images


class _Fails(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise KeyError(f"no such part for {len(images)}")


def test_a_network_whose_trace_differs_is_refused() -> None:
    with pytest.raises(InputError, match="a trace of the network differs"):
        traced(_Branches(), (4, 4))
    with pytest.raises(InputError, match=r"cannot be traced .*no such part"):
        scripted(_Fails(), (4, 4))
    with pytest.raises(InputError, match="did you mean 'window'"):
        scripted(_Branches(), (4, 4), "windows")


def test_auxiliary_logits_are_left_out() -> None:
    class Two(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images + 1, images

    script = scripted(Two(), (4, 4))
    assert torch.equal(script(torch.zeros(1, 1, 2, 4, 4)), torch.ones(1, 1, 2, 4, 4))


def test_no_trace_or_export_of_the_volume_network() -> None:
    whole, image = SliceWise(_Places(), (16, 24)).eval(), torch.rand(_SHAPES[0])
    with pytest.raises(InputError, match="one shape alone"):
        torch.jit.trace(whole, image)
    with pytest.raises(Exception, match="one shape alone"):  # torch wraps it in its own
        torch.export.export(whole, (image,))


@pytest.mark.parametrize("strict", [True, False])
def test_weights_of_another_network_are_refused_however_they_are_loaded(strict: bool) -> None:
    whole = SliceWise(_Places(), (16, 24))
    weights = _Places().state_dict()
    with pytest.raises(InputError, match=r"lack, network\.conv\.bias"):
        whole.load_state_dict({"conv.weight": weights["conv.weight"]}, strict=strict)
    with pytest.raises(InputError, match=r"have too much, network\.optimizer"):
        whole.load_state_dict({**weights, "optimizer": torch.zeros(1)}, strict=strict)


def test_weights_that_are_copied_by_name_arrive() -> None:
    trained, whole = _Places(), SliceWise(_Places(), (16, 24))
    assert whole.state_dict().keys() == trained.state_dict().keys()
    copy_model_state(whole, trained.state_dict())  # as monai.bundle.load does
    assert torch.equal(whole.network.conv.weight, trained.conv.weight)
    wrapped = nn.DataParallel(SliceWise(_Places(), (16, 24)))
    wrapped.load_state_dict({f"module.{name}": value for name, value in trained.state_dict().items()})
    assert torch.equal(wrapped.module.network.conv.weight, trained.conv.weight)
