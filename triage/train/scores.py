"""What networks say of a cache's slices, and what that makes of slices and studies; trains and measures nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from triage.nn.card import Aggregation, Platt
from triage.nn.predict import aggregate, composed, logit, network_logits, sigmoid
from triage.nn.preprocess import Preprocessing
from triage.records import ANY, LABELS
from triage.train.cache import Cache, Index, Rows

Floats = npt.NDArray[np.float64]

BATCH_SLICES = 64


@dataclass(frozen=True)
class Scores:
    """Uncalibrated logits of some slices."""

    rows: Rows
    """(n,) of the cache."""
    labels: tuple[str, ...]
    logits: Floats
    """(n, len(labels)); subtype heads speak of slices that bleed, P(subtype | any)."""

    def column(self, label: str) -> Floats:
        """(n,) logits of one label."""
        return self.logits[:, self.labels.index(label)]


@dataclass(frozen=True)
class StudyRows:
    """Which of some slices belong to one study."""

    study: str
    patient: str
    places: Rows
    """Positions within the scored rows (not rows of the cache), caudal to cranial."""


def score(
    network: nn.Module,
    labels: tuple[str, ...],
    slices: tuple[Cache, Rows, Preprocessing],
    device: tuple[torch.device, str] = (torch.device("cpu"), "fp32"),
    on_batch: Callable[[int], None] = lambda _: None,
) -> Scores:
    """Score slices as the node does.

    Args:
        network: Images to logits, in evaluation mode, on the device.
        labels: Of its heads.
        slices: The cache, the rows of it, and what the network wants them to look like.
        device: Where the network is, and the precision to run it in.
        on_batch: Told how many slices each batch had.

    Returns:
        The scores, in the order of the rows.
    """
    cache, rows, preprocessing = slices
    parts = [np.zeros((0, len(labels)))]
    for begin in range(0, len(rows), BATCH_SLICES):
        batch = rows[begin : begin + BATCH_SLICES]
        hu = torch.from_numpy(cache.hu(batch))
        parts.append(network_logits(network, hu, preprocessing, device))
        on_batch(len(batch))
    return Scores(rows, labels, np.concatenate(parts))


def merged(one: Scores, other: Scores) -> Scores:
    """The scores of two networks on the same slices, labels in the order of LABELS."""
    if not np.array_equal(one.rows, other.rows):
        raise ValueError("scores of different slices cannot be merged")
    labels = tuple(label for label in LABELS if label in one.labels + other.labels)
    columns = [(one if label in one.labels else other).column(label) for label in labels]
    return Scores(one.rows, labels, np.stack(columns, axis=1))


def slice_probabilities(scores: Scores, calibration: Mapping[str, Platt] | None = None) -> dict[str, Floats]:
    """Probabilities of slices.

    Args:
        scores: Of n slices.
        calibration: By label; None for none.

    Returns:
        By label, (n,): P(any), and P(subtype) = P(any) P(subtype | any) where "any" was scored too, as the node
        composes them; P(subtype | any) where it was not.
    """
    platts = calibration or {}
    p = {label: sigmoid(platts.get(label, Platt()), scores.column(label)) for label in scores.labels}
    return composed(p) if ANY in p else p


def study_rows(index: Index, rows: Rows) -> list[StudyRows]:
    """Group scored slices by study, in order of first appearance.

    Args:
        index: Of the whole cache.
        rows: (n,) the slices scored.

    Returns:
        One entry a study.
    """
    studies = index.study[rows]
    names, first, inverse = np.unique(studies, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    ends = np.cumsum(np.bincount(inverse, minlength=len(names)))
    groups = {}
    for k in range(len(names)):
        places = order[ends[k - 1] if k else 0 : ends[k]]
        positions = np.nan_to_num(index.position_mm[rows[places]])
        places = places[np.argsort(positions, kind="stable")]
        groups[k] = StudyRows(str(names[k]), str(index.patient[rows[places[0]]]), places)
    return [groups[k] for k in np.argsort(first)]


def study_probabilities(
    studies: Sequence[StudyRows],
    slice_p: Mapping[str, Floats],
    aggregation: Aggregation,
    calibration: Mapping[str, Platt] | None = None,
) -> dict[str, Floats]:
    """Probabilities of studies, as the node aggregates them.

    Args:
        studies: m of them.
        slice_p: As from `slice_probabilities`.
        aggregation: Of the card or recipe.
        calibration: By label, of aggregated scores; None for none.

    Returns:
        By label, (m,).
    """
    platts = calibration or {}
    p = {}
    for label, values in slice_p.items():
        raw = np.array([aggregate(aggregation, values[one.places]) for one in studies])
        p[label] = sigmoid(platts.get(label, Platt()), logit(raw))
    return p


def study_truth(studies: Sequence[StudyRows], labels: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(m, 6) truth of studies from (n, 6) truth of the scored slices: a study shows what any of its slices shows."""
    return np.stack([labels[one.places].any(axis=0) for one in studies])
