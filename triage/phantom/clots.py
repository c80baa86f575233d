"""What a bleed looks like inside: even clot, unclotted swirls, settled cells, membranes, old blood with new."""

from dataclasses import dataclass

import numpy as np

from triage.phantom.fields import noise, smooth_step, soft
from triage.phantom.lesions import ACUTE_ON_CHRONIC, HYPERACUTE, Plan
from triage.phantom.parenchyma import CONTUSIONS
from triage.records import FloatArray


@dataclass(frozen=True, slots=True)
class Patch:
    """The block of voxels round one bleed."""

    share: FloatArray
    """(n, rows, columns) 0..1: how much of each voxel is blood."""
    back: FloatArray
    """Height below the middle of a patient who lies on the back, mm."""
    step_mm: tuple[float, float, float]


def texture(plan: Plan, patch: Patch, rng: np.random.Generator) -> FloatArray:
    """Deviation of blood from its mean density; only what the mean is taken away from, later, is right on average.

    Args:
        plan: What to make.
        patch: Where.
        rng: Source of chance.

    Returns:
        HU, of the patch's shape.
    """
    out = noise(rng, patch.share.shape, patch.step_mm, 7) * np.float32(2.5)
    if plan.stage == HYPERACUTE:
        out += _swirl(patch, rng)
    if plan.stage == ACUTE_ON_CHRONIC:
        out += _level(patch, rng) if plan.fluid_level else _fresh(patch, rng)
    elif plan.fluid_level:
        out += _level(patch, rng)
    elif plan.chronic:
        out += np.clip(patch.back * np.float32(0.12), -8, 8)  # cells settle to the back
    if plan.membranes:
        out += _membranes(patch, rng)
    if plan.variant in CONTUSIONS:
        speckle = noise(rng, patch.share.shape, patch.step_mm, 4.5)
        out -= np.float32(rng.uniform(6, 14)) * smooth_step(speckle - np.float32(0.2))
    return out


def _swirl(patch: Patch, rng: np.random.Generator) -> FloatArray:
    """Whirls of blood that has not clotted."""
    size = float(rng.uniform(9, 16))
    whirl = noise(rng, patch.share.shape, patch.step_mm, size)
    dark: FloatArray = smooth_step(whirl * np.float32(1.1) + np.float32(rng.uniform(0.1, 0.5)))
    dark *= -np.float32(rng.uniform(14, 28))
    return dark


def _level(patch: Patch, rng: np.random.Generator) -> FloatArray:
    """Settled cells: dense behind a horizontal level."""
    part, contrast = float(rng.uniform(0.4, 0.7)), float(rng.uniform(20, 38))
    heights = patch.back[patch.share > 0.5]
    if heights.size == 0:
        return np.zeros_like(patch.share)
    place = min(int(part * heights.size), heights.size - 1)
    level = float(np.partition(heights, place)[place])
    out: FloatArray = (soft(patch.back - np.float32(level), 1.5) - np.float32(0.5)) * np.float32(contrast)
    return out


def _fresh(patch: Patch, rng: np.random.Generator) -> FloatArray:
    """Dense clots and streaks within old, dark blood, more of them at the back."""
    streaks = noise(rng, patch.share.shape, patch.step_mm, float(rng.uniform(10, 20)))
    streaks += patch.back * np.float32(rng.uniform(0.0, 0.025))
    dense: FloatArray = smooth_step(streaks * np.float32(0.8) + np.float32(0.2))
    dense *= np.float32(rng.uniform(22, 36))
    return dense


def _membranes(patch: Patch, rng: np.random.Generator) -> FloatArray:
    """Thin septa that cut an old collection into chambers."""
    size = float(rng.uniform(14, 24))
    field = noise(rng, patch.share.shape, patch.step_mm, size)
    sheet: FloatArray = np.clip(1 - np.abs(field) * np.float32(size * 0.33), 0, 1)
    sheet *= np.float32(rng.uniform(14, 26))
    return sheet
