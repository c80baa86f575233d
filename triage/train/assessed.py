"""What a pack says of one volume, for trials: every label of every slice and of the study, and where it looked.

Unlike serving, subtypes are scored in studies that are negative too; a study's scores are else those of `judge`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from triage.nn.activation import Seen, activation_maps
from triage.nn.card import Card
from triage.nn.pack import Pack
from triage.nn.predict import joint, slabs_of, slice_probabilities, study_probability
from triage.records import ANY, LABELS, ActivationMap, Finding, FloatArray, Slice, Volume

PRECISION = "fp32"
"""Of every measurement, so that figures do not depend on the machine."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Assessed:
    """Calibrated probabilities of one volume."""

    slices: dict[str, Floats]
    """By label, (n,)"""
    studies: dict[str, float]
    """By label."""
    maps: tuple[ActivationMap, ...]
    """Of each present label on its highest slice."""
    slabs: torch.Tensor
    """(m, rows, columns) HU that were scored."""
    raw: dict[str, Floats]
    """By label, (m,) of each slab as the heads mean it."""


def plain_volume(
    hu: npt.NDArray[np.generic], positions_mm: tuple[float, ...], spacing_mm: tuple[float, float], thickness_mm: float
) -> Volume:
    """A volume of slices without files.

    Args:
        hu: (n, rows, columns) HU, caudal to cranial.
        positions_mm: Of each slice along the normal, ascending.
        spacing_mm: Between rows, between columns.
        thickness_mm: Of a slice.

    Returns:
        The volume; its slices' UIDs are made up.
    """
    slices = tuple(Slice(f"1.2.3.{i}") for i in range(len(hu)))
    values: FloatArray = hu.astype(np.float32)
    return Volume(values, slices, positions_mm, spacing_mm, thickness_mm)


def assess(pack: Pack, volume: Volume, with_maps: bool = False, before: Assessed | None = None) -> Assessed:
    """Score a volume.

    Args:
        pack: The networks and their card.
        volume: One series.
        with_maps: Whether to say where the networks looked.
        before: Of the same series with other voxels: only what differs from it is scored.

    Returns:
        The scores.

    Raises:
        StudyError: As `triage.nn.predict.judge`.
    """
    card = pack.card
    slabs, members = slabs_of(volume, card.preprocessing.slab_mm)
    raw = _raw(pack, slabs, volume.spacing_mm, before)
    scores = joint(card, raw)
    slab_of = np.zeros(len(volume.slices), np.intp)
    for slab, indices in enumerate(members):
        slab_of[list(indices)] = slab
    studies = {label: study_probability(card, label, scores[label]) for label in LABELS}
    maps: tuple[ActivationMap, ...] = ()
    if with_maps:
        middles = [indices[len(indices) // 2] for indices in members]
        findings = _findings(card, scores, studies, middles)
        maps = activation_maps(pack, Seen(slabs, middles, volume.spacing_mm), findings, PRECISION)
    return Assessed({label: scores[label][slab_of] for label in LABELS}, studies, maps, slabs, raw)


def is_present(card: Card, studies: dict[str, float], label: str) -> bool:
    """Whether the node would report a label: a subtype only of a study with a bleed."""
    if studies[ANY] < card.thresholds.review:
        return False
    return label == ANY or studies[label] >= card.thresholds.subtypes[label]


def _raw(
    pack: Pack, slabs: torch.Tensor, spacing_mm: tuple[float, float], before: Assessed | None
) -> dict[str, Floats]:
    changed = np.ones(len(slabs), np.bool_)
    if before is not None and before.slabs.shape == slabs.shape:
        changed = (slabs != before.slabs).flatten(1).any(dim=1).numpy()
    raw = {label: np.zeros(len(slabs)) if before is None or changed.all() else before.raw[label].copy()
           for label in LABELS}  # fmt: skip
    if changed.any():
        some = slabs[torch.from_numpy(changed)]
        for labels in pack.networks:
            for label, p in slice_probabilities(pack, some, spacing_mm, labels, PRECISION).items():
                raw[label][changed] = p
    return raw


def _findings(card: Card, scores: dict[str, Floats], studies: dict[str, float], middles: list[int]) -> list[Finding]:
    found = []
    for label in LABELS:
        if is_present(card, studies, label):
            threshold = card.thresholds.review if label == ANY else card.thresholds.subtypes[label]
            key = middles[int(scores[label].argmax())]
            found.append(Finding(label, studies[label], threshold, True, (key,)))
    return found
