"""DANet's head: position and channel attention side by side.

Paper: Fu et al. 2019, https://arxiv.org/abs/1809.02983, in the form of MMSegmentation's DAHead: a branch is a
3x3 convolution, an attention and a 3x3 convolution; the branches' sum is classified, and each branch on its own
for the loss. Departures: none.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from dsnet_med.networks.layers import channels_at, classifier, conv_norm_relu, scaled
from dsnet_med.networks.plugins.channel_attention import ChannelAttention
from dsnet_med.networks.plugins.position_attention import PositionAttention


class DANetHead(nn.Module):
    """A pyramid of (B, in_channels[i], H_i, W_i) -> logits (B, num_classes, H_level, W_level).

    In training the logits are three: of both branches, of position and of channel attention. In eval they are
    those of both branches alone. `width` multiplies `channels` and `pam_channels`, the width of the position
    attention's queries and keys.
    """

    reference_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"position\.before\.norm", "pam_in_conv.bn"),
        (r"position\.before", "pam_in_conv"),
        (r"position\.after\.norm", "pam_out_conv.bn"),
        (r"position\.after", "pam_out_conv"),
        (r"position\.attention", "pam"),
        (r"channel\.before\.norm", "cam_in_conv.bn"),
        (r"channel\.before", "cam_in_conv"),
        (r"channel\.after\.norm", "cam_out_conv.bn"),
        (r"channel\.after", "cam_out_conv"),
        (r"channel\.attention", "cam"),
        (r"classifier", "conv_seg"),
        (r"position_classifier", "pam_conv_seg"),
        (r"channel_classifier", "cam_conv_seg"),
    )

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        pam_channels: int = 64,
        dropout: float = 0.1,
        width: float = 1.0,
        level: int = -1,
    ) -> None:
        super().__init__()
        self.level = level
        features, hidden = channels_at("DANetHead", in_channels, level), scaled(channels, width)
        position = PositionAttention(hidden, hidden=scaled(pam_channels, width))
        self.position = _Branch(features, hidden, position)
        self.channel = _Branch(features, hidden, ChannelAttention(hidden))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(hidden, num_classes)
        self.position_classifier = nn.Conv2d(hidden, num_classes, 1)
        self.channel_classifier = nn.Conv2d(hidden, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        if self.training:
            return self.all_logits(features)
        position, channel = self._branches(features)
        fused: Tensor = self.classifier(self.dropout(position + channel))
        return fused

    def all_logits(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The logits of both branches, of position and of channel attention, in either mode."""
        position, channel = self._branches(features)
        return (
            self.classifier(self.dropout(position + channel)),
            self.position_classifier(self.dropout(position)),
            self.channel_classifier(self.dropout(channel)),
        )

    def _branches(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        x = features[self.level]  # (B, C, H, W)
        return self.position(x), self.channel(x)


class _Branch(nn.Module):
    """(B, features, H, W) -> (B, channels, H, W): an attention between two convolutions."""

    def __init__(self, features: int, channels: int, attention: nn.Module) -> None:
        super().__init__()
        self.before = conv_norm_relu(features, channels)
        self.attention = attention
        self.after = conv_norm_relu(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.after(self.attention(self.before(x)))
        return branch
