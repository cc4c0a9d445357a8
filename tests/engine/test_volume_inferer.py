"""Whole volumes in a validation: what MONAI's windows give, decided; and the slices of them that are shown."""

import pytest
import torch
from ignite.engine import Engine
from monai.inferers import sliding_window_inference
from torch import nn

from dsnet_med.engine.loggers import Loggers
from dsnet_med.engine.pictures import FixedSlices
from dsnet_med.engine.volume_inferer import VolumeInferer

REGIONS = {"whole": {"of": [1, 2], "value": 1}, "core": {"of": [2], "value": 2}}


@pytest.mark.parametrize("shape", [(12, 20, 16), (5, 9, 30)])
def test_what_is_decided_is_what_monai_s_windows_say(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = nn.Conv3d(2, 3, 3, padding=1)
    volume = torch.randn(1, 2, *shape)
    with torch.no_grad():
        scores = sliding_window_inference(volume, (8, 16, 16), 2, network, 0.5, "gaussian")
        classes = VolumeInferer([8, 16, 16])(volume, network)
        masks = VolumeInferer([8, 16, 16], regions=REGIONS)(volume, network)
    assert classes.dtype == torch.uint8
    assert torch.equal(classes[:, 0].long(), scores.argmax(1))
    assert torch.equal(masks, scores > 0)


@pytest.mark.parametrize("regions", [None, REGIONS])
def test_of_a_volume_the_slice_with_the_most_foreground_is_shown(regions: object) -> None:
    volume, labels = torch.rand(1, 2, 40, 8, 6), torch.zeros(1, 1, 40, 8, 6, dtype=torch.uint8)
    labels[0, 0, 30, 2:5], labels[0, 0, 31, 2:6] = 1, 2
    pred = torch.cat([labels > 0, labels == 2], 1) if regions else labels
    validator = Engine(lambda *_: {"image": volume, "label": labels, "pred": pred})
    pictures = FixedSlices(Loggers([], "."), validator, class_names=["none", "oedema", "core"], regions=regions)
    validator.state.output = {"image": volume, "label": labels, "pred": pred}
    validator.state.batch = {"case": "a"}
    pictures._keep(validator)
    kept = pictures.slices["a"]
    assert torch.equal(kept.image, volume[0, :, 31])
    assert torch.equal(kept.reference.long(), labels[0, 0, 31].long())
    assert torch.equal(kept.prediction.long(), labels[0, 0, 31].long())
    assert torch.equal(kept.shown, volume[:, :, 8:])  # 32 slices, for the gates
