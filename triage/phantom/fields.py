"""Grids, soft shapes and band-limited noise on them; plain arrays, no anatomy, no DICOM.

Only additions, products, square roots and table look-ups touch whole arrays: no BLAS, no vectorised transcendental
function, so one platform always gives the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from triage.records import FloatArray

Region = tuple[slice, slice, slice]
Point = tuple[float, float, float]

SLAB_VOXELS = 2**16
"""Greatest number of voxels worked on at once, where a slice has no more."""

BoolArray = npt.NDArray[np.bool_]

AnyField = npt.NDArray[np.floating[Any]]
"""What NumPy's stubs make of mixed expressions; always float32 at run time."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Voxels of a stack of slices and where they lie in the head: axes (slice, row, column)."""

    shape: tuple[int, int, int]
    step_mm: tuple[float, float, float]
    """Between slices along the normal, between rows, between columns."""
    thickness_mm: float
    matrix: npt.NDArray[np.float64]
    """(3, 3): offset (slice, row, column) from the middle of the grid -> head (x, y, z) in mm."""
    origin_mm: npt.NDArray[np.float64]
    """(3,): head coordinates of the middle of the grid."""

    @property
    def soft_mm(self) -> float:
        """Width over which an edge fades: pixel and part of the slice thickness (partial volume)."""
        return self.step_mm[2] + 0.12 * self.thickness_mm

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel."""
        return self.step_mm[0] * self.step_mm[1] * self.step_mm[2] / 1000.0

    def rows_within(self, reach_mm: float) -> int:
        """Of how many rows one is enough to have one every so many mm."""
        return max(int(reach_mm / self.step_mm[1]), 1)

    def cropped(self, region: Region) -> "Grid":
        """The voxels of one region, where they were."""
        first, last = (np.array([getattr(part, end) for part in region]) for end in ("start", "stop"))
        away = (first + last - 1) / 2.0 - (np.array(self.shape) - 1) / 2.0
        n, rows, columns = (int(m) for m in last - first)
        return replace(self, shape=(n, rows, columns), origin_mm=self.origin_mm + (self.matrix * away).sum(axis=1))

    def thinned(self, rows: int, columns: int) -> "Grid":
        """Every so many rows and columns from the first, up to the last or beyond it."""
        every = (1, rows, columns)
        n, m, p = (-(-(size - 1) // few) + 1 for size, few in zip(self.shape, every, strict=True))
        away = [(few * (m - 1) - size + 1) / 2 for few, m, size in zip(every, (n, m, p), self.shape, strict=True)]
        origin = self.origin_mm + (self.matrix * np.array(away)).sum(axis=1)
        step = (self.step_mm[0], rows * self.step_mm[1], columns * self.step_mm[2])
        return replace(self, shape=(n, m, p), step_mm=step, matrix=self.matrix * np.array(every), origin_mm=origin)


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Head coordinates of every voxel in mm: x to the left, y to the back, z up (DICOM's patient axes)."""

    x: FloatArray
    y: FloatArray
    z: FloatArray

    def at(self, region: Region) -> "Coordinates":
        """Views of one region."""
        return Coordinates(self.x[region], self.y[region], self.z[region])

    def with_rows(self, every: int, rows: int) -> "Coordinates":
        """Of all rows, from those of a thinned grid."""
        return Coordinates(*(with_rows(axis, every, rows) for axis in (self.x, self.y, self.z)))

    def packed(self) -> "Coordinates":
        """Copies that lie side by side in memory, which is quicker to work on than views are."""
        return Coordinates(*(np.ascontiguousarray(axis) for axis in (self.x, self.y, self.z)))


def coordinates(grid: Grid) -> Coordinates:
    """Head coordinates of all voxels.

    Args:
        grid: The voxels.

    Returns:
        Three (n, rows, columns) arrays.
    """
    offsets = [np.arange(n) - (n - 1) / 2.0 for n in grid.shape]
    k, j, i = offsets[0][:, None, None], offsets[1][None, :, None], offsets[2][None, None, :]
    axes = []
    for row, start in zip(grid.matrix, grid.origin_mm, strict=True):
        plane = (start + row[0] * k + row[1] * j).astype(np.float32)
        axes.append(plane + (row[2] * i).astype(np.float32))
    return Coordinates(*axes)


def region_around(grid: Grid, low: Point, high: Point) -> Region:
    """The smallest block of voxels that holds a box of head coordinates.

    Args:
        grid: The voxels.
        low: Least x, y, z in mm.
        high: Greatest x, y, z in mm.

    Returns:
        Slices into arrays of the grid; empty where the box lies outside.
    """
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    half = [abs(b - a) / 2 for a, b in zip(low, high, strict=True)]
    inverse = _inverse(grid.matrix.tolist())
    return _block(grid, inverse, [middle], [sum(abs(f) * h for f, h in zip(row, half, strict=True)) for row in inverse])


def rod_region(grid: Grid, start: Point, end: Point, reach_mm: float, slack_mm: Point = (0.0, 0.0, 0.0)) -> Region:
    """The smallest block of voxels that holds all within reach of a rod, which turned grids hold closer than a box.

    Args:
        grid: The voxels.
        start: First end of its axis.
        end: Other end.
        reach_mm: From the axis.
        slack_mm: Further along x, y and z.

    Returns:
        Slices into arrays of the grid; empty where the rod lies outside.
    """
    inverse = _inverse(grid.matrix.tolist())
    away = [
        reach_mm * sum(f * f for f in row) ** 0.5 + sum(abs(f) * m for f, m in zip(row, slack_mm, strict=True))
        for row in inverse
    ]
    return _block(grid, inverse, [start, end], away)


