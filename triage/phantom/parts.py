"""Parts of the average brain that are rows of rods, laid into a deformed one: ventricles, cisterns, caudate."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from triage.phantom.fields import capsule
from triage.phantom.grids import Coordinates, Grid, Point, Region, is_empty, point, rod_region, slabs
from triage.phantom.profile import Head
from triage.phantom.skull import Surface
from triage.records import FloatArray

Rods = tuple[tuple[float, float, float, float], ...]
"""Ends (x, y, z in the average brain) of tapering rods in a row, with the radius at each."""

FAR_MM = -50.0
"""Signed distance where a part is not looked for."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the parts of the average brain lie on a grid."""

    grid: Grid
    at: Coordinates
    """Undeformed."""
    scale: Point
    low: Point
    high: Point
    """Least and greatest difference between undeformed coordinates and scaled ones, in mm."""

    def lay(self, out: FloatArray, points: Rods, edge_mm: float, squash: float = 1.0) -> None:
        """Add a row of rods to a union of shapes, in place.

        Args:
            out: (n, rows, columns): signed distance in mm, FAR_MM where it does not matter.
            points: Of the rods.
            edge_mm: How far beyond the rods the distance matters.
            squash: Heights are multiplied by this before distances are taken.
        """
        for a, b in pairwise(points):
            region = self._around(a, b, max(a[3], b[3]) + edge_mm, squash)
            if is_empty(region):
                continue
            here = self.at.at(region)
            if squash != 1.0:
                here = Coordinates(here.x, here.y, here.z * np.float32(squash))
            rod = capsule(here, (a[0], a[1], a[2]), (b[0], b[1], b[2]), (a[3], b[3]))
            np.maximum(out[region], rod, out=out[region])

    def both(self, out: FloatArray, points: Rods, edge_mm: float) -> None:
        """The same on both sides."""
        self.lay(out, points, edge_mm)
        if any(point[0] for point in points):
            self.lay(out, tuple((-x, y, z, r) for x, y, z, r in points), edge_mm)

    def _around(self, a: tuple[float, ...], b: tuple[float, ...], reach_mm: float, squash: float) -> Region:
        """Voxels whose tissue may come from within reach of one rod, however the brain is deformed."""
        axes = list(zip(self.scale, self.low, self.high, (1.0, 1.0, squash), strict=True))
        ends = [
            [(p / q - (low + high) / 2) / f for p, (f, low, high, q) in zip(end[:3], axes, strict=True)]
            for end in (a, b)
        ]
        slack = [(high - low) / 2 / f for f, low, high, _ in axes]
        reach = reach_mm / min(*self.scale, 1.0) / squash
        return rod_region(self.grid, point(ends[0]), point(ends[1]), reach, point(slack))


def placed(head: Head, grid: Grid, s: Surface, at: Coordinates) -> Place:
    """Measure how far the brain is deformed."""
    scale = brain_scale(head)
    low, high = [0.0] * 3, [0.0] * 3
    for part in slabs(grid.shape):
        for axis, (moved, still) in enumerate(((at.x, s.at.x), (at.y, s.at.y), (at.z, s.at.z))):
            away = moved[part] - still[part] * np.float32(scale[axis])
            low[axis], high[axis] = min(low[axis], float(away.min())), max(high[axis], float(away.max()))
    return Place(grid, at, scale, point(low), point(high))


def brain_scale(head: Head) -> Point:
    """Size of the average brain against this one, an axis each."""
    rx, ry, rz = head.radii_mm
    return (67 / rx, 84 / ry, 76 / rz)


CAUDATE: Rods = ((15, -27, 6, 6), (17, -8, 17, 3), (20, 14, 20, 2))
"""The left caudate nucleus."""


def chambers(head: Head, place: Place) -> FloatArray:
    """Signed distance to the lateral ventricles in mm, without the septum between them."""
    out = np.full(place.grid.shape, FAR_MM, np.float32)
    edge = place.grid.soft_mm
    for side in (-1.0, 1.0):
        w = head.ventricles * (1 + side * head.asymmetry)
        wide, narrow = 4.6 * w, 3.0 * w
        body = ((14.5 + w, -40, 3, narrow), (8 + w, -27, 8, wide), (5 + w, -9, 13, 3.9 * w),
                (10 + 2 * w, 10, 17, wide), (17 + 2 * w, 26, 15, 4.6 * w), (21 + 2 * w, 38, 8, 5.5 * w),
                (23, 58, 4, 2.2 * w))  # fmt: skip
        horn = ((21 + 2 * w, 36, 4, 4 * w), (31, 20, -7, 2.4 * w), (29, 0, -13, 1.4 * w))
        for points in (body, horn):
            place.lay(out, tuple((side * x, y, z, r) for x, y, z, r in points), edge, squash=0.8)
    return out


def spaces(head: Head, place: Place) -> FloatArray:
    """Signed distance to the basal cisterns in mm."""
    a = head.atrophy
    wide = 1.0 + 2.2 * a
    out = np.full(place.grid.shape, FAR_MM, np.float32)
    rows: tuple[Rods, ...] = (
        ((0, -12, -19, 5.5 + a), (0, -2, -20, 4 + a)),
        ((0, -12, -18, 3 + a), (0, -34, -12, 0.8 + a)),
        ((6, -13, -18, 2.8 + a), (22, -18, -16, 1.6 + 0.8 * a), (37, -15, -12, 1.6 + wide * 0.5)),
        ((5, 0, -20, 2.6 + a), (15, 6, -16, 1.3 + 0.8 * a), (18, 15, -12, 1.2 + 0.8 * a), (12, 25, -7, 1.6 + a),
         (0, 28, -4, 2.6 + a)),
        ((0, 0, -26, 3.2 + a), (0, 4, -40, 2.6 + a), (0, 9, -60, 4.0)),  # before the pons
        ((0, 3, -30, 2.2 + a), (10, 6, -33, 1.6 + a), (19, 14, -38, 2.6 + a)),
        ((4, 4, -40, 2.2 + a), (21, 15, -42, 2.4 + a)),
        ((0, 26, -22, 1.0 + a), (0, 34, -20, 1.6 + a), (0, 40, -24, 0.8 + a)),
        ((0, 40, -6, 1.2 + 1.5 * a), (0, 55, -14, 0.7 + a)),  # above the vermis
    )  # fmt: skip
    for points in rows:
        place.both(out, points, place.grid.soft_mm)
    return out
