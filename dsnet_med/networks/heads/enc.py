"""EncNet's head: context encoding, and from the same encoding which classes the image has.

Paper: Zhang et al. 2018, https://arxiv.org/abs/1803.08904, in the form of MMSegmentation's EncHead: a 3x3
convolution, the levels beside it joined by one more, context encoding, a classifier, and a linear layer from
the encoding to one logit per class, for a loss on the presence of classes. Departures: levels of other sizes
are resized before they are joined.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from dsnet_med.networks.layers import channels_at, classifier, conv_norm_relu, resized, scaled
from dsnet_med.networks.plugins.encoding import Encoding


class EncHead(nn.Module):
    """A pyramid of (B, in_channels[i], H_i, W_i) -> logits (B, num_classes, H_level, W_level), and of presence.

    The latter, (B, num_classes), say which classes the image has; `semantic=False` leaves them out, and the
    result is the logits alone. `laterals` are levels to join to `level`; `num_codes` is the number of
    codewords; `width` multiplies `channels`.
    """

    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"(bottleneck|fusion)\.norm", r"\1.bn"),
        (r"laterals\.(\d+)\.norm", r"lateral_convs.\1.bn"),
        (r"laterals", "lateral_convs"),
        (r"encoding", "enc_module"),
        (r"classifier", "conv_seg"),
        (r"semantic", "se_layer"),
    )

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        num_codes: int = 32,
        semantic: bool = True,
        laterals: Sequence[int] = (),
        dropout: float = 0.1,
        width: float = 1.0,
        level: int = -1,
    ) -> None:
        super().__init__()
        self.level, self.lateral_levels = level, tuple(laterals)
        hidden = scaled(channels, width)
        features, *beside = (channels_at("EncHead", in_channels, each) for each in (level, *laterals))
        self.bottleneck = conv_norm_relu(features, hidden)
        self.laterals = nn.ModuleList(conv_norm_relu(each, hidden, 1) for each in beside)
        self.fusion = conv_norm_relu((1 + len(laterals)) * hidden, hidden) if laterals else None
        self.encoding = Encoding(hidden, num_codes)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(hidden, num_classes)
        self.semantic = nn.Linear(hidden, num_classes) if semantic else None

    def forward(self, features: Sequence[Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        x = self._joined(features)  # (B, channels, H, W)
        encoded = self.encoding.encode(x)  # (B, channels)
        logits: Tensor = self.classifier(self.dropout(self.encoding(x, encoded)))
        return logits if self.semantic is None else (logits, self.semantic(encoded))

    def _joined(self, features: Sequence[Tensor]) -> Tensor:
        x: Tensor = self.bottleneck(features[self.level])
        if self.fusion is None:
            return x
        maps = [conv(features[level]) for conv, level in zip(self.laterals, self.lateral_levels, strict=True)]
        joined: Tensor = self.fusion(torch.cat([x, *(resized(each, x.shape[2:]) for each in maps)], dim=1))
        return joined
