"""Networks by name: a trunk with one-logit heads beside each other; fetches no weights, imports torchvision late."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from triage.nn.pyramid import PLACE_PX, Pyramid, staged

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""Trunks of torchvision; resnet152 is what the source of the method used (He 2016, arXiv 1512.03385)."""

THESIS_CNN = "thesis-cnn"
"""The small network of the source's first experiment."""

THESIS_CNN_PX = 224
"""Its input size: fully connected layers fix it."""

ARCHITECTURES = (*RESNETS, THESIS_CNN)
"""Names a card may give."""

CELL_PX = 32
"""Distance in the input between neighbouring cells of a ResNet's last stage. The first cell's receptive field has its
centre on the first pixel: every stride of 2 keeps the even places."""


class Network(nn.Module):
    """A trunk that turns an image into features, and one `Linear(features, 1)` a label beside each other.

    With one head it is the binary model; with five it is the subtype model, whose heads are independent binary
    classifiers on shared features, not a softmax: one slice may show several subtypes. With a pyramid each head's logit
    also weighs the strongest places of its label.
    """

    def __init__(self, trunk: nn.Module, features: int, heads: int, pyramid: Pyramid | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList([nn.Linear(features, 1) for _ in range(heads)])
        self.pyramid = pyramid

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Score images.

        Args:
            images: (n, 3, size, size), as `triage.nn.preprocess.prepare` makes them.

        Returns:
            Logits, (n, heads).
        """
        return self.look(images)[0]

    def look(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Score images and their places.

        Args:
            images: As for `forward`.

        Returns:
            Logits, (n, heads); and those of each place, see `Pyramid.forward`, None without a pyramid.
        """
        if self.pyramid is None:
            return self._scored(self.trunk(images)), None
        levels = staged(self.trunk, images)
        logits = self._scored(levels[-1].mean(dim=(2, 3)))
        places = self.pyramid(levels[1:])
        return logits + self.pyramid.strongest(places), places

    def _scored(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([head(features) for head in self.heads], dim=1)

    @property
    def has_maps(self) -> bool:
        """Whether the trunk ends in an average over places, which is what class activation maps rest on."""
        return hasattr(self.trunk, "avgpool")

    def activation_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Say what each place of images speaks for each label; no backward pass is needed.

        Without a pyramid these are class activation maps (Zhou 2016, arXiv 1512.04150): the last stage's features under
        a head's weights, as a 1 x 1 convolution. They are exact, not an estimate: a map's mean and the head's bias make
        the logit. With a pyramid they are how likely the label is at each place, not calibrated.

        Args:
            images: As for `forward`.

        Returns:
            (n, heads, h, w) float32, also under autocast; a cell for every CELL_PX pixels, with a pyramid PLACE_PX.

        Raises:
            ValueError: This kind of network has no such maps.
        """
        if not self.has_maps:
            raise ValueError("a trunk without a final average over places has no activation maps")
        levels = staged(self.trunk, images)
        if self.pyramid is not None:
            places: torch.Tensor = self.pyramid(levels[1:])
            return places.float().sigmoid()
        weights = torch.cat([head.get_parameter("weight") for head in self.heads])
        with torch.autocast(images.device.type, enabled=False):
            return functional.conv2d(levels[-1].float(), weights.float()[:, :, None, None])

    def spread(self, maps: torch.Tensor, size_px: int) -> torch.Tensor:
        """Spread activation maps over the input that they are of.

        Cubic, so that a maximum may lie between cells: with straight lines between them it never does.

        Args:
            maps: (n, heads, h, w), as `activation_maps` gives them.
            size_px: Side of the input.

        Returns:
            (n, heads, size_px, size_px).
        """
        return spread(maps, size_px, *((PLACE_PX, PLACE_PX / 2) if self.pyramid is not None else (CELL_PX, 0.5)))


def spread(maps: torch.Tensor, size_px: int, cell_px: float, first_px: float) -> torch.Tensor:
    """Spread cells over an image, each at its place.

    Args:
        maps: (n, heads, h, w).
        size_px: Side of the image.
        cell_px: Distance between neighbouring cells.
        first_px: Where the first cell's middle lies, from the image's edge. Of a ResNet's last stage that is the middle
            of the first pixel: stretching such a map over the input, cell against pixel, would move it by half a cell.

    Returns:
        (n, heads, size_px, size_px); at the cells their own values.
    """
    middles = torch.arange(size_px, device=maps.device) + 0.5
    places = [((middles - first_px) / cell_px * 2 + 1) / cells - 1 for cells in maps.shape[-2:]]
    y, x = torch.meshgrid(places[0], places[1], indexing="ij")
    grid = torch.stack([x, y], dim=-1).expand(len(maps), -1, -1, -1)
    return functional.grid_sample(maps, grid, "bicubic", "border", align_corners=False)


def build(architecture: str, heads: int, places: bool = False) -> Network:
    """Build an untrained network.

    Args:
        architecture: One of ARCHITECTURES.
        heads: Number of one-logit heads; 1 for the binary model, 5 for the subtype model.
        places: With a pyramid, which needs one of RESNETS.

    Returns:
        The network in training mode, on the default device, its weights random.

    Raises:
        ValueError: The architecture is not one of ARCHITECTURES or has no places, or heads is below 1.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
    if heads < 1:
        raise ValueError(f"a network needs at least one head, not {heads}")
    if places and architecture not in RESNETS:
        raise ValueError(f"architecture {architecture!r} has no places; use one of {', '.join(RESNETS)}")
    if architecture == THESIS_CNN:
        return Network(_thesis_cnn(), 64, heads)
    from torchvision.models import resnet  # lazily: the trunk's layers are all that is needed of it

    trunk: Any = getattr(resnet, architecture)(weights=None)
    features = int(trunk.fc.in_features)
    trunk.fc = nn.Identity()
    return Network(trunk, features, heads, Pyramid(trunk, heads) if places else None)


class Standardised(nn.Module):
    """The first channel of each image, brought to mean 0 and variance 1."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, size, size) -> (n, 1, size, size)."""
        first = images[:, :1]
        mean, deviation = first.mean(dim=(2, 3), keepdim=True), first.std(dim=(2, 3), keepdim=True)
        return (first - mean) / deviation.clamp(min=1e-3)


def _thesis_cnn() -> nn.Sequential:
    """Two 8 x 8 convolutions and three fully connected layers with the head; widths are assumed, see the recipe."""
    return nn.Sequential(
        Standardised(),
        nn.Conv2d(1, 16, 8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 50 * 50, 128), nn.ReLU(), nn.BatchNorm1d(128),
        nn.Linear(128, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Dropout(0.5),
    )  # fmt: skip
