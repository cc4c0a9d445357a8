"""External attention as its formulas read: one linear layer after the other on (B, N, C)."""

import torch
from torch import Tensor, nn


class TextbookExternalAttention(nn.Module):
    """On (B, C, H, W), contiguous."""

    def __init__(self, channels: int, memory: int = 128, reference_layout: bool = False) -> None:
        super().__init__()
        self.reference_layout = reference_layout
        self.q_linear = nn.Linear(channels, channels)
        self.linear_1 = nn.Linear(channels, memory, bias=False)
        self.linear_2 = nn.Linear(memory, channels)
        self.proj = nn.Linear(channels, channels)
        self.linear_2.weight.data = self.linear_1.weight.data.T.clone()

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        if self.reference_layout:
            tokens = x.view(batch, height * width, channels)
        else:
            tokens = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        query = self.q_linear(tokens)
        attention = torch.softmax(self.linear_1(query), dim=1)
        attention = attention / (1e-9 + attention.sum(dim=2, keepdim=True))
        output = query + self.proj(self.linear_2(attention))
        if self.reference_layout:
            return output.view(batch, channels, height, width)
        return output.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
