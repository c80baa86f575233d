"""Networks by name: a trunk with one-logit heads beside each other; fetches no weights, imports torchvision late."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

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
    classifiers on shared features, not a softmax: one slice may show several subtypes.
    """

    def __init__(self, trunk: nn.Module, features: int, heads: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList([nn.Linear(features, 1) for _ in range(heads)])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Score images.

        Args:
            images: (n, 3, size, size), as `triage.nn.preprocess.prepare` makes them.

        Returns:
            Logits, (n, heads).
        """
        features = self.trunk(images)
        return torch.cat([head(features) for head in self.heads], dim=1)

    @property
    def has_maps(self) -> bool:
        """Whether the trunk ends in an average over places, which is what class activation maps rest on."""
        return hasattr(self.trunk, "avgpool")

    def activation_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Say what each place of images contributes to each logit: class activation maps (Zhou 2016, arXiv 1512.04150).

        The last stage's features under a head's weights, as a 1 x 1 convolution. They are exact, not an estimate: a
        map's mean and the head's bias make the logit. No backward pass is needed.

        Args:
            images: As for `forward`.

        Returns:
            (n, heads, h, w) float32, also under autocast; a cell for every CELL_PX pixels.

        Raises:
            ValueError: This kind of network has no such maps.
        """
        if not self.has_maps:
            raise ValueError("a trunk without a final average over places has no activation maps")
        features = images
        for name, layer in self.trunk.named_children():
            if name == "avgpool":
                break
            features = layer(features)
        weights = torch.cat([head.get_parameter("weight") for head in self.heads])
        with torch.autocast(images.device.type, enabled=False):
            return functional.conv2d(features.float(), weights.float()[:, :, None, None])


def build(architecture: str, heads: int) -> Network:
    """Build an untrained network.

    Args:
        architecture: One of ARCHITECTURES.
        heads: Number of one-logit heads; 1 for the binary model, 5 for the subtype model.

    Returns:
        The network in training mode, on the default device, its weights random.

    Raises:
        ValueError: The architecture is not one of ARCHITECTURES, or heads is below 1.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
    if heads < 1:
        raise ValueError(f"a network needs at least one head, not {heads}")
    if architecture == THESIS_CNN:
        return Network(_thesis_cnn(), 64, heads)
    from torchvision.models import resnet  # lazily: the trunk's layers are all that is needed of it

    trunk: Any = getattr(resnet, architecture)(weights=None)
    features = int(trunk.fc.in_features)
    trunk.fc = nn.Identity()
    return Network(trunk, features, heads)


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
