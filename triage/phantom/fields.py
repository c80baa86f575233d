"""Soft shapes and band-limited noise on grids; plain arrays, no anatomy, no DICOM.

Only additions, products, square roots and table look-ups touch whole arrays: no BLAS, no vectorised transcendental
function, so one platform always gives the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from triage.phantom.grids import SLAB_VOXELS, Coordinates, Point, lerp_axis
from triage.records import FloatArray

AnyField = npt.NDArray[np.floating[Any]]
"""What NumPy's stubs make of mixed expressions; always float32 at run time."""


def soft(distance: AnyField, width_mm: float) -> FloatArray:
    """Share of a voxel inside a shape.

    Args:
        distance: Signed distance to its surface in mm, positive inside.
        width_mm: Width of the edge.

    Returns:
        0..1.
    """
    share: FloatArray = np.asarray(distance * np.float32(1.0 / width_mm), np.float32)
    share += np.float32(0.5)
    return np.clip(share, 0, 1, out=share)


def soft_slab(distance: AnyField, half_mm: AnyField | float, width_mm: float) -> FloatArray:
    """Share of a voxel inside a thin sheet; a sheet thinner than a voxel never fills it.

    Args:
        distance: Absolute distance to the middle of the sheet in mm.
        half_mm: Half its thickness.
        width_mm: Width of the edge.

    Returns:
        0..1.
    """
    half = np.asarray(half_mm, np.float32)
    most = np.clip(half * np.float32(2.0 / width_mm), 0, 1)
    share: FloatArray = np.minimum(soft(half - distance, width_mm), most)
    return share


def smooth_step(value: AnyField) -> FloatArray:
    """Cubic step from 0 at 0 to 1 at 1."""
    t = np.clip(value, 0, 1)
    step: FloatArray = (t * t * (3 - 2 * t)).astype(np.float32, copy=False)
    return step


def smooth_least(a: AnyField, b: AnyField, blend: float) -> FloatArray:
    """Minimum of two fields with a rounded seam `blend` wide."""
    h = np.clip(blend - np.abs(a - b), 0, None)
    least: FloatArray = (np.minimum(a, b) - h * h * np.float32(0.25 / blend)).astype(np.float32, copy=False)
    return least


def blend_in(target: FloatArray, share: AnyField, value: AnyField | float) -> None:
    """Lay `value` over `target` with opacity `share`, in place."""
    target += share * (np.asarray(value, np.float32) - target)


def ellipsoid(at: Coordinates, centre: Point, radii: Point) -> FloatArray:
    """Approximate signed distance to an ellipsoid in mm, positive inside."""
    q, y, z = (a - np.float32(c) for a, c in zip((at.x, at.y, at.z), centre, strict=True))
    for offset, radius in zip((q, y, z), radii, strict=True):
        offset *= np.float32(1 / radius)
        offset *= offset
    q += y
    q += z
    np.sqrt(q, out=q)
    q -= np.float32(1)
    q *= np.float32(-min(radii))
    return q


def capsule(at: Coordinates, start: Point, end: Point, radii: tuple[float, float]) -> FloatArray:
    """Signed distance to a tapering rod in mm, positive inside.

    Args:
        at: Where.
        start: First end of its axis.
        end: Other end.
        radii: At start and end.

    Returns:
        Of the shape of the coordinates.
    """
    axis = [np.float32(e - s) for s, e in zip(start, end, strict=True)]
    offsets = [a - np.float32(c) for a, c in zip((at.x, at.y, at.z), start, strict=True)]
    length2 = max(float(sum(a * a for a in axis)), 1e-6)
    t = offsets[0] * np.float32(axis[0] / length2)
    t += offsets[1] * np.float32(axis[1] / length2)
    t += offsets[2] * np.float32(axis[2] / length2)
    np.clip(t, 0, 1, out=t)
    for offset, a in zip(offsets, axis, strict=True):
        offset -= t * a
        offset *= offset
    away, second, third = offsets
    away += second
    away += third
    np.sqrt(away, out=away)
    t *= np.float32(radii[1] - radii[0])
    t += np.float32(radii[0])
    t -= away
    return t


def resample(values: FloatArray, shape: tuple[int, int, int]) -> FloatArray:
    """Linear interpolation onto a grid of another size over the same block.

    Args:
        values: (a, b, c).
        shape: Of the result; voxels stay centred.

    Returns:
        Of that shape; `values` itself where nothing changes.
    """
    for axis in range(3):
        n, m = values.shape[axis], shape[axis]
        if n != m:
            values = lerp_axis(values, axis, (np.arange(m) + 0.5) * n / m - 0.5)
    return values


