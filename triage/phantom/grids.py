"""Grids of voxels in a head: where they lie, blocks of them that hold a shape, blocks small enough to be quick."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor

import numpy as np
import numpy.typing as npt

from triage.records import FloatArray

Region = tuple[slice, slice, slice]
"""A block of voxels: slices, rows, columns."""

Point = tuple[float, float, float]
"""x, y, z in mm, head coordinates where nothing else is said."""

SLAB_VOXELS = 2**16
"""Greatest number of voxels worked on at once, where a slice has no more."""

BoolArray = npt.NDArray[np.bool_]


def point(values: Iterable[float]) -> Point:
    """Three values as a point."""
    x, y, z = values
    return (x, y, z)


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
    inverse = inverted(grid.matrix.tolist())
    return _block(grid, inverse, [middle], [sum(abs(f) * h for f, h in zip(row, half, strict=True)) for row in inverse])


def region_about(grid: Grid, centre: Point, reach_mm: float) -> Region:
    """The same of the cube about a point, from its middle to a side."""
    x, y, z = centre
    low, high = (x - reach_mm, y - reach_mm, z - reach_mm), (x + reach_mm, y + reach_mm, z + reach_mm)
    return region_around(grid, low, high)


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
    inverse = inverted(grid.matrix.tolist())
    away = [
        reach_mm * sum(f * f for f in row) ** 0.5 + sum(abs(f) * m for f, m in zip(row, slack_mm, strict=True))
        for row in inverse
    ]
    return _block(grid, inverse, [start, end], away)


def inverted(m: list[list[float]]) -> list[list[float]]:
    """Of a 3 x 3 matrix, in plain floats: quick, and the same on every machine."""
    rows = [_cross(m[1], m[2]), _cross(m[2], m[0]), _cross(m[0], m[1])]
    volume = sum(a * b for a, b in zip(m[0], rows[0], strict=True))
    return [[rows[column][row] / volume for column in range(3)] for row in range(3)]


def _cross(a: list[float], b: list[float]) -> list[float]:
    """Vector product."""
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


def lerp_axis(values: FloatArray, axis: int, where: npt.NDArray[np.float64]) -> FloatArray:
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
        out[part] = lerp_axis(values[part[0]], 1, np.arange(rows) / every)
    return out
