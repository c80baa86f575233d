"""How often activation maps point at the bleed: a map's peak against the mask of its slice; runs no network."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from triage.records import ActivationMap, FloatArray
from triage.train.metrics import Rate, rate

NEAR_MM = 15.0
"""A peak this near the bleed still shows a reader where to look."""

HEAD_HU = -200.0
"""The largest thing that is denser counts as head: where a peak could lie."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One map against the truth of its slice."""

    label: str
    """Of the map."""
    kind: str
    """Of the bleed; of any map, the one kind that the study has, or empty where it has several."""
    volume_ml: float
    """Of the bleeds that count."""
    distance_mm: float
    """From the map's peak to the bleed; 0 inside, infinite in a slice without one."""
    overlaps: bool
    """Whether the part above half of the peak meets the bleed."""
    chance: float
    """Share of the head's area in that slice that the bleed covers."""


@dataclass(frozen=True, slots=True)
class Pointing:
    """A group of maps."""

    name: str
    n: int
    inside: Rate
    """Peaks in the bleed."""
    chance: float
    """What a peak put anywhere in the head would reach."""
    on_slice: float
    """Share of maps on a slice with the bleed."""
    near: float
    """Share of peaks within NEAR_MM."""
    overlaps: float
    """Share whose half-maximum region meets the bleed."""


def hit_of(
    activation: ActivationMap, bleed: npt.NDArray[np.bool_], slice_hu: FloatArray, spacing_mm: tuple[float, float]
) -> tuple[float, bool, float]:
    """Hold a map against the truth.

    Args:
        activation: (rows, columns)
        bleed: (rows, columns) of the same slice.
        slice_hu: (rows, columns)
        spacing_mm: Between rows, between columns.

    Returns:
        Distance, overlap and chance, see `Hit`.
    """
    values = activation.values
    distance = np.inf
    if bleed.any():
        peak = np.unravel_index(int(values.argmax()), values.shape)
        distance = float(ndimage.distance_transform_edt(~bleed, sampling=spacing_mm)[peak])
    overlaps = bool((bleed & (values >= values.max() / 2) & (values > 0)).any())
    return distance, overlaps, float(bleed.sum() / max(_head_px(slice_hu), 1))


def _head_px(slice_hu: FloatArray) -> int:
    """Pixels of the largest thing in a slice: the head without its rest."""
    parts, _ = ndimage.label(slice_hu > HEAD_HU)
    return int(np.bincount(parts.ravel())[1:].max(initial=0))


def pointing(name: str, hits: Sequence[Hit]) -> Pointing:
    """Count a group of maps; NaN where it is empty."""
    away = np.array([h.distance_mm for h in hits])
    if not hits:
        return Pointing(name, 0, rate(0, 0), np.nan, np.nan, np.nan, np.nan)
    return Pointing(
        name, len(hits), rate(int((away == 0).sum()), len(hits)), float(np.mean([h.chance for h in hits])),
        float(np.isfinite(away).mean()), float((away <= NEAR_MM).mean()), float(np.mean([h.overlaps for h in hits])),
    )  # fmt: skip