def noise(rng: np.random.Generator, shape: Sequence[int], step_mm: Sequence[float], scale_mm: float) -> FloatArray:
    """Smooth random field of about unit variance that varies over `scale_mm`.

    Args:
        rng: Source of chance.
        shape: (n, rows, columns).
        step_mm: Between voxels, an axis each.
        scale_mm: Distance between independent values.

    Returns:
        (n, rows, columns).
    """
    pitches = [max(scale_mm / 2, step) for step in step_mm]
    counts = [max(2, int(np.ceil(n * d / p)) + 2) for n, d, p in zip(shape, step_mm, pitches, strict=True)]
    values: FloatArray = rng.standard_normal(counts, dtype=np.float32)
    for axis, pitch in enumerate(pitches):
        sigma = 0.5 * scale_mm / pitch
        if sigma > 0.3:  # an oversampled lattice shows neither its axes nor creases
            values = ndimage.gaussian_filter1d(values, sigma, axis=axis, mode="wrap", truncate=2.5)
    values *= np.float32(1.12 / values.std(dtype=np.float64))  # interpolation takes about a tenth
    shift = rng.random(3)
    where = [np.arange(n) * (d / p) + t for n, d, p, t in zip(shape, step_mm, pitches, shift, strict=True)]
    return _lerp_slices(lerp_axis(values, 2, where[2]), where[0], where[1])


def _lerp_slices(values: FloatArray, slices: npt.NDArray[np.float64], rows: npt.NDArray[np.float64]) -> FloatArray:
    """Linear interpolation along the first two axes, slice by slice, so that all stays in a processor's cache."""
    out = np.empty((len(slices), len(rows), values.shape[2]), np.float32)
    planes: dict[int, FloatArray] = {}
    change = np.empty(out.shape[1:], np.float32)
    for k, place in enumerate(slices.tolist()):
        low = min(int(place), values.shape[0] - 2)
        planes = {i: planes[i] if i in planes else lerp_axis(values[i : i + 1], 1, rows)[0] for i in (low, low + 1)}
        np.subtract(planes[low + 1], planes[low], out=change)
        change *= np.float32(place - low)
        np.add(planes[low], change, out=out[k])
    return out


@dataclass(frozen=True, slots=True)
class Lattice:
    """A smooth random field on a cube of head coordinates, looked up anywhere."""

    values: FloatArray
    pitch_mm: float

    def __call__(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """Values at points of any shape, coordinates in mm; interpolated linearly, clamped to the cube."""
        flat = [np.ascontiguousarray(axis).ravel() for axis in (z, y, x)]
        out = np.empty(x.shape, np.float32)
        line = out.ravel()
        for first in range(0, line.size, SLAB_VOXELS // 4):
            part = slice(first, first + SLAB_VOXELS // 4)
            line[part] = self._at([axis[part] for axis in flat])
        return out

    def _at(self, where: list[FloatArray]) -> FloatArray:
        """Values at points along z, y and x."""
        n, values = self.values.shape[0], self.values.ravel()
        index, weights = np.zeros(where[0].shape, np.int64), []
        for axis in where:
            place = axis * np.float32(1 / self.pitch_mm)
            place += np.float32((n - 1) / 2)
            np.clip(place, 0, np.float32(n - 1.001), out=place)
            low = place.astype(np.int32)
            place -= low
            weights.append(place)
            index *= n
            index += low
        corners = [values.take(index + (k * n * n + j * n + i)) for k in (0, 1) for j in (0, 1) for i in (0, 1)]
        for weight in reversed(weights):
            for low, high in zip(corners[::2], corners[1::2], strict=True):
                high -= low
                high *= weight
                high += low
            corners = corners[1::2]
        found: FloatArray = corners[0]
        return found


def lattice(rng: np.random.Generator, pitch_mm: float, half_mm: float) -> Lattice:
    """A random field of unit variance, Gaussian-smoothed over one pitch.

    Args:
        rng: Source of chance.
        pitch_mm: Distance between its values.
        half_mm: Half the side of its cube.

    Returns:
        The field; its mean slope is 1 / (1.41 pitch) a mm.
    """
    n = 2 * int(np.ceil(half_mm / pitch_mm)) + 1
    values = ndimage.gaussian_filter(rng.standard_normal((n, n, n), dtype=np.float32), 1.0, mode="wrap", truncate=3.0)
    return Lattice((values / np.float32(values.std(dtype=np.float64))).astype(np.float32), pitch_mm)
