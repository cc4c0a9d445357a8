"""EncNet's head: the reference's vectors, lateral levels against their direct form, options."""

import pytest
import torch
from agreement import lively
from golden import by_reference_name, check_close, check_training, load
from textbook.encoding import TextbookEncoding
from torch import nn

from dsnet_med.networks.heads import EncHead


def head_of(golden):
    ctor = golden.meta["ctor"]
    options = {name: ctor[name] for name in ("channels", "num_codes")}
    return load(EncHead(ctor["in_channels"], ctor["num_classes"], **options), golden.state())


def test_is_the_reference(vectors):
    golden = vectors("enc_head")
    head = head_of(golden)
    assert sum(p.numel() for p in head.parameters()) == golden.meta["params"]
    x = golden["in/0"].requires_grad_()
    outputs = head([x])
    assert len(outputs) == 2
    for index, value in enumerate(outputs):
        check_close(value, golden[f"out_eval/{index}"])
    sum((value * golden[f"gradw/{index}"]).sum() for index, value in enumerate(outputs)).backward()
    check_close(x.grad, golden["grad_in/0"])
    ours = by_reference_name(head, {name: value.grad for name, value in head.named_parameters()})
    theirs = golden.group("grad_param")
    assert len(theirs) == 15
    for name, value in theirs.items():
        check_close(ours[name], value, rtol=2e-4)


def test_trains_as_the_reference(vectors):
    check_training(head_of(vectors("enc_head")), vectors("enc_head"))


class DirectEncHead(nn.Module):
    """With lateral levels, as it reads, under the reference's names."""

    def __init__(self, in_channels, num_classes, channels):
        super().__init__()
        self.bottleneck = self.block(in_channels[-1], channels, 3)
        self.lateral_convs = nn.ModuleList(self.block(each, channels, 1) for each in in_channels[:-1])
        self.fusion = self.block(len(in_channels) * channels, channels, 3)
        self.enc_module = TextbookEncoding(channels)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    @staticmethod
    def block(before, after, size):
        module = nn.Module()
        module.conv = nn.Conv2d(before, after, size, padding=size // 2, bias=False)
        module.bn = nn.BatchNorm2d(after)
        return module

    def forward(self, features):
        blocks = [self.bottleneck, *self.lateral_convs]
        maps = [features[-1], *features[:-1]]
        maps = [torch.relu(block.bn(block.conv(x))) for block, x in zip(blocks, maps, strict=True)]
        fused = torch.relu(self.fusion.bn(self.fusion.conv(torch.cat(maps, dim=1))))
        return self.conv_seg(self.enc_module(fused))


def test_lateral_levels():
    torch.manual_seed(0)
    direct = lively(DirectEncHead([4, 6, 8], 5, 8)).double().eval()
    head = EncHead([3, 4, 6, 8], 5, channels=8, laterals=(1, 2), semantic=False).double()
    load(head, direct.state_dict())
    pyramid = [torch.randn(2, channels, 7, 5, dtype=torch.float64) for channels in (3, 4, 6, 8)]
    torch.testing.assert_close(head(pyramid), direct(pyramid[1:]))


def test_lateral_levels_of_other_sizes_are_resized():
    torch.manual_seed(0)
    head = lively(EncHead([4, 8], 5, channels=8, laterals=(0,))).eval()
    coarse, fine = torch.randn(2, 8, 4, 4), torch.randn(2, 4, 4, 4)
    doubled = fine.repeat_interleave(2, 2).repeat_interleave(2, 3)  # halved bilinearly it is itself again
    torch.testing.assert_close(head([doubled, coarse])[0], head([fine, coarse])[0])


@pytest.mark.parametrize("level", [0, -1])
def test_reads_its_level_at_any_width(level):
    head = EncHead([4, 6], 5, channels=32, width=0.25, level=level).eval()
    pyramid = [torch.randn(1, 4, 9, 7), torch.randn(1, 6, 5, 3)]
    logits, presence = head(pyramid)
    assert logits.shape == (1, 5, *pyramid[level].shape[2:])
    assert presence.shape == (1, 5)
    assert head.classifier.in_channels == head.semantic.in_features == 8


def test_without_the_semantic_branch():
    torch.manual_seed(0)
    head = EncHead([4], 5, channels=8).eval()
    alone = EncHead([4], 5, channels=8, semantic=False).eval()
    alone.load_state_dict({key: value for key, value in head.state_dict().items() if "semantic" not in key})
    x = torch.randn(2, 4, 5, 3)
    assert torch.equal(alone([x]), head([x])[0])
