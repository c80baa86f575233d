"""What a pack or a trained pair says of a cache's slices and studies, beside the truth; trains and chooses nothing.

Probabilities are composed by the functions that serve: `joint`, `study_probability`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from triage.nn.card import Card
from triage.nn.predict import joint, sigmoid, study_probability
from triage.nn.preprocess import Preprocessing
from triage.records import LABELS
from triage.train.cache import Cache, Index, Rows
from triage.train.scores import Scores, StudyRows, merged, score, study_rows, study_truth

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

Networks = Mapping[tuple[str, ...], nn.Module]
"""By the labels of its heads: one network, or binary and subtype model."""

Slices = tuple[Cache, Rows, Preprocessing]


@dataclass(frozen=True)
class Judged:
    """Calibrated probabilities and truth of n slices and of their m studies."""

    studies: list[StudyRows]
    slice_p: dict[str, Floats]
    """By label, (n,)"""
    study_p: dict[str, Floats]
    """By label, (m,)"""
    slice_truth: Bools
    """(n, 6), columns as LABELS."""
    study_truth: Bools
    """(m, 6)"""

    def of_slices(self, label: str) -> tuple[Floats, Bools]:
        """(n,) probabilities and truth of one label."""
        return self.slice_p[label], self.slice_truth[:, LABELS.index(label)]

    def of_studies(self, label: str) -> tuple[Floats, Bools]:
        """(m,) probabilities and truth of one label."""
        return self.study_p[label], self.study_truth[:, LABELS.index(label)]


def score_networks(
    networks: Networks, slices: Slices, device: torch.device, on_batch: Callable[[int], None] = lambda _: None
) -> Scores:
    """Score slices with every network, in fp32.

    Args:
        networks: On the device, in evaluation mode.
        slices: The cache, rows of it, and what the networks want them to look like.
        device: Where.
        on_batch: Told how many slices each batch of each network had.

    Returns:
        Logits of all labels of the networks.
    """
    first, *rest = (score(n, labels, slices, (device, "fp32"), on_batch) for labels, n in networks.items())
    for other in rest:
        first = merged(first, other)
    return first


def judged(card: Card, scores: Scores, index: Index) -> Judged:
    """Turn logits into what the node would say under a card.

    Args:
        card: Calibration, aggregation, and what the heads mean.
        scores: Of all six labels.
        index: Of the whole cache.

    Returns:
        Probabilities and truth.
    """
    platts = card.calibration.slice
    p = joint(card, {label: sigmoid(platts[label], scores.column(label)) for label in LABELS})
    studies = study_rows(index, scores.rows)
    study_p = {
        label: np.array([study_probability(card, label, values[one.places]) for one in studies])
        for label, values in p.items()
    }
    labels = index.labels[scores.rows]
    return Judged(studies, p, study_p, labels, study_truth(studies, labels))
