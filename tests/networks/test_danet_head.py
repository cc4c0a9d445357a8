"""DANet's head: the reference's vectors, three outputs in training and one in eval."""

import json

import pytest
import torch
from golden import by_reference_name, check_close, check_training, load

from dsnet_med.networks.heads import DANetHead
from dsnet_med.networks.reference import reference_names


def head_of(golden):
    ctor = golden.meta["ctor"]
    options = {name: ctor[name] for name in ("channels", "pam_channels")}
    return load(DANetHead([ctor["in_channels"]], ctor["num_classes"], **options), golden.state())


def test_is_the_reference(vectors):
    golden = vectors("da_head")
    head = head_of(golden)
    assert sum(p.numel() for p in head.parameters()) == golden.meta["params"]
    x = golden["in/0"].requires_grad_()
    logits = head.all_logits([x])
    for index, value in enumerate(logits):
        check_close(value, golden[f"out_eval/{index}"])
    check_close(head([x]), golden["out_eval/0"])
    sum((value * golden[f"gradw/{index}"]).sum() for index, value in enumerate(logits)).backward()
    check_close(x.grad, golden["grad_in/0"])
    ours = by_reference_name(head, {name: value.grad for name, value in head.named_parameters()})
    theirs = golden.group("grad_param")
    assert len(theirs) > 10
    for name, value in theirs.items():
        if name == "pam.key_project.bias":  # zero by the softmax's invariance: rounding is left
            assert ours[name].abs().max() < 1e-4
        else:
            check_close(ours[name], value, rtol=2e-4)


def test_trains_as_the_reference(vectors):
    check_training(head_of(vectors("da_head")), vectors("da_head"))


def test_names_and_shapes_of_the_full_size(golden):
    full = json.loads((golden / "full" / "danet.json").read_text())["state"]
    with torch.device("meta"):
        head = DANetHead([256, 512, 1024, 2048], 9)
    names, state = reference_names(head), head.state_dict()
    ours = {f"decode_head.{names[key]}": value.numel() for key, value in state.items()}
    sizes = {name: torch.Size(shape).numel() for name, shape in full.items() if "decode_head" in name}
    assert ours == sizes


@pytest.mark.parametrize("level", [0, -1])
def test_reads_its_level_at_any_width(level):
    head = DANetHead([4, 6], 5, channels=32, pam_channels=4, width=0.25, level=level).eval()
    pyramid = [torch.randn(1, 4, 9, 7), torch.randn(1, 6, 5, 3)]
    logits = head(pyramid)
    assert logits.shape == (1, 5, *pyramid[level].shape[2:])
    assert torch.equal(logits, head.all_logits(pyramid)[0])
    assert head.classifier.in_channels == 8
    assert head.position.attention.query.out_features == 1


def test_only_the_main_classifier_starts_small():
    torch.manual_seed(0)
    head = DANetHead([8], 9, channels=256)
    assert head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    for aside in (head.position_classifier, head.channel_classifier):
        assert 0.9 * 256**-0.5 < aside.weight.abs().max() <= 256**-0.5  # PyTorch's default: uniform
