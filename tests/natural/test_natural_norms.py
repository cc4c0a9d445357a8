"""Batch norms over several processes: what they replace, and what they must leave."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler

from dsnet_med.errors import InputError
from dsnet_med.methods import build_network
from dsnet_med.natural.distributed import Share, steps_per_epoch, synchronise_norms


@pytest.mark.parametrize("row", ["resnet50", "fcanet50", "dsnet50_a"])
def test_synchronised_norms_keep_plugins_names_and_results(row):
    torch.manual_seed(0)
    network = build_network(f"cityscapes/{row}", in_channels=3, num_classes=4, width=1 / 16).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # timm's last norm of every block starts at zero
            parameter.uniform_(0.1, 0.5) if parameter.ndim == 1 else parameter.normal_(std=0.1)
    image, state = torch.rand(1, 3, 64, 64), network.state_dict()
    before, parameters = network(image), [id(each) for each in network.parameters()]
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    synchronise_norms(network)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in network.modules()) == norms > 50
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    kept = sum(isinstance(module, nn.BatchNorm1d) for module in network.modules())
    assert kept == (3 if row == "dsnet50_a" else 0)
    assert list(network.state_dict()) == list(state)
    assert [id(each) for each in network.parameters()] == parameters  # an optimiser may hold them already
    torch.testing.assert_close(network(image), before, rtol=1e-5, atol=1e-6 * before.std().item())


def test_a_process_without_an_image_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match="3 images for 4 processes: start at most 3"):
        Share(SequentialSampler(range(3)), even=False)
    assert len(Share(SequentialSampler(range(5)), even=False)) == 2


def test_an_epoch_without_a_batch_is_refused():
    assert steps_per_epoch(DataLoader(range(9), batch_size=4, drop_last=True)) == 2
    with pytest.raises(InputError, match="3 images to train on do not make a batch of 4: give a smaller"):
        steps_per_epoch(DataLoader(range(3), batch_size=4, drop_last=True))
