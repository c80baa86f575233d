"""Which slices an epoch draws, and in which order; stateless, so a resumed run draws what it would have drawn."""

import hashlib
import math

import numpy as np
import numpy.typing as npt
import torch

from triage.records import ANY, LABELS, SUBTYPES
from triage.train.cache import Bools, Rows
from triage.train.recipes import Recipe

NO_BLEED = len(SUBTYPES)
"""Class of a slice without a bleed, after the places in SUBTYPES."""

_ANY = LABELS.index(ANY)
_SUBTYPES = [LABELS.index(label) for label in SUBTYPES]


def classes(labels: Bools) -> npt.NDArray[np.int64]:
    """Put each slice into one class.

    Args:
        labels: (n, 6), columns as LABELS; of the part trained on, for rarity is counted over them.

    Returns:
        (n,) place in SUBTYPES of the slice's rarest subtype; NO_BLEED where there is none. A bleed without a subtype
        counts among the commonest one, lest a few such slices become a class of their own.
    """
    of_subtype = labels[:, _SUBTYPES]
    counts = of_subtype.sum(axis=0)
    rarest = np.where(of_subtype, counts, len(labels) + 1).argmin(axis=1)
    rarest = np.where(of_subtype.any(axis=1), rarest, counts.argmax())
    return np.where(labels[:, _ANY], rarest, NO_BLEED).astype(np.int64)


def weights(labels: Bools, recipe: Recipe) -> torch.Tensor:
    """How likely each slice is to be drawn.

    "plain": all alike. "class_weighted" (the source's): 1 / count of the slice's class; the class is bleed or none for
    the binary model, and the rarest subtype, or none, for others. "balanced": half of all draws without a bleed, the
    other half spread over the subtypes alike.

    Args:
        labels: (n, 6), columns as LABELS; of the part trained on.
        recipe: Its sampler and kind count.

    Returns:
        (n,) float64, summing to 1.
    """
    if recipe.sampler == "plain":
        return torch.full((len(labels),), 1.0 / max(len(labels), 1), dtype=torch.float64)
    found = classes(labels)
    if recipe.sampler == "class_weighted" and recipe.kind == "binary":
        found = np.where(found == NO_BLEED, NO_BLEED, 0)
    counts = np.bincount(found, minlength=NO_BLEED + 1)
    share = (counts > 0).astype(np.float64)
    if recipe.sampler == "balanced":
        share[NO_BLEED] *= max(share[:NO_BLEED].sum(), 1.0)
    per_slice = share / np.maximum(counts, 1)
    return torch.from_numpy(per_slice[found] / share.sum())


def draws(weights: torch.Tensor, recipe: Recipe, epoch: int, rank: int = 0, world: int = 1) -> Rows:
    """Draw the slices of one epoch.

    The sequence follows from the recipe's seed and the epoch alone. Of several processes each takes every world-th
    draw, all equally many, so that none waits for another's gradients in vain: where the number is not a multiple of
    world, the first draws are repeated at the end.

    Args:
        weights: (n,) as from `weights`.
        recipe: Its sampler, draws and seed count. "plain" takes a permutation, as often as draws need; others draw with
            replacement.
        epoch: From 0 or 1, as the caller counts.
        rank: Of this process.
        world: Processes in all.

    Returns:
        Places within the n slices, in order.
    """
    n, number = len(weights), recipe.draws or len(weights)
    rng = torch.Generator().manual_seed(_seed(recipe.seed, epoch))
    if recipe.sampler == "plain":
        rounds = [torch.randperm(n, generator=rng) for _ in range(math.ceil(number / n))]
        drawn = torch.cat(rounds)[:number]
    else:
        drawn = torch.multinomial(weights, number, replacement=True, generator=rng)
    order: Rows = drawn.numpy()
    return np.resize(order, math.ceil(number / world) * world)[rank::world]


def prior_shift(labels: Bools, weights: torch.Tensor) -> float:
    """What to add to the logit of "any" to undo the sampler: a network learns the odds of what it is shown.

    Args:
        labels: (n, 6), columns as LABELS; of the part trained on, at its natural prevalence.
        weights: (n,) as from `weights`.

    Returns:
        logit(prevalence) - logit(share drawn with a bleed): -0.90 where half of the draws bleed and 28.9 % of the
        slices do; 0 where all or no slices bleed.
    """
    bleeding = labels[:, _ANY]
    natural = float(bleeding.mean())
    drawn = float(weights[torch.from_numpy(bleeding)].sum() / weights.sum())
    if not 0 < natural < 1:
        return 0.0
    return math.log(natural / (1 - natural)) - math.log(drawn / (1 - drawn))


def _seed(seed: int, epoch: int) -> int:
    """Seeds of neighbouring epochs and runs that have nothing in common."""
    return int.from_bytes(hashlib.sha256(f"draws {seed} {epoch}".encode()).digest()[:8]) >> 1
