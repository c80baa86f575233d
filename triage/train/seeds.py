"""Which phantoms a card says its pack was trained on; reads nothing else."""

import re

from triage.nn.card import Card

SEEDS = re.compile(r"seeds (?:from )?(\d+)(?:, the last epoch's)? to (\d+)")
"""How a card tells what was trained on."""


def trained_seeds(card: Card) -> list[tuple[int, int]]:
    """First and last seed of each range of phantoms that a card names, those of packs and runs before among them."""
    return [(int(first), int(last)) for first, last in SEEDS.findall(f"{card.training.data} {card.training.run}")]
