"""Bleeds that mix with fluid: subarachnoid in sulci and cisterns, intraventricular as a level or a cast."""

from itertools import pairwise

import numpy as np

from triage.phantom.anatomy import Brain
from triage.phantom.fields import AnyField, capsule, noise, soft
from triage.phantom.grids import Coordinates, Grid, Point
from triage.phantom.lesions import Plan, clear_of_bone, reach
from triage.phantom.skull import Site
from triage.records import FloatArray

Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]

SOURCES: dict[str, Box] = {
    "cistern": ((0, 8), (-18, 4), (-18, -18)),
    "sylvian": ((30, 44), (-20, -4), (-10, 6)),
    "convexity": ((15, 58), (-55, 60), (5, 55)),
    "film": ((20, 58), (-50, 60), (5, 55)),
    "interhemispheric": ((0, 1), (-62, 40), (18, 52)),
    "perimesencephalic": ((0, 6), (0, 10), (-22, -16)),
}
"""Where the blood comes from, on the left of the average brain: ranges of x, y, z in mm."""

WEIGHTS: dict[str, Point] = {
    "cistern": (1.0, 1.0, 1.7), "sylvian": (1.0, 1.0, 1.7), "convexity": (1.0, 1.0, 1.7), "film": (0.4, 0.4, 0.6),
    "interhemispheric": (14.0, 0.7, 1.0), "perimesencephalic": (1.0, 1.0, 2.0),
}  # fmt: skip
"""How fast the blood thins out along each axis."""

MIDDLE = ("aneurysmal", "cistern", "perimesencephalic")
"""Variants on both sides of the midline."""

WAYS: tuple[tuple[tuple[Point, float], ...], ...] = (
    (((0, -12, -19), 9), ((0, 0, -22), 9)),
    (((6, -13, -18), 8), ((22, -18, -16), 6), ((37, -15, -12), 5), ((41, -8, 2), 4)),
    (((0, -12, -18), 8), ((0, -34, -12), 4), ((0, -54, 4), 0)),
    (((5, 0, -20), 8), ((15, 6, -16), 6), ((18, 15, -12), 4), ((0, 28, -5), 2)),
    (((0, 0, -24), 8), ((0, 4, -40), 2)),
)
"""From the circle of Willis: suprasellar cistern, Sylvian fissure, between the frontal lobes, round the midbrain,
before the pons. Points in the left half of the average brain, mm, and how many mm wide the blood first stands there."""

LATE_MM = (0.0, 5.0)
"""How much less, in one head."""

MOST_LOPSIDED = 0.25
"""Blood reaches so many mm less far for each mm away from the aneurysm's side."""

LEAST_SHARE = 0.52
"""Voxels that can hold less blood than this are not counted upon."""


def downwards(grid: Grid, at: Coordinates) -> FloatArray:
    """Height below the middle in a patient who lies on the back, mm.

    Args:
        grid: Whose columns run towards the table.
        at: Head coordinates of voxels, any shape.

    Returns:
        Of that shape.
    """
    x, y, z = (float(v) / grid.step_mm[1] for v in grid.matrix[:, 1])
    found: FloatArray = at.x * np.float32(x) + at.y * np.float32(y) + at.z * np.float32(z)
    return found


def subarachnoid(site: Site, brain: Brain, room: FloatArray, plan: Plan, rng: np.random.Generator) -> FloatArray:
    """Blood in the fluid spaces round a source: an aneurysm's cisterns, a Sylvian fissure, or sulci after a blow.

    Args:
        site: The head.
        brain: Tissue shares.
        room: (n, rows, columns) 0..1: how much of each voxel may be this bleed's.
        plan: What to make.
        rng: Source of chance.

    Returns:
        Share of each voxel, 0..1.
    """
    at, grid = brain.at, site.grid
    thin = plan.variant == "film"
    if plan.variant == "aneurysmal":
        level = _along_cisterns(at, plan, rng)
    else:
        cx, cy, cz = (float(rng.uniform(*ends)) for ends in SOURCES[plan.variant])
        wx, wy, wz = (np.float32(w) for w in WEIGHTS[plan.variant])
        x, y, z = at.x - np.float32(plan.side * cx), at.y - np.float32(cy), at.z - np.float32(cz)
        level = np.sqrt(wx * x * x + wy * y * y + wz * z * z)
    level += np.float32(9 if thin else 5) * noise(rng, grid.shape, grid.step_mm, 10 if thin else 12)
    if plan.variant not in MIDDLE:
        level += np.float32(25) * (at.x * np.float32(plan.side) < -2)  # the falx keeps it on one side
    widened = float(rng.uniform(1.6, 2.4))  # blood holds sulci open
    spaces = np.clip(brain.csf * np.float32(widened), 0, 1) * (1 - np.clip(brain.dura, 0, 1))
    return _filled(site, spaces, room, level, (plan.volume_ml, min(4.0, 1 + 2 * plan.volume_ml ** (1 / 3))))