def _inverse(m: list[list[float]]) -> list[list[float]]:
    """Of a 3 x 3 matrix, in plain floats: quick, and the same on every machine."""
    rows = [_cross(m[1], m[2]), _cross(m[2], m[0]), _cross(m[0], m[1])]
    volume = sum(a * b for a, b in zip(m[0], rows[0], strict=True))
    return [[rows[column][row] / volume for column in range(3)] for row in range(3)]


def _cross(a: list[float], b: list[float]) -> list[float]:
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]


def _block(grid: Grid, inverse: list[list[float]], points: Sequence[Sequence[float]], away: list[float]) -> Region:
    """Voxels from the least to the greatest index of some points, and `away` more along each axis of the grid."""
    origin = grid.origin_mm.tolist()
    parts = []
    for row, more, size in zip(inverse, away, grid.shape, strict=True):
        middle = (size - 1) / 2
        index = [middle + sum(f * (p - o) for f, p, o in zip(row, point, origin, strict=True)) for point in points]
        first, last = floor(min(index) - more), ceil(max(index) + more) + 1
        parts.append(slice(min(max(first, 0), size), min(max(last, 0), size)))
    return (parts[0], parts[1], parts[2])


def is_empty(region: Region) -> bool:
    """Whether a region holds no voxel."""
    return any(part.stop <= part.start for part in region)


def slabs(shape: tuple[int, ...]) -> list[Region]:
    """Blocks of whole slices that cover an array; each fits into a processor's cache, where work is far quicker.

    Args:
        shape: (n, rows, columns).

    Returns:
        Regions from first slice to last.
    """
    n, rows, columns = shape
    few = max(SLAB_VOXELS // max(rows * columns, 1), 1)
    return [(slice(k, min(k + few, n)), slice(0, rows), slice(0, columns)) for k in range(0, n, few)]


def held(mask: BoolArray, margin: tuple[int, int, int]) -> Region:
    """The smallest block that holds what is true.

    Args:
        mask: (n, rows, columns).
        margin: Voxels to add on each side, an axis each.

    Returns:
        Slices within the mask's shape; all of it where nothing is true.
    """
    parts = []
    for axis, more in enumerate(margin):
        others = tuple(a for a in range(3) if a != axis)
        where = np.flatnonzero(mask.any(axis=others))
        size = mask.shape[axis]
        parts.append(slice(max(where[0] - more, 0), min(where[-1] + more + 1, size)) if where.size else slice(0, size))
    return (parts[0], parts[1], parts[2])


def region_in(outer: Region, inner: Region) -> Region:
    """Where a region of a region lies in the whole."""
    k, j, i = (slice(a.start + b.start, a.start + b.stop) for a, b in zip(outer, inner, strict=True))
    return (k, j, i)


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


def _lerp_axis(values: FloatArray, axis: int, where: npt.NDArray[np.float64]) -> FloatArray:
    """Linear interpolation along one axis at the given (fractional) indices, clamped to the ends."""
    where = np.clip(where, 0, values.shape[axis] - 1)
    low = np.minimum(where.astype(np.int64), max(values.shape[axis] - 2, 0))
    high = np.minimum(low + 1, values.shape[axis] - 1)
    shape = [1, 1, 1]
    shape[axis] = -1
    weight = (where - low).astype(np.float32).reshape(shape)
    first = np.take(values, low, axis=axis)
    second: FloatArray = np.take(values, high, axis=axis)
    second -= first
    second *= weight
    second += first
    return second


def with_rows(values: FloatArray, every: int, rows: int) -> FloatArray:
    """Linear interpolation between rows of a thinned grid.

    Args:
        values: (n, m, columns), on a grid thinned to every so many rows.
        every: How many.
        rows: Of the result.

    Returns:
        (n, rows, columns); `values` itself where it holds each row.
    """
    if every == 1:
        return values
    out = np.empty((values.shape[0], rows, values.shape[2]), np.float32)
    for part in slabs(out.shape):
        out[part] = _lerp_axis(values[part[0]], 1, np.arange(rows) / every)
    return out


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
            values = _lerp_axis(values, axis, (np.arange(m) + 0.5) * n / m - 0.5)
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
    return _lerp_slices(_lerp_axis(values, 2, where[2]), where[0], where[1])


def _lerp_slices(values: FloatArray, slices: npt.NDArray[np.float64], rows: npt.NDArray[np.float64]) -> FloatArray:
    """Linear interpolation along the first two axes, slice by slice, so that all stays in a processor's cache."""
    out = np.empty((len(slices), len(rows), values.shape[2]), np.float32)
    planes: dict[int, FloatArray] = {}
    change = np.empty(out.shape[1:], np.float32)
    for k, place in enumerate(slices.tolist()):
        low = min(int(place), values.shape[0] - 2)
        planes = {i: planes[i] if i in planes else _lerp_axis(values[i : i + 1], 1, rows)[0] for i in (low, low + 1)}
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
