"""Small things within the head that a slice may be thicker than: arteries at its base, harmless calcifications."""

from collections.abc import Callable

import numpy as np

from triage.phantom.fields import blend_in, capsule, ellipsoid, soft
from triage.phantom.grids import (
    Coordinates,
    Grid,
    Point,
    is_empty,
    point,
    region_about,
    region_around,
    rod_region,
)
from triage.phantom.profile import Head
from triage.phantom.skull import Surface
from triage.records import FloatArray

CALCIUM_HU = (110.0, 420.0)
"""Of choroid plexus, pineal, falx and basal ganglia, where calcified."""

ARTERIES: tuple[tuple[Point, Point], ...] = (
    ((6, -10, -22), (9, -14, -17)), ((9, -14, -17), (34, -17, -13)), ((9, -14, -17), (2, -28, -13)),
)  # fmt: skip
"""Axes on the left: carotid, middle and anterior cerebral artery."""

BASILAR: tuple[Point, Point] = ((0, 3, -44), (0, 0, -22))
"""Axis of the basilar artery."""

LAYER_MM = 2.0
"""A slice is looked at in layers of this thickness at most: what fills few of them is seen as little."""

MOST_LAYERS = 5


def _normal(grid: Grid) -> Point:
    """Unit vector across the slices, in head coordinates; not along the stack where the gantry is tilted."""
    across = np.cross(grid.matrix[:, 2], grid.matrix[:, 1])
    return point((across / np.sqrt((across * across).sum())).tolist())


def _filled(grid: Grid, at: Coordinates, inside: Callable[[Coordinates], FloatArray]) -> FloatArray:
    """Share of each voxel that a small thing fills, its slice's whole thickness counted.

    Args:
        grid: The voxels.
        at: Of a region of them, or where their tissue comes from.
        inside: Signed distance to the thing's surface in mm, positive inside.

    Returns:
        0..1, of the region's shape.
    """
    count = min(max(int(np.ceil(grid.thickness_mm / LAYER_MM)), 1), MOST_LAYERS)
    layer = grid.thickness_mm / count
    width = grid.step_mm[2] + 0.3 * layer
    share = np.zeros(at.x.shape, np.float32)
    for i in range(count):
        dx, dy, dz = (np.float32(n * (i - (count - 1) / 2) * layer) for n in _normal(grid))
        share += soft(inside(Coordinates(at.x + dx, at.y + dy, at.z + dz)), width)
    share *= np.float32(1 / count)
    return share


def paint_arteries(hu: FloatArray, head: Head, grid: Grid, s: Surface, inside: FloatArray) -> None:
    """Circle of Willis and basilar artery, in place.

    Args:
        hu: (n, rows, columns).
        head: Parameters.
        grid: The voxels.
        s: Surfaces.
        inside: Share of each voxel within the cranial cavity.
    """
    if not head.arteries:
        return
    vessels = np.zeros_like(hu)
    rods = [(_mirrored(a, side), _mirrored(b, side), (1.6, 1.1)) for side in (-1.0, 1.0) for a, b in ARTERIES]
    slack = point(abs(n) * 0.5 * grid.thickness_mm for n in _normal(grid))
    for start, end, radii in [*rods, (*BASILAR, (1.7, 1.7))]:
        region = rod_region(grid, start, end, max(radii) + grid.soft_mm, slack)
        if is_empty(region):
            continue

        def rod(at: Coordinates, a: Point = start, b: Point = end, r: tuple[float, float] = radii) -> FloatArray:
            return capsule(at, a, b, r)

        np.maximum(vessels[region], _filled(grid, s.at.at(region), rod), out=vessels[region])
    block = region_around(grid, (-38, -32, -48), (38, 6, -8))
    share = vessels[block] * inside[block] * np.float32(min(0.8 * head.arteries, 1.0))
    blend_in(hu[block], share, head.blood_hu - 6)


def _mirrored(along: Point, side: float) -> Point:
    """A point of the left half on the side asked for: 1 left, -1 right."""
    return (side * along[0], along[1], along[2])


def paint_calcium(hu: FloatArray, head: Head, grid: Grid, at: Coordinates, rng: np.random.Generator) -> None:
    """Pineal, choroid plexus, falx and basal ganglia calcification, in place.

    Args:
        hu: (n, rows, columns).
        head: Parameters.
        grid: The voxels.
        at: Where in the undeformed brain their tissue comes from.
        rng: Source of chance; draws as much whatever is calcified.
    """
    spots = _spots(head, [float(v) for v in rng.random(8)])
    values = [float(v) for v in rng.uniform(*CALCIUM_HU, len(spots))]
    for (there, centre, radii), value in zip(spots, values, strict=True):
        region = region_about(grid, centre, max(radii) + 10 + 0.5 * grid.thickness_mm)
        if not there or is_empty(region):
            continue

        def egg(here: Coordinates, c: Point = centre, r: Point = radii) -> FloatArray:
            return ellipsoid(here, c, r)

        blend_in(hu[region], _filled(grid, at.at(region), egg), value)


def _spots(head: Head, draw: list[float]) -> list[tuple[bool, Point, Point]]:
    """Whether each is there, its middle and its radii; from eight even draws."""
    spots = [(head.pineal > 0, (0.0, 27.0, 0.0), (head.pineal, head.pineal, head.pineal + 1))]
    for k, side in enumerate((-1.0, 1.0)):
        r = head.choroid * (0.6 + 0.7 * draw[k])
        at = (side * 22 * (0.9 + 0.1 * head.ventricles), 35.0, 9.0)
        spots.append((head.choroid > 0, at, (r, r * 1.8, r + 2)))
        r = 1.0 + 2.0 * draw[2 + k]
        spots.append((head.ganglia_calcified, (side * 22, 10 * draw[4 + k] - 8, 3.0), (r, r * 1.5, r + 1)))
    r = 1.0 + 1.2 * draw[6]
    spots.append((head.falx_calcified, (0.0, -45.0, 25 + 20 * draw[7]), (r, r * 3, r * 2)))
    return spots
