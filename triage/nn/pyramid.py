"""Asks a ResNet trunk where in an image each label is seen: a small feature pyramid, and what a slice makes of it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

WIDTH = 96
"""Channels of the layers that point."""

PLACE_PX = 8
"""Distance in the input between neighbouring places: the stride of a ResNet's second stage."""

RARE = -4.0
"""Bias to begin with: nearly every place is without a bleed."""


class Pyramid(nn.Module):
    """A feature pyramid on the last three stages of a ResNet (Lin 2017, arXiv 1612.03144), one map a label.

    A bleed of a few pixels is lost in an average over the whole slice; the strongest places keep it.
    """

    def __init__(self, trunk: nn.Module, heads: int) -> None:
        super().__init__()
        self.sides = nn.ModuleList([nn.Conv2d(channels(level), WIDTH, 1) for level in stages(trunk)[1:]])
        last = nn.Conv2d(WIDTH, heads, 1)
        assert last.bias is not None
        nn.init.constant_(last.bias, RARE)
        self.mix = nn.Sequential(
            nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.BatchNorm2d(WIDTH), nn.ReLU(), last,
        )  # fmt: skip
        self.weight = nn.Parameter(torch.ones(heads))
        """Of the places in each head's logit."""

    def forward(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Point.

        Args:
            levels: Features of the second, third and fourth stage.

        Returns:
            Logit of each label at each place, (n, heads, size / PLACE_PX, size / PLACE_PX); place by place the part of
            the input that lies there, as an image made smaller.
        """
        finest, middle, coarsest = (side(level) for side, level in zip(self.sides, levels, strict=True))
        size = finest.shape[2:]
        found: torch.Tensor = self.mix(
            finest + functional.interpolate(middle, size) + functional.interpolate(coarsest, size)
        )
        return found

    def strongest(self, places: torch.Tensor) -> torch.Tensor:
        """What the places say of their slice: a smooth maximum (log-sum-exp; Pinheiro 2015, arXiv 1411.6228).

        Args:
            places: As from `forward`.

        Returns:
            (n, heads) float32, to be added to the heads' logits.
        """
        return self.weight.float() * places.float().flatten(2).logsumexp(dim=2)


def stages(trunk: nn.Module) -> tuple[nn.Module, ...]:
    """The four stages of a torchvision ResNet."""
    parts: Any = trunk
    return parts.layer1, parts.layer2, parts.layer3, parts.layer4


def staged(trunk: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Features after each of the four stages of a torchvision ResNet."""
    parts: Any = trunk
    features = parts.maxpool(parts.relu(parts.bn1(parts.conv1(images))))
    found = []
    for stage in stages(trunk):
        features = stage(features)
        found.append(features)
    return tuple(found)


def channels(stage: nn.Module) -> int:
    """Of a ResNet stage's output: its last block's last convolution."""
    blocks: Any = stage
    last = blocks[-1]
    convolution = last.conv3 if hasattr(last, "conv3") else last.conv2
    return int(convolution.out_channels)
