"""Bleeds within the brain: deep, lobar and infratentorial lumps of several lobes, and contusions near bone."""

import numpy as np
import numpy.typing as npt

from triage.phantom.anatomy import Deformation
from triage.phantom.fields import noise, smooth_least
from triage.phantom.grids import Coordinates, Grid, Point, Region, is_empty, region_about
from triage.phantom.lesions import FAR, Plan, reach
from triage.phantom.profile import Head
from triage.phantom.skull import Surface
from triage.records import FloatArray

CONTUSIONS = ("frontal base", "temporal pole")
"""Variants where a blow throws the brain against bone."""

BELOW = ("cerebellum", "pons")
"""Variants under the tentorium; they move no midline."""

CENTRES: dict[str, tuple[Point, ...]] = {
    "ganglia": ((25, -3, 4), (28, 6, 6)),
    "thalamus": ((12, 12, 5),),
    "cerebellum": ((18, 46, -34), (24, 42, -30), (4, 50, -36)),
    "pons": ((1, 12, -32),),
    "joined": ((22, -6, 10), (17, 12, 9), (20, 2, 11)),
    "frontal base": ((14, -52, -16), (22, -62, -8), (30, -48, -14), (16, -70, 6)),
    "temporal pole": ((38, -26, -28), (50, -14, -22), (56, 4, -18), (46, 8, -34)),
}
"""On the left of the average brain, mm."""

JITTER_MM = {"cerebellum": 6.0, "frontal base": 7.0, "temporal pole": 6.0}
"""How far a bleed lies from one of CENTRES at most, sideways and in height; 4 elsewhere."""

RIDGE_MM = 3.0
"""How far behind the middle the petrous ridges meet, and a little: the middle fossa is before them."""

ROOM = 0.72
"""A contusion's middle is at least so far from bone, of the radius of a ball that holds its volume."""

BESIDE_MM = 3.0
"""And not further than that radius and this: a blow hurts the surface."""

LOBES_ML = 2.5
"""A larger bleed may have several lobes."""


def _centre(head: Head, plan: Plan, rng: np.random.Generator) -> Point:
    """Middle of a bleed in head coordinates."""
    if plan.variant == "lobar":
        x, y, z = float(rng.uniform(22, 46)), float(rng.uniform(-56, 60)), float(rng.uniform(4, 52))
    else:
        choices = CENTRES["joined" if plan.joined else plan.variant]
        x, y, z = choices[int(rng.random() * len(choices))]
        away = JITTER_MM.get(plan.variant, 4.0) * rng.uniform(-1, 1, 3)
        x, y, z = x + float(away[0]), y + 1.5 * float(away[1]), z + float(away[2])
    rx, ry, rz = head.radii_mm
    return (plan.side * x * rx / 67, y * ry / 84, z * rz / 76)


def intraparenchymal(
    head: Head, grid: Grid, s: Surface, plan: Plan, rng: np.random.Generator
) -> tuple[FloatArray, Deformation]:
    """Ragged lump within the brain.

    Args:
        head: Parameters.
        grid: The voxels.
        s: Surfaces.
        plan: What to make.
        rng: Source of chance.

    Returns:
        Signed distance to its surface in mm, positive inside, and how it pushes the brain.
    """
    centre = _centre(head, plan, rng)
    push = (plan.volume_ml * 1000 * 0.239) ** (1 / 3)
    shift = -plan.side * min(plan.volume_ml * 0.075 * float(rng.uniform(0.3, 1.2)), 10.0)
    if plan.variant in BELOW:
        shift = 0.0
    half = 12 + 3.2 * push
    if plan.variant in CONTUSIONS:
        centre = _inwards(grid, s, plan, centre, push)
    region = region_about(grid, centre, half)
    distance = np.full(grid.shape, FAR, np.float32)
    change = Deformation(0.0, shift, centre, push * (0.5 if plan.variant in CONTUSIONS else 1.0))
    if is_empty(region):
        return distance, change
    make = _patches if plan.variant in CONTUSIONS else _lump
    level = make(grid, s, region, (centre, push), rng)
    np.maximum(level, 0, out=level)
    bound = _bound(s, region, plan)
    radius = reach(level, bound > 0, plan.volume_ml, grid)
    distance[region] = np.minimum(radius - level, bound)
    return distance, change


