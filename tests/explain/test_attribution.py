"""Grad-CAM and occlusion of networks whose logit is known to hang on one square, and of real ones."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dsnet_med import build_network
from dsnet_med.errors import InputError
from dsnet_med.explain import attribution
from dsnet_med.explain.attribution import attribute, attribute_organ, deepest_layer, largest_slice
from dsnet_med.geometry import SliceOrder
from dsnet_med.inference import Predictor
from dsnet_med.inference.slice_model import SliceModel
from dsnet_med.networks import attach, plugins
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.regions import Region
from dsnet_med.volumes import Volume

SIZES = {2: (48, 64), 3: (24, 32, 40)}
SQUARES = {2: (slice(30, 38), slice(10, 18)), 3: (slice(4, 10), slice(20, 27), slice(5, 12))}


class Cue(nn.Module):
    """Class 1 is in one corner, and its logit hangs on the mean of a square elsewhere, and on nothing else."""

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        self.features = convolution(1, 2, 1, bias=False)
        with torch.no_grad():
            self.features.weight[:] = torch.tensor([1.0, -1.0]).view(2, *[1] * (spatial_dims + 1))
        self.square = SQUARES[spatial_dims]
        self.calls = 0

    def forward(self, x):
        maps = self.features(x)
        self.calls += len(x)
        cue = maps[(slice(None), 0, *self.square)].flatten(1).mean(1)
        logit = cue.view(-1, *[1] * (x.ndim - 1)) + 0 * maps[:, :1]
        corner = torch.full_like(x, -1.0)
        corner[(..., *[slice(2, 8)] * (x.ndim - 2))] = 0.0
        return torch.cat([torch.zeros_like(logit), torch.where(corner == 0, logit, corner)], 1)


def scene(spatial_dims):
    image = torch.full((1, 1, *SIZES[spatial_dims]), 0.1)
    image[(0, 0, *SQUARES[spatial_dims])] = 1.0
    return image


def peak(found):
    return np.unravel_index(int(found.nan_to_num(-1).argmax()), found.shape)


def inside(place, square, room=0):
    return all(part.start - room <= at < part.stop + room for at, part in zip(place, square, strict=True))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_both_maps_peak_where_the_logit_comes_from(spatial_dims):
    through = {2: None, 3: 7}[spatial_dims]
    found = attribute(Cue(spatial_dims), scene(spatial_dims), 1, "features", through=through)
    square = SQUARES[spatial_dims]
    for each in (found.grad_cam, found.occlusion):
        assert each.shape == SIZES[spatial_dims]
        assert inside(peak(each), square), peak(each)
    assert (found.layer, found.note) == ("features", "")
    # Hiding a corner that the logit does not hang on changes nothing.
    far = (
        found.occlusion[(..., *[slice(-2, None)] * 2)] if through is None else found.occlusion[through, :2, -2:]
    )
    assert torch.allclose(far, torch.zeros_like(far), atol=1e-6)
    if through is not None:
        assert found.occlusion.isnan().flatten(1).all(1).tolist() == [z != through for z in range(24)]
        whole = attribute(Cue(3), scene(3), 1, "features").occlusion
        assert inside(peak(whole), square, room=7)  # in boxes of a third of the sides


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_occlusion_takes_a_bounded_number_of_forwards(spatial_dims, monkeypatch):
    monkeypatch.setattr(attribution.copy, "deepcopy", lambda network: network)
    for sizes in (SIZES[spatial_dims], (8,) * spatial_dims, (2,) + (97,) * (spatial_dims - 1)):
        for through in (None, 1)[: spatial_dims - 1]:
            network = Cue(spatial_dims)
            network.square = (slice(0, 2),) * spatial_dims
            attribute(network, torch.zeros(1, 1, *sizes) + 0.2, 1, "features", through=through)
            assert network.calls <= attribution.FORWARDS + 5, (sizes, through, network.calls)


def test_a_network_stays_as_it_was_even_in_inference_mode():
    network = attach(
        nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(True), nn.Conv2d(8, 2, 1)), plugins.SE, at="1"
    )
    network = nn.Sequential(network, nn.Upsample(scale_factor=2)).eval().requires_grad_(False)
    before, image = copy.deepcopy(network.state_dict()), torch.rand(1, 1, 32, 32)
    label = int(network(image)[0].argmax(0).mode().values.mode().values)
    with torch.inference_mode():
        found = attribute(network, image.clone(), label)
    assert found.layer == "0"  # the last at the coarsest scale
    assert found.grad_cam is not None
    assert not found.grad_cam.is_inference()
    assert all(not each.requires_grad for each in network.parameters())
    assert all(torch.equal(before[name], each) for name, each in network.state_dict().items())
    assert network[0][1].inplace
    hooks = [len(module._backward_hooks) for module in network.modules()]
    assert not any(hooks)
    assert sum(len(module._forward_hooks) for module in network.modules()) == 1  # attach's own


def test_nothing_runs_in_training_mode():
    class Evaluated(Cue):
        def forward(self, x):
            assert not self.training
            return super().forward(x)

    network = Evaluated(2).eval()
    assert attribute(network, scene(2), 1).note == ""
    assert not network.training


def test_an_organ_that_is_not_found_and_a_layer_that_is_not_there():
    network, image = Cue(2), scene(2)
    found = attribute(network, image * 0, 1, "features")
    assert (found.grad_cam, found.occlusion) == (None, None)
    assert "finds none of it" in found.note
    with pytest.raises(InputError, match=r"no layer 'layer9\.0'"):
        attribute(network, image, 1, "layer9.0")


def test_a_layer_without_gradient_gives_the_other_map_and_a_line():
    class Constant(Cue):
        def forward(self, x):
            return super().forward(x).detach()

    found = attribute(Constant(2), scene(2), 1, "features")
    assert found.grad_cam is None
    assert found.occlusion is not None
    assert found.note.startswith("no Grad-CAM of features: ")


def test_regions_are_where_their_logit_is_positive():
    network = Cue(2)
    overlapping = lambda x: network(x) + 0.5  # noqa: E731 -- class 0 is above class 1 almost everywhere
    wrapped = nn.Module()
    wrapped.features, wrapped.forward = network.features, overlapping
    found = attribute(network, scene(2), 1, "features", regions=True)
    assert inside(peak(found.occlusion), SQUARES[2])


def test_the_deepest_layer_of_the_networks_of_the_comparison():
    image = torch.zeros(1, 1, 64, 64)
    for method in ("fcn", "fcn_dsm", "fcn_se"):
        network = build_network(method, num_classes=3).eval()
        assert deepest_layer(network, image) == "backbone.layer4"


def test_the_largest_slice():
    mask = np.zeros((4, 5, 6), bool)
    assert largest_slice(mask) is None
    mask[2, 1:3] = mask[1, 1] = True
    assert largest_slice(mask) == 2


class Bright(nn.Module):
    """Class 1 is where a 3 x 3 (x 3) mean is bright: what it hangs on is where it is."""

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.features = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims](1, 2, 3, padding=1, bias=False)
        with torch.no_grad():
            self.features.weight[0] = -1.0 / 3**spatial_dims
            self.features.weight[1] = 1.0 / 3**spatial_dims
        self.bias = nn.Parameter(torch.tensor([1.0, -0.2]).view(2, *[1] * spatial_dims))

    def forward(self, x):
        return self.features(x) + self.bias


def predictor_of(size, fit="resize", **fields):
    network = Bright(len(size)).eval().requires_grad_(False)
    model = SliceModel(network, size, fit, (Intensity("window", 0, 100),))
    cpu = torch.device("cpu")
    return Predictor((model,), "superior", ("background", "organ"), cpu, batch_size=4, **fields)


@pytest.mark.parametrize(
    ("size", "fit", "spacing_mm"),
    [
        ((64, 64), "resize", None),
        ((24, 24), "window", None),
        ((64, 64), "resize", (4.0, 2.0, 2.0)),
        ((8, 24, 24), "window", None),
        ((8, 24, 24), "window", (2.0, 2.0, 2.0)),
        ((32, 96, 96), "window", None),  # larger than the volume
    ],
)
def test_maps_lie_on_the_slice_where_the_organ_is_largest(size, fit, spacing_mm):
    """The organ is small at a place of its own; voxels are flat, axes turned, and the maps peak on it."""
    voxels = np.full((50, 40, 12), 10, np.int16)
    voxels[30:38, 4:12, 6:9] = 90
    voxels[30:40, 4:14, 7] = 90
    affine = np.diag((-1.0, 1.5, -3.0, 1.0))  # from superior to inferior
    volume = Volume(Path("made.nii.gz"), voxels.shape, affine, None, voxels)
    predictor = predictor_of(size, fit, spacing_mm=spacing_mm)
    ids = predictor.segment([volume]).voxels
    assert ids[34, 8, 7] == 1
    maps = attribute_organ(predictor, [volume], ids, 1)
    order = SliceOrder.of(affine)
    organ = order.to_slices(ids) == 1
    assert organ[maps.index].sum() == organ.sum(axis=(1, 2)).max()
    assert maps.note == ""
    for each in (maps.grad_cam, maps.occlusion):
        assert each.shape == organ.shape[1:]
        assert each.dtype == np.float32
        room = 7 if size[-1] == 96 else 1  # the step between boxes
        rows, columns = (
            np.arange(part.min() - room, part.max() + 1 + room) for part in np.nonzero(organ[maps.index])
        )
        row, column = np.unravel_index(np.nanargmax(each), each.shape)
        assert row in rows
        assert column in columns
    windowed = fit == "window" and size[-1] < 50
    assert np.isnan(maps.occlusion).any() == windowed
    assert "finds none" in attribute_organ(predictor, [volume], ids * 0, 1).note
    with pytest.raises(InputError, match="no output for label 7: it has 0, 1"):
        attribute_organ(predictor, [volume], ids, 7)


def test_a_region_is_found_by_its_value():
    regions = (Region("whole", (1, 2), 2), Region("core", (2,), 1))
    assert [attribution._output_of(predictor_of((8, 8), regions=regions), value) for value in (2, 1)] == [0, 1]
