"""Networks by name: a torchvision ResNet trunk with one-logit heads; fetches no weights, imports torchvision late."""

from typing import Any

import torch
from torch import nn

ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""Names a card may give; resnet152 is what the source of the method used (He 2016, arXiv 1512.03385)."""


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
    from torchvision.models import resnet  # lazily: the trunk's layers are all that is needed of it

    trunk: Any = getattr(resnet, architecture)(weights=None)
    features = int(trunk.fc.in_features)
    trunk.fc = nn.Identity()
    return Network(trunk, features, heads)
