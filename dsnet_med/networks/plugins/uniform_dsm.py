"""DSM without its attention, the placebo that is nearest to it.

DSM's fusion `dsa` adds sum_n softmax_n(g s) relu(W x) to every pixel. Its logits g s lie strictly between 0 and
1, so each of the N weights lies between 1/(e N) and e/N whatever is learned, and the attention is never far
from the plain mean. This module is that limit: x + mean_n relu(W x). It answers: is DSM more than adding the
mean of a projected map to every pixel? What DSM adds, divided by what this adds, stays within (1/e, e).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.networks.arguments import flags, whole_numbers
from dsnet_med.networks.layers import project


class UniformDSM(nn.Module):
    """x + mean_n relu(W x): (B, channels, *spatial) -> the same shape. `bias` is that of W, as in DSM."""

    def __init__(self, channels: int, bias: bool = False) -> None:
        whole_numbers("UniformDSM", channels=channels)
        flags("UniformDSM", bias=bias)
        super().__init__()
        self.value = nn.Linear(channels, channels, bias)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)  # (B, C, N)
        return (pixels + self._added(pixels)).reshape(x.shape)

    def explained(self, x: Tensor) -> dict[str, Tensor]:
        """`added` (B, channels)."""
        return {"added": self._added(x.flatten(2)).squeeze(2)}

    def _added(self, pixels: Tensor) -> Tensor:
        """(B, C, N) -> (B, C, 1)."""
        value = F.relu(project(pixels, self.value.weight, self.value.bias))  # (B, C, N)
        return value.mean(2, keepdim=True)
