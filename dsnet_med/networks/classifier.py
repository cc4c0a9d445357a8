"""Image classifiers: a backbone, the mean over its last map, one linear layer."""

from typing import ClassVar

from torch import Tensor, nn

from dsnet_med.networks.layers import becomes_a_graph, levels_of, pyramid, sizes_explained


class Classifier(nn.Module):
    """Images (B, C, H, W) -> logits (B, num_classes).

    `backbone` gives a list of feature maps, as for `Segmenter`; the last one is used. The linear layer
    starts at N(0, 0.01), as MMPretrain's LinearClsHead does.
    """

    reference_names: ClassVar[tuple[tuple[str, str], ...]] = ((r"fc", "head.fc"),)

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(levels_of(backbone)[0][-1], num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pooled(images))
        return logits

    def pooled(self, images: Tensor) -> Tensor:
        """What the linear layer gets, (B, channels)."""
        if becomes_a_graph():
            return pyramid(self.backbone, images)[-1].mean((2, 3))
        with sizes_explained(images):
            return pyramid(self.backbone, images)[-1].mean((2, 3))
