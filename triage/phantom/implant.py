"""A bleed of the phantom painted into a real head, matched in noise and blur; for tests only, never for training."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from triage.phantom.anatomy import Brain
from triage.phantom.bleeding import CORE_HU, SOLID, exclusive, fluid, paint_blood, solid
from triage.phantom.fields import BoolArray
from triage.phantom.lesions import Plan, Shape, draw_plan
from triage.phantom.recipient import Recipient
from triage.phantom.study import BONE_EDGE_HU, Truth
from triage.records import HU_MAX, HU_MIN, SUBTYPES, FloatArray

ATTEMPTS = 8
"""Places tried for one bleed."""

FITS = 6
"""Times a shape is resized so that its voxels hold the wanted volume."""

NEAR = 0.25
"""A bleed this much larger or smaller than wanted is not accepted."""

CANVAS_HU = 64.0
"""Difference of the two blank heads that show what painting adds and what it leaves."""

CLEAR_HU = (90.0, 170.0)
"""Bone begins to show: between these the bleed fades."""

AIR_HU = (-60.0, -20.0)
"""Likewise air and fat."""

CLEAR_MM = 3.0
"""The density is matched over voxels so far from bone, where there are any."""

Flat = tuple[FloatArray, FloatArray]


@dataclass(frozen=True, slots=True)
class Implanted:
    """A real head with one bleed that is not real."""

    hu: npt.NDArray[np.int16]
    """(n, rows, columns), of the recipient's geometry."""
    mask: BoolArray
    """(n, rows, columns): voxels that hold more blood than anything else."""
    truth: Truth


def implant(recipient: Recipient, label: str, volume_ml: float | tuple[float, float], seed: int) -> Implanted:
    """Paint one bleed.

    Args:
        recipient: The head.
        label: Subtype.
        volume_ml: What it should hold, or a range to draw that from.
        seed: Any integer from 0; the same one gives the same bits.

    Returns:
        The head with the bleed.

    Raises:
        ValueError: No such label, or no room for such a bleed in this head.
    """
    if label not in SUBTYPES:
        raise ValueError(f"unknown subtype {label}")
    low, high = volume_ml if isinstance(volume_ml, tuple) else (volume_ml, volume_ml)
    if not 0 < low <= high:
        raise ValueError(f"no volume between {low} and {high} mL")
    for attempt in range(ATTEMPTS):
        chance = _Chance((seed, SUBTYPES.index(label), attempt))
        plan = draw_plan(label, chance.stream(0), (low, high), 0.0)
        if plan.volume_ml < low * (1 - NEAR):  # its place holds less
            continue
        shape = _fitted(recipient, plan, chance)
        made = _painted(recipient, shape, chance) if shape is not None else None
        if made is not None and abs(made.truth.volume_ml / plan.volume_ml - 1) <= NEAR:
            return made
    raise ValueError(f"no room for a bleed of {low:g} to {high:g} mL, {label}, in this head")


@dataclass(frozen=True, slots=True)
class _Chance:
    """Random streams of one attempt; the same stage always gives the same one."""

    key: tuple[int, ...]

    def stream(self, stage: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([*self.key, stage])))


def _fitted(recipient: Recipient, plan: Plan, chance: _Chance) -> Shape | None:
    """The shape on the working grid, resized until its voxels hold the wanted volume; None where it has no place."""
    site, brain = recipient.site, recipient.brain
    wanted, asked = plan.volume_ml, plan.volume_ml
    best: tuple[float, Shape] | None = None
    for _ in range(FITS):
        one = replace(plan, volume_ml=asked)
        shapes = solid(site, [one], chance.stream(1))[0] if plan.label in SOLID else fluid(
            site, [one], brain, chance.stream(1))  # fmt: skip
        shape = exclusive(shapes, brain)[0]
        held = float((shape.share > 0.5).sum()) * site.grid.voxel_ml
        off = abs(held / wanted - 1)
        if best is None or off < best[0]:
            best = (off, Shape(replace(one, volume_ml=wanted), shape.share))
        if off < 0.05:
            break
        asked *= float(np.clip(wanted / max(held, 0.1 * wanted), 0.4, 2.5))
    return best[1] if best is not None and best[0] <= 2 * NEAR else None