def _bound(s: Surface, region: Region, plan: Plan) -> FloatArray:
    """Distance in mm from where such a bleed may not be."""
    at, depth, tentorium = s.at.at(region), s.depth[region], s.tentorium[region]
    bound = depth - np.float32(1.2 if plan.variant in CONTUSIONS else 3.0)
    if plan.variant == "lobar" or plan.variant in CONTUSIONS:
        bound = np.minimum(bound, np.float32(plan.side) * at.x - 2)
    tent = -tentorium if plan.variant in BELOW else tentorium
    notch = 12 - np.sqrt(at.x * at.x + (at.y - 8) ** 2) * np.float32(0.5)
    free = np.maximum(tent - np.float32(1.5), notch)
    if plan.variant in CONTUSIONS:  # before the petrous ridge the temporal lobe lies below the tentorium's prolongation
        free = np.maximum(free, (np.abs(at.x) * np.float32(0.56) - at.y - RIDGE_MM) * np.float32(0.87))
    allowed: FloatArray = np.minimum(bound, free)
    return allowed


def _inwards(grid: Grid, s: Surface, plan: Plan, centre: Point, radius: float) -> Point:
    """The nearest place to a contusion's middle where a ball of its volume lies against bone, and hardly beyond it."""
    region = region_about(grid, centre, 2 * radius + 10)
    if is_empty(region):
        return centre
    at, bound = s.at.at(region), _bound(s, region, plan)
    room = bound >= min(ROOM * radius, ROOM * float(bound.max()))
    beside = room & (s.depth[region] < radius + BESIDE_MM)
    away = np.where(beside if beside.any() else room, _distance(at, centre, np.ones(3)), np.inf)
    i = int(np.argmin(away))
    return (float(at.x.ravel()[i]), float(at.y.ravel()[i]), float(at.z.ravel()[i]))


def _lump(
    grid: Grid, s: Surface, region: Region, ball: tuple[Point, float], rng: np.random.Generator
) -> FloatArray:  # fmt: skip
    """Level that grows outwards from one to four centres, ragged at the edge."""
    centre, radius = ball
    at = s.at.at(region)
    stretch = rng.uniform(0.72, 1.35, 3)
    away, scale = rng.uniform(-1, 1, (3, 3)), rng.uniform(1.0, 1.7, 3)
    lobes = int(rng.random() * 4) if radius > (LOBES_ML * 239) ** (1 / 3) else 0
    level = _distance(at, centre, stretch)
    for offset, weaker in zip(away[:lobes], scale, strict=False):
        x, y, z = (c + float(o) * 1.25 * radius for c, o in zip(centre, offset, strict=True))
        level = smooth_least(level, _distance(at, (x, y, z), stretch) * np.float32(weaker), 0.5 * radius)
    ragged = 0.1 + 0.17 * float(rng.random())
    level *= 1 + np.float32(ragged) * noise(rng, at.x.shape, grid.step_mm, 11)
    level += np.float32(rng.uniform(0, 1.2)) * noise(rng, at.x.shape, grid.step_mm, 5)
    return level


def _distance(at: Coordinates, centre: Point, stretch: npt.NDArray[np.float64]) -> FloatArray:
    """Distance to a point in mm, an axis longer than another."""
    x, y, z = (
        (a - np.float32(c)) * np.float32(1 / f) for a, c, f in zip((at.x, at.y, at.z), centre, stretch, strict=True)
    )
    found: FloatArray = np.sqrt(x * x + y * y + z * z)
    return found


def _patches(
    grid: Grid, s: Surface, region: Region, ball: tuple[Point, float], rng: np.random.Generator
) -> FloatArray:  # fmt: skip
    """Level that is low in ragged patches that lie in a lump with its back against bone."""
    at = s.at.at(region)
    level = _distance(at, ball[0], rng.uniform(0.8, 1.25, 3))
    deeper = np.clip(s.depth[region] - np.float32(0.8 * ball[1] + 2), 0, None)  # a blow hurts the surface most
    np.sqrt(level * level + deeper * deeper, out=level)
    patchy = noise(rng, at.x.shape, grid.step_mm, float(rng.uniform(7, 11)))
    level += np.float32(0.17 * ball[1] + 0.8) * patchy
    level += np.float32(1.2) * noise(rng, at.x.shape, grid.step_mm, 4)
    return level
