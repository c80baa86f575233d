"""Asks a network in training where each bleed lies, which phantoms know; the answer is no part of the pack.

A label for a whole slice says little about a bleed of a few pixels. Asked for its place, the trunk learns what blood
looks like from far fewer slices.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from triage.nn.architectures import Network
from triage.records import LABELS

WIDTH = 96
"""Channels of the layers that point."""

RARE = -4.0
"""Bias to begin with: nearly every place is without a bleed."""


class Pointing(nn.Module):
    """A ResNet-18 network with a small feature pyramid on its trunk (Lin 2017, arXiv 1612.03144)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.sides = nn.ModuleList([nn.Conv2d(channels, WIDTH, 1) for channels in (128, 256, 512)])
        last = nn.Conv2d(WIDTH, len(LABELS), 1)
        assert last.bias is not None
        nn.init.constant_(last.bias, RARE)
        self.mix = nn.Sequential(
            nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.BatchNorm2d(WIDTH), nn.ReLU(), last,
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's logits, (n, heads), and those of each label's place, (n, 6, size / 8, size / 8)."""
        trunk: Any = self.network.trunk  # a torchvision ResNet, whose layers are taken one by one
        features = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(images))))
        levels = []
        for layer in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
            features = layer(features)
            levels.append(features)
        pooled = trunk.avgpool(features).flatten(1)
        logits = torch.cat([head(pooled) for head in self.network.heads], dim=1)
        finest, middle, coarsest = (side(level) for side, level in zip(self.sides, levels[1:], strict=True))
        size = finest.shape[2:]
        return logits, self.mix(
            finest + functional.interpolate(middle, size) + functional.interpolate(coarsest, size)
        )  # fmt: skip