def _along_cisterns(at: Coordinates, plan: Plan, rng: np.random.Generator) -> FloatArray:
    """Level of blood that spreads from the circle of Willis along the cisterns of both sides, one more than the other.

    Args:
        at: Undeformed coordinates.
        plan: What to make.
        rng: Source of chance.

    Returns:
        Lower where blood comes first, mm.
    """
    lopsided = float(rng.uniform(0.0, MOST_LOPSIDED))
    mirrored = Coordinates(np.abs(at.x), at.y, at.z)
    level = np.full(at.x.shape, np.float32(99))
    for way in WAYS:
        late = float(rng.uniform(*LATE_MM))
        for (start, first), (end, second) in pairwise(way):
            rod = capsule(mirrored, start, end, (first - late, second - late))
            np.minimum(level, -rod, out=level)
    level -= at.x * np.float32(plan.side * lopsided)
    return level


def _filled(
    site: Site, spaces: FloatArray, room: FloatArray, level: AnyField, wanted: tuple[float, float]
) -> FloatArray:
    """Spaces filled from the lowest level up to the wanted volume.

    Args:
        site: The head.
        spaces: Share of each voxel that can be filled.
        room: Share of each voxel that may be filled.
        level: Where blood comes first, mm.
        wanted: Volume in mL, and width of the edge in mm.

    Returns:
        Share of each voxel, 0..1; more than half in as many as the volume takes, where there are so many.
    """
    volume_ml, edge_mm = wanted
    most = spaces * room
    held = (most > LEAST_SHARE) & (clear_of_bone(site.grid, site.surface) > 0)
    half = np.float32(0.5 * edge_mm) / np.maximum(most, np.float32(0.5))
    half -= np.float32(0.5 * edge_mm)  # so far within the edge a voxel is half full
    radius = reach(level + half, held, volume_ml, site.grid)
    share: FloatArray = spaces * soft(radius - level, edge_mm)
    return share


def intraventricular(site: Site, brain: Brain, room: FloatArray, plan: Plan, rng: np.random.Generator) -> FloatArray:
    """Blood in the ventricles: a level at the back of a patient who lies on it, or a cast.

    Args:
        site: The head.
        brain: Tissue shares.
        room: (n, rows, columns) 0..1: how much of each voxel may be this bleed's.
        plan: What to make.
        rng: Source of chance.

    Returns:
        Share of each voxel, 0..1.
    """
    at, grid = brain.at, site.grid
    if plan.variant == "layered":
        uneven = float(rng.uniform(0, 9)) if rng.random() < 0.6 else 40.0
        level = 90 - downwards(grid, site.surface.at)
        level += np.float32(uneven) * (site.surface.at.x * np.float32(plan.side) < 0)
        edge = 2.0
    else:
        side = plan.side * (6 if plan.joined else 12)
        centre = {"third": (0.0, 2.0, -2.0), "fourth": (0.0, 34.0, -36.0)}.get(
            plan.variant, (side, float(rng.uniform(-25, 30)), 10.0)
        )
        x, y, z = (a - np.float32(c) for a, c in zip((at.x, at.y, at.z), centre, strict=True))
        level = np.sqrt(x * x + y * y + z * z) + 3 * noise(rng, grid.shape, grid.step_mm, 12)
        edge = 4.0
    return _filled(site, brain.ventricle, room, level, (plan.volume_ml, edge))
