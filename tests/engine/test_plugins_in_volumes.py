"""Every plug-in in MONAI's 3-D networks: ten steps of training, a graph, a volume by windows."""

import pytest
import torch

from dsnet_med.inference.windows import window_labels
from dsnet_med.methods import build_network, with_plugin
from dsnet_med.networks import plugins
from dsnet_med.networks.attaching import plugins_of

HOSTS = {  # width, a place in the middle
    "dynunet_3d": (1 / 8, "downsamples.2"),
    "segresnet_3d": (1 / 2, "down_layers.2"),
    "swinunetr_3d": (1 / 4, "swinViT.layers2.0"),
}
NAMES = sorted(set(plugins.__all__) - {"FrequencyChannel"})
FAST = {("dynunet_3d", "CBAM"), ("dynunet_3d", "CrissCross")}
CASES = [
    pytest.param(host, name, marks=() if (host, name) in FAST else pytest.mark.slow)
    for host in HOSTS
    for name in NAMES
]
SIZE = (32, 32, 64)


@pytest.mark.parametrize(("host", "name"), CASES)
def test_trains_exports_and_infers(host: str, name: str) -> None:
    torch.manual_seed(0)
    width, place = HOSTS[host]
    size = (16, 16, 32) if host == "dynunet_3d" else SIZE
    network = with_plugin(build_network(host, in_channels=2, num_classes=2, width=width), name, place)
    (plugin,) = plugins_of(network).values()
    images = torch.randn(2, 2, *size)
    labels = (images[:, 0] > 0).long()
    before = {key: value.clone() for key, value in plugin.named_parameters()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        outputs = network.train()(images)
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    after = dict(plugin.named_parameters())
    assert not before or any(not torch.equal(before[key], after[key]) for key in before)
    network.eval()
    with torch.no_grad():
        expected = network(images)
        graph = torch.export.export(network, (images,), strict=False).module()
        torch.testing.assert_close(graph(images), expected, rtol=1e-3, atol=1e-3)
        volume = torch.randn(2, size[0] + 5, size[1] + 3, size[2] + 7)
        assert window_labels(volume, network, size).shape == volume.shape[1:]
