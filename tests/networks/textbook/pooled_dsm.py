"""DSM with pooled branches as its formulas read, every map built in full, under the reference's names."""

from torch import Tensor, nn
from torch.nn import functional as F


class TextbookPooledDSM(nn.Module):
    """On (B, C, H, W), with 1x1 convolutions."""

    def __init__(self, channels: int, ratio: int = 1, value: bool = True) -> None:
        super().__init__()
        hidden = max(channels // ratio, 1)
        self.ch_attn = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            named(nn.Conv2d(channels, hidden, 1)),
            named(nn.Conv2d(hidden, channels, 1)),
        )
        self.sp_attn = nn.Sequential(named(nn.Conv2d(1, 1, 7, padding=3)))
        self.sk = nn.Module()
        self.sk.fc_reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.sk.bn = nn.BatchNorm2d(hidden)
        self.sk.fc_select = nn.Conv2d(hidden, 2 * channels, 1, bias=False)
        self.resConv = named(nn.Conv2d(channels, channels, 1)) if value else None
        self.conv_out = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.LayerNorm([hidden, 1, 1]),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        pool, reduce, expand = self.ch_attn
        channel = hard_sigmoid(expand.conv(F.relu(reduce.conv(pool(x)))))  # (B, C, 1, 1)
        spatial = hard_sigmoid(self.sp_attn[0].conv(x.mean(1, keepdim=True)))  # (B, 1, H, W)
        series, parallel = channel * spatial, channel + spatial
        pooled = (series + parallel).mean((2, 3), keepdim=True)
        paths = self.sk.fc_select(F.relu(self.sk.bn(self.sk.fc_reduce(pooled))))
        first, second = paths.unflatten(1, (2, -1)).softmax(1).unbind(1)
        weights = (first * series + second * parallel).flatten(2).softmax(2)
        value = x if self.resConv is None else F.relu(self.resConv.conv(x))
        return x + self.conv_out((weights * value.flatten(2)).sum(2)[:, :, None, None])


def named(conv: nn.Conv2d) -> nn.Module:
    """A module whose child is called `conv`."""
    wrapper = nn.Module()
    wrapper.conv = conv
    return wrapper


def hard_sigmoid(x: Tensor) -> Tensor:
    return ((x + 3) / 6).clamp(0, 1)
