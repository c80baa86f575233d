"""A network as it is trained: with the places that its pyramid points at beside its logits, for a loss of their own.

A label for a whole slice says little about a bleed of a few pixels. Asked for its place, which phantoms know, the trunk
learns what blood looks like from far fewer slices.
"""

import torch
from torch import nn
from torch.nn import functional

from triage.nn.architectures import Network
from triage.nn.preprocess import constant
from triage.train.recipes import Recipe

PLACE_POSITIVE = 4.0
"""Weight of places where there is a bleed, within the loss that asks for them."""


class Looking(nn.Module):
    """A network whose forward pass gives both answers, so that several processes can share its gradients."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits, (n, heads), and those of places, see `Network.look`."""
        return self.network.look(images)


def place_loss(recipe: Recipe, places: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """How wrong places are.

    Args:
        recipe: Its heads count.
        places: (n, heads, h, w) logits.
        truth: (n, 6, size, size), 0..1, where each label's bleed lies.

    Returns:
        Mean binary cross entropy; a place has a label when a bleed of it lies anywhere in it.
    """
    asked = torch.stack([truth[:, column] for column in recipe.columns], dim=1)
    there = functional.adaptive_max_pool2d(asked, places.shape[2:]).clamp(0.0, 1.0)
    positive = constant([PLACE_POSITIVE] * len(recipe.columns), places.device).view(-1, 1, 1)
    return functional.binary_cross_entropy_with_logits(places.float(), there, pos_weight=positive)