def _painted(recipient: Recipient, shape: Shape, chance: _Chance) -> Implanted | None:
    """The real slices with the bleed; None where its voxels all lie under bone."""
    plan = shape.plan
    left, added = _strokes(recipient, shape, chance)
    hu = recipient.hu.copy()
    share = np.zeros_like(hu)
    grain = _grain(recipient, chance.stream(3))
    for index in np.unique(recipient.nearest):
        where = recipient.nearest == index
        if not (np.abs(1 - left[where]) > 1e-3).any():
            continue
        planes = _projected(recipient, int(index), [a[where].mean(axis=0) for a in (shape.share, left, added)])
        clear = _clear(recipient, hu[index])
        share[index] = planes[0] * clear
        stays = 1 - (1 - planes[1]) * clear
        if plan.label in SOLID:
            fresh = np.sqrt(np.clip(1 - stays * stays, 0, None)) * grain[index]
            hu[index] = stays * hu[index] + planes[2] * clear + fresh
        else:
            hu[index] += planes[2] * clear - (1 - stays) * np.float32(recipient.csf_hu)
    mask = share > 0.5
    if not mask.any():
        return None
    mean = _matched(recipient, hu, share, plan)
    mask &= ndimage.gaussian_filter(hu, (0, 1, 1)) < BONE_EDGE_HU
    cells = mask.sum(axis=(1, 2)) * recipient.cell_mm
    volume = float(cells.sum()) * recipient.pixel_mm2 / 1000
    stored = np.clip(np.rint(hu), HU_MIN, HU_MAX).astype(np.int16)
    return Implanted(stored, mask, Truth(plan.label, plan.variant, volume, mean, plan.chronic))


def _strokes(recipient: Recipient, shape: Shape, chance: _Chance) -> Flat:
    """What painting leaves of a voxel (1: all) and what it adds, seen on two blank heads."""
    blank = []
    for value in (0.0, CANVAS_HU):
        hu = np.full(shape.share.shape, value, np.float32)
        paint_blood(hu, recipient.site, [shape], recipient.brain, chance.stream(2))
        blank.append(hu)
    left = np.clip((blank[1] - blank[0]) * np.float32(1 / CANVAS_HU), 0, 1)
    return left, blank[0]


def _projected(recipient: Recipient, index: int, planes: list[FloatArray]) -> list[FloatArray]:
    """Planes of the working grid on the pixels of one real slice."""
    x, y = recipient.frame.plane(index, (recipient.hu.shape[1], recipient.hu.shape[2]))
    _, rows, columns = recipient.site.grid.shape
    step = recipient.site.grid.step_mm
    where = np.stack([y / np.float32(step[1]) + (rows - 1) / 2, x / np.float32(step[2]) + (columns - 1) / 2])
    outside = (0.0, 1.0, 0.0)
    return [ndimage.map_coordinates(plane, where, order=1, mode="constant", cval=value)
            for plane, value in zip(planes, outside, strict=True)]  # fmt: skip


def _clear(recipient: Recipient, plane: FloatArray) -> FloatArray:
    """1 where neither bone nor air shines in, 0 where it fills a pixel."""
    smooth = ndimage.gaussian_filter(plane, [0.5 / s for s in recipient.frame.spacing_mm])
    bone = (np.float32(CLEAR_HU[1]) - smooth) * np.float32(1 / (CLEAR_HU[1] - CLEAR_HU[0]))
    air = (smooth - np.float32(AIR_HU[0])) * np.float32(1 / (AIR_HU[1] - AIR_HU[0]))
    return np.clip(np.minimum(bone, air), 0, 1)


def _grain(recipient: Recipient, rng: np.random.Generator) -> FloatArray:
    """Noise like the head's own: as strong, and linked from pixel to pixel as much."""
    grain: FloatArray = rng.standard_normal(recipient.hu.shape, dtype=np.float32)
    for axis, step in zip((1, 2), recipient.frame.spacing_mm, strict=True):
        grain = ndimage.gaussian_filter1d(grain, recipient.scanner.blur_mm / step, axis=axis, truncate=3.0)
    grain *= np.float32(recipient.scanner.noise_hu / float(grain.std(dtype=np.float64)))
    return grain


def _matched(recipient: Recipient, hu: FloatArray, share: FloatArray, plan: Plan) -> float:
    """Shift the bleed so that its mean is what was drawn, in place; the mean that came out."""
    mask = share > 0.5
    inner = mask.copy()
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        bone = ndimage.gaussian_filter(recipient.hu[index], 1) > BONE_EDGE_HU
        away = ndimage.distance_transform_edt(~bone, sampling=recipient.frame.spacing_mm)
        inner[index] &= away > CLEAR_MM
    mask = inner if inner.sum() >= 0.2 * mask.sum() else mask
    mean = float(hu[mask].mean(dtype=np.float64))
    own = float(share[mask].mean(dtype=np.float64))
    core = float(np.percentile(hu[mask], 90)) - recipient.scanner.noise_hu
    change = float(np.clip((plan.mean_hu - mean) / max(own, 0.4), -25, min(25.0, max(CORE_HU - core, 0.0))))
    hu += np.float32(change) * share
    return float(hu[mask].mean(dtype=np.float64))
