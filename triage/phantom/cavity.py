"""The cranial cavity of a real head from its voxels, and the depth below its walls; knows no axes and no tissue."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from triage.phantom.grids import BoolArray, Grid
from triage.records import FloatArray

BONE_HU = 280.0
"""What is brighter, averaged over a millimetre, is skull."""

TISSUE_HU = (-5.0, 95.0)
"""Brain, fluid and blood, averaged over a few millimetres; fat, air and bone lie outside."""

GAP_MM = 5.0
"""Gaps of the skull up to twice this are closed."""

NECK_MM = 4.0
"""What hangs on the brain by less than twice this is no part of the cavity: orbits, foramina."""

ENCLOSED_SIDES = 7
"""Of eight; the anterior and middle fossae open towards orbit and sinuses in low slices."""

LEAST_CAVITY_ML = 400.0

LEAST_SLICES = 6

LEAST_AREA_MM2 = 500.0
"""A slice with less cavity is left out."""

CRUMB_MM2 = 120.0


def find_cavity(hu: FloatArray, step: tuple[float, float], cell: npt.NDArray[np.float64]) -> BoolArray:
    """Voxels within the skull, (n, rows, columns)."""
    bone = hu > BONE_HU
    if bone.sum() * step[0] * step[1] * float(np.median(cell)) < 50_000:
        raise ValueError("no skull: too little is as dense as bone")
    pad = int(GAP_MM / min(step)) + 2
    padded = np.pad(bone, ((0, 0), (pad, pad), (pad, pad)))
    ring = within(within(padded, GAP_MM, step), -GAP_MM, step) | padded
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in ring])[:, pad:-pad, pad:-pad]
    filled |= _enclosed(ring[:, pad:-pad, pad:-pad])
    smooth = ndimage.gaussian_filter(hu, (0, 1.5 / step[0], 1.5 / step[1]))
    tissue = (smooth > TISSUE_HU[0]) & (hu < BONE_HU) & (hu > -60)
    core = within(filled & tissue & (smooth < 150), -NECK_MM, step)
    names, count = ndimage.label(core)
    if count == 0:
        raise ValueError("no cavity: the skull is not closed round any brain")
    sizes = np.bincount(names.ravel())
    sizes[0] = 0
    kept = names == int(sizes.argmax())
    cavity = within(kept, NECK_MM + 0.7 * max(step), step) & filled & (hu < BONE_HU)
    cavity &= (cavity.sum(axis=(1, 2)) * step[0] * step[1] >= LEAST_AREA_MM2)[:, None, None]
    cavity = np.stack([_whole(plane, step) & (h < BONE_HU) for plane, h in zip(cavity, hu, strict=True)])
    volume = float((cavity.sum(axis=(1, 2)) * cell).sum()) * step[0] * step[1] / 1000
    if volume < LEAST_CAVITY_ML:
        raise ValueError(f"no cavity: only {volume:.0f} mL within the skull are as dense as brain")
    if int(cavity.any(axis=(1, 2)).sum()) < LEAST_SLICES:
        raise ValueError("no cavity: too few slices show it")
    return cavity


def within(mask: BoolArray, mm: float, step: tuple[float, float]) -> BoolArray:
    """In-plane dilation by a distance (mm > 0) or erosion (mm < 0)."""
    out = np.empty_like(mask)
    for k, plane in enumerate(mask):
        grow = mm > 0
        if not plane.any():
            out[k] = False
            continue
        away = ndimage.distance_transform_edt(~plane if grow else plane, sampling=step)
        out[k] = away <= mm if grow else away > -mm
    return out


def _whole(plane: BoolArray, step: tuple[float, float]) -> BoolArray:
    """A slice's cavity without holes and without the crumbs that air cells leave."""
    names, _ = ndimage.label(plane)
    sizes = np.bincount(names.ravel()) * step[0] * step[1]
    sizes[0] = 0
    filled: BoolArray = ndimage.binary_fill_holes((sizes >= CRUMB_MM2)[names])
    return filled


def _enclosed(bone: BoolArray) -> BoolArray:
    """Where bone lies on all but one of eight sides in the plane: fossae whose ring the slice leaves open."""
    sides = np.zeros(bone.shape, np.int8)
    for flip in (slice(None), slice(None, None, -1)):
        sides[:, flip] += np.logical_or.accumulate(bone[:, flip], axis=1)
        sides[:, :, flip] += np.logical_or.accumulate(bone[:, :, flip], axis=2)
        for move in (-1, 1):
            seen, flipped = bone[:, flip].copy(), sides[:, flip]
            for row in range(1, bone.shape[1]):
                seen[:, row] |= _moved(seen[:, row - 1], move)
            flipped += seen
    return sides >= ENCLOSED_SIDES


def _moved(line: BoolArray, by: int) -> BoolArray:
    out = np.zeros_like(line)
    if by > 0:
        out[:, 1:] = line[:, :-1]
    else:
        out[:, :-1] = line[:, 1:]
    return out


def depth_below(
    inside: BoolArray, grid: Grid, nearest: npt.NDArray[np.int64], z_of: npt.NDArray[np.float64]
) -> FloatArray:
    """Signed depth below the inner table in mm; outlines are interpolated between real slices first."""
    first = [int(np.flatnonzero(nearest == i)[0]) for i in np.unique(nearest)]
    flat = np.stack([_signed(inside[k], grid.step_mm[1:]) for k in first])
    known = z_of[np.unique(nearest)]
    n = grid.shape[0]
    z = grid.origin_mm[2] + (np.arange(n) - (n - 1) / 2) * grid.step_mm[0]
    between = np.clip(np.interp(z, known, np.arange(len(known))), 0, max(len(known) - 1, 0))
    low = np.minimum(between.astype(int), max(len(known) - 2, 0))
    part = (between - low).astype(np.float32)[:, None, None]
    outline = flat[low] * (1 - part) + flat[np.minimum(low + 1, len(known) - 1)] * part
    mask = np.pad(outline > 0, ((0, 1), (0, 0), (0, 0)))  # closed above, open below
    near = ndimage.distance_transform_edt(mask, sampling=grid.step_mm)[:-1]
    far = ndimage.distance_transform_edt(~mask, sampling=grid.step_mm)[:-1]
    half = 0.5 * grid.step_mm[2]
    depth = np.where(mask[:-1], near - half, half - far).astype(np.float32)
    smoothed: FloatArray = ndimage.gaussian_filter(depth, (0, 1.0, 1.0))
    return smoothed


def _signed(mask: BoolArray, step: tuple[float, float]) -> FloatArray:
    if not mask.any():
        return np.full(mask.shape, -50, np.float32)
    near = ndimage.distance_transform_edt(mask, sampling=step)
    signed: FloatArray = (near - ndimage.distance_transform_edt(~mask, sampling=step)).astype(np.float32)
    return signed
