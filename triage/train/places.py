"""Asks a trunk in training where each bleed lies, which phantoms know; the answer is no part of a pack.

A label for a whole slice says little about a bleed of a few pixels. Asked for its place, the trunk learns what blood
looks like from far fewer slices.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from triage.errors import DataError
from triage.nn.architectures import RESNETS, Network
from triage.records import LABELS

WIDTH = 96
"""Channels of the layers that point."""

RARE = -4.0
"""Bias to begin with: nearly every place is without a bleed."""


class Pointing(nn.Module):
    """A ResNet network with a small feature pyramid on its trunk (Lin 2017, arXiv 1612.03144)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        trunk: Any = network.trunk
        levels = (trunk.layer2, trunk.layer3, trunk.layer4)
        self.sides = nn.ModuleList([nn.Conv2d(_channels(level), WIDTH, 1) for level in levels])
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
        return logits, self.mix(finest + functional.interpolate(middle, size) + functional.interpolate(coarsest, size))


class Plain(nn.Module):
    """A network that is not asked for places, with the same two answers."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The network's logits, (n, heads), and nothing."""
        return self.network(images), None


def asked(network: Network, architecture: str, place_weight: float) -> Pointing | Plain:
    """The network as it is trained. Raises DataError where places are asked of a trunk without stages."""
    if place_weight == 0:
        return Plain(network)
    if architecture not in RESNETS:
        raise DataError(f"place_weight needs a ResNet trunk, not {architecture}; use --set place_weight=0")
    return Pointing(network)


def _channels(level: nn.Module) -> int:
    """Of a ResNet stage's output: its last block's last convolution."""
    blocks: Any = level
    last = blocks[-1]
    convolution = last.conv3 if hasattr(last, "conv3") else last.conv2
    return int(convolution.out_channels)
