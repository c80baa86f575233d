"""A bleed of the phantom painted into a real head, matched in noise and blur; for tests only, never for training."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from triage.phantom.anatomy import STILL, Deformation
from triage.phantom.bleeding import CORE_HU, SOLID, exclusive, fluid, paint_blood, solid
from triage.phantom.fields import smooth_step
from triage.phantom.grids import BoolArray
from triage.phantom.lesions import Plan, Shape, draw_plan
from triage.phantom.recipient import Recipient
from triage.phantom.study import BONE_EDGE_HU, Truth
from triage.records import HU_MAX, HU_MIN, SUBTYPES, FloatArray

ATTEMPTS = 8
"""Places tried for one bleed."""

FITS = 6
"""Times a shape is resized so that its voxels hold the wanted volume."""

PAINTINGS = 3
"""Times it is painted so that what shows beside bone holds it too."""

NEAR = 0.25
"""A bleed this much larger or smaller than wanted is not accepted."""

MOST_ML = {"temporal pole": 8.0, "frontal base": 15.0}
"""Larger contusions spread along the bone of a real skull base as if they lay outside the brain."""

CANVAS_HU = 64.0
"""Difference of the two blank heads that show what painting adds and what it leaves."""

CLEAR_HU = (90.0, 170.0)
"""Bone begins to show: between these the bleed fades."""

SKULL_HU = 220.0
SKULL_MM2 = 250.0
"""Denser connected pixels of such an area are skull, and keep their values."""

AIR_HU = (-60.0, -20.0)
"""Likewise air and fat."""

PUSHES_ML = 2.0
"""A smaller bleed moves nothing that could be seen."""

REACH_MM = 35.0
"""Under the inner table: how deep a bleed between bone and brain dents the brain."""

STILL_MM = 0.2
"""Shorter ways are not gone: what does not visibly move keeps its voxels."""

UNDER_HU = 10.0
"""A thin bleed that bone shines into is not made this much darker than drawn to correct its mean."""

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
        if not low * (1 - NEAR) <= plan.volume_ml <= MOST_ML.get(plan.variant, plan.volume_ml):  # its place holds less
            continue
        made = _made(recipient, plan, chance)
        if made is not None and abs(made.truth.volume_ml / plan.volume_ml - 1) <= NEAR:
            return made
    raise ValueError(f"no room for a bleed of {low:g} to {high:g} mL, {label}, in this head")


@dataclass(frozen=True, slots=True)
class _Chance:
    """Random streams of one attempt; the same stage always gives the same one."""

    key: tuple[int, ...]

    def stream(self, stage: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([*self.key, stage])))


def _made(recipient: Recipient, plan: Plan, chance: _Chance) -> Implanted | None:
    """The bleed painted, larger or smaller again where bone hides much of it; None where it has no place."""
    best: tuple[float, Implanted] | None = None
    wanted = plan.volume_ml
    for _ in range(PAINTINGS):
        fitted = _fitted(recipient, plan, wanted, chance)
        made = _painted(recipient, fitted, chance) if fitted is not None else None
        if made is None:
            break
        ratio = made.truth.volume_ml / plan.volume_ml
        if best is None or abs(ratio - 1) < best[0]:
            best = (abs(ratio - 1), made)
        if best[0] < NEAR / 2:
            break
        wanted *= min(max(1 / max(ratio, 0.1), 0.5), 2.0)
    return best[1] if best is not None else None


def _fitted(recipient: Recipient, plan: Plan, wanted: float, chance: _Chance) -> tuple[Shape, Deformation] | None:
    """The shape on the working grid, resized until its voxels hold the wanted volume; None where it has no place."""
    site, brain = recipient.site, recipient.brain
    asked = wanted
    short, long = 0.0, np.inf
    best: tuple[float, Shape, Deformation] | None = None
    for _ in range(FITS):
        one = replace(plan, volume_ml=asked)
        if plan.label in SOLID:
            shapes, changes = solid(site, [one], chance.stream(1))
        else:
            shapes, changes = fluid(site, [one], brain, chance.stream(1)), [STILL]
        shape = exclusive(shapes, brain)[0]
        held = float((shape.share > 0.5).sum()) * site.grid.voxel_ml
        off = abs(held / wanted - 1)
        if best is None or off < best[0]:
            best = (off, Shape(plan, shape.share), changes[0])
        if off < 0.05:
            break
        short, long = (max(short, asked), long) if held < wanted else (short, min(long, asked))
        step = float(np.clip(wanted / max(held, 0.1 * wanted), 0.4, 2.5))
        asked = float(np.sqrt(short * long)) if short and np.isfinite(long) else asked * step
    return (best[1], best[2]) if best is not None and best[0] <= 2 * NEAR else None


def _painted(recipient: Recipient, fitted: tuple[Shape, Deformation], chance: _Chance) -> Implanted | None:
    """The real slices with the bleed; None where its voxels all lie under bone."""
    shape, change = fitted
    plan = shape.plan
    left, added = _strokes(recipient, shape, chance)
    hu = _pushed(recipient, change) if plan.volume_ml >= PUSHES_ML else recipient.hu.copy()
    share = np.zeros_like(hu)
    grain = _grain(recipient, chance.stream(3))
    for index in np.unique(recipient.nearest):
        where = recipient.nearest == index
        if not (np.abs(1 - left[where]) > 1e-3).any():
            continue
        planes = _projected(recipient, int(index), [a[where].mean(axis=0) for a in (shape.share, 1 - left, added)])
        clear = _clear(recipient, recipient.hu[index])
        share[index] = planes[0] * clear
        stays = 1 - planes[1] * clear
        if plan.label in SOLID:
            fresh = np.sqrt(np.clip(1 - stays * stays, 0, None)) * grain[index]
            hu[index] = stays * hu[index] + planes[2] * clear + fresh
        else:
            hu[index] += planes[2] * clear - (1 - stays) * np.float32(recipient.csf_hu)
    mask = share > 0.5
    if not mask.any():
        return None
    mean = _matched(recipient, hu, share, plan)
    mask &= ndimage.gaussian_filter(hu, (0, *(0.5 / s for s in recipient.frame.spacing_mm))) < BONE_EDGE_HU
    cells = mask.sum(axis=(1, 2)) * recipient.cell_mm
    volume = float(cells.sum() * recipient.pixel_mm2) / 1000
    stored = np.clip(np.rint(hu), HU_MIN, HU_MAX).astype(np.int16)
    return Implanted(stored, mask, Truth(plan.label, plan.variant, volume, mean, plan.chronic, plan.stage))


def _pushed(recipient: Recipient, change: Deformation) -> FloatArray:
    """The real slices with the brain moved aside, each within its plane."""
    hu = recipient.hu.copy()
    cos, sin = recipient.frame.turn
    for index in np.unique(recipient.nearest):
        ways = _ways(recipient, change, recipient.nearest == index)
        if ways is None:
            continue
        dx, dy = _projected(recipient, int(index), ways)
        length = np.sqrt(dx * dx + dy * dy)
        moves = length > STILL_MM
        if not moves.any():
            continue
        rows, columns = (np.flatnonzero(moves.any(axis=1 - axis)) for axis in (0, 1))
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        fade = np.clip((length[box] - STILL_MM) * 2, 0, 1)
        v, u = (a.astype(np.float32) for a in np.mgrid[box])
        v += fade * (sin * dx[box] + cos * dy[box]) / np.float32(recipient.frame.spacing_mm[0])
        u += fade * (cos * dx[box] - sin * dy[box]) / np.float32(recipient.frame.spacing_mm[1])
        moved = ndimage.map_coordinates(hu[index], np.stack([v, u]), order=3, mode="nearest")
        hu[index][box] = np.where((fade > 0) & ~_skull(recipient, int(index))[box], moved, hu[index][box])
    return hu


def _ways(recipient: Recipient, change: Deformation, where: BoolArray) -> list[FloatArray] | None:
    """From each voxel of one slice to where its tissue was, mm along x and y; None where all stays."""
    s = recipient.site.surface
    depth, x, y, z = (a[where].mean(axis=0) for a in (s.depth, s.at.x, s.at.y, s.at.z))
    if not (depth > 0).any():
        return None
    inner = smooth_step(depth * np.float32(1 / 30))
    dx = -np.float32(change.shift_mm) * inner / (1 + (y / 55) ** 2 + ((z - 8) / 45) ** 2)
    dy = np.zeros_like(dx)
    if not isinstance(change.inward, float):
        thick = ndimage.gaussian_filter(change.inward[where].mean(axis=0), 3.0)
        dent = thick * np.clip((REACH_MM - depth) / np.maximum(REACH_MM - thick, 10), 0, 1)
        dent = np.minimum(dent, np.clip(depth - 2, 0, None))  # never so far that bone would be drawn in
        slopes = np.gradient(ndimage.gaussian_filter(depth, 3.0))
        steep = np.maximum(np.sqrt(slopes[0] ** 2 + slopes[1] ** 2), np.float32(1.0))
        dx -= dent * slopes[1] / steep
        dy -= dent * slopes[0] / steep
    if change.push_mm:
        ax, ay, az = x - change.centre[0], y - change.centre[1], z - change.centre[2]
        r2 = ax * ax + ay * ay + az * az + np.float32(1e-3)
        towards = np.clip(np.float32(0.5 * change.push_mm**2) / r2, 0, 0.75) * smooth_step(depth * np.float32(1 / 15))
        dx -= towards * ax
        dy -= towards * ay
    return [(a * (depth > 1)).astype(np.float32) for a in (dx, dy)]


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
    return [ndimage.map_coordinates(plane, where, order=1, mode="constant") for plane in planes]


def _clear(recipient: Recipient, plane: FloatArray) -> FloatArray:
    """1 where neither bone nor air shines in, 0 where it fills a pixel."""
    smooth = ndimage.gaussian_filter(plane, [0.5 / s for s in recipient.frame.spacing_mm])
    bone = (np.float32(CLEAR_HU[1]) - smooth) * np.float32(1 / (CLEAR_HU[1] - CLEAR_HU[0]))
    air = (smooth - np.float32(AIR_HU[0])) * np.float32(1 / (AIR_HU[1] - AIR_HU[0]))
    share: FloatArray = np.clip(np.minimum(bone, air), 0, 1)
    share[plane > SKULL_HU] = 0
    return share


def _skull(recipient: Recipient, index: int) -> BoolArray:
    """Pixels of one slice that belong to bone, not to a calcification within the brain."""
    names, _ = ndimage.label(recipient.hu[index] > SKULL_HU)
    sizes = np.bincount(names.ravel()) * recipient.pixel_mm2
    sizes[0] = 0
    large: BoolArray = (sizes > SKULL_MM2)[names]
    return large


def _grain(recipient: Recipient, rng: np.random.Generator) -> FloatArray:
    """Noise like the head's own: as strong, and linked from pixel to pixel as much."""
    grain: FloatArray = rng.standard_normal(recipient.hu.shape, dtype=np.float32)
    for axis, step in zip((1, 2), recipient.frame.spacing_mm, strict=True):
        grain = ndimage.gaussian_filter1d(grain, recipient.grain_mm / step, axis=axis, truncate=3.0)
    grain *= (recipient.noise_hu / np.float32(grain.std(dtype=np.float64)))[:, None, None]
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
    low, high = (float(v) for v in np.percentile(hu[mask], (10, 90)))
    noise = float(recipient.noise_hu.mean())
    most = min(25.0, max(CORE_HU + noise - high, 0.0))
    least = -min(25.0, max(low + noise - (plan.mean_hu - UNDER_HU), 0.0))
    change = float(np.clip((plan.mean_hu - mean) / max(own, 0.4), least, most))
    hu += np.float32(change) * share
    return float(hu[mask].mean(dtype=np.float64))
