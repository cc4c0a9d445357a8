"""EncNet's context encoding as MMSegmentation's modules read, residuals (B, N, K, C), under their names."""

import torch
from torch import Tensor, nn


class TextbookEncoding(nn.Module):
    def __init__(self, channels: int, num_codes: int = 32) -> None:
        super().__init__()
        self.encoding_project = nn.Module()
        self.encoding_project.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.encoding_project.bn = nn.BatchNorm2d(channels)
        codes = nn.Module()
        codes.codewords = nn.Parameter(torch.rand(num_codes, channels) - 0.5)
        codes.scale = nn.Parameter(-torch.rand(num_codes))
        self.encoding = nn.ModuleList([codes, nn.BatchNorm1d(num_codes)])
        self.fc = nn.Sequential(nn.Linear(channels, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        codes, norm = self.encoding
        projected = torch.relu(self.encoding_project.bn(self.encoding_project.conv(x)))
        pixels = projected.flatten(2).transpose(1, 2)  # (B, N, C)
        residuals = pixels.unsqueeze(2) - codes.codewords  # (B, N, K, C)
        weights = (codes.scale * residuals.pow(2).sum(3)).softmax(2)  # (B, N, K)
        encoded = (weights.unsqueeze(3) * residuals).sum(1)  # (B, K, C)
        gate = self.fc(torch.relu(norm(encoded)).mean(1))
        return torch.relu(x + x * gate[:, :, None, None])
